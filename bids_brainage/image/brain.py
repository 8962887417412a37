"""Brain mask, intracranial mask and tissue posteriors of a head, by a network that learned from label maps.

The network has seen synthetic images alone (domain randomisation: Billot et al. 2023, SynthSeg,
doi:10.1016/j.media.2023.102789; Hoopes et al. 2022, SynthStrip, doi:10.1016/j.neuroimage.2022.119474).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.core.quality import GATES
from bids_brainage.image import contrast, io, masks
from bids_brainage.image.classes import CLASSES, FREESURFER
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.network import has_bfloat16, load_network, posterior
from bids_brainage.image.synthstrip import brain_mask as synthstrip_mask

SPACING = 2.0
SHAPE = (96, 112, 96)
TOP_TO_CENTRE = 82.0
OFF_CENTRE = 12.0
REFUSED_ML = (300.0, 2500.0)
STRIPPED_SHARE = 0.95
ALL_BRAIN = 0.94
EDGE = 8.0
NO_SUPPORT = 0.1
BRIGHT_AIR = 0.6
WEAK_SUPPORT = GATES["contrast_explained"].low


class Segmented(NamedTuple):
    """What :func:`segment` writes, and what a reader must know of it.

    Attributes
    ----------
    brain_mask, icv_mask : Path
        Native grid, uint8: the brain without outer CSF, ventricles inside; and all within the skull.
    aseg_dseg : Path
        Native grid, uint8: the structures by hemisphere, with FreeSurfer's numbers.
    posteriors : Path
        Probabilities of :data:`CLASSES`, 4D (classes last), uint8 x 1/255, on a 2 mm grid of 96 x 112 x 96
        voxels along the scan's own axes in its world space, around the brain.
    posteriors_between : Path
        The same on the grid half a voxel further along each axis, whose voxels are centred between those.
    flags : tuple of str
        ``already_stripped``.
    measures : mapping
        Of :mod:`bids_brainage.core.quality`.
    """

    brain_mask: Path
    icv_mask: Path
    aseg_dseg: Path
    posteriors: Path
    posteriors_between: Path
    flags: tuple[str, ...]
    measures: Mapping[str, float]


def segment(
    t1w_native: Path,
    *,
    bundle: Path,
    out: Path,
    given_mask: Path | None = None,
    synthstrip: Path | None = None,
    device: str = "cpu",
) -> Segmented:
    """Find the brain; a given mask goes before SynthStrip's, SynthStrip's before the network's own.

    Parameters
    ----------
    t1w_native : Path
        Conformed scan (RAS, float32).
    bundle : Path
        Folder of the segmentation network.
    out : Path
        Existing folder to write into.
    given_mask : Path, optional
        A brain mask on any grid in the same world space.
    synthstrip : Path, optional
        Folder of a bundle with SynthStrip's weights.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    ScanError
        No plausible brain (300-2500 mL, tissues that differ in intensity) in the scan, or a given mask that is empty
        or misses the head.
    BundleError
        A damaged bundle, or one of another kind.
    """
    scan = io.read(t1w_native)
    network = _network(bundle, device)
    head = coarse(scan)
    mask = None
    if given_mask is not None:
        mask = place_mask(given_mask, scan.grid, head, t1w_native)
    elif synthstrip is not None:
        mask = synthstrip_mask(scan, bundle=synthstrip, device=device)
    half = has_bfloat16(device)
    found, support, exchanged = in_any_contrast(network, head, half=half, near=mask_centre(mask, scan.affine))
    between = half_a_voxel_on(network, scan, found.classes.grid, exchanged=exchanged, half=half)
    own, icv, stripped = native_masks((found.classes, between), scan, head)
    brain = own if mask is None else mask
    icv |= brain
    refuse(brain, scan.grid, t1w_native, support=support)
    measures = measure(brain, icv, scan.grid, stripped=stripped) | {"contrast_explained": support}
    if mask is not None:
        measures["mask_dice"] = masks.dice(brain, own)
    return Segmented(
        io.save(out / "brain_mask.nii.gz", brain, scan.affine, np.uint8),
        io.save(out / "icv_mask.nii.gz", icv, scan.affine, np.uint8),
        io.save(out / "aseg_dseg.nii.gz", structures(found, scan.grid, icv), scan.affine),
        io.save_probability(out / "posteriors.nii.gz", *found.classes),
        io.save_probability(out / "posteriors_between.nii.gz", *between),
        ("already_stripped",) if stripped else (),
        measures,
    )


def _network(bundle: Path, device: str) -> nn.Module:
    network, card = load_network(bundle, device)
    if tuple(card.get("classes", ())) != CLASSES or card.get("resolution_mm") != SPACING:
        raise BundleError(f"{bundle}: not a network of the 18 classes at {SPACING:g} mm; install its own bundle")
    return network


def coarse(scan: Volume, shift: float = 0.0) -> Volume:
    """The scan at 2 mm along its own axes, anti-aliased, 0 to 1.5: 1 is the 99th percentile of the foreground.

    The grid lies over the field of view, or ``shift`` voxels further along each axis. Where air is bright, dark and
    bright are exchanged: no scanner makes air bright.
    """
    grid = io.spaced(scan.grid, SPACING)
    grid = Grid(grid.shape, io.shifted(grid.affine, [shift] * 3))
    values = io.nonnegative(scan.data)
    if io.background(values) > BRIGHT_AIR * float(np.percentile(values[::4, ::4, ::4], 99)):
        values = values.max() - values
    data = io.resample(Volume(values, scan.affine), grid, cubic=True)
    foreground = data[data > data.max() * 1e-4]
    scale = float(np.percentile(foreground, 99)) if foreground.size else 1.0
    return Volume(np.clip(data / scale, 0, 1.5).astype(np.float32), grid.affine)


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
    searched = _millilitres(brain, SPACING**3) < REFUSED_ML[0]
    if searched:
        middle = (np.asarray(head.data.shape) - 1) / 2
        whole = tuple(-(-size // 16) * 16 for size in head.data.shape)
        found = _window(network, head, middle, whole, half=half)
        brain = _brain(found.classes)
    target = (to_voxels @ found.classes.affine @ np.append(_box_middle(brain), 1))[:3] if brain.any() else middle
    if searched or np.abs(target - middle).max() * SPACING > OFF_CENTRE:
        found = _window(network, head, target, SHAPE, half=half)
    return Found(_clean(found.classes), found.right)


def in_any_contrast(
    network: nn.Module, head: Volume, *, half: bool, near: NDArray | None = None
) -> tuple[Found, float, bool]:
    """The segmentation, how far the intensities bear it out (:func:`contrast.explained`), and what it was made from.

    Where they hardly do, the scan is tried with dark and bright exchanged, and the better of both is kept; the last
    value says whether it is the exchanged one.
    """
    found = locate_and_segment(network, head, half=half, near=near)
    support = contrast.explained(found.classes, head)
    if support >= WEAK_SUPPORT:
        return found, support, False
    other = contrast.inverted(head)
    again = locate_and_segment(network, other, half=half, near=near)
    better = contrast.explained(again.classes, other)
    return (again, better, True) if better > support else (found, support, False)


def half_a_voxel_on(network: nn.Module, scan: Volume, grid: Grid, *, exchanged: bool, half: bool) -> Volume:
    """Classes on ``grid`` moved by half a voxel along each axis; dark and bright exchanged where they were before.

    Together the two grids have twice the voxels, body-centred: what the one misses between its voxels, the other sees.
    """
    head = coarse(scan, 0.5)
    head = contrast.inverted(head) if exchanged else head
    first = (np.linalg.inv(head.affine) @ grid.affine[:, 3])[:3] + 0.5
    middle = first + (np.asarray(grid.shape) - 1) / 2
    return _clean(_window(network, head, middle, grid.shape, half=half).classes)


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
    seen = io.window(head, start, shape)
    classes, right = posterior(network, torch.from_numpy(seen.data), half=half)
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


def native_masks(probabilities: Sequence[Volume], scan: Volume, head: Volume) -> tuple[masks.Mask, masks.Mask, bool]:
    """Brain and intracranial mask on the scan's grid, and whether the scan had been stripped before.

    Probabilities are interpolated, averaged, then cut at 0.5. There is no brain where the scan holds nothing. In a
    stripped scan the brain stays within what is left; where that is all brain by the network too (Dice over 0.94:
    stripped without outer CSF), it is the brain mask. The skull was there, so the intracranial mask goes on as the
    network sees it.
    """
    inside = [Volume(1 - one.data[..., 0], one.affine) for one in probabilities]
    tissue = [Volume(1 - one.data[..., :2].sum(axis=-1), one.affine) for one in probabilities]
    brain = masks.solid(io.mean_on(scan.grid, tissue) > 0.5)
    icv = masks.solid(io.mean_on(scan.grid, inside) > 0.5) | brain
    stripped = is_stripped(head, Volume(inside[0].data > 0.5, inside[0].affine))
    if stripped:
        left = masks.solid(scan.data != io.background(scan.data))
        brain = left if masks.dice(brain, left) > ALL_BRAIN else brain & left
    elif (nothing := io.empty(scan, icv)).any():
        brain, icv = masks.solid(brain & ~nothing), masks.solid(icv & ~nothing)
    return brain, icv | brain, stripped


def structures(found: Found, grid: Grid, icv: masks.Mask) -> NDArray[np.uint8]:
    """The likeliest structure at each voxel within the skull, by hemisphere: FreeSurfer's numbers (uint8)."""
    box = masks.bounding_box(icv)
    part = Grid(icv[box].shape, io.shifted(grid.affine, [side.start for side in box]))
    best, label = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.uint8)
    for number in range(1, len(CLASSES)):
        own = io.resample(Volume(found.classes.data[..., number], found.classes.affine), part)
        ahead = own > best
        label[ahead], best[ahead] = number, own[ahead]
    x, y, z = np.ogrid[tuple(slice(size) for size in part.shape)]
    a, b, c, d = midplane(found) @ part.affine
    labels = np.zeros(grid.shape, np.uint8)
    labels[box] = np.array(FREESURFER, np.uint8)[label, (a * x + b * y + c * z + d > 0).astype(np.uint8)] * icv[box]
    return labels


