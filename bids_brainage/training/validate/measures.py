"""What is read off a map of brain age, and off the change that an offset makes: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]
Values = NDArray[np.float32]

SHELLS: Mapping[str, tuple[float, float]] = {
    "0-10 mm": (0.0, 10.0),
    "10-20 mm": (10.0, 20.0),
    "over 20 mm": (20.0, np.inf),
}
"""Distances from a region, mm: more than the first, at most the second."""
_BIN, _REACH = 1.5, 45.0
"""Width of the bins of a profile, and how far it goes, mm."""


def within_person_r(ages: Values, truth: Values) -> float:
    """Correlation over voxels of a map and the true one; means do not matter. ``nan`` where one does not vary."""
    a, b = ages.astype(np.float64), truth.astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


def slope(planted: ArrayLike, change: ArrayLike) -> float:
    """Slope through the origin of changes on planted years (least squares): nothing planted changes nothing."""
    x, y = np.asarray(planted, float), np.asarray(change, float)
    return float(x @ y / (x @ x))


def inside(truth: Values, planted: Values, years: float) -> Mask:
    """Where years were planted: places of the brain in both true maps that differ by half of the years at least.

    Parameters
    ----------
    truth, planted : array
        True local age without and with the offset, years; 0 outside the brain.
    years : float
        The offset.
    """
    return (truth > 0) & (planted > 0) & ((planted - truth) / np.float32(years) > 0.5)


def distance(region: Mask, spacing: float) -> Values:
    """Distance of each voxel from a region, mm; 0 inside."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(~region, sampling=spacing).astype(np.float32)


def zones(away: Values, brain: Mask) -> dict[str, Mask]:
    """``inside`` and the shells of the brain around it, by distance from the region (mm)."""
    shells = {name: brain & (away > low) & (away <= high) for name, (low, high) in SHELLS.items()}
    return {"inside": brain & (away == 0), **shells}


def localisation(change: Values, region: Mask, brain: Mask) -> float:
    """Area under the ROC curve of the size of the change: voxels of the region against the brain's others.

    The chance that a voxel inside changed more than one outside (Mann-Whitney U over the number of pairs).
    """
    from scipy.stats import rankdata

    own = region[brain]
    n, m = int(own.sum()), int((~own).sum())
    if not n or not m:
        return float("nan")
    ranks = rankdata(np.abs(change[brain]))
    return float((ranks[own].sum(dtype=np.float64) - n * (n + 1) / 2) / (n * m))


def profile(change: Values, middle: NDArray[np.float64], spacing: float, brain: Mask) -> NDArray[np.float64]:
    """Mean change by distance from a point (in voxels), in bins of 1.5 mm up to 45 mm; ``nan`` where a bin is empty."""
    places = np.argwhere(brain)
    away = np.linalg.norm((places - middle) * spacing, axis=1)
    bins = (away / _BIN).astype(int)
    size = int(_REACH / _BIN)
    near = bins < size
    total = np.bincount(bins[near], change[brain][near], size)
    count = np.bincount(bins[near], minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def half_width(heights: NDArray[np.float64]) -> float:
    """Distance (mm) at which a profile first falls to half of its first height; ``nan`` where it does not.

    Parameters
    ----------
    heights : array, shape (bins,)
        As of `profile`; linear between the middles of the bins.
    """
    known = np.flatnonzero(np.isfinite(heights))
    if not known.size:
        return float("nan")
    at, values = (known + 0.5) * _BIN, heights[known]
    below = np.flatnonzero(values <= values[0] / 2)
    if values[0] <= 0 or not below.size:
        return float("nan")
    k = int(below[0])
    share = (values[k - 1] - values[0] / 2) / (values[k - 1] - values[k])
    return float(at[k - 1] + share * (at[k] - at[k - 1]))


def centre(change: Values) -> NDArray[np.float64]:
    """Middle (in voxels) of a true change of one sign, by its weights."""
    places = np.argwhere(change > 0)
    return np.asarray(np.average(places, axis=0, weights=change[change > 0]), np.float64)
