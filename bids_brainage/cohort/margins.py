"""Regional volumes as normal scores given age and category, and back: a location, a scale and a shape each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError

Array = NDArray[np.float64]
Labels = NDArray[np.str_]

OFFSET = 1.0
"""mm^3, so that an empty region has a logarithm."""
FEWEST = 20
SKEWS, TAILS = np.linspace(-0.8, 0.8, 17), np.linspace(0.6, 1.4, 9)
LIMIT = 30.0
"""Least and largest asinh of a residual on the way back: no finite score becomes an infinite volume."""


def categories_of(categories: Mapping[str, Any], n: int) -> dict[str, Labels]:
    """One value a person of each category, from one value for all or one a person."""
    return {name: np.array(np.broadcast_to(np.asarray(value, dtype=str), (n,))) for name, value in categories.items()}


def strata(categories: Mapping[str, Any], n: int) -> Labels:
    """``race=White, sex=F`` of each person, shape (n,); the names in alphabetical order."""
    labels = np.full(n, "", dtype=object)
    for name, values in sorted(categories_of(categories, n).items()):
        labels = labels + np.array([f"{', ' if labels[i] else ''}{name}={value}" for i, value in enumerate(values)])
    return labels.astype(str)


def log_volumes(people: People) -> Array:
    """Logarithms of volumes and, where it is known, ICV (last), shape (n, k)."""
    values = np.column_stack([people.volumes] + ([] if people.icv is None else [people.icv]))
    if not np.isfinite(values).all() or (values < 0).any():
        row = int(np.argmin((np.isfinite(values) & (values >= 0)).all(axis=1)))
        raise UsageError(f"{people.who[row]}: has a missing or negative volume; complete the row or take it out")
    return np.asarray(np.log(values + OFFSET))


def people_from(logs: Array, ages: Array, categories: Mapping[str, Any], indices: tuple[int, ...]) -> People:
    """Inverse of :func:`log_volumes`: synthetic people of these ages and categories; no volume is negative."""
    values = np.maximum(np.exp(logs) - OFFSET, 0.0)
    k = len(indices)
    return People(
        tuple(f"synthetic-{i + 1:05d}" for i in range(len(ages))),
        np.array(ages, dtype=float),
        categories_of(categories, len(ages)),
        indices,
        values[:, :k],
        values[:, k] if values.shape[1] > k else None,
    )


class Choice(NamedTuple):
    """What a copula and its margins are made of.

    Attributes
    ----------
    location, scale : int
        Columns of the age splines of location and log scale; 0 is a constant, 1 a line.
    shaped : bool
        Whether skew and tail of the margins are fitted.
    dimensions : int
        Principal components of the scores whose correlation is taken as it is; only the rest is shrunken.
    """

    location: int = 1
    scale: int = 0
    shaped: bool = False
    dimensions: int = 5


@dataclass(frozen=True)
class Margins:
    """Sinh-arcsinh margins (Jones & Pewsey 2009, Biometrika 96:761) around a location and scale that follow age.

    e = (y - location(age)) / scale(age), z = (sinh(tail asinh(e) - skew) - centre) / spread.

    Attributes
    ----------
    ages : array
        Ages that place the knots, years.
    choice : Choice
    location, log_scale : mapping of stratum to array, (columns + 1, k)
    skew, tail, centre, spread : array, (k,)
    """

    ages: Array
    choice: Choice
    location: Mapping[str, Array]
    log_scale: Mapping[str, Array]
    skew: Array
    tail: Array
    centre: Array
    spread: Array

    def scores(self, y: Array, age: Array, stratum: Labels) -> tuple[Array, Array]:
        """Normal scores and the logarithm of dz/dy, shape (n, k) each."""
        location, log_scale = self._at(age, stratum)
        e = (y - location) / np.exp(log_scale)
        w = self.tail * np.arcsinh(e) - self.skew
        z = (np.sinh(w) - self.centre) / self.spread
        slope = np.log(self.tail / self.spread) + np.log(np.cosh(w)) - 0.5 * np.log1p(e**2) - log_scale
        return z, slope

    def values(self, z: Array, age: Array, stratum: Labels) -> Array:
        """Inverse of :meth:`scores`, shape (n, k)."""
        location, log_scale = self._at(age, stratum)
        w = (np.arcsinh(self.centre + self.spread * z) + self.skew) / self.tail
        return np.asarray(location + np.exp(log_scale) * np.sinh(np.clip(w, -LIMIT, LIMIT)))

    def _at(self, age: Array, stratum: Labels) -> tuple[Array, Array]:
        known(stratum, self.location)
        means, scales = (basis(age, self.ages, columns) for columns in self.choice[:2])
        location, log_scale = (np.empty((len(age), len(self.skew))) for _ in range(2))
        for name in np.unique(stratum).tolist():
            rows = stratum == name
            location[rows], log_scale[rows] = means[rows] @ self.location[name], scales[rows] @ self.log_scale[name]
        return location, log_scale


def known(stratum: Labels, fitted: Mapping[str, Any]) -> None:
    """Refuse categories that nobody had.

    Raises
    ------
    UsageError
    """
    strange = sorted(set(stratum.tolist()) - set(fitted))
    if strange:
        raise UsageError(f"no generator was fitted to people with {strange[0]}; known are {'; '.join(sorted(fitted))}")


def enough(stratum: Labels) -> list[str]:
    """The strata.

    Raises
    ------
    UsageError
        Where one has fewer than 20 people.
    """
    names, counts = np.unique(stratum, return_counts=True)
    if len(names) == 0 or counts.min() < FEWEST:
        what = f"{counts.min()} people with {names[counts.argmin()]}" if len(names) else "no people"
        raise UsageError(f"{what} are too few for a generator; give at least {FEWEST} of each category, or drop it")
    return [str(name) for name in names]


def basis(age: ArrayLike, ages: Array, columns: int) -> Array:
    """Intercept and spline columns of age, shape (n, columns + 1), cubic from three on; straight beyond the ages."""
    from sklearn.preprocessing import SplineTransformer

    x = np.asarray(age, dtype=float)[:, None]
    if columns == 0:
        return np.ones_like(x)
    degree = min(columns, 3)
    spline = SplineTransformer(
        n_knots=columns - degree + 2, degree=degree, knots="quantile", extrapolation="linear", include_bias=False
    )
    return np.hstack([np.ones_like(x), spline.fit(ages[:, None]).transform(x)])


def fit(y: Array, age: Array, stratum: Labels, choice: Choice) -> Margins:
    """Fit location by least squares, log scale by the squared residuals (Harvey 1976), then shapes, by stratum.

    Parameters
    ----------
    y : array, (n, k)
        Log volumes.
    age : array, (n,)
        Years.
    stratum : array of str, (n,)
    choice : Choice

    Raises
    ------
    UsageError
        Where a stratum has fewer than 20 people.
    """
    location, log_scale = dict[str, Array](), dict[str, Array]()
    e = np.empty_like(y)
    for name in enough(stratum):
        rows = stratum == name
        means, scales = (basis(age[rows], age, columns) for columns in choice[:2])
        location[name] = np.linalg.lstsq(means, y[rows])[0]
        left = y[rows] - means @ location[name]
        floor = max(float(left.var()), 1e-12) * 1e-6
        log_scale[name] = 0.5 * np.linalg.lstsq(scales, np.log(left**2 + floor))[0]
        raw = left / np.exp(scales @ log_scale[name])
        total = np.sqrt((raw**2).sum(axis=0) / max(rows.sum() - choice.location - 1, 1))
        total[total == 0] = 1.0
        log_scale[name][0] += np.log(total)
        e[rows] = raw / total
    skew, tail = _shape(e) if choice.shaped else (np.zeros(y.shape[1]), np.ones(y.shape[1]))
    u = np.sinh(tail * np.arcsinh(e) - skew)
    centre, spread = (u.mean(axis=0), u.std(axis=0)) if choice.shaped else (np.zeros(len(skew)), np.ones(len(skew)))
    return Margins(age, choice, location, log_scale, skew, tail, centre, np.where(spread > 0, spread, 1.0))


def _shape(e: Array) -> tuple[Array, Array]:
    """Skew and tail of each column by penalised likelihood on a grid, centre and spread profiled out.

    The penalty, a normal prior around no skew and normal tails (SD 0.3 each, the tail's in logarithms), keeps few
    people from asking for much.
    """
    arc, best = np.arcsinh(e), np.full(e.shape[1], -np.inf)
    skew, tail = np.zeros(e.shape[1]), np.ones(e.shape[1])
    for t in TAILS:
        for s in SKEWS:
            w = t * arc - s
            spread = np.maximum(np.sinh(w).std(axis=0), 1e-12)
            likelihood = len(e) * np.log(t / spread) + np.log(np.cosh(w)).sum(axis=0)
            likelihood -= 0.5 * (s**2 + np.log(t) ** 2) / 0.3**2
            better = likelihood > best
            best[better], skew[better], tail[better] = likelihood[better], s, t
    return skew, tail
