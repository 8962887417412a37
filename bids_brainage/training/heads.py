"""Heads with a DLMUSE segmentation, taken through the app's own stages: what the atlas is made from and judged on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.bundle import load
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import read_json, sha256, write_json
from bids_brainage.core.source import package_source
from bids_brainage.image import muse
from bids_brainage.image.atlas import template_points
from bids_brainage.image.brain import segment
from bids_brainage.image.conform import conform
from bids_brainage.image.fusion import Head, gather
from bids_brainage.image.io import Volume, read, resample, save
from bids_brainage.image.masks import dice, fill_holes
from bids_brainage.image.n4 import correct_bias
from bids_brainage.image.register import register, warp
from bids_brainage.image.template import DEFAULT, template

RESOLUTION = 2.0
POSTERIORS = ("posteriors", "posteriors_between")


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
    truth : array of uint8, (m,)
        The reference at the voxels of the head's first grid, likewise: the other lies between its voxels.
    reference : array, (146,)
        Reference volumes of the 145 regions and the ICV, mm^3.
    dice : tuple of float
        Overlap of the network's brain and of the intracranial mask with the reference, holes filled.
    labels, icv : Volume
        Reference and intracranial mask on their own grids, uint8.
    """

    name: str
    head: Head
    points: NDArray[np.float32]
    columns: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    reference: NDArray[np.float64]
    dice: tuple[float, float]
    labels: Volume
    icv: Volume

    def brain(self) -> NDArray[np.bool_]:
        """The reference's brain: all its labels but fluid outside the brain, holes filled."""
        return fill_holes(~np.isin(self.labels.data, (0, *muse.OUTSIDE_BRAIN)))


def find_heads(dataset: Path) -> list[tuple[str, Path, Path]]:
    """Name, T1w and DLMUSE segmentation (below ``derivatives/dlmuse``) of each head of a BIDS dataset.

    Raises
    ------
    UsageError
        Where there is none.
    """
    found = []
    for dseg in sorted((dataset / "derivatives" / "dlmuse").glob("sub-*/**/*_desc-dlmuse_dseg.nii.gz")):
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
    return example(
        name, through_stages(t1w, work / name, segment_bundle=segment_bundle, seed=seed, threads=threads), dseg
    )


def through_stages(
    t1w: Path, folder: Path, *, segment_bundle: Path, seed: int = 0, threads: int = 1
) -> dict[str, Path]:
    """Run the app's stages on a scan, unless their files are there, of this scan by this network and this code.

    The stages are segmentation, N4 and registration.
    """
    paths = {key: folder / f"{key}{end}" for key, end in FILES.items()}
    mark, network = folder / "made_of.json", load(segment_bundle).digest
    made_of = {"scan": sha256(t1w), "segmentation": network, "seed": seed, "code": package_source("image")}
    if not all(path.is_file() for path in (mark, *paths.values())) or read_json(mark) != made_of:
        folder.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        native = conform(t1w, out=folder).t1w_native
        found = segment(native, bundle=segment_bundle, out=folder)
        flat = correct_bias(found.t1w_ordered, found.brain_mask, out=folder).t1w_preproc
        register(flat, found.brain_mask, found.posteriors, template=DEFAULT, out=folder, seed=seed, threads=threads)
        write_json(mark, made_of)
    return paths


def copy_through_stages(
    copy: Volume, folder: Path, *, segment_bundle: Path, seed: int = 0, threads: int = 1
) -> dict[str, Path]:
    """Write a changed copy of a scan into ``folder`` and run the stages on it; see :func:`through_stages`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = save(folder / "changed.nii.gz", copy.data.astype(np.float32), copy.affine)
    return through_stages(path, folder, segment_bundle=segment_bundle, seed=seed, threads=threads)


FILES = {
    "t1w_preproc": ".nii.gz", "brain_mask": ".nii.gz", "icv_mask": ".nii.gz", "posteriors": ".nii.gz",
    "posteriors_between": ".nii.gz", "xfm_forward": ".h5", "xfm_inverse": ".h5",
}  # fmt: skip


def seen(paths: Mapping[str, Path]) -> Head:
    """What the measurement sees of a head, from the files of its stages."""
    posteriors = [read(paths[name]) for name in POSTERIORS]
    return gather(read(paths["t1w_preproc"]), read(paths["icv_mask"], np.uint8), posteriors)


def example(name: str, paths: dict[str, Path], dseg: Path) -> Example:
    """What the atlas and its calibration need of one head, from the files of its stages."""
    labels, brain, icv = (read(path, np.uint8) for path in (dseg, paths["brain_mask"], paths["icv_mask"]))
    head = seen(paths)
    first = head.masks[0]
    grid = template(DEFAULT, RESOLUTION).grid
    columns = muse.columns(np.rint(warp(labels, paths["xfm_forward"], grid, nearest=True)).astype(np.uint8))
    counts = np.bincount(muse.columns(labels.data).ravel(), minlength=147)[:146] * labels.grid.voxel_volume
    mine = [resample(mask, labels.grid, nearest=True) > 0 for mask in (brain, icv)]
    theirs = [~np.isin(labels.data, (0, *muse.OUTSIDE_BRAIN)), labels.data > 0]
    overlaps = [dice(fill_holes(one), fill_holes(other)) for one, other in zip(mine, theirs, strict=True)]
    return Example(
        name,
        head,
        template_points(paths["xfm_inverse"], head.masks),
        columns.astype(np.uint8),
        muse.columns(resample(labels, first.grid, nearest=True)[first.data]).astype(np.uint8),
        np.array([*counts[:145], counts.sum()]),
        (overlaps[0], overlaps[1]),
        labels,
        icv,
    )
