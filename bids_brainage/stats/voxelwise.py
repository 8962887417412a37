"""Statistics of many voxels at once: one value a person and voxel, people read one after the other.

Nothing here holds all people in memory: :func:`moments`, :class:`LeastSquares` and :func:`icc` take a person at a time,
:func:`max_statistic` a chunk of voxels at a time. The units are people: average the scans of a person first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
BATCH = 128
TIES = 1e-5
ROUNDING = 1e-24
BEYOND = 1e4
"""A t from which on rounding would break ties: all such count as alike."""
EXACT = 64
"""Up to so many people are permuted in float64: there, orders that give the same t are frequent, and must count."""


class Moments(NamedTuple):
    """Number of people, mean and sum of squared deviations of each voxel, shape (voxels,)."""

    n: int
    mean: Array
    squares: Array

    @property
    def variance(self) -> Array:
        """With n - 1, shape (voxels,)."""
        return self.squares / (self.n - 1)


class Test(NamedTuple):
    """A t test of each voxel, shape (voxels,): t, degrees of freedom and two-sided p; ``nan`` where nothing varies."""

    t: Array
    dof: Array
    p: Array


class Icc(NamedTuple):
    """Reliability of each voxel, shape (voxels,), over ``n_people`` measured ``n_sessions`` times each."""

    n_people: int
    n_sessions: int
    agreement: Array
    consistency: Array


def moments(people: Iterable[ArrayLike]) -> Moments:
    """Mean and spread over people by the update of Welford (1962), Technometrics 4:419.

    Parameters
    ----------
    people : iterable of array, shape (voxels,)
        One a person; at least one.
    """
    n, mean, squares = 0, np.zeros(1), np.zeros(1)
    for n, row in enumerate(people, start=1):
        values = np.asarray(row, float)
        away = values - mean
        mean = mean + away / n
        squares = squares + away * (values - mean)
    if not n:
        raise ValueError("no person was given")
    return Moments(n, mean, squares)


def welch(first: Moments, second: Moments) -> Test:
    """Welch's t of first minus second, with the degrees of freedom of Satterthwaite (1946) and Welch (1947).

    Raises
    ------
    ValueError
        Where a group has fewer than two people.
    """
    if min(first.n, second.n) < 2:
        raise ValueError("a comparison needs at least two people in each group")
    a, b = first.variance / first.n, second.variance / second.n
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(a + b > 0, (first.mean - second.mean) / np.sqrt(a + b), np.nan)
        dof = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
    return Test(t, dof, two_sided(t, dof))


def two_sided(t: ArrayLike, dof: ArrayLike) -> Array:
    """Two-sided p of Student's t."""
    from scipy.special import stdtr

    return np.asarray(2 * stdtr(dof, -np.abs(t)))


