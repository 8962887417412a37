"""Normative centiles of regional volumes by age and sex: the LMS method (Cole & Green 1992).

At each age a power L makes the volumes of healthy people normal: z = ((v / M)^L - 1) / (L S), and log(v / M) / S where
L is 0, with M the median and S the coefficient of variation (Cole & Green 1992, Statistics in Medicine 11:1305-1319,
doi:10.1002/sim.4780111005). Here log M, log S and L are polynomials in age, of each region and sex.

Volumes are raw, in mm^3, as DLMUSE measures them at 1 mm, and not relative to intracranial volume, as the published
centiles are: a large head has high centiles of nearly all its regions. **The caller gives volumes on the scale of
1 mm**; those that are on the scale of 2 mm (``VolumeScale`` ``dlmuse-2mm``) go through the conversion of the ``roi``
model first (``Conversion`` in :mod:`bids_brainage.models.roi`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import exprel, ndtr

from bids_brainage.core.bundle import load
from bids_brainage.core.errors import BundleError

Array = NDArray[np.float64]

ARCHITECTURE = "normative"
TABLE = "curves.tsv"
SEXES = ("F", "M")
PARTS = {"m": "log_m_", "s": "log_s_", "power": "l_"}
"""Attribute of :class:`Curves` -> what its columns in the bundle's table start with, before the degree."""
CHUNK = 1024


class Curves(NamedTuple):
    """Coefficients of the curves, in rising powers of x = 2 (age - low) / (high - low) - 1.

    Attributes
    ----------
    indices : tuple of int
        MUSE indices of the k regions.
    m, s, power : array, shape (2, k, degree + 1)
        Of log M (M in mm^3), log S and L, of women and men in this order; ``nan`` where there is no curve.
    low, high : float
        Youngest and oldest age, years.
    """

    indices: tuple[int, ...]
    m: Array
    s: Array
    power: Array
    low: float
    high: float


class Shape(NamedTuple):
    """log M, S and L of people and regions, shape (n, k) each."""

    log_m: Array
    s: Array
    power: Array


def z_scores(curves: Curves, volumes: ArrayLike, ages: ArrayLike, sexes: Sequence[str | None]) -> Array:
    """How far each volume is from the median of healthy people of that age and sex, as a standard normal score.

    Parameters
    ----------
    curves : Curves
        Regions in the order of the columns of ``volumes``; see :func:`arranged`.
    volumes : array, shape (n, k)
        mm^3, raw, on the scale of DLMUSE at 1 mm (see the module's text).
    ages : array, shape (n,)
        Years.
    sexes : sequence of {"F", "M"} or anything else, length n
        Anything else is an unknown sex.

    Returns
    -------
    array, shape (n, k)
        Without unit. ``nan`` where the age lies outside the curves' ages, the sex is unknown, the region has no curve,
        or the volume is negative or not finite. An empty region has ``-1 / (L S)`` where L > 0, else ``-inf``.

    Notes
    -----
    An unknown sex is not met by the mean of both: men's volumes are larger by the better part of an SD, so the mean
    would be wrong for a woman and a man alike, in opposite directions. Ask for both where that is wanted.
    """
    return _by_sex(curves, volumes, ages, sexes, z_of_shape)


def centiles(curves: Curves, volumes: ArrayLike, ages: ArrayLike, sexes: Sequence[str | None]) -> Array:
    """Share of healthy people of that age and sex with a smaller volume, percent; else as :func:`z_scores`."""
    return np.asarray(100.0 * ndtr(z_scores(curves, volumes, ages, sexes)))


def volumes_at(curves: Curves, z: ArrayLike, ages: ArrayLike, sexes: Sequence[str | None]) -> Array:
    """Inverse of :func:`z_scores`: the volume in mm^3 at each score, shape (n, k).

    Where a score lies beyond what the curves allow the volume is 0 (L > 0) or infinite (L < 0).
    """
    return _by_sex(curves, z, ages, sexes, _volume_of_shape)


def arranged(curves: Curves, indices: Sequence[int]) -> Curves:
    """The curves of these regions in this order, ``nan`` for regions without curves."""
    column = {index: i for i, index in enumerate(curves.indices)}
    chosen = [column.get(index, len(column)) for index in indices]
    m, s, power = (
        np.pad(part, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)[:, chosen]
        for part in (curves.m, curves.s, curves.power)
    )
    return Curves(tuple(indices), m, s, power, curves.low, curves.high)


