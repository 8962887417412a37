"""Area under the ROC curve with bootstrap intervals over people, all resamples at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bids_brainage.stats.groups import Interval

Array = NDArray[np.float64]
Scored = tuple[Array, NDArray[np.bool_]]
"""Scores of people and who of them is positive, (n,) each."""


def interval(value: float, draws: Array) -> Interval:
    """The estimate between the 2.5th and 97.5th centile of its resamples."""
    return Interval(value, *map(float, np.quantile(draws, (0.025, 0.975))))


def resampled(scored: Scored, weights: Array) -> tuple[float, Array]:
    """AUC (Mann-Whitney, ties a half), and of resamples, (r,), in which people count ``weights``, (r, n), times."""
    score, positive = scored
    wins = 0.5 * (np.sign(score[positive][:, None] - score[~positive]) + 1)
    inside, outside = weights[:, positive], weights[:, ~positive]
    pairs = inside.sum(axis=1) * outside.sum(axis=1)
    return float(wins.mean()), ((inside @ wins) * outside).sum(axis=1) / np.maximum(pairs, 1.0)


def times_drawn(n: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each of n people is drawn with replacement, (resamples, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)


def of_folds(folds: Sequence[Scored], rng: np.random.Generator, resamples: int) -> Interval:
    """Mean AUC of folds of different people; scores of one fold are not compared with those of another."""
    found = [resampled(fold, times_drawn(len(fold[0]), resamples, rng)) for fold in folds]
    return interval(float(np.mean([value for value, _ in found])), np.mean([draws for _, draws in found], axis=0))


def of_attacks(scored: Sequence[Scored], rng: np.random.Generator, resamples: int) -> Interval:
    """Mean AUC of attacks on the same people, with an interval over people and attacks.

    A person drawn twice counts twice in every attack: attacks that share people are not independent.
    """
    weights = times_drawn(len(scored[0][0]), resamples, rng)
    values, draws = zip(*(resampled(each, weights) for each in scored), strict=True)
    chosen = rng.integers(0, len(scored), (len(scored), resamples))
    return interval(float(np.mean(values)), np.array(draws)[chosen, np.arange(resamples)].mean(axis=0))
