r"""Correction of the age bias of a map of brain age: the mean gap of controls at each voxel, by age.

Popescu et al. (2021), Frontiers in Aging Neuroscience 13:761954: with :math:`D_{bv}` the mean gap at voxel :math:`v` of
healthy people of age bin :math:`b` who took part in neither training nor validation, the corrected gap of a person
:math:`j` of that bin is :math:`\tilde D_{jv} = D_{jv} - D_{bv}`.

Bins are 18-25 years, then five years each, where a bundle says nothing else. A bin without people takes the linear
interpolation, in the bins' centres, between the nearest bins that have some. An age below or above all bins that have
people takes the nearest of them, and is said to lie outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import BundleError
from bids_brainage.core.files import atomic

EDGES = (18.0, *(float(age) for age in range(25, 101, 5)))


class VoxelBins(NamedTuple):
    """Mean gaps of controls.

    Attributes
    ----------
    edges : array of float64, (bins + 1,)
        Ages in years: bin ``b`` holds ``edges[b] <= age < edges[b + 1]``.
    people : array of int64, (bins,)
        Controls in each bin.
    gaps : array of float16, (bins, voxels)
        Mean gap in years at the voxels of a mask in C order; 0 in bins without people.
    """

    edges: NDArray[np.float64]
    people: NDArray[np.int64]
    gaps: NDArray[np.float16]


class Corrected(NamedTuple):
    """Corrected gap in years, (voxels,), and whether the age lies outside the ages of the controls."""

    gap: NDArray[np.float32]
    outside: bool


def fit_voxel_bins(people: Iterable[tuple[float, NDArray[np.floating]]], edges: Sequence[float] = EDGES) -> VoxelBins:
    """Mean gap by age bin and voxel; one person at a time is in memory.

    Parameters
    ----------
    people
        Age in years, and gap (voxels,) in years, of each control. People outside the edges are passed over.
    edges
        Ascending ages in years; the published ones take 2 bytes for each of 16 bins and each voxel.

    Raises
    ------
    ValueError
        Where nobody is left, or a gap is not finite or of another size.
    """
    limits = np.array(edges, dtype=np.float64)
    count = np.zeros(len(limits) - 1, dtype=np.int64)
    total: NDArray[np.float64] | None = None
    for age, gap in people:
        if total is None:
            total = np.zeros((len(count), gap.size))
        if gap.shape != total.shape[1:] or not np.isfinite(gap).all():
            raise ValueError(f"gaps of {total.shape[1]} voxels, all finite, are needed")
        if limits[0] <= age < limits[-1]:
            chosen = _bin(limits, age)
            count[chosen] += 1
            total[chosen] += gap
    if total is None or not count.any():
        raise ValueError(f"nobody between {limits[0]:g} and {limits[-1]:g} years: no correction can be fitted")
    return VoxelBins(limits, count, (total / np.maximum(count, 1)[:, None]).astype(np.float16))


def offset(bins: VoxelBins, age: float) -> Corrected:
    """Mean gap of controls of an age, by the rule of this module, in place of a corrected gap."""
    filled = np.flatnonzero(bins.people)
    chosen = int(np.clip(_bin(bins.edges, age), filled[0], filled[-1]))
    outside = not bins.edges[filled[0]] <= age < bins.edges[filled[-1] + 1]
    below, above = filled[filled <= chosen][-1], filled[filled >= chosen][0]
    centres = (bins.edges[:-1] + bins.edges[1:]) / 2
    share = (centres[chosen] - centres[below]) / (centres[above] - centres[below]) if above > below else 0.0
    low, high = bins.gaps[below].astype(np.float32), bins.gaps[above].astype(np.float32)
    return Corrected((low + np.float32(share) * (high - low)).astype(np.float32), outside)


def correct(bins: VoxelBins, gap: NDArray[np.floating], age: float) -> Corrected:
    """Gap of one person less that of controls of the same age.

    Parameters
    ----------
    gap : array, (voxels,)
        Map less age, in years, in the order of the bins' voxels.
    age : float
        Chronological age in years.

    Raises
    ------
    ValueError
        Where the gap has another number of voxels than the bins.
    """
    if gap.shape != bins.gaps.shape[1:]:
        raise ValueError(f"gap of shape {gap.shape} does not fit bins of {bins.gaps.shape[1]} voxels")
    expected = offset(bins, age)
    return Corrected((gap - expected.gap).astype(np.float32), expected.outside)


def _bin(edges: NDArray[np.float64], age: float) -> int:
    """The bin of an age; -1 below all, ``len(edges) - 1`` above."""
    return int(np.searchsorted(edges, age, side="right")) - 1


def write_voxel_bins(bins: VoxelBins, path: Path) -> Path:
    """Write bins as safetensors."""
    from safetensors.numpy import save

    with atomic(path) as temporary:  # save_file would leave a file that its owner alone can read
        temporary.write_bytes(save({name: np.ascontiguousarray(values) for name, values in bins._asdict().items()}))
    return Path(path)


def read_voxel_bins(path: Path, voxels: int) -> VoxelBins:
    """Read the bins of a mask of so many voxels.

    Raises
    ------
    BundleError
        Where the file holds none, or those of another mask.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        bins = VoxelBins(**load_file(path))
    except (SafetensorError, TypeError, OSError) as error:
        raise BundleError(f"{path}: holds no voxel bins ({error}); install the bundle again") from None
    if bins.gaps.shape != (len(bins.edges) - 1, voxels) or len(bins.people) != len(bins.gaps) or not bins.people.any():
        raise BundleError(f"{path}: bins of shape {bins.gaps.shape} do not fit a mask of {voxels} voxels; fit it again")
    return bins