def read(folder: Path) -> Curves:
    """Read the curves of a bundle of the architecture ``normative``.

    Raises
    ------
    BundleError
        Where the bundle is damaged or of another kind.
    """
    bundle = load(folder)
    if bundle.card["architecture"] != ARCHITECTURE:
        raise BundleError(f"{folder}: is no {ARCHITECTURE} bundle; give one that `brainage train normative` wrote")
    try:
        with bundle.file(TABLE).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", strict=True))
        low, high = map(float, bundle.card["age_range"])
        indices = tuple(sorted({int(row["index"]) for row in rows}))
        m, s, power = (_coefficients(rows, indices, start) for start in PARTS.values())
        return Curves(indices, m, s, power, low, high)
    except (OSError, KeyError, ValueError, TypeError, IndexError, csv.Error) as error:
        raise BundleError(f"{folder}: not a {ARCHITECTURE} bundle ({error!r}); train it again") from None


def z_of_shape(volumes: Array, shape: Shape) -> Array:
    """Scores of volumes in mm^3, shape (n, k); exact where L is near 0 or the volume 0."""
    log_m, s, power = shape
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(np.where(volumes > 0, volumes, np.nan)) - log_m
        z = np.where(volumes == 0, -1.0 / (np.maximum(power, 0.0) * s), y * exprel(power * y) / s)
    return np.where(np.isfinite(volumes), z, np.nan)


def shape_at(x: ArrayLike, m: Array, s: Array, power: Array) -> Shape:
    """M, S and L at scaled ages, shape (n,), from coefficients, shape (k, degree + 1) each."""
    log_m, log_s, found = (np.vander(np.asarray(x), c.shape[-1], increasing=True) @ c.T for c in (m, s, power))
    return Shape(log_m, np.exp(log_s), found)


def scaled(age: ArrayLike, low: float, high: float) -> Array:
    """Ages, years, as -1 at ``low`` to 1 at ``high``."""
    return 2.0 * (np.asarray(age, dtype=float) - low) / (high - low) - 1.0


def _volume_of_shape(z: Array, shape: Shape) -> Array:
    log_m, s, power = shape
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.maximum(power * s * z, -1.0)
        y = s * z * np.where(t == 0, 1.0, np.log1p(t) / t)
        return np.asarray(np.exp(log_m + y))


def _by_sex(
    curves: Curves,
    values: ArrayLike,
    ages: ArrayLike,
    sexes: Sequence[str | None],
    function: Callable[[Array, Shape], Array],
) -> Array:
    """Apply ``function`` to the rows of each sex in chunks; the rest of the rows stay ``nan``."""
    table, age = np.asarray(values, dtype=float), np.asarray(ages, dtype=float)
    found = np.full(table.shape, np.nan)
    for i, rows in _rows(age, np.asarray(sexes, dtype=object), curves):
        x = scaled(age[rows], curves.low, curves.high)
        found[rows] = function(table[rows], shape_at(x, curves.m[i], curves.s[i], curves.power[i]))
    return found


def _rows(age: Array, sexes: NDArray[np.object_], curves: Curves) -> Iterator[tuple[int, NDArray[np.int_]]]:
    """Number of the sex, and rows with that sex and an age that the curves know, few enough for the memory."""
    inside = (age >= curves.low) & (age <= curves.high)
    for i, sex in enumerate(SEXES):
        rows = np.flatnonzero(inside & (sexes == sex))
        for start in range(0, len(rows), CHUNK):
            yield i, rows[start : start + CHUNK]


def _coefficients(rows: Sequence[dict[str, str]], indices: Sequence[int], start: str) -> Array:
    """Coefficients from the columns that start with ``start``, shape (2, k, degree + 1)."""
    names = sorted((name for name in rows[0] if name.startswith(start)), key=lambda name: int(name[len(start) :]))
    if not names or names != [f"{start}{degree}" for degree in range(len(names))]:
        raise ValueError(f"columns {start}0, {start}1, ... are not there")
    place = {index: k for k, index in enumerate(indices)}
    found = np.full((len(SEXES), len(indices), len(names)), np.nan)
    for row in rows:
        found[SEXES.index(row["sex"]), place[int(row["index"])]] = [float(row[name]) for name in names]
    return found
