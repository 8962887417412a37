"""The MUSE atlas in template space, from heads with a DLMUSE segmentation, and its calibration to DLMUSE's volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core import bundle as bundles
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, write_text
from bids_brainage.image import muse
from bids_brainage.image.brain import segment
from bids_brainage.image.conform import conform
from bids_brainage.image.io import Volume, read, resample
from bids_brainage.image.n4 import correct_bias
from bids_brainage.image.register import register, warp
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.image.volumes import Atlas, fuse, look_up, template_points

KEPT = 8
RESOLUTION = 2.0
PRIOR_HEADS = 3.0


class Example(NamedTuple):
    """A head that was taken through the app's own stages, with its reference segmentation.

    Attributes
    ----------
    name : str
    points : array of float32, (n, 3)
        Where its intracranial voxels (2 mm) lie in the template, mm.
    posterior : array of float32, (n, 18)
    voxel_volume : float
        mm^3.
    columns : array of uint8, template shape
        The reference in template space, columns of :func:`muse.columns`.
    reference : array, (147,)
        Reference volumes: 145 regions, CSF outside the brain, ICV; mm^3.
    skull : float
        Volume of the intracranial mask, mm^3.
    dice : tuple of float
        Overlap of the brain and the intracranial mask with the reference, holes filled.
    truth : array of uint8, (n,)
        Columns of the reference at the same voxels.
    """

    name: str
    points: NDArray[np.float32]
    posterior: NDArray[np.float32]
    voxel_volume: float
    columns: NDArray[np.uint8]
    reference: NDArray[np.float64]
    skull: float
    dice: tuple[float, float]
    truth: NDArray[np.uint8]


def prepare(head: tuple[str, Path, Path], work: Path, *, segment_bundle: Path, seed: int = 0, threads: int = 1) -> Example:
    """Take one head (name, T1w, DLMUSE segmentation) through conform, brain, N4 and registration; keeps files in ``work``."""
    name, t1w, dseg = head
    folder = work / name
    paths = {key: folder / f"{key}{end}" for key, end in FILES.items()}
    if not all(path.is_file() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        native = conform(t1w, out=folder).t1w_native
        found = segment(native, bundle=segment_bundle, out=folder)
        flat = correct_bias(native, found.brain_mask, out=folder).t1w_preproc
        register(flat, found.brain_mask, found.posteriors, template=DEFAULT, out=folder, seed=seed, threads=threads)
    return example(name, paths, dseg)


FILES = {
    "brain_mask": ".nii.gz", "icv_mask": ".nii.gz", "posteriors": ".nii.gz", "xfm_forward": ".h5", "xfm_inverse": ".h5",
}  # fmt: skip


def example(name: str, paths: dict[str, Path], dseg: Path) -> Example:
    """What the atlas and its calibration need of one head, from the files of its stages."""
    from bids_brainage.image.masks import dice, fill_holes

    classes, labels = read(paths["posteriors"]), read(dseg, np.uint8)
    icv, brain = read(paths["icv_mask"], np.uint8), read(paths["brain_mask"], np.uint8)
    inside = resample(Volume((icv.data > 0).astype(np.float32), icv.affine), classes.grid) > 0.5
    grid = template(DEFAULT, RESOLUTION).grid
    columns = muse.columns(np.rint(warp(labels, paths["xfm_forward"], grid, nearest=True)).astype(np.uint8))
    counts = np.bincount(muse.columns(labels.data).ravel(), minlength=147)[:146] * labels.grid.voxel_volume
    reference = np.array([*counts, counts.sum()])
    native = [resample(Volume(m.data, m.affine), labels.grid, nearest=True) > 0 for m in (brain, icv)]
    parts = [~np.isin(labels.data, (0, *muse.OUTSIDE_BRAIN)), labels.data > 0]
    overlaps = tuple(dice(fill_holes(mine), fill_holes(theirs)) for mine, theirs in zip(native, parts, strict=True))
    return Example(
        name,
        template_points(paths["xfm_inverse"], classes.grid, inside),
        classes.data[inside],
        classes.grid.voxel_volume,
        columns.astype(np.uint8),
        reference,
        float((icv.data > 0).sum() * icv.grid.voxel_volume),
        (overlaps[0], overlaps[1]),
        muse.columns(resample(labels, classes.grid, nearest=True)[inside]).astype(np.uint8),
    )


def average(examples: Sequence[Example]) -> Atlas:
    """Share of heads and their mirror images that have each region at each voxel, the likeliest ``KEPT`` kept."""
    grid = template(DEFAULT, RESOLUTION).grid
    mirror = muse.mirrored()
    every = [c for e in examples for c in (e.columns, mirror[e.columns[::-1]].astype(np.uint8))]
    stack = np.stack([columns.reshape(-1) for columns in every], axis=1)
    covered = (stack != 146).any(axis=1)
    stack = stack[covered]
    counts = np.zeros((len(stack), 147), dtype=np.uint8)
    for columns in stack.T:
        counts[np.arange(len(stack)), columns] += 1
    labels = np.argsort(-counts.astype(np.int16), axis=1, kind="stable")[:, :KEPT].astype(np.uint8)
    share = np.take_along_axis(counts, labels, axis=1).astype(np.float32)
    share /= share.sum(axis=1, keepdims=True)
    rows = np.where(covered, np.cumsum(covered) - 1, -1).astype(np.int32).reshape(grid.shape)
    return Atlas(grid, rows, labels, share, np.zeros(146, dtype=np.float32))


def measure(atlas: Atlas, head: Example) -> NDArray[np.float64]:
    """Volumes of the 145 regions, not calibrated, and of the intracranial mask: ``(146,)``, mm^3."""
    found = fuse(look_up(atlas, head.points), head.posterior, head.points)
    regions = found.sum(axis=0, dtype=np.float64)[:145] * head.voxel_volume
    return np.array([*regions, head.skull])


def overlap(atlas: Atlas, head: Example) -> NDArray[np.float64]:
    """Dice of each of the 145 regions with the reference, at 2 mm."""
    found = fuse(look_up(atlas, head.points), head.posterior, head.points).argmax(axis=1)
    both = np.bincount(head.truth[found == head.truth], minlength=147)[:145]
    total = np.bincount(found, minlength=147)[:145] + head.reference[:145] / head.voxel_volume
    return np.asarray(2 * both / np.maximum(total, 1))


def calibration(measured: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float32]:
    """Logarithm of measured over reference volume of each region and the ICV, drawn towards that of its class.

    Parameters
    ----------
    measured, reference : arrays, (heads, 146)
        mm^3. Both sides of the brain share one ratio; the mean over heads is drawn towards its class's mean as if
        ``PRIOR_HEADS`` more heads had shown that one.
    """
    heads = len(measured)
    ratio = np.log(np.maximum(measured, 8.0) / np.maximum(reference, 8.0)).mean(axis=0)
    ratio = np.array([*(ratio[:145] + ratio[muse.mirrored()[:145]]) / 2, ratio[145]])
    owner, sizes = muse.classes()[:145], reference.mean(axis=0)
    for c in np.unique(owner):
        own = np.flatnonzero(owner == c)
        centre = np.average(ratio[own], weights=sizes[own])
        ratio[own] = (heads * ratio[own] + PRIOR_HEADS * centre) / (heads + PRIOR_HEADS)
    return ratio.astype(np.float32)


def references(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Reference volumes of the 145 regions and the ICV: ``(heads, 146)``, mm^3."""
    return np.stack([e.reference[[*range(145), 146]] for e in examples])


