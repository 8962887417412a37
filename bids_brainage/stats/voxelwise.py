"""Statistics of many voxels at once: one value a person and voxel, people read one after the other.

Nothing here holds all people in memory: :func:`moments` and :func:`icc` take a person at a time, :func:`max_statistic`
a chunk of voxels at a time. The units are people: average the scans of a person first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.stats import two_groups

Array = NDArray[np.float64]
BATCH = 32
TIES = 5e-4
"""Scores so close count as alike: rounding parts those of orders that split people in the same way."""
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
    return Test(t, dof, two_groups.two_sided(t, dof))


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


def max_statistic(
    chunks: Iterable[ArrayLike], of: two_groups.Design, *, permutations: int = 1000, seed: int = 0
) -> Array:
    r"""Largest :func:`score` over all voxels under permutation of people (Freedman & Lane 1983; Winkler et al. 2014).

    The residuals of the model of covariates alone are permuted, and the groups compared again (what that model
    explained would drop out). Its two-sided p is corrected for all voxels at once, whatever their correlation. The
    standard error leaves each group its variance: the p holds where groups vary alike, and nearly where they do not
    (DiCiccio & Romano 2017, JASA 112:1211), the better the more people there are.

    Parameters
    ----------
    chunks : iterable of array, shape (people, voxels of the chunk)
        All voxels, some at a time; the memory needed is a few times that of a chunk.
    of : Design
        The groups and the covariates.
    permutations : int
        Random ones, besides the data as they are.
    seed : int
        Of the permutations.

    Returns
    -------
    array, shape (1 + permutations,)
        Of the data as they are first.
    """
    n = len(of.basis)
    kind = np.float64 if n <= EXACT else np.float32
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(n), *(rng.permutation(n) for _ in range(permutations))])
    largest = np.zeros(len(orders))
    for chunk in chunks:
        residual = two_groups.residual(chunk, of.basis[:, 1:]).astype(kind)
        for start in range(0, len(orders), BATCH):
            own = slice(start, start + BATCH)
            largest[own] = np.maximum(largest[own], _largest(residual, of, orders[own]))
    return largest


def score(t: ArrayLike, dof: ArrayLike) -> Array:
    r"""Size of the normal deviate that is as rare as t: voxels whose degrees of freedom differ become comparable.

    Wallace (1959), Ann Math Stat 30:1124: :math:`\frac{8f+1}{8f+3}\sqrt{f\log(1+t^2/f)}`.
    """
    size, f = np.minimum(np.abs(t), BEYOND), np.asarray(dof)
    return np.asarray((8 * f + 1) / (8 * f + 3) * np.sqrt(f * np.log1p(size**2 / f)))


def _largest(residual: NDArray[Any], of: two_groups.Design, orders: NDArray[np.int64]) -> Array:
    """Largest score of each permutation over the voxels of residuals, shape (permutations,).

    The residuals of a permutation are not formed: with F the basis and w the shares of a group,
    sum(w (r - F a)^2) = sum(w r^2) + a'(F'wF F' - 2 F'w) r, where a = F'r.
    """
    kind, (n, columns) = residual.dtype, of.basis.shape
    turned = [of.basis.T * share for share in of.shares]
    weights = np.concatenate([of.basis.T, *(one @ of.basis @ of.basis.T - 2 * one for one in turned)]).astype(kind)
    found = (weights[:, orders].transpose(1, 0, 2).reshape(-1, n) @ residual).reshape(len(orders), 3, columns, -1)
    squares = (of.shares.astype(kind)[:, orders].reshape(-1, n) @ residual**2).reshape(2, len(orders), -1)
    least = 10 * np.finfo(kind).eps * squares
    variances = np.maximum(squares + np.einsum("pcv,pgcv->gpv", found[:, 0], found[:, 1:]), least)
    return np.array(
        [_rarest(p, a, b, of.sizes) for p, a, b in zip(found[:, 0, 0], variances[0], variances[1], strict=True)]
    )


def _rarest(projected: NDArray[Any], first: NDArray[Any], second: NDArray[Any], sizes: Array) -> float:
    """Largest score of a permutation, of its projections and both groups' variances, each of shape (voxels,).

    The logarithms are taken of the few voxels alone that it could be, if all had the most degrees of freedom.
    """
    total = first + second
    squared = np.divide(projected**2, total, out=np.zeros_like(total), where=total > 0)
    top, most = int(squared.argmax()), sizes.sum() - 2

    def at(voxels: Any) -> Array:
        both = np.stack([first[voxels], second[voxels]])
        return score(*two_groups.statistic(projected[voxels], both, sizes))

    known = float(at([top])[0])
    reach = most * np.expm1((known * (8 * most + 3) / (8 * most + 1)) ** 2 / most)
    return float(at(np.flatnonzero(squared >= min(reach, float(squared[top])) * (1 - TIES))).max())


def threshold(largest: ArrayLike, alpha: float) -> float:
    """The least score whose :func:`corrected_p` is at most ``alpha``, among those permuted; infinite if none."""
    ordered = np.unique(np.asarray(largest, float))
    enough = ordered[corrected_p(ordered, largest) <= alpha]
    return float(enough[0]) if enough.size else np.inf


def corrected_p(scores: ArrayLike, largest: ArrayLike) -> Array:
    r"""P corrected for all voxels: the share of permutations whose largest score reaches that of the voxel.

    The data as they are count as one permutation, so that no p is 0 (Phipson & Smyth 2010). ``nan`` where the score is.
    """
    ordered = np.sort(np.asarray(largest, float)) * (1 + TIES)
    size = np.asarray(scores, float)
    reached = len(ordered) - np.searchsorted(ordered, size, side="left")
    return np.where(np.isnan(size), np.nan, np.maximum(reached, 1) / len(ordered))
