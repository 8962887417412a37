"""Small operations on binary masks, quick on whole heads: each works within the bounding box alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """Slices around all true voxels, widened by ``margin`` voxels within the array; everything where none is true."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return tuple(slice(0, size) for size in mask.shape)
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box[0], mask.shape, strict=True)
    )


def largest_component(mask: Mask) -> Mask:
    """The largest set of true voxels that touch by their faces."""
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box])
    if count < 2:
        return mask.copy()
    result = np.zeros_like(mask)
    result[box] = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return result


def fill_holes(mask: Mask) -> Mask:
    """Add the false voxels that no path of faces joins to the outside."""
    box = bounding_box(mask)
    outside, _ = ndimage.label(np.pad(~mask[box], 1, constant_values=True))
    result = np.zeros_like(mask)
    result[box] = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return result


def solid(mask: Mask) -> Mask:
    """The largest component, its holes filled."""
    return fill_holes(largest_component(mask))


def dilate(mask: Mask, millimetres: float, zooms: NDArray[np.floating]) -> Mask:
    """All voxels whose centre lies within a distance of a true voxel's centre."""
    box = bounding_box(mask, int(np.ceil(millimetres / np.min(zooms))) + 1)
    result = np.zeros_like(mask)
    distance = ndimage.distance_transform_edt(~mask[box], sampling=zooms) if mask.any() else np.inf
    result[box] = distance <= millimetres + 1e-6
    return result


def dice(one: Mask, other: Mask) -> float:
    """Overlap of two masks: twice the intersection over the sum; 1 for two empty masks."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