def leave_one_out(examples: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Calibrated volumes ``(heads, 146)`` and Dice ``(heads, 145)`` of each head by an atlas that never saw it.

    The calibration too comes from the other heads, each measured by an atlas without itself.
    """
    raw, overlaps = [], []
    for left in range(len(examples)):
        atlas = average([e for position, e in enumerate(examples) if position != left])
        raw.append(measure(atlas, examples[left]))
        overlaps.append(overlap(atlas, examples[left]))
    measured, reference = np.array(raw), references(examples)
    others = ~np.eye(len(examples), dtype=bool)
    ratios = np.stack([calibration(measured[rest], reference[rest]) for rest in others])
    return measured / np.exp(ratios.astype(np.float64)), np.array(overlaps)


def build(
    heads: Sequence[tuple[str, Path, Path]],
    out: Path,
    *,
    work: Path,
    segment_bundle: Path,
    leave_out: str | None = None,
    threads: int = 1,
) -> Bundle:
    """Make the atlas bundle.

    Parameters
    ----------
    heads
        Name, T1w and DLMUSE segmentation of each.
    out, work : Path
        Folder of the bundle; folder that keeps the stages' files, so that a second call is quick.
    segment_bundle : Path
        The network's bundle: the calibration holds for it.
    leave_out : str, optional
        Name of a head that takes no part, so that the atlas may judge it.

    Raises
    ------
    UsageError
        With fewer than three heads.
    """
    used = [head for head in heads if head[0] != leave_out]
    if len(used) < 3:
        raise UsageError(f"{out}: an atlas needs three heads or more, {len(used)} given; add heads")
    examples = [prepare(head, work, segment_bundle=segment_bundle, threads=threads) for head in used]
    volumes, overlaps = leave_one_out(examples)
    reference = references(examples)
    others = [[e for e in examples if e is not left] for left in examples]
    raw = np.array([measure(average(rest), left) for rest, left in zip(others, examples, strict=True)])
    ratio = calibration(raw, reference)
    out.mkdir(parents=True, exist_ok=True)
    write(average(examples)._replace(log_ratio=ratio), out)
    card = describe([e.name for e in examples], volumes, reference, overlaps)
    return bundles.save(out, card | {"segmentation": bundles.load(segment_bundle).digest})


def write(atlas: Atlas, out: Path) -> None:
    """Write ``atlas.npz`` (no pickle) and ``labels.tsv`` (the lookup table of the label maps)."""
    covered = atlas.rows >= 0
    with atomic(out / "atlas.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            shape=np.array(atlas.grid.shape),
            affine=atlas.grid.affine,
            covered=np.packbits(covered),
            labels=np.where(atlas.probabilities > 0, atlas.labels, 0).astype(np.uint8),
            probabilities=np.rint(atlas.probabilities * 255).astype(np.uint8),
            log_ratio=atlas.log_ratio,
        )
    rows = [f"{region.index}\t{region.name}" for region in muse.regions()]
    write_text(out / "labels.tsv", "\n".join(["index\tname", *rows]) + "\n")


def accuracy(volumes: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    """Correlation, bias and median absolute error (%) of one quantity over heads."""
    error = 100 * (volumes / np.maximum(reference, 1e-9) - 1)
    return {
        "r": round(float(np.corrcoef(volumes, reference)[0, 1]), 3),
        "bias_percent": round(float(error.mean()), 1),
        "median_absolute_error_percent": round(float(np.median(np.abs(error))), 1),
    }


def describe(
    names: Sequence[str], volumes: NDArray[np.float64], reference: NDArray[np.float64], overlaps: NDArray[np.float64]
) -> dict[str, Any]:
    """The card, without its files."""
    each = [accuracy(volumes[:, r], reference[:, r]) for r in range(145)]
    metrics = {
        "how": "each head left out of the atlas and of the calibration that judge it",
        "heads": len(names),
        "icv": accuracy(volumes[:, 145], reference[:, 145]),
        "brain": accuracy(volumes[:, :145].sum(axis=1), reference[:, :145].sum(axis=1)),
        "regions_median": {key: round(float(np.nanmedian([m[key] for m in each])), 3) for key in each[0]},
        "dice_mean": round(float(overlaps.mean()), 3),
    }
    return {
        "name": "muse-atlas", "architecture": "atlas", "role": "atlas", "version": "1.0.0", "needs": [],
        "description": "Probabilities of the 145 MUSE regions in template space, both sides averaged, and the "
        "ratios that bring volumes measured with it to DLMUSE's scale on 2 mm scans",
        "template": DEFAULT, "resolution_mm": RESOLUTION, "training": {
            "kind": "real", "heads": list(names), "seed": 0, "command": "brainage train atlas",
            "data": [
                {"title": "NiChart_Project sample data: T1w scans and DLMUSE segmentations",
                 "source": "https://github.com/CBICA/NiChart_Project", "licence": "SBIA Agreement 1.1, Part B"},
                {"title": "IXI012 of the IXI dataset", "source": "https://brain-development.org/ixi-dataset/",
                 "licence": "CC BY-SA 3.0"},
            ],
        },
        "licence": "CC BY-SA 3.0; the terms of SBIA Agreement 1.1, Part B, go with it", "metrics": metrics,
        "not_meant_for": [
            "children: nearly all heads are elderly", "clinical decisions about a person",
            "volumes beside those of other segmentations as if they were alike", "brains after surgery or with large lesions",
        ],
    }  # fmt: skip
