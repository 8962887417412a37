"""Planted aging: every region takes the volume that age, sex and the person prescribe, by a smooth deformation.

The velocity of the deformation has a prescribed divergence in each region (a Poisson equation, solved by FFT), so a
region's volume follows its target exactly but for discretisation, while the skull stays where it is and the fluid
takes what the brain leaves. This is the idea of topology-preserving simulation of atrophy with prescribed Jacobians
(Karacali & Davatzikos 2006, IEEE TMI 25), here with the rates of regions found by a linear system at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from bids_brainage.core.types import Sex
from bids_brainage.simulate.anatomy import CSF, ORIGIN, REGIONS, Anatomy
from bids_brainage.simulate.deform import Array, Warp, nodes, sample

REFERENCE_AGE = 40.0
"""Age of the base anatomy, years."""
_AGES = (40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
# iSTAGING normative centiles: median volume of cognitively normal people, both sides, relative to 40 years; (F, M).
_MEDIAN: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "lateral_ventricle": ((1.0, 1.110, 1.344, 1.907, 2.654, 3.430), (1.0, 1.121, 1.419, 1.957, 2.658, 3.495)),
    "third_ventricle": ((1.0, 1.319, 1.777, 2.644, 3.450, 4.020), (1.0, 1.336, 1.819, 2.390, 2.991, 3.560)),
    "fourth_ventricle": ((1.0, 0.982, 0.995, 1.036, 1.082, 1.137), (1.0, 0.993, 0.995, 1.006, 1.024, 1.043)),
    "cerebral_cortex": ((1.0, 0.964, 0.932, 0.896, 0.852, 0.801), (1.0, 0.960, 0.922, 0.884, 0.849, 0.814)),
    "cerebral_white_matter": ((1.0, 1.014, 1.007, 0.990, 0.970, 0.867), (1.0, 0.997, 0.982, 0.963, 0.926, 0.870)),
    "thalamus": ((1.0, 0.967, 0.928, 0.884, 0.838, 0.791), (1.0, 0.961, 0.913, 0.873, 0.833, 0.790)),
    "caudate": ((1.0, 0.960, 0.935, 0.930, 0.938, 0.946), (1.0, 0.962, 0.930, 0.920, 0.923, 0.923)),
    "putamen": ((1.0, 0.967, 0.936, 0.906, 0.876, 0.844), (1.0, 0.963, 0.926, 0.892, 0.859, 0.827)),
    "pallidum": ((1.0, 0.975, 0.953, 0.923, 0.881, 0.830), (1.0, 0.975, 0.944, 0.908, 0.868, 0.828)),
    "hippocampus": ((1.0, 0.999, 0.988, 0.951, 0.892, 0.799), (1.0, 0.992, 0.978, 0.950, 0.886, 0.803)),
    "amygdala": ((1.0, 0.996, 0.985, 0.956, 0.912, 0.853), (1.0, 0.998, 0.977, 0.951, 0.902, 0.829)),
    "accumbens": ((1.0, 0.953, 0.902, 0.844, 0.780, 0.709), (1.0, 0.953, 0.889, 0.833, 0.776, 0.707)),
    "ventral_dc": ((1.0, 0.986, 0.969, 0.944, 0.911, 0.871), (1.0, 0.984, 0.961, 0.939, 0.908, 0.865)),
    "brainstem": ((1.0, 1.004, 0.998, 0.981, 0.954, 0.923), (1.0, 0.997, 0.986, 0.966, 0.936, 0.899)),
    "cerebellar_cortex": ((1.0, 0.977, 0.955, 0.930, 0.902, 0.873), (1.0, 0.976, 0.950, 0.924, 0.897, 0.871)),
    "cerebellar_white_matter": ((1.0, 1.006, 0.995, 0.970, 0.937, 0.900), (1.0, 0.996, 0.977, 0.949, 0.917, 0.882)),
}
_SPREAD = {
    "lateral_ventricle": 0.3,
    "third_ventricle": 0.2,
    "fourth_ventricle": 0.15,
    "brainstem": 0.05,
    "ventral_dc": 0.05,
}
_SPREAD |= {
    "cerebral_cortex": 0.025,
    "cerebral_white_matter": 0.025,
    "cerebellar_cortex": 0.05,
    "cerebellar_white_matter": 0.05,
}
_SIDE = 0.25
"""Spread of left against right, as a share of the spread between people."""


class Variation(NamedTuple):
    """How regional volumes vary between people of one age, sex and head size.

    Attributes
    ----------
    spread : mapping of str to float
        Standard deviation of the logarithm of a kind's volume; 0.08 for kinds not named.
    families : sequence of tuples of str
        Kinds that vary together.
    shared : float
        Share of a kind's variance that it has in common with its family.
    """

    spread: Mapping[str, float]
    families: Sequence[tuple[str, ...]] = ()
    shared: float = 0.0


PLAIN = Variation(_SPREAD)
"""Every kind on its own; what golden results rest on."""
RELATED = Variation(
    {
        "lateral_ventricle": 0.40,
        "third_ventricle": 0.40,
        "fourth_ventricle": 0.29,
        "cerebral_cortex": 0.04,
        "cerebral_white_matter": 0.04,
        "thalamus": 0.06,
        "ventral_dc": 0.065,
        "pallidum": 0.10,
        "caudate": 0.10,
        "accumbens": 0.13,
    },
    (
        ("brainstem", "ventral_dc", "thalamus", "cerebellar_white_matter", "cerebellar_cortex"),
        ("caudate", "putamen", "pallidum", "accumbens"),
        ("hippocampus", "amygdala"),
        ("lateral_ventricle", "third_ventricle", "fourth_ventricle"),
    ),
    0.45,
)
"""Nearer to people: spreads of 218 of IXI about age, sex and intracranial volume, and families seen there."""
_MARGIN = 15.0
_LARGEST_STEP = 0.18
_LARGEST_RATE = 0.6
_CORRECTIONS = 2
"""Steps at the end that only remove what discretisation left."""


class Growth(NamedTuple):
    """How a deformation brings the regions to their volumes; the volumes are the same for each.

    Attributes
    ----------
    stretch : tuple of float
        How readily material moves along x, y and z; the velocity is free of curl where the three are equal.
    rim : float
        0: a region's change is the same throughout; 1: in proportion to how near its rim a place lies.
    """

    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rim: float = 0.0


EVEN = Growth()


class Fractions(NamedTuple):
    """Share of each region (in the order of `REGIONS`) or parcel (of `local.PARCELS`) in each cell of a coarse grid."""

    values: Array
    origin: NDArray[np.float64]
    spacing: float


def expected(kind: str, age: float, sex: Sex) -> float:
    """Median volume of a region (both sides) at an age, relative to 40 years.

    Linear in the logarithm between decades; below 40 and above 90 the nearest decade's rate goes on.

    Parameters
    ----------
    kind : str
        Region without its side, e.g. ``hippocampus``.
    age : float
        Years.
    sex : {"F", "M"}

    Source: iSTAGING normative centiles of cognitively normal people (NiChart_Project).
    """
    return float(np.exp(log_expected(kind, np.float64(age), sex)))


def log_expected(kind: str, age: NDArray[np.float64] | np.float64, sex: Sex) -> NDArray[np.float64]:
    """Logarithm of `expected` at any number of ages (years)."""
    log, knots = np.log(_MEDIAN[kind][0 if sex == "F" else 1]), np.array(_AGES)
    low = np.clip(np.searchsorted(knots, age) - 1, 0, len(knots) - 2)
    slope = (log[low + 1] - log[low]) / (knots[low + 1] - knots[low])
    return np.asarray(log[low] + slope * (age - knots[low]), np.float64)


def individual(rng: np.random.Generator, variation: Variation = PLAIN) -> NDArray[np.float64]:
    """Random factors of regional volumes of one person, age apart; lognormal, median 1, in the order of `REGIONS`."""
    common = {kind: rng.standard_normal() for kind in _MEDIAN}
    for family in variation.families:
        shared = rng.standard_normal()
        for kind in family:
            common[kind] = np.sqrt(variation.shared) * shared + np.sqrt(1 - variation.shared) * common[kind]
    factors = np.ones(len(REGIONS))
    for i, region in enumerate(REGIONS):
        if region.number != CSF:
            spread = variation.spread.get(region.kind, 0.08)
            side = _SIDE * rng.standard_normal() if region.name != region.kind else 0.0
            factors[i] = np.exp(spread * (common[region.kind] + side))
    return factors


def planted(age: float, sex: Sex, extra: Mapping[str, float] | None = None) -> NDArray[np.float64]:
    """Volume of each region relative to the base anatomy that aging and planted changes ask for.

    Parameters
    ----------
    age : float
        Years.
    sex : {"F", "M"}
    extra : mapping of str to float, optional
        Further factors by region name (``left_hippocampus``) or kind (both sides).

    Returns
    -------
    array in the order of `REGIONS`; ``nan`` for the fluid around the brain, which takes what is left.
    """
    change = changes(extra or {})
    factors = np.full(len(REGIONS), np.nan)
    for i, region in enumerate(REGIONS):
        if region.number != CSF:
            factors[i] = expected(region.kind, age, sex) * change[i]
    return factors


def changes(extra: Mapping[str, float]) -> NDArray[np.float64]:
    """Planted factors by region name or kind, in the order of `REGIONS`; ``ValueError`` for a name that is none."""
    unknown = set(extra) - {r.name for r in REGIONS} - {r.kind for r in REGIONS} | (set(extra) & {"csf"})
    if unknown:
        raise ValueError(f"no such region to change: {', '.join(sorted(unknown))}")
    return np.array(
        [extra.get(r.name, 1.0) * (extra.get(r.kind, 1.0) if r.kind != r.name else 1.0) for r in REGIONS], np.float64
    )


def fractions(anatomy: Anatomy, spacing: int = 3) -> Fractions:
    """Share of each region in the cells of a coarse grid; cells of ``spacing`` mm (a multiple of the voxel size)."""
    block = spacing // anatomy.step
    rank = np.zeros(256, np.intp)
    rank[[r.number for r in REGIONS]] = np.arange(1, len(REGIONS) + 1)
    where = rank[anatomy.labels]
    low, size = [], []
    for a in range(3):
        hit = np.flatnonzero((where > 0).any(tuple(b for b in range(3) if b != a)))
        margin = int(_MARGIN // anatomy.step)
        start, stop = max(0, hit[0] - margin), min(where.shape[a], hit[-1] + 1 + margin)
        low.append(start)
        size.append((stop - start) // block)
    box = where[tuple(slice(o, o + n * block) for o, n in zip(low, size, strict=True))]
    cell = np.arange(np.prod(size)).reshape(size)
    for a in range(3):
        cell = np.repeat(cell, block, axis=a)
    count = np.bincount((box * cell.max() + box + cell).ravel(), minlength=(len(REGIONS) + 1) * (cell.max() + 1))
    values = count.reshape(len(REGIONS) + 1, *size)[1:].astype(np.float32) / np.float32(block**3)
    origin = ORIGIN + anatomy.step * (np.array(low) + (block - 1) / 2)
    return Fractions(values, origin, float(spacing))


def _velocity(divergence: Array, spacing: float, stretch: tuple[float, float, float]) -> Array:
    """A velocity (3 x X x Y x Z) of a given divergence: the gradient of a Poisson equation's solution, stretched."""
    shape = divergence.shape
    k = [2 * np.pi * (np.fft.rfftfreq if a == 2 else np.fft.fftfreq)(n, spacing) for a, n in enumerate(shape)]
    kx, ky, kz = (np.asarray(v, np.float32).reshape([-1 if a == b else 1 for b in range(3)]) for a, v in enumerate(k))
    sx, sy, sz = np.array(stretch, np.float32)
    square = sx * kx**2 + sy * ky**2 + sz * kz**2
    square[0, 0, 0] = 1
    potential = fft.rfftn(divergence) / -square
    potential[0, 0, 0] = 0
    return np.stack([fft.irfftn(1j * v * potential, shape) for v in (sx * kx, sy * ky, sz * kz)]).astype(np.float32)