def midplane(found: Found) -> NDArray[np.float64]:
    """The plane that best parts the hemispheres that the network sees, ``(a, b, c, d)``; mm, positive on the right.

    Fisher's linear discriminant by least squares over the brain: single voxels that the network puts on the wrong side
    do not count.
    """
    brain = found.classes.data[..., :2].sum(axis=-1) < 0.5
    where = np.argwhere(brain) @ found.classes.affine[:3, :3].T + found.classes.affine[:3, 3]
    design = np.c_[where, np.ones(len(where))]
    return np.asarray(np.linalg.lstsq(design, 2 * found.right.data[brain].astype(np.float64) - 1, rcond=None)[0])


def is_stripped(head: Volume, icv: Volume) -> bool:
    """Whether nearly all foreground lies within 6 mm of the intracranial mask."""
    foreground = head.data > 0.02
    around = masks.dilate(io.resample(icv, head.grid, nearest=True).astype(bool), 6.0, np.full(3, SPACING))
    return bool((foreground & around).sum() >= STRIPPED_SHARE * foreground.sum())


def place_mask(given: Path, grid: Grid, head: Volume, scan: Path) -> masks.Mask:
    """A given brain mask on the scan's grid.

    Raises
    ------
    ScanError
        Where it is empty, or less than half of it lies on the head.
    """
    source = io.read(given)
    if source.data.ndim != 3:
        raise ScanError(
            f"{given}: a brain mask is one 3D volume, this has {source.data.ndim} dimensions; give another mask"
        )
    mask = io.resample(Volume(source.data > 0.5, source.affine), grid, nearest=True).astype(bool)
    if not (source.data > 0.5).any():
        raise ScanError(f"{given}: the brain mask is empty; give another mask or none")
    on_head = io.resample(Volume((head.data > 0.05).astype(np.float32), head.affine), grid) > 0.5
    share = (mask & masks.fill_holes(on_head)).sum() * grid.voxel_volume
    if share < 0.5 * (source.data > 0.5).sum() * source.grid.voxel_volume:
        raise ScanError(f"{given}: the brain mask does not lie on the head of {scan.name}; give one in the same space")
    return mask


