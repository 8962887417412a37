"""The network's probabilities around the brain: at 2 mm, wherever the brain lies, in whatever contrast it is seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from bids_brainage.core.quality import GATES
from bids_brainage.image import contrast, io, masks
from bids_brainage.image.classes import CLASSES
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.network import posterior
from bids_brainage.image.upright import angle, pose

SPACING = 2.0
SHAPE = (96, 112, 96)
TOP_TO_CENTRE = 82.0
OFF_CENTRE = 12.0
SMALLEST_ML = 300.0
TURNED = 25.0
WEAK_SUPPORT = GATES["contrast_explained"].low


def coarse(scan: Volume, shift: float = 0.0) -> Volume:
    """The scan at 2 mm along its own axes, anti-aliased, 0 to 1.5: 1 is the 99th percentile of the foreground.

    The grid lies over the field of view, or ``shift`` voxels further along each axis.
    """
    grid = io.spaced(scan.grid, SPACING)
    grid = Grid(grid.shape, io.shifted(grid.affine, [shift] * 3))
    data = io.resample(Volume(io.nonnegative(scan.data), scan.affine), grid, cubic=True)
    return _levelled(data, _level(data), grid)


def _levelled(data: NDArray[np.float32], level: float, grid: Grid) -> Volume:
    """Intensities of which 1 is the level, 0 to 1.5."""
    return Volume(np.clip(data / level, 0, 1.5).astype(np.float32), grid.affine)


def _level(data: NDArray[np.float32]) -> float:
    """The 99th percentile of the foreground."""
    foreground = data[data > data.max() * 1e-4]
    return float(np.percentile(foreground, 99)) if foreground.size else 1.0


def seen_on(scan: Volume, grid: Grid) -> Volume:
    """As :func:`coarse`, on any grid of 2 mm voxels; the level is that of the whole field of view."""
    values = Volume(io.nonnegative(scan.data), scan.affine)
    level = _level(io.resample(values, io.spaced(scan.grid, SPACING), cubic=True))
    return _levelled(io.resample(values, grid, cubic=True), level, grid)


class Found(NamedTuple):
    """Probabilities on a 2 mm grid: of the classes ``(x, y, z, 18)``, and of the right hemisphere ``(x, y, z)``."""

    classes: Volume
    right: Volume


def locate_and_segment(network: nn.Module, head: Volume, *, half: bool, near: NDArray | None = None) -> Found:
    """Probabilities on the 2 mm grid of fixed size around the brain.

    A first window hangs from the top of the head, or lies around ``near`` (mm). Where the brain that it shows is
    more than 12 mm off its middle, a second one is laid around that brain; where it shows none, the whole field
    of view is searched.
    """
    to_voxels = np.linalg.inv(head.affine)
    middle = top_of_head(head) if near is None else (to_voxels @ np.append(near, 1))[:3]
    found = _window(network, head, middle, SHAPE, half=half)
    brain = _brain(found.classes)
    searched = brain.sum() * SPACING**3 / 1000 < SMALLEST_ML
    if searched:
        middle = (np.asarray(head.data.shape) - 1) / 2
        whole = tuple(-(-size // 16) * 16 for size in head.data.shape)
        found = _window(network, head, middle, whole, half=half)
        brain = _brain(found.classes)
    target = (to_voxels @ found.classes.affine @ np.append(_box_middle(brain), 1))[:3] if brain.any() else middle
    if searched or np.abs(target - middle).max() * SPACING > OFF_CENTRE:
        found = _window(network, head, target, SHAPE, half=half)
    return Found(_clean(found.classes), found.right)


class Seen(NamedTuple):
    """A scan as it was segmented, at 2 mm, what was found, and how far the intensities bear that out."""

    scan: Volume
    head: Volume
    found: Found
    support: float


def in_any_contrast(network: nn.Module, scan: Volume, *, half: bool, near: NDArray | None = None) -> Seen:
    """The segmentation of a scan, or of the same scan with dark and bright exchanged.

    They are exchanged where air is bright. They are tried exchanged where the intensities hardly bear the segmentation
    out (:func:`contrast.explained`), or tissues come in the reverse order of a T1w image; the first then is kept
    where that is better, the second unless it is hardly borne out.
    """

    def seen_as(one: Volume) -> Seen:
        head = coarse(one)
        found = straightened(network, one, locate_and_segment(network, head, half=half, near=near), half=half)
        return Seen(one, head, found, contrast.explained(found.classes, head))

    first = seen_as(with_dark_air(scan))
    is_reversed = contrast.is_reversed(first.found.classes, first.head)
    if first.support >= WEAK_SUPPORT and not is_reversed:
        return first
    other = seen_as(contrast.inverted(scan) if first.scan is scan else scan)
    is_better = other.support > first.support or (is_reversed and other.support >= WEAK_SUPPORT)
    return other if is_better else first


def with_dark_air(scan: Volume) -> Volume:
    """The scan, with dark and bright exchanged where its air is bright: no scanner makes air so."""
    return contrast.inverted(scan) if contrast.has_bright_air(scan) else scan


def half_a_voxel_on(network: nn.Module, scan: Volume, grid: Grid, *, half: bool) -> Volume:
    """Classes of a scan on ``grid`` moved by half a voxel along each axis.

    Together the two grids have twice the voxels, body-centred: what the one misses between its voxels, the other sees.
    The network sees this one in the mirror, left for right: no class is of one side, so that where it errs on the one
    side alone it does so on the other here.
    """
    if io.parallel(scan.grid, grid):
        head = coarse(scan, 0.5)
        first = (np.linalg.inv(head.affine) @ grid.affine[:, 3])[:3] + 0.5
        seen = io.window(head, np.rint(first), grid.shape)
    else:  # of a turned head
        seen = seen_on(scan, Grid(grid.shape, io.shifted(grid.affine, [0.5] * 3)))
    mirrored = _probabilities(network, Volume(seen.data[::-1], seen.affine), half=half).classes
    return _clean(Volume(mirrored.data[::-1], seen.affine))


def straightened(network: nn.Module, scan: Volume, found: Found, *, half: bool) -> Found:
    """What was found in a head that is turned by over 25 degrees in its grid, once more along the head's own axes.

    The network has seen few heads turned further; the same head at another angle would have another age.
    """
    own, turn = found.classes.affine, pose(found.classes, found.right)
    if turn is None or angle((own[:3, :3] / SPACING).T @ turn) <= TURNED:
        return found
    middle = mask_centre(_brain(found.classes), own)
    if middle is None:
        return found
    axes = np.eye(4)
    axes[:3, :3] = turn
    again = _probabilities(network, seen_on(scan, io.centred(Grid(SHAPE, axes), middle, SPACING, SHAPE)), half=half)
    return Found(_clean(again.classes), again.right)


def top_of_head(head: Volume) -> NDArray[np.float64]:
    """A guess at the brain's middle (voxels): under the top of the head, at the mean of its uppermost 10 cm."""
    tissue = ndimage.gaussian_filter(head.data, 1) > 0.12
    tissue = masks.largest_component(ndimage.binary_opening(tissue, iterations=2))
    filled = np.flatnonzero(tissue.sum(axis=(0, 1)) > 30)
    if filled.size == 0:
        return (np.asarray(head.data.shape) - 1) / 2
    top = int(filled[-1])
    slab = np.argwhere(tissue[:, :, max(0, top - 50) : top + 1])
    x, y = slab.mean(axis=0)[:2]
    return np.array([x, y, top - TOP_TO_CENTRE / SPACING])