def cohen_d(first: Moments, second: Moments) -> Array:
    """Cohen's d of first minus second with the pooled SD, shape (voxels,); ``nan`` where nothing varies."""
    pooled = np.sqrt((first.squares + second.squares) / (first.n + second.n - 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pooled > 0, (first.mean - second.mean) / pooled, np.nan)


def hedges_factor(dof: float) -> float:
    r"""What makes Hedges' g of Cohen's d: :math:`\Gamma(m/2) / (\sqrt{m/2}\,\Gamma((m-1)/2))` with m = ``dof``.

    Hedges (1981), J Educ Stat 6:107, eq. 6e.
    """
    from scipy.special import gammaln

    return float(np.exp(gammaln(dof / 2) - gammaln((dof - 1) / 2)) / np.sqrt(dof / 2))


def icc(people: Iterable[ArrayLike]) -> Icc:
    """ICC(2,1), absolute agreement, and ICC(3,1), consistency, of single measurements (Shrout & Fleiss 1979).

    The mean squares of their two-way analysis of variance grow with each person: between people from the means of
    people, between sessions from the mean deviation of each session from its person's mean.

    Parameters
    ----------
    people : iterable of array, shape (sessions, voxels)
        One a person, the same number of sessions each; at least two people and two sessions.

    Raises
    ------
    ValueError
        Where there are fewer people or sessions, or their numbers differ.
    """
    n, mean, between, deviation, within = 0, np.zeros(1), np.zeros(1), np.zeros((1, 1)), np.zeros(1)
    for n, row in enumerate(people, start=1):
        values = np.asarray(row, float)
        if len(values) < 2 or (n > 1 and len(values) != len(deviation)):
            raise ValueError(f"person {n} has {len(values)} sessions; give the same number for each, at least two")
        own = values.mean(axis=0)
        away = own - mean
        mean = mean + away / n
        between = between + away * (own - mean)
        deviation = deviation + (values - own - deviation) / n
        within = within + ((values - own) ** 2).sum(axis=0)
    if n < 2:
        raise ValueError("reliability needs at least two people")
    return _shrout_fleiss(n, between, deviation, within)


def _shrout_fleiss(n: int, between: Array, deviation: Array, within: Array) -> Icc:
    k = len(deviation)
    sessions = n * (deviation**2).sum(axis=0)
    people_ms, session_ms = k * between / (n - 1), sessions / (k - 1)
    error_ms = np.maximum(within - sessions, 0) / ((n - 1) * (k - 1))
    common = people_ms + (k - 1) * error_ms
    with np.errstate(divide="ignore", invalid="ignore"):
        agreement = (people_ms - error_ms) / (common + k * (session_ms - error_ms) / n)
        return Icc(n, k, agreement, (people_ms - error_ms) / common)


class LeastSquares:
    """Linear model of each voxel, fitted while people come one by one.

    Each person is rotated into the triangle of a QR decomposition (Golub & Van Loan, Matrix Computations, 6.5: adding a
    row), so that no square of the design is formed and large means cost no digits. The order of people is free.
    """

    def __init__(self, n_columns: int, n_voxels: int) -> None:
        self.n = 0
        self.triangle = np.zeros((n_columns, n_columns))
        self.rotated = np.zeros((n_columns, n_voxels))
        self.residual = np.zeros(n_voxels)

    def add(self, design: ArrayLike, values: ArrayLike) -> None:
        """Add a person: the row of the design, shape (columns,), and the voxels, shape (voxels,)."""
        columns = len(self.triangle)
        q, triangle = np.linalg.qr(np.vstack([self.triangle, np.asarray(design, float)]), mode="complete")
        rotated = q.T @ np.vstack([self.rotated, np.asarray(values, float)])
        self.triangle, self.rotated = triangle[:columns], rotated[:columns]
        self.residual += rotated[columns] ** 2
        self.n += 1

    def test(self, contrast: ArrayLike) -> tuple[Array, Test]:
        """Estimate of a contrast of the coefficients, shape (voxels,), and its t test.

        Raises
        ------
        ValueError
            Where the columns depend on each other, or there are no more people than columns.
        """
        from scipy.linalg import solve_triangular

        columns = len(self.triangle)
        if self.n <= columns or np.linalg.matrix_rank(self.triangle) < columns:
            raise ValueError(f"{self.n} people do not tell {columns} columns of the design apart")
        weights = solve_triangular(self.triangle, np.asarray(contrast, float), trans="T")
        estimate = weights @ self.rotated
        dof = np.full(self.residual.shape, float(self.n - columns))
        error = np.linalg.norm(weights) * np.sqrt(self.residual / dof)
        varies = self.residual > ROUNDING * (self.rotated**2).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(varies, estimate / error, np.nan)
        return estimate, Test(t, dof, two_sided(t, dof))


def max_statistic(
    chunks: Iterable[ArrayLike], tested: ArrayLike, nuisance: ArrayLike, *, permutations: int = 1000, seed: int = 0
) -> Array:
    r"""Largest \|t\| over all voxels under permutation of people (Freedman & Lane 1983; Winkler et al. 2014).

    The residuals of the model of nuisance alone are permuted, and the full model is fitted to them again (what that
    model explained would drop out of it). Its two-sided p is corrected for all voxels at once, whatever their
    correlation.

    Parameters
    ----------
    chunks : iterable of array, shape (people, voxels of the chunk)
        All voxels, some at a time; the memory needed is a few times that of a chunk.
    tested : array, shape (people,)
        The regressor of interest.
    nuisance : array, shape (people, columns)
        All others, with the intercept; its columns and ``tested`` are independent.
    permutations : int
        Random ones, besides the data as they are.
    seed : int
        Of the permutations.

    Returns
    -------
    array, shape (1 + permutations,)
        Of the data as they are first.
    """
    basis = np.linalg.qr(np.asarray(nuisance, float))[0]
    unit = np.asarray(tested, float) - basis @ (basis.T @ np.asarray(tested, float))
    n = len(unit)
    kind = np.float64 if n <= EXACT else np.float32
    weights = np.vstack([unit / np.linalg.norm(unit), basis.T]).astype(kind)
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(permutations))])
    largest = np.zeros(len(orders))
    for chunk in chunks:
        residual = _residual(np.asarray(chunk, float), basis).astype(kind)
        for start in range(0, len(orders), BATCH):
            own = slice(start, start + BATCH)
            largest[own] = np.maximum(largest[own], _largest(residual, weights, orders[own]))
    return largest


def _residual(values: Array, basis: Array) -> Array:
    """What the nuisance leaves of each voxel; 0 where a voxel does not vary, so that rounding is no finding."""
    varies = np.ptp(values, axis=0) > 1e-6 * np.abs(values).max(axis=0)
    centred = values - values.mean(axis=0)
    return np.asarray((centred - basis @ (basis.T @ centred)) * varies)


def _largest(residual: NDArray[Any], weights: NDArray[Any], orders: NDArray[np.int64]) -> Array:
    """Largest |t| of each permutation over the voxels of residuals, shape (permutations,)."""
    n, columns = residual.shape[0], len(weights)
    projected = (weights[:, orders].transpose(1, 0, 2).reshape(-1, n) @ residual).reshape(len(orders), columns, -1)
    total = np.einsum("ij,ij->j", residual, residual)
    projected *= projected
    rest = np.maximum(total - projected.sum(axis=1), 10 * np.finfo(residual.dtype).eps * total)
    squared = np.divide(projected[:, 0], rest, out=np.zeros_like(rest), where=rest > 0)
    return np.sqrt(squared.max(axis=1).astype(float) * (n - columns))


def threshold(largest: ArrayLike, alpha: float) -> float:
    """The least t whose :func:`corrected_p` is at most ``alpha``, among those of the permutations; infinite if none."""
    ordered = np.unique(np.asarray(largest, float))
    enough = ordered[corrected_p(ordered, largest) <= alpha]
    return float(enough[0]) if enough.size else np.inf


def corrected_p(t: ArrayLike, largest: ArrayLike) -> Array:
    r"""P corrected for all voxels: the share of permutations whose largest \|t\| reaches that of the voxel.

    The data as they are count as one permutation, so that no p is 0 (Phipson & Smyth 2010). ``nan`` where t is.
    """
    ordered = np.minimum(np.sort(np.asarray(largest, float)), BEYOND) * (1 + TIES)
    size = np.minimum(np.abs(np.asarray(t, float)), BEYOND)
    reached = len(ordered) - np.searchsorted(ordered, size, side="left")
    return np.where(np.isnan(size), np.nan, np.maximum(reached, 1) / len(ordered))
