"""What the loss of the skull does to the volumes that are measured: heads without it, and the shifts that they show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas
from bids_brainage.image.io import Volume, read
from bids_brainage.image.masks import Mask, dilate
from bids_brainage.image.stripped import Cut, Shifts, added_by, how_cut
from bids_brainage.training.agreement import Judged, added, calibrated_again, final_mask, raw_volumes
from bids_brainage.training.heads import POSTERIORS, Example, copy_through_stages, seen, through_stages

LOG = logging.getLogger("bids_brainage")

PRIOR_HEADS = 5
CUTS = {
    "network_mask": "along the network's brain mask, which takes brain along",
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
    copies = (strip(scan, brain), strip(scan, final_mask(atlas, example)), strip(scan, brain, 3))
    return [
        copy_through_stages(copy, work / f"{name}_{cut}", segment_bundle=segment_bundle, threads=threads)
        for cut, copy in zip(CUTS, copies, strict=True)
    ]


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
    cuts : array, (heads, copies, 2)
        Of :class:`bids_brainage.image.stripped.Cut`.
    """

    volumes: NDArray[np.float64]
    cuts: NDArray[np.float64]


def copies_of(
    heads: Sequence[tuple[str, Path, Path]],
    examples: Sequence[Example],
    atlases: Mapping[int, Atlas],
    who: NDArray[np.int_],
    work: Path,
    *,
    segment_bundle: Path,
    threads: int = 1,
) -> Copies:
    """Strip heads, take their copies through the app's stages and measure them, each by an atlas without its person.

    Parameters
    ----------
    heads, examples
        Name, T1w and segmentation of each; what the atlas needs of them.
    atlases, who
        Of :func:`~bids_brainage.training.agreement.without_each` and :func:`~bids_brainage.training.agreement.people`.
    work : Path
        Folder that keeps the stages' files.
    """
    found = []
    for number, (head, example, w) in enumerate(zip(heads, examples, who, strict=True), start=1):
        LOG.info("head %d of %d, without skull: %s", number, len(heads), head[0])
        paths = stripped_copies(head, example, atlases[w], work, segment_bundle=segment_bundle, threads=threads)
        found.append([_measure(atlases[w], one) for one in paths])
    volumes, cuts = zip(*(zip(*own, strict=True) for own in found), strict=True)
    return Copies(np.array(volumes), np.array(cuts))


def _measure(atlas: Atlas, paths: Mapping[str, Path]) -> tuple[NDArray[np.float64], Cut]:
    """Volumes of a copy, and how it was cut."""
    head = seen(paths)
    volumes = raw_volumes(atlas, head, paths["xfm_inverse"])
    return volumes, how_cut(head.native, head.skull, [read(paths[name]) for name in POSTERIORS])


def shifts(copies: Copies, whole: NDArray[np.float64]) -> Shifts:
    """What stripping does to the log volumes, alike on both sides.

    What more fluid in a head changes about it is drawn towards nothing, as if :data:`PRIOR_HEADS` more heads had shown
    nothing.

    Parameters
    ----------
    whole : array, (heads, 146)
        Of the heads themselves, mm^3, not calibrated, by the same atlases.
    """
    other = np.array([*muse.mirrored()[:145], 145])
    moved = added(copies.volumes, whole)
    moved = (moved + moved[..., other]) / 2
    (rims, fluid), spread = copies.cuts.mean(axis=0).T, copies.cuts[..., 1].std(axis=0)
    more = (copies.cuts[..., 1] - fluid) / np.maximum(spread, 1e-6)
    level = moved.mean(axis=0)
    slope = np.einsum("hc,hcr->cr", more, moved - level) / (len(moved) + PRIOR_HEADS)
    order = np.argsort(rims)
    found = rims, level, np.stack([fluid, spread], axis=1), slope
    return Shifts(*(part[order].astype(np.float32) for part in found))


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
    moved = added(copies.volumes, judged.raw)
    for left, rest in enumerate(who[:, None] != who):
        known = shifts(Copies(copies.volumes[rest], copies.cuts[rest]), judged.raw[rest])
        moved[left] -= [added_by(Cut(*one), known) for one in copies.cuts[left]]
    return calibrated_again(judged, moved)
