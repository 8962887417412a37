"""How a trained model is judged on people whom it did not see: the figures of its card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from bids_brainage.stats.groups import accuracy

FloatArray = NDArray[np.float64]
RESAMPLES = 2000
FEWEST = 10
FEWEST_IN_MEAN = 3


def figure(value: float) -> float | None:
    """Three decimals, ``None`` where it is not a number: what a card holds."""
    return round(float(value), 3) if math.isfinite(value) else None


def estimate(value_low_high: Sequence[float]) -> dict[str, float | None]:
    """An estimate with the bounds of its 95 % interval, as a card holds it."""
    return dict(zip(("value", "low", "high"), map(figure, value_low_high), strict=True))


def mean(values: FloatArray, seed: int) -> dict[str, float | None]:
    """Mean of known values, one a person, with its interval; nothing below three people."""
    known = np.asarray(values, float)[np.isfinite(values)]
    if known.size < FEWEST_IN_MEAN:
        return {"value": None, "low": None, "high": None}
    return mean_difference(known, np.zeros_like(known), seed)


def mean_difference(first: FloatArray, second: FloatArray, seed: int) -> dict[str, float | None]:
    """Mean of ``first - second`` of the same people, shape (n,), with a percentile bootstrap interval over people."""
    difference, rng = first - second, np.random.default_rng(seed)
    draws = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(RESAMPLES)]
    return estimate((difference.mean(), *np.quantile(draws, (0.025, 0.975))))


def whole(age: FloatArray, predicted: FloatArray, seed: int) -> dict[str, Any]:
    """MAE, r, R2 and bias with 95 % bootstrap intervals over people, and the slope of predicted on true age.

    Parameters
    ----------
    age, predicted : array, shape (n,)
        Years; each prediction by a model that did not see this person.
    seed : int
        Of the bootstrap.
    """
    measured = accuracy(age, predicted, np.arange(len(age)), resamples=RESAMPLES, seed=seed)
    named: dict[str, Any] = {name: estimate(getattr(measured, name)) for name in ("mae", "r", "r2", "bias")}
    slope = figure(np.polyfit(age, predicted, 1)[0])
    baseline = figure(np.abs(age - age.mean()).mean())
    return {"n": len(age), **named, "slope_of_predicted_on_age": slope, "mae_of_the_mean_age": baseline}


def by_group(age: FloatArray, predicted: FloatArray, group: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """Number, MAE and bias (predicted minus true, years) of each group; groups of fewer than 10 without figures."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(map(str, group))):
        chosen = group.astype(str) == name
        error = (predicted - age)[chosen]
        found[name] = {"n": len(error)}
        if len(error) >= FEWEST:
            found[name] |= {"mae": figure(np.abs(error).mean()), "bias": figure(error.mean())}
    return found


def age_thirds(age: FloatArray) -> NDArray[np.str_]:
    """The third of the ages that each person stands in, named by its limits in years."""
    limits = np.quantile(age, (0.0, 1 / 3, 2 / 3, 1.0))
    third = np.clip(np.searchsorted(limits, age, side="right") - 1, 0, 2)
    names = np.array([f"{low:.1f}-{high:.1f}" for low, high in pairwise(limits)])
    return names[third]


def coverage(age: FloatArray, predicted: FloatArray, half_width: FloatArray) -> dict[str, Any]:
    """Share of people whose age lies in their interval, with its exact (Clopper-Pearson) 95 % interval, and its width.

    Parameters
    ----------
    age, predicted, half_width : array, shape (n,)
        Years; each by a model and residuals that did not include this person.
    """
    inside = np.abs(predicted - age) <= half_width
    exact = binomtest(int(inside.sum()), len(inside)).proportion_ci(0.95, method="exact")
    return {
        "n": len(inside),
        "covered": int(inside.sum()),
        "value": figure(inside.mean()),
        "low": figure(exact.low),
        "high": figure(exact.high),
        "mean_width": figure(2 * half_width.mean()),
    }
