"""Means of a map over the regions of an atlas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas
from bids_brainage.image.io import Grid, Volume, resample


class RegionMeans(NamedTuple):
    """Of each label above 0, in order: number, mean (``nan`` without voxels), and count of voxels with a value."""

    labels: NDArray[np.int64]
    means: NDArray[np.float64]
    voxels: NDArray[np.int64]


def roi_means(values: NDArray[np.floating], labels: NDArray[np.integer]) -> RegionMeans:
    """Mean of a map in each region.

    Parameters
    ----------
    values : array
        Voxels that are not finite take no part.
    labels : array of int, in the shape of ``values``
        Region of each voxel, 0 outside all.

    Raises
    ------
    ValueError
        Where the shapes differ.
    """
    if values.shape != labels.shape:
        raise ValueError(f"map of shape {values.shape} and labels of shape {labels.shape} do not lie on one grid")
    there = np.unique(labels[labels > 0]).astype(np.int64)
    used = (labels > 0) & np.isfinite(values)
    position = np.searchsorted(there, labels[used])
    count = np.bincount(position, minlength=len(there))
    total = np.bincount(position, values[used].astype(np.float64), minlength=len(there))
    return RegionMeans(there, np.where(count, total / np.maximum(count, 1), np.nan), count.astype(np.int64))


def muse_labels(atlas: Atlas, grid: Grid) -> NDArray[np.uint8]:
    """Number of the likeliest MUSE region at each voxel of a grid in the atlas's space, 0 outside the brain."""
    number = np.array([*(region.number for region in muse.regions()), 0, 0], dtype=np.uint8)
    best = np.take_along_axis(atlas.labels, atlas.probabilities.argmax(axis=1)[:, None], axis=1)[:, 0]
    there = np.where(atlas.rows >= 0, number[best][atlas.rows], np.uint8(0))
    return resample(Volume(there, atlas.grid.affine), grid, nearest=True)
