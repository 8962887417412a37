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
from bids_brainage.image.atlas import Atlas, look_up, template_points
from bids_brainage.image.brain import segment
from bids_brainage.image.conform import conform
from bids_brainage.image.io import read, resample
from bids_brainage.image.masks import dice, fill_holes
from bids_brainage.image.n4 import correct_bias
from bids_brainage.image.register import register, warp
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.image.volumes import MINIMUM, Head, fuse, gather

KEPT = 8
RESOLUTION = 2.0
PRIOR_HEADS = 3.0
PRIOR_SLOPE = 2.0


class Example(NamedTuple):
    """A head that was taken through the app's own stages, with its reference segmentation.

    Attributes
    ----------
    name : str
    head : Head
        Its intracranial voxels, 2 mm.
    points : array of float32, (n, 3)
        Where they lie in the template, mm.
    columns : array of uint8, template shape
        The reference in template space, columns of :func:`muse.columns`.
    truth : array of uint8, (n,)
        The reference at the head's voxels, likewise.
    reference : array, (146,)
        Reference volumes of the 145 regions and the ICV, mm^3.
    dice : tuple of float
        Overlap of the brain and of the intracranial mask with the reference, holes filled.
    """

    name: str
    head: Head
    points: NDArray[np.float32]
    columns: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    reference: NDArray[np.float64]
    dice: tuple[float, float]


def find_heads(dataset: Path) -> list[tuple[str, Path, Path]]:
    """Name, T1w and DLMUSE segmentation (below ``derivatives/dlmuse``) of each head of a BIDS dataset.

    Raises
    ------
    UsageError
        Where there is none.
    """
    found = []
    for dseg in sorted((dataset / "derivatives" / "dlmuse").glob("sub-*/anat/*_desc-dlmuse_dseg.nii.gz")):
        stem = dseg.name.removesuffix("_desc-dlmuse_dseg.nii.gz")
        t1w = dataset / dseg.parent.relative_to(dataset / "derivatives" / "dlmuse") / f"{stem}_T1w.nii.gz"
        if t1w.is_file():
            found.append((stem, t1w, dseg))
    if not found:
        raise UsageError(f"{dataset}: has no T1w image with a segmentation in derivatives/dlmuse; give such a dataset")
    return found


def prepare(
    head: tuple[str, Path, Path], work: Path, *, segment_bundle: Path, seed: int = 0, threads: int = 1
) -> Example:
    """Take one head (name, T1w, DLMUSE segmentation) through the app's stages; their files stay in ``work``."""
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
    "t1w_preproc": ".nii.gz", "brain_mask": ".nii.gz", "icv_mask": ".nii.gz", "posteriors": ".nii.gz",
    "xfm_forward": ".h5", "xfm_inverse": ".h5",
}  # fmt: skip


