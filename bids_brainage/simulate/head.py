"""What surrounds the brain: fluid, skull, scalp, face and neck, as shells and simple bodies in template space.

No anatomical atlas of the head is used: the aim is that a brain extraction has something real to remove.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

Array = NDArray[np.float32]
Grid = tuple[Array, Array, Array]


class Tissue(NamedTuple):
    """A tissue outside the truth: label, name, mean T1w intensity and its spread within the tissue."""

    number: int
    name: str
    t1: float
    spread: float


SKIN, FAT, MUSCLE, BONE, MARROW, DURA, EYE, AIR, CORD, FLUID, MUCOSA = range(100, 111)
TISSUES: tuple[Tissue, ...] = (
    Tissue(SKIN, "skin", 100.0, 10.0),
    Tissue(FAT, "fat", 185.0, 25.0),
    Tissue(MUSCLE, "muscle", 85.0, 14.0),
    Tissue(BONE, "cortical bone", 16.0, 5.0),
    Tissue(MARROW, "marrow", 92.0, 26.0),
    Tissue(DURA, "dura", 62.0, 12.0),
    Tissue(EYE, "eye", 38.0, 4.0),
    Tissue(AIR, "air in cavities", 6.0, 3.0),
    Tissue(CORD, "spinal cord", 128.0, 6.0),
    Tissue(FLUID, "spinal fluid", 42.0, 5.0),
    Tissue(MUCOSA, "mucosa", 120.0, 20.0),
)

INNER = 1.6
"""Thickness of the fluid between the brain's hull and the dura, mm."""
SKULL = 11.5
"""Outer surface of the skull from the hull, mm."""
SCALP = 19.0
"""Skin surface of the vault from the hull, mm."""

# centre (x, y, z) and semi-axes in mm, template space; pairs are mirrored
_FACE = (
    ((0, 34, -60), (68, 62, 72)),
    ((0, 66, -98), (40, 34, 34)),
    ((0, 90, -60), (15, 24, 24)),
    ((0, 62, -20), (62, 34, 34)),
)
_CAVITIES: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float]], ...] = (
    (FAT, (31, 48, -36), (19, 30, 18)),
    (MUSCLE, (31, 36, -36), (5, 18, 5)),
    (EYE, (32, 63, -35), (12.5, 12.5, 12.5)),
    (MARROW, (0, 2, -48), (13, 22, 16)),
    (AIR, (0, 34, -42), (12, 12, 9)),
    (MUCOSA, (0, 58, -60), (15, 34, 22)),
    (AIR, (4, 56, -62), (3, 28, 15)),
    (BONE, (29, 56, -64), (15, 17, 17)),
    (AIR, (29, 56, -64), (13, 15, 15)),
    (MUCOSA, (0, 22, -80), (14, 10, 26)),
    (AIR, (0, 22, -85), (8, 5, 30)),
    (MUSCLE, (0, 52, -92), (25, 34, 20)),
    (BONE, (0, 74, -80), (27, 14, 9)),
    (BONE, (46, 32, -90), (6, 20, 28)),
    (MARROW, (46, 32, -90), (3, 16, 24)),
    (BONE, (26, 74, -106), (20, 10, 9)),
    (MARROW, (26, 74, -106), (17, 6, 6)),
    (BONE, (50, -28, -52), (16, 18, 18)),
    (AIR, (54, -30, -56), (6, 8, 8)),
    (MARROW, (44, -24, -44), (7, 8, 7)),
    (AIR, (64, -16, -46), (9, 3, 3)),
)


def _ellipsoid(xyz: Grid, centre: tuple[float, ...], axes: tuple[float, ...], mirrored: bool = False) -> Array:
    """Rough signed distance (mm, negative inside) to an ellipsoid."""
    x = np.abs(xyz[0]) if mirrored else xyz[0]
    relative = [((v - c) / axis) ** 2 for v, c, axis in zip((x, xyz[1], xyz[2]), centre, axes, strict=True)]
    return np.asarray((np.sqrt(relative[0] + relative[1] + relative[2]) - 1) * min(axes), np.float32)


