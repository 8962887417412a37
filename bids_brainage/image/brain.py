"""Brain mask, intracranial mask and tissue posteriors of a head, by a network that learned from label maps.

The network has seen synthetic images alone (domain randomisation: Billot et al. 2023, SynthSeg,
doi:10.1016/j.media.2023.102789; Hoopes et al. 2022, SynthStrip, doi:10.1016/j.neuroimage.2022.119474).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.image import io, masks
from bids_brainage.image.classes import CLASSES, FREESURFER
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.locate import (
    SMALLEST_ML,
    SPACING,
    Found,
    coarse,
    half_a_voxel_on,
    in_any_contrast,
    mask_centre,
    with_dark_air,
)
from bids_brainage.image.network import has_bfloat16, load_network
from bids_brainage.image.stripped import own_brain
from bids_brainage.image.synthstrip import brain_mask as synthstrip_mask

REFUSED_ML = (SMALLEST_ML, 2500.0)
STRIPPED_SHARE = 0.95
ALL_BRAIN = 0.94
EDGE = 8.0
NO_SUPPORT = 0.1


class Segmented(NamedTuple):
    """What :func:`segment` writes, and what a reader must know of it.

    Attributes
    ----------
    t1w_ordered : Path
        The scan, where need be with dark and bright exchanged, so that white matter is brighter than grey matter.
    brain_mask, icv_mask : Path
        Native grid, uint8: the brain without outer CSF, ventricles inside; and all within the skull.
    aseg_dseg : Path
        Native grid, uint8: the structures by hemisphere, with FreeSurfer's numbers.
    posteriors : Path
        Probabilities of :data:`CLASSES`, 4D (classes last), uint8 x 1/255, on a 2 mm grid of 96 x 112 x 96
        voxels in the scan's world space, around the brain: along the scan's own axes, or the head's where it is turned
        by over 25 degrees.
    posteriors_between : Path
        The same on the grid half a voxel further along each axis, whose voxels are centred between those.
    flags : tuple of str
        ``already_stripped``, ``contrast_exchanged``.
    measures : mapping
        Of :mod:`bids_brainage.core.quality`.
    stripped : bool
        Whether the scan came without skull.
    """

    t1w_ordered: Path
    brain_mask: Path
    icv_mask: Path
    aseg_dseg: Path
    posteriors: Path
    posteriors_between: Path
    flags: tuple[str, ...]
    measures: Mapping[str, float]
    stripped: bool


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
    mask = None
    if given_mask is not None:
        mask = place_mask(given_mask, scan.grid, coarse(with_dark_air(scan)), t1w_native)
    elif synthstrip is not None:
        mask = synthstrip_mask(scan, bundle=synthstrip, device=device)
    half = has_bfloat16(device)
    seen = in_any_contrast(network, scan, half=half, near=mask_centre(mask, scan.affine))
    found = seen.found
    between = half_a_voxel_on(network, seen.scan, found.classes.grid, half=half)
    own, icv, stripped = native_masks((found.classes, between), scan, seen.head)
    brain = own if mask is None else mask
    icv |= brain
    refuse(brain, scan.grid, t1w_native, support=seen.support)
    measures = measure(brain, icv, scan.grid, stripped=stripped) | {"contrast_explained": seen.support}
    if mask is not None:
        measures["mask_dice"] = masks.dice(mask, own)
    flags = {"already_stripped": stripped, "contrast_exchanged": seen.scan is not scan}
    return Segmented(
        io.save(out / "t1w_ordered.nii.gz", *seen.scan) if flags["contrast_exchanged"] else t1w_native,
        io.save(out / "brain_mask.nii.gz", brain, scan.affine, np.uint8),
        io.save(out / "icv_mask.nii.gz", icv, scan.affine, np.uint8),
        io.save(out / "aseg_dseg.nii.gz", structures(found, scan.grid, icv), scan.affine),
        io.save_probability(out / "posteriors.nii.gz", *found.classes),
        io.save_probability(out / "posteriors_between.nii.gz", *between),
        tuple(name for name, raised in flags.items() if raised),
        measures,
        stripped,
    )


def _network(bundle: Path, device: str) -> nn.Module:
    network, card = load_network(bundle, device)
    if tuple(card.get("classes", ())) != CLASSES or card.get("resolution_mm") != SPACING:
        raise BundleError(f"{bundle}: not a network of the 18 classes at {SPACING:g} mm; install its own bundle")
    return network


def native_masks(probabilities: Sequence[Volume], scan: Volume, head: Volume) -> tuple[masks.Mask, masks.Mask, bool]:
    """Brain and intracranial mask on the scan's grid, and whether the scan had been stripped before.

    Probabilities are interpolated, averaged, then cut at 0.5. There is no brain where the scan holds nothing. In a
    stripped scan the brain stays within what is left; where that is all brain by the network too (Dice over 0.94:
    stripped without outer CSF), it is the brain mask. The skull was there, so the intracranial mask goes on as the
    network sees it.
    """
    inside = [Volume(1 - one.data[..., 0], one.affine) for one in probabilities]
    brain = own_brain(probabilities, scan.grid)
    icv = masks.solid(io.mean_on(scan.grid, inside) > 0.5) | brain
    stripped = is_stripped(head, Volume(inside[0].data > 0.5, inside[0].affine))
    if stripped:
        left = masks.solid(io.occupied(scan.data))
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