def example(name: str, paths: dict[str, Path], dseg: Path) -> Example:
    """What the atlas and its calibration need of one head, from the files of its stages."""
    labels, brain, icv = (read(path, np.uint8) for path in (dseg, paths["brain_mask"], paths["icv_mask"]))
    head = gather(read(paths["t1w_preproc"]), icv, read(paths["posteriors"]))
    grid = template(DEFAULT, RESOLUTION).grid
    columns = muse.columns(np.rint(warp(labels, paths["xfm_forward"], grid, nearest=True)).astype(np.uint8))
    counts = np.bincount(muse.columns(labels.data).ravel(), minlength=147)[:146] * labels.grid.voxel_volume
    mine = [resample(mask, labels.grid, nearest=True) > 0 for mask in (brain, icv)]
    theirs = [~np.isin(labels.data, (0, *muse.OUTSIDE_BRAIN)), labels.data > 0]
    overlaps = [dice(fill_holes(one), fill_holes(other)) for one, other in zip(mine, theirs, strict=True)]
    return Example(
        name,
        head,
        template_points(paths["xfm_inverse"], head.mask),
        columns.astype(np.uint8),
        muse.columns(resample(labels, head.mask.grid, nearest=True)[head.mask.data]).astype(np.uint8),
        np.array([*counts[:145], counts.sum()]),
        (overlaps[0], overlaps[1]),
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
    return Atlas(grid, rows, labels, share, np.zeros(146, np.float32), np.ones(146, np.float32))


def measure(atlas: Atlas, one: Example) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Volumes, not calibrated, of the 145 regions and the ICV (mm^3), and the Dice of the 145 regions."""
    prior = look_up(atlas, one.points)
    found = fuse(prior, one.head.posterior, one.head.intensity, one.points).argmax(axis=1)
    counts = np.bincount(found, minlength=147)[:145]
    both = np.bincount(found[found == one.truth], minlength=147)[:145]
    voxel = one.head.mask.grid.voxel_volume
    overlap = 2 * both / np.maximum(counts + one.reference[:145] / voxel, 1)
    return np.array([*(counts * voxel), one.head.skull]), overlap


def calibration(measured: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float32]:
    """Intercepts and slopes of log reference on log measured volume, for the regions and the ICV: ``(2, 146)``.

    Both sides of the brain share a line. Its level is drawn towards that of its class as if ``PRIOR_HEADS`` more heads
    had shown that one; its slope towards 1 (a ridge penalty of ``PRIOR_SLOPE``), so that only regions whose volumes
    differ a lot between people, the ventricles, get another.

    Parameters
    ----------
    measured, reference : arrays, (heads, 146)
        mm^3.
    """
    x, y = (np.log(np.maximum(volumes, MINIMUM)) for volumes in (measured, reference))
    other = np.array([*muse.mirrored()[:145], 145])
    centre, level = x.mean(axis=0), y.mean(axis=0) - x.mean(axis=0)
    square = ((x - centre) ** 2).sum(axis=0)
    product = ((x - centre) * (y - y.mean(axis=0))).sum(axis=0)
    centre, level, square, product = ((v + v[other]) / 2 for v in (centre, level, square, product))
    slope = (product + PRIOR_SLOPE) / (square + PRIOR_SLOPE)
    owner, sizes = muse.classes()[:145], reference.mean(axis=0)
    for c in np.unique(owner):
        own = np.flatnonzero(owner == c)
        mean = np.average(level[own], weights=sizes[own])
        level[own] = (len(x) * level[own] + PRIOR_HEADS * mean) / (len(x) + PRIOR_HEADS)
    return np.stack([level + centre * (1 - slope), slope]).astype(np.float32)


class Judged(NamedTuple):
    """Leave-one-out results: volumes before and after calibration and their reference (mm^3), Dice of the regions."""

    raw: NDArray[np.float64]
    volumes: NDArray[np.float64]
    reference: NDArray[np.float64]
    dice: NDArray[np.float64]


def leave_one_out(examples: Sequence[Example]) -> Judged:
    """Measure each head with an atlas and a calibration that never saw it.

    The calibration comes from the other heads, each measured by an atlas without itself.
    """
    results = [measure(average([e for e in examples if e is not one]), one) for one in examples]
    raw, overlaps = np.array([m for m, _ in results]), np.array([d for _, d in results])
    reference = np.stack([one.reference for one in examples])
    volumes = np.empty_like(raw)
    for left, rest in enumerate(~np.eye(len(examples), dtype=bool)):
        intercept, slope = calibration(raw[rest], reference[rest])
        volumes[left] = np.exp(intercept + slope * np.log(np.maximum(raw[left], MINIMUM)))
    return Judged(raw, volumes, reference, overlaps)


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
    judged = leave_one_out(examples)
    intercept, slope = calibration(judged.raw, judged.reference)
    out.mkdir(parents=True, exist_ok=True)
    write(average(examples)._replace(intercept=intercept, slope=slope), out)
    card = describe([e.name for e in examples], judged)
    card["training"]["segmentation"] = bundles.load(segment_bundle).digest
    return bundles.save(out, card)


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
            intercept=atlas.intercept,
            slope=atlas.slope,
        )
    rows = [f"{region.number}\t{region.name}" for region in muse.regions()]
    write_text(out / "labels.tsv", "\n".join(["index\tname", *rows]) + "\n")


def accuracy(volumes: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    """Correlation, bias and median absolute error (%) of one quantity over heads."""
    error = 100 * (volumes / np.maximum(reference, MINIMUM) - 1)
    return {
        "r": round(float(np.corrcoef(volumes, reference)[0, 1]), 3),
        "bias_percent": round(float(error.mean()), 1),
        "median_absolute_error_percent": round(float(np.median(np.abs(error))), 1),
    }


def summary(judged: Judged) -> dict[str, dict[str, float]]:
    """Accuracy of the ICV, brain, grey and white matter, lateral ventricles, hippocampi, and the median region."""
    column = {region.number: position for position, region in enumerate(muse.regions())}
    members = {composite.number: composite.members for composite in muse.composites()}
    parts = {"brain": members[muse.TOTAL_BRAIN], "grey matter": members[601], "white matter": members[604]}
    parts |= {"lateral ventricles": (51, 52), "hippocampi": (47, 48)}
    found = {"ICV": accuracy(judged.volumes[:, 145], judged.reference[:, 145])}
    for name, numbers in parts.items():
        own = [column[number] for number in numbers]
        found[name] = accuracy(judged.volumes[:, own].sum(axis=1), judged.reference[:, own].sum(axis=1))
    each = [accuracy(judged.volumes[:, r], judged.reference[:, r]) for r in range(145)]
    found["median of 145 regions"] = {key: round(float(np.nanmedian([m[key] for m in each])), 3) for key in each[0]}
    return found


SHIPPED_HEADS = {
    "sub-IXI012",
    *(f"sub-nichart{n}" for n in ("04", "06", "07", "14", "15", "16", "17", "19", "21", "22")),
}
SHIPPED_LICENCE = "CC BY-SA 3.0; the terms of SBIA Agreement 1.1, Part B, go with it"
SHIPPED_DATA = [
    {
        "title": "NiChart_Project sample data: T1w scans and DLMUSE segmentations",
        "source": "https://github.com/CBICA/NiChart_Project",
        "licence": "SBIA Agreement 1.1, Part B",
    },
    {
        "title": "IXI012 of the IXI dataset",
        "source": "https://brain-development.org/ixi-dataset/",
        "licence": "CC BY-SA 3.0",
    },
]


def describe(names: Sequence[str], judged: Judged) -> dict[str, Any]:
    """The card, without its files; heads that are not those of the shipped atlas are given no licence of theirs."""
    shipped = set(names) == SHIPPED_HEADS
    metrics = {
        "how": "each head left out of the atlas and of the calibration that judge it; reference DLMUSE",
        "heads": len(names),
        "volumes": summary(judged),
        "dice_mean_of_145_regions": round(float(judged.dice.mean()), 3),
    }
    return {
        "name": "muse-atlas", "architecture": "atlas", "role": "atlas", "version": "1.0.0", "needs": [],
        "description": "Probabilities of the 145 MUSE regions in template space, both sides averaged, and the "
        "ratios that bring volumes measured with it to DLMUSE's scale on 2 mm scans",
        "template": DEFAULT, "resolution_mm": RESOLUTION, "training": {
            "kind": "real", "heads": list(names), "seed": 0, "command": "brainage train atlas",
            "data": SHIPPED_DATA if shipped else [{"title": "heads of the user", "licence": "not stated"}],
        },
        "licence": SHIPPED_LICENCE if shipped else "not stated", "metrics": metrics,
        "not_meant_for": [
            "children: nearly all heads are elderly", "clinical decisions about a person",
            "volumes beside those of other segmentations as if they were alike",
            "brains after surgery or with large lesions",
        ],
    }  # fmt: skip
