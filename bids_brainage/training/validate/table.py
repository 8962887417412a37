"""Figures with intervals over people, from what was measured of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.stats.groups import accuracy, icc
from bids_brainage.training import evaluate
from bids_brainage.training.validate.measures import half_width

COLUMNS = ("bundle", "generator", "quantity", "region", "value", "low", "high", "n")
FEWEST_IN_ICC = 5
_RESAMPLES = 1000
_PARTS = ("value", "low", "high")


class Key(NamedTuple):
    """What a figure is about: the names of a bundle and of a generator of people, the quantity, and the region."""

    bundle: str
    generator: str
    quantity: str
    region: str


class Sample(NamedTuple):
    """One person's value."""

    key: Key
    value: float


class Row(NamedTuple):
    """A figure over people: its value, the bounds of its 95 % interval (bootstrap over people), their number."""

    key: Key
    value: float | None
    low: float | None
    high: float | None
    n: int

    def cells(self) -> dict[str, object]:
        """By column, as the table holds them."""
        return dict(zip(COLUMNS, (*self.key, self.value, self.low, self.high, self.n), strict=True))


def means(samples: Iterable[Sample], seed: int) -> list[Row]:
    """The mean over people of every quantity, in the order in which they came; no interval below three people."""
    groups: dict[Key, list[float]] = {}
    for key, value in samples:
        groups.setdefault(key, []).append(value)
    return [_mean(key, np.array(values), seed) for key, values in groups.items()]


def _mean(key: Key, values: NDArray[np.float64], seed: int) -> Row:
    known = values[np.isfinite(values)]
    if 0 < len(known) < evaluate.FEWEST_IN_MEAN:
        return without_interval(key, float(known.mean()), len(known))
    return _row(key, evaluate.mean(known, seed), len(known))


def global_age(bundle: str, generator: str, truth: ArrayLike, predicted: ArrayLike, seed: int) -> list[Row]:
    """MAE (years) and r of the mean of the map against the mean of the true one, one value a person."""
    people = np.arange(len(np.asarray(truth)))
    found = accuracy(truth, predicted, people, resamples=_RESAMPLES, seed=seed)
    rows = (("global_mae", found.mae), ("global_r", found.r), ("global_bias", found.bias))
    return [_row(Key(bundle, generator, name, "brain"), evaluate.estimate(of), found.n_people) for name, of in rows]


def resolution(key: Key, profiles: Sequence[NDArray[np.float64]], seed: int) -> Row:
    """Half-width (mm) at half maximum of the mean profile of people, as `measures.profile` gives them."""
    stack, rng = np.stack(profiles), np.random.default_rng(seed)
    draws = np.array(
        [half_width(stack[rng.integers(0, len(stack), len(stack))].mean(axis=0)) for _ in range(_RESAMPLES)]
    )
    bounds = np.quantile(draws, (0.025, 0.975)) if len(stack) > 2 and np.isfinite(draws).all() else (np.nan, np.nan)
    return _row(key, evaluate.estimate((half_width(stack.mean(axis=0)), *bounds)), len(stack))


def reliability(bundle: str, generator: str, name: str, gaps: ArrayLike, seed: int) -> list[Row]:
    """Within-person SD (years) of the global gap, and its ICC(2,1).

    Parameters
    ----------
    name : str
        Of the pair of scans: begins the quantities' names.
    gaps : array, shape (people, 2)
        Mean of the map minus age, years.
    """
    pairs = np.asarray(gaps, float)
    half = np.diff(pairs, axis=1)[:, 0] ** 2 / 2
    squared = evaluate.mean(half, seed)
    sd = {part: None if value is None else float(np.sqrt(value)) for part, value in squared.items()}
    rows = [_row(Key(bundle, generator, f"{name}_sd_global", "brain"), sd, len(pairs))]
    if len(pairs) >= FEWEST_IN_ICC:
        found = evaluate.estimate(icc(pairs))
        rows.append(_row(Key(bundle, generator, f"{name}_icc_global", "brain"), found, len(pairs)))
    return rows


def without_interval(key: Key, value: float, n: int) -> Row:
    """A figure of which no interval is known."""
    return Row(key, evaluate.figure(value), None, None, n)


def _row(key: Key, found: Mapping[str, float | None], n: int) -> Row:
    value, low, high = (None if (v := found[part]) is None else evaluate.figure(v) for part in _PARTS)
    return Row(key, value, low, high, n)


def side_by_side(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A column a bundle, a line a generator, quantity and region: ``value (low to high)``.

    Returns
    -------
    list of str
        Headings.
    list of list of str
        Lines.
    """
    bundles = list(dict.fromkeys(row.key.bundle for row in rows))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        lines.setdefault(row.key[1:], {})[row.key.bundle] = written(row)
    body = [[*key, *(cells.get(name, "n/a") for name in bundles)] for key, cells in lines.items()]
    return ["generator", "quantity", "region", *bundles], body


def written(row: Row) -> str:
    """A figure as text."""
    if row.value is None:
        return "n/a"
    interval = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f})"
    return f"{row.value:.2f}{interval}"
