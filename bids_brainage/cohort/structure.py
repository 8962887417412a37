"""Whether synthetic people vary together, age and fill the space as real ones do.

All on volumes in SDs of the real people of the same category (:func:`standardised`), so that a difference between
women and men is no correlation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.cohort.margins import basis, strata
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError
from bids_brainage.stats.groups import Interval

Array = NDArray[np.float64]
HALVES = 20
WORST = 10
NEIGHBOURS = 5
FEWEST = 20
CURVE_COLUMNS = 3
CURVE_AGES = 25


class Correlations(NamedTuple):
    """Correlations of all pairs of volumes, ICV and age, within categories.

    Attributes
    ----------
    rmse, rmse_between_halves : Interval
        Root mean square difference of the coefficients between half of the real and as many synthetic people, and
        between that half and the other: mean, and 2.5th and 97.5th centile over random halves.
    ratio : float
        The first by the second; 1 for people of the same kind.
    frobenius, frobenius_between_halves : float
        Norm of the difference of the matrices, mean over halves.
    worst : pandas.DataFrame
        Pairs that differ most: ``first, second`` (MUSE index, ``icv`` or ``age``), ``real, synthetic``; all people.
    """

    rmse: Interval
    rmse_between_halves: Interval
    ratio: float
    frobenius: float
    frobenius_between_halves: float
    worst: pd.DataFrame


class Manifold(NamedTuple):
    """Fidelity and variety by nearest neighbours; of real halves, what to expect of people of the same kind."""

    precision: float
    recall: float
    density: float
    coverage: float


def standardised(real: People, synthetic: People) -> tuple[Array, Array]:
    """Features of both, (n, p) and (m, p), in SDs from the mean of the real people of the same category.

    Raises
    ------
    UsageError
        Where regions or what is known differ, or a category of synthetic people has fewer than 20 real ones.
    """
    if real.indices != synthetic.indices or (real.icv is None) != (synthetic.icv is None):
        raise UsageError("real and synthetic people have other regions or lack ICV; give tables with the same columns")
    ours, theirs = strata(real.categories, len(real)), strata(synthetic.categories, len(synthetic))
    a, b = real.features.copy(), synthetic.features.copy()
    for name in np.unique(np.concatenate([ours, theirs])).tolist():
        rows = ours == name
        if rows.sum() < FEWEST:
            raise UsageError(f"{rows.sum()} real people with {name} are too few to compare; give at least {FEWEST}")
        mean, sd = a[rows].mean(axis=0), a[rows].std(axis=0)
        sd[sd == 0] = 1.0
        a[rows], b[theirs == name] = (a[rows] - mean) / sd, (b[theirs == name] - mean) / sd
    return a, b


def correlations(real: People, synthetic: People, rng: np.random.Generator, halves: int = HALVES) -> Correlations:
    """Compare correlation matrices; halves of one size make all estimates equally noisy."""
    a, b = standardised(real, synthetic)
    size = min(len(a) // 2, len(b))
    draws = []
    for _ in range(halves):
        order = rng.permutation(len(a))
        one, other = _correlation(a[order[:size]]), _correlation(a[order[size : 2 * size]])
        made = _correlation(b[rng.permutation(len(b))[:size]])
        draws.append([np.linalg.norm(one - made), np.linalg.norm(one - other)])
    norms = np.array(draws)
    p = a.shape[1]
    rmse = norms / np.sqrt(p * (p - 1))
    between = [Interval(float(c.mean()), *map(float, np.quantile(c, (0.025, 0.975)))) for c in rmse.T]
    means = norms.mean(axis=0).tolist()
    worst = _worst(real, _correlation(a), _correlation(b))
    return Correlations(between[0], between[1], means[0] / means[1], means[0], means[1], worst)


def correlation_distance(one: People, other: People) -> float:
    """Root mean square difference of the correlations of all pairs of volumes, ICV and age, within categories."""
    a, b = (_correlation(standardised(some, some)[0]) for some in (one, other))
    upper = np.triu_indices(len(a), 1)
    return float(np.sqrt(np.mean((a - b)[upper] ** 2)))


def _correlation(z: Array) -> Array:
    """Correlations of columns; 0 with a column that does not vary."""
    sd = z.std(axis=0)
    centred = (z - z.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    found = centred.T @ centred / len(z)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def _worst(real: People, ours: Array, theirs: Array) -> pd.DataFrame:
    names = [*map(str, real.indices), *([] if real.icv is None else ["icv"]), "age"]
    i, j = np.triu_indices(len(names), 1)
    chosen = np.argsort(-np.abs(ours - theirs)[i, j], kind="stable")[:WORST]
    rows = [(names[i[k]], names[j[k]], ours[i[k], j[k]], theirs[i[k], j[k]]) for k in chosen]
    return pd.DataFrame(rows, columns=["first", "second", "real", "synthetic"])


def age_trends(real: People, synthetic: People) -> pd.DataFrame:
    """How each volume goes with age, by category: a row a category and region.

    Returns
    -------
    pandas.DataFrame
        ``category, index, r_real, r_synthetic`` (Pearson), ``slope_real, slope_synthetic`` (SD of the real volumes a
        decade, by least squares) and ``curve_rms`` (root mean square distance of the two mean curves, cubic splines, in
        those SDs at 25 ages that both groups have).
    """
    a, b = standardised(real, synthetic)
    ours, theirs = strata(real.categories, len(real)), strata(synthetic.categories, len(synthetic))
    tables = []
    for name in np.unique(theirs).tolist():
        x, y = a[ours == name, : len(real.indices)], b[theirs == name, : len(real.indices)]
        ages = real.age[ours == name], synthetic.age[theirs == name]
        if len(y) < FEWEST:
            continue
        tables.append(
            pd.DataFrame(
                {
                    "category": name,
                    "index": real.indices,
                    "r_real": _with_age(x, ages[0]),
                    "r_synthetic": _with_age(y, ages[1]),
                    "slope_real": 10 * _slope(x, ages[0]),
                    "slope_synthetic": 10 * _slope(y, ages[1]),
                    "curve_rms": _curve_distance(x, y, *ages),
                }
            )
        )
    if not tables:
        raise UsageError(f"no category has {FEWEST} synthetic people; give more of them")
    return pd.concat(tables, ignore_index=True)


def _with_age(z: Array, age: Array) -> Array:
    return np.asarray(_correlation(np.column_stack([z, age]))[:-1, -1])


def _slope(z: Array, age: Array) -> Array:
    x = age - age.mean()
    return np.asarray(x @ (z - z.mean(axis=0)) / max(float(x @ x), 1e-12))


def _curve_distance(x: Array, y: Array, real: Array, synthetic: Array) -> Array:
    low, high = max(real.min(), synthetic.min()), min(real.max(), synthetic.max())
    at = np.linspace(low, high, CURVE_AGES)
    ours, theirs = (
        basis(at, real, CURVE_COLUMNS) @ np.linalg.lstsq(basis(age, real, CURVE_COLUMNS), z)[0]
        for z, age in ((x, real), (y, synthetic))
    )
    found = np.sqrt(((ours - theirs) ** 2).mean(axis=0))
    return np.asarray(found if low < high else np.full(x.shape[1], np.nan))


def manifold(
    real: People, synthetic: People, rng: np.random.Generator, k: int = NEIGHBOURS, halves: int = 5
) -> tuple[Manifold, Manifold]:
    """Precision, recall, density and coverage of synthetic people against a half of the real, mean over halves.

    Kynkaanniemi et al. 2019 (arXiv:1904.06991) and Naeem et al. 2020 (arXiv:2002.09797), k neighbours, Euclidean in
    standardised features.

    Returns
    -------
    (Manifold, Manifold)
        Of as many synthetic people, and of the other half of the real.
    """
    a, b = standardised(real, synthetic)
    size = min(len(a) // 2, len(b), 2000)
    made, other = [], []
    for _ in range(halves):
        order = rng.permutation(len(a))
        reference = a[order[:size]]
        made.append(_manifold(reference, b[rng.permutation(len(b))[:size]], k))
        other.append(_manifold(reference, a[order[size : 2 * size]], k))
    return Manifold(*map(float, np.mean(made, axis=0))), Manifold(*map(float, np.mean(other, axis=0)))


def _manifold(real: Array, other: Array, k: int) -> Manifold:
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestNeighbors

    radius, radius_other = (NearestNeighbors(n_neighbors=k).fit(z).kneighbors()[0][:, -1] for z in (real, other))
    distance = cdist(real, other)
    inside = distance <= radius[:, None]
    return Manifold(
        float(inside.any(axis=0).mean()),
        float((distance <= radius_other).any(axis=1).mean()),
        float(inside.sum() / (k * len(other))),
        float((distance.min(axis=1) <= radius).mean()),
    )