def _smooth_union(a: Array, b: Array, width: float = 12.0) -> Array:
    """Union of two signed distances with a rounded seam (polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return np.asarray(b * (1 - h) + a * h - width * h * (1 - h), np.float32)


def _hull(mask: NDArray[np.bool_], step: float, reach: float = 12.0) -> Array:
    """Signed distance (mm, negative inside) to the closed brain."""
    outside = ndi.distance_transform_edt(~mask, sampling=step)
    far = ndi.distance_transform_edt(outside < reach, sampling=step)
    closed = (far > reach) | mask
    signed = ndi.distance_transform_edt(~closed, sampling=step) - ndi.distance_transform_edt(closed, sampling=step)
    return np.asarray(ndi.gaussian_filter(signed, 1.5 / step), np.float32)


def _enlarge(field: Array, shape: tuple[int, ...]) -> Array:
    """Trilinear resampling with the corner voxels aligned."""
    import torch

    if field.shape == shape:
        return field
    tensor = torch.from_numpy(np.ascontiguousarray(field))[None, None]
    return torch.nn.functional.interpolate(tensor, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def _fields(mask: NDArray[np.bool_], xyz: Grid, step: int) -> tuple[Array, Array, Array]:
    """Distances to the brain's hull and to the skin, and noise for texture; computed at 2 mm or coarser."""
    every = max(1, 2 // step)
    cut = (slice(None, None, every),) * 3
    coarse, size = mask[cut], step * every
    grid = (xyz[0][::every], xyz[1][:, ::every], xyz[2][:, :, ::every])
    hull = _hull(coarse, size)
    skin = hull - SCALP
    for centre, axes in _FACE:
        skin = _smooth_union(skin, _ellipsoid(grid, centre, axes))
    lean = -38 - 0.06 * (grid[2] + 80)
    tube = (np.sqrt((grid[0] / 58) ** 2 + ((grid[1] - lean) / 64) ** 2) - 1) * 58
    skin = _smooth_union(skin, np.asarray(np.maximum(tube, grid[2] + 50), np.float32), 20)
    rng = np.random.default_rng(20240229)
    noise = ndi.gaussian_filter(rng.standard_normal(coarse.shape), 4.0 / size, truncate=3)
    noise = (noise / noise.std()).astype(np.float32)
    return _enlarge(hull, mask.shape), _enlarge(skin, mask.shape), _enlarge(noise, mask.shape)


def _skull(labels: NDArray[np.uint8], hull: Array, noise: Array, z: Array) -> None:
    """Fluid, dura, and the three layers of the skull, in place, where no brain is."""
    free = (labels == 0) | (labels >= SKIN)
    depth = hull + 0.5 * noise
    layers = ((SKULL, BONE), (SKULL - 2.6, MARROW), (6.8, BONE), (4.2, DURA), (INNER + 0.4, 24))
    for outer, tissue in layers:
        limit = np.where(z < -45, outer * 0.8 + 0.2 * INNER, outer)
        labels[free & (depth < limit)] = tissue


def _spine(labels: NDArray[np.uint8], xyz: Grid, low: float) -> None:
    """Vertebrae, canal and cord below the template's brainstem, in place."""
    x, y, z = xyz
    lean = -43.5 + 0.02 * (z - low)
    radius = np.sqrt(x**2 + (y - lean) ** 2)
    below = z < low + 14
    front = np.sqrt((x / 15) ** 2 + ((y - lean - 21) / 13) ** 2)
    disc = np.abs(np.mod(z + 142, 19) - 2.5) < 2.5
    free = (labels == 0) | (labels >= SKIN)
    labels[free & (z < -78) & (front < 1.12)] = BONE
    labels[free & (z < -78) & (front < 1) & ~disc] = MARROW
    labels[free & (z < -74) & (radius < 14) & (np.mod(z + 142, 19) < 12)] = BONE
    labels[free & below & (radius < 9.5)] = FLUID
    labels[free & (z < low) & (radius < 5.5)] = CORD


def surround(brain: NDArray[np.uint8], mask: NDArray[np.bool_], xyz: Grid, step: int) -> NDArray[np.uint8]:
    """Add what lies outside the brain to a label map.

    Parameters
    ----------
    brain : uint8 array
        Brain labels, 0 elsewhere.
    mask : bool array
        The brain.
    xyz : three arrays
        Open world coordinates, mm.
    step : int
        Voxel size, mm.

    Returns
    -------
    uint8 array
        The brain with `TISSUES` and the fluid (24) inside the dura.
    """
    hull, skin, noise = _fields(mask, xyz, step)
    labels = np.zeros_like(brain)
    inside = skin < 0
    labels[inside] = MUSCLE
    deep = skin + 1.5 * noise
    labels[inside & ((deep > -7) | (noise > 1.1))] = FAT
    labels[inside & (noise < -1.7) & (skin < -10)] = BONE
    labels[inside & (hull < SKULL + 3) & (labels == FAT)] = MUSCLE
    labels[inside & (skin > -2.2)] = SKIN
    labels[inside & (skin < -6) & (hull > SKULL - 4) & (hull < SKULL + 4) & (xyz[2] < -35) & (noise < 0.3)] = BONE
    for tissue, centre, axes in _CAVITIES:
        bumpy = _ellipsoid(xyz, centre, axes, mirrored=True) + (1.2 * noise if tissue != EYE else 0)
        labels[inside & (bumpy < 0) & (skin < -2.2)] = tissue
    labels[mask] = brain[mask]
    low = float(xyz[2].ravel()[np.flatnonzero(mask.any((0, 1)))[0]])
    vault = inside & (hull < SKULL) & ((xyz[2] > low + 2) | (hull < 0))
    shell = np.where(vault, labels, 1)
    _skull(shell, hull, noise, xyz[2])
    labels = np.where(vault & ~mask, shell, labels).astype(np.uint8)
    _spine(labels, xyz, low)
    labels[mask] = brain[mask]
    return labels