def _rates(share: Array, wanted: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Divergence of each region, per step, that makes the volumes grow by the logarithms ``wanted``.

    A cell may hold several regions, and its divergence is their mean: the overlaps make a linear system.
    """
    flat = share.reshape(len(share), -1)
    overlap = (flat @ flat.T).astype(np.float64) * spacing**3
    volume = flat.sum(1, dtype=np.float64) * spacing**3
    scale = np.sqrt(np.maximum(np.diag(overlap), 1e-6))
    system = overlap / np.outer(scale, scale) + 0.01 * np.eye(len(share))
    return np.asarray(np.clip(np.linalg.solve(system, wanted * volume / scale) / scale, -_LARGEST_RATE, _LARGEST_RATE))


def at_rims(base: Fractions, factors: NDArray[np.float64], rim: float) -> Array:
    """Logarithm by which cells change more than their region where its change sits at its rim; mean 0 in each region.

    Nearness to the rim is one minus the region's share in the neighbourhood (a Gaussian of one cell).

    Parameters
    ----------
    base : Fractions
    factors : array
        As of `grow`.
    rim : float
        As of `Growth`.

    Returns
    -------
    float32 array, X x Y x Z
    """
    found = np.zeros(base.values.shape[1:], np.float32)
    for share, factor in zip(base.values, factors, strict=True):
        if np.isfinite(factor) and share.any():
            near = 1 - ndimage.gaussian_filter(share, 1.0)
            relative = near / np.average(near, weights=share) - 1
            found += share * np.float32(rim * np.log(factor)) * relative
    return found


def grow(base: Fractions, factors: NDArray[np.float64], within: Array | None = None, growth: Growth = EVEN) -> Warp:
    """The deformation that brings the regions of the base anatomy to ``factors`` times their volumes.

    Parameters
    ----------
    base : Fractions
    factors : array
        In the order of the fractions; ``nan`` for the fluid, whose volume keeps that of the skull's inside.
    within : float32 array, X x Y x Z, optional
        Logarithm by which each cell's volume change differs from that of the regions in it. It enters the divergence
        cell by cell; the regions' totals stay what ``factors`` ask for.
    growth : Growth

    Returns
    -------
    Warp
        Pull-back: from a position in the changed anatomy to the base anatomy's.
    """
    if growth.rim:
        rims = at_rims(base, factors, growth.rim)
        within = rims if within is None else within + rims
    shape, h = base.values.shape[1:], base.spacing
    start = base.values.sum((1, 2, 3), dtype=np.float64)
    goal = np.where(np.isnan(factors), 0, start * np.nan_to_num(factors))
    goal[np.isnan(factors)] = max(start.sum() - goal.sum(), 0.05 * start.sum())
    log_goal = np.log(goal / np.maximum(start, 1e-6))
    steps = int(np.clip(np.ceil(np.abs(log_goal).max() / _LARGEST_STEP), 2, 16))
    points = nodes(shape, base.origin, h)
    outside = ndimage.distance_transform_edt(base.values.sum(0) < 0.5, sampling=h)
    taper = np.clip(1 - outside / 10, 0, 1).astype(np.float32)
    displacement = np.zeros((3, *shape), np.float32)
    for step in range(1, steps + 1 + _CORRECTIONS):
        share = sample(base.values, base.origin, h, points + displacement)
        now = np.log(share.sum((1, 2, 3), dtype=np.float64) / start)
        wanted = log_goal * min(step / steps, 1) - now
        own = None
        if within is not None and step <= steps:
            own = sample(within[None] / np.float32(steps), base.origin, h, points + displacement)[0]
            wanted = wanted - (share * own).sum((1, 2, 3), dtype=np.float64) / share.sum((1, 2, 3), dtype=np.float64)
        divergence = np.tensordot(_rates(share, wanted, h).astype(np.float32), share, 1)
        if own is not None:
            divergence = divergence + own
        back = -taper * _velocity(divergence, h, growth.stretch)
        back = 0.5 * (back + sample(back, base.origin, h, points + 0.5 * back))
        displacement = back + sample(displacement, base.origin, h, points + back)
    return Warp(displacement, base.origin, h)