def _window(network: nn.Module, head: Volume, middle: NDArray, shape: tuple[int, ...], *, half: bool) -> Found:
    """Probabilities in a window of ``shape`` around voxel ``middle``; beyond the field of view the scan is 0."""
    start = np.rint(np.asarray(middle) - (np.asarray(shape) - 1) / 2)
    return _probabilities(network, io.window(head, start, shape), half=half)


def _probabilities(network: nn.Module, seen: Volume, *, half: bool) -> Found:
    """Of what the network sees, voxel by voxel."""
    classes, right = posterior(network, torch.from_numpy(np.ascontiguousarray(seen.data)), half=half)
    return Found(Volume(classes.numpy(), seen.affine), Volume(right.numpy(), seen.affine))


def _brain(found: Volume) -> masks.Mask:
    """Brain voxels (neither background nor CSF) of a window, rid of thin bridges."""
    return masks.largest_component(ndimage.binary_opening(found.data[..., :2].sum(axis=-1) < 0.5))


def _box_middle(mask: masks.Mask) -> NDArray[np.float64]:
    return np.array([(side.start + side.stop - 1) / 2 for side in masks.bounding_box(mask)])


def mask_centre(mask: masks.Mask | None, affine: NDArray) -> NDArray[np.float64] | None:
    """Middle of a mask's bounding box in mm; ``None`` without a mask."""
    if mask is None or not mask.any():
        return None
    return np.asarray((affine @ np.append(_box_middle(mask), 1))[:3])


def _clean(found: Volume) -> Volume:
    """Make all background that lies more than 4 mm from the largest intracranial component."""
    inside = masks.largest_component(found.data[..., 0] < 0.5)
    data = found.data.copy()
    data[~ndimage.binary_dilation(inside, iterations=2)] = np.eye(len(CLASSES), dtype=np.float32)[0]
    return Volume(data, found.affine)