def _millilitres(mask: masks.Mask, voxel: float) -> float:
    return float(mask.sum()) * voxel / 1000


def refuse(brain: masks.Mask, grid: Grid, scan: Path, *, support: float) -> None:
    """Stop where what was found cannot be a brain."""
    if support < NO_SUPPORT:
        raise ScanError(
            f"{scan}: no brain was found: what looks like its tissues explains {support:.0%} of the intensities; "
            "check that this is a whole head in T1w"
        )
    volume = _millilitres(brain, grid.voxel_volume)
    if not REFUSED_ML[0] <= volume <= REFUSED_ML[1]:
        raise ScanError(
            f"{scan}: the brain found has {volume:.0f} mL, not 300 to 2500; "
            "check that this is a whole head in T1w, or give a mask"
        )


def measure(brain: masks.Mask, icv: masks.Mask, grid: Grid, *, stripped: bool) -> dict[str, float]:
    """Volume, shape and place of the masks: measures of :mod:`bids_brainage.core.quality`."""
    volumes = [_millilitres(mask, grid.voxel_volume) for mask in (brain, icv)]
    cut = cut_area(brain, grid, 0.0) if stripped else cut_area(icv, grid, EDGE)
    return {
        "brain_ml": volumes[0],
        "icv_ml": volumes[1],
        "brain_share": volumes[0] / max(volumes[1], 1e-6),
        "brain_elongation": elongation(brain, grid),
        "cut_cm2": cut / 100,
    }


def elongation(mask: masks.Mask, grid: Grid) -> float:
    """Ratio of the longest to the shortest principal axis of a mask; 1 for a ball, whatever its pose."""
    where = np.argwhere(mask[::2, ::2, ::2]) @ (2 * grid.affine[:3, :3]).T
    if len(where) < 4:
        return float("inf")
    spread = np.linalg.eigvalsh(np.cov(where, rowvar=False))
    return float(np.sqrt(spread[-1] / max(spread[0], 1e-6)))


def cut_area(mask: masks.Mask, grid: Grid, edge: float) -> float:
    """Largest area (mm^2) of a mask in a slice within ``edge`` mm (at least one slice) of a face of the field of view.

    Between the brain and the edge there is skull and scalp; where a head is cut, the network ends the brain some
    millimetres before.
    """
    areas = []
    for axis, zoom in enumerate(grid.zooms):
        depth = max(1, int(np.ceil(edge / zoom - 1e-3)))
        area = mask.sum(axis=tuple(a for a in range(3) if a != axis)) * grid.voxel_volume / zoom
        areas += [area[:depth].max(), area[-depth:].max()]
    return float(max(areas))
