"""What the loss of the skull does to the volumes that are measured: heads without it, and the shifts that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas, template_points
from bids_brainage.image.brain import rim
from bids_brainage.image.io import Volume, read, save
from bids_brainage.image.masks import Mask, dilate
from bids_brainage.image.volumes import MINIMUM, stripped_at
from bids_brainage.training.agreement import Judged, final_mask, raw_volumes
from bids_brainage.training.heads import Example, seen, through_stages

CUTS = {
    "app_mask": "along the brain mask that the app writes",
    "margin_3_mm": "3 mm around the network's brain mask",
}


def stripped_copies(
    head: tuple[str, Path, Path], example: Example, atlas: Atlas, work: Path, *, segment_bundle: Path, threads: int = 1
) -> list[dict[str, Path]]:
    """A head's copies without skull, one for each of :data:`CUTS`, taken through the stages as the head was.

    Parameters
    ----------
    head, example
        Name, T1w and segmentation; what the atlas needs of them.
    atlas : Atlas
        Made without this person: the app's mask is that of a head that it does not know.
    """
    name, t1w, _ = head
    paths = through_stages(t1w, work / name, segment_bundle=segment_bundle, threads=threads)
    scan, brain = read(t1w), read(paths["brain_mask"], np.uint8).data > 0
    copies = (strip(scan, final_mask(atlas, example)), strip(scan, brain, 3))
    made = []
    for cut, copy in zip(CUTS, copies, strict=True):
        folder = work / f"{name}_{cut}"
        folder.mkdir(parents=True, exist_ok=True)
        path = save(folder / "changed.nii.gz", copy.data.astype(np.float32), copy.affine)
        made.append(through_stages(path, folder, segment_bundle=segment_bundle, threads=threads))
    return made


def strip(scan: Volume, brain: Mask, margin: float = 0.0) -> Volume:
    """0 outside the brain mask, or outside the mask widened by ``margin`` mm."""
    keep = dilate(brain, margin, scan.grid.zooms) if margin else brain
    return Volume(np.where(keep, scan.data, scan.data.dtype.type(0)), scan.affine)


class Copies(NamedTuple):
    """Stripped copies of heads, by :data:`CUTS`.

    Attributes
    ----------
    volumes : array, (heads, copies, 146)
        Regions and ICV, mm^3, not calibrated, each by the atlas that measured its whole head.
    rims : array, (heads, copies)
        How much they hold beside the brain: :func:`bids_brainage.image.brain.rim`.
    """

    volumes: NDArray[np.float64]
    rims: NDArray[np.float64]

    def added(self, whole: NDArray[np.float64]) -> NDArray[np.float64]:
        """What stripping added to each log volume, ``(heads, copies, 146)``; ``whole`` as of :func:`shifts`."""
        both = [np.log(np.maximum(volumes, MINIMUM)) for volumes in (self.volumes, whole[:, None])]
        return np.asarray(both[0] - both[1])


class Shifts(NamedTuple):
    """What an atlas knows of stripped scans: ``rims`` (copies,), growing, and ``stripped`` (copies, 146)."""

    rims: NDArray[np.float32]
    stripped: NDArray[np.float32]


def measure_copies(
    atlases: Mapping[int, Atlas], who: NDArray[np.int_], paths: Sequence[Sequence[Mapping[str, Path]]]
) -> Copies:
    """Measure the heads' stripped copies by atlases without their person.

    Parameters
    ----------
    atlases, who
        Of :func:`~bids_brainage.training.agreement.without_each` and :func:`~bids_brainage.training.agreement.people`.
    paths
        Files of the stages, for each head those of its copies.
    """
    found = [[_measure(atlases[w], one) for one in own] for w, own in zip(who, paths, strict=True)]
    volumes, rims = zip(*(zip(*own, strict=True) for own in found), strict=True)
    return Copies(np.array(volumes), np.array(rims))


def _measure(atlas: Atlas, paths: Mapping[str, Path]) -> tuple[NDArray[np.float64], float]:
    """Volumes of a copy, and what it holds beside the brain."""
    head = seen(paths)
    volumes = raw_volumes(atlas, head, template_points(paths["xfm_inverse"], head.masks))
    return volumes, rim(head.native, read(paths["brain_mask"], np.uint8).data > 0)


def shifts(copies: Copies, whole: NDArray[np.float64]) -> Shifts:
    """What stripping does to the log volumes, alike on both sides.

    Where no skull is, the network sees more cortex and white matter, and less fluid.

    Parameters
    ----------
    whole : array, (heads, 146)
        Of the heads themselves, mm^3, not calibrated, by the same atlases.
    """
    other = np.array([*muse.mirrored()[:145], 145])
    rims, level = copies.rims.mean(axis=0), copies.added(whole).mean(axis=0)
    order = np.argsort(rims)
    return Shifts(rims[order].astype(np.float32), ((level + level[:, other]) / 2)[order].astype(np.float32))


def judge_stripped(judged: Judged, copies: Copies, who: NDArray[np.int_]) -> NDArray[np.float64]:
    """Calibrated volumes of stripped copies, by a calibration and shifts that never saw their person.

    Parameters
    ----------
    judged : Judged
        The whole heads.
    who : array of int, (heads,)
        Of :func:`~bids_brainage.training.agreement.people`.

    Returns
    -------
    array, (heads, copies, 146)
        mm^3; to be compared with ``judged.volumes``.
    """
    moved = copies.added(judged.raw)
    for left, rest in enumerate(who[:, None] != who):
        known = shifts(Copies(copies.volumes[rest], copies.rims[rest]), judged.raw[rest])
        moved[left] -= [stripped_at(*known, one) for one in copies.rims[left]]
    return calibrated_again(judged, moved)


def calibrated_again(judged: Judged, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated volumes, mm^3, of copies whose log volumes ``(heads, copies, 146)`` were ``moved`` by so much."""
    return np.asarray(judged.volumes[:, None] * np.exp(judged.slopes[:, None] * moved))
