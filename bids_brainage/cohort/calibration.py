"""Whether healthy people who were left out lie in the midst of synthetic controls of their own age and category."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.cohort.alternatives import Fit
from bids_brainage.cohort.margins import strata
from bids_brainage.cohort.people import People

Array = NDArray[np.float64]
BEYOND = 1.96


def held_out_z(people: People, fit: Fit, rng: np.random.Generator, *, folds: int = 5, draws: int = 200) -> Array:
    """Scores of each volume of each person against draws of a generator that did not see the person, (n, regions).

    z = (v - mean) / SD of ``draws`` synthetic people of exactly the person's age and categories; the SD of z is 1 for
    a right generator, but for sqrt((1 + 1 / draws) (draws - 1) / (draws - 3)), which is taken out. ``nan`` of people
    who are older or younger than all of their category in the generator's part: kernels do not reach there, and all
    generators are judged on the same people.
    """
    from sklearn.model_selection import StratifiedKFold

    splits = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
    z, stratum = np.full_like(people.volumes, np.nan), strata(people.categories, len(people))
    for train, test in splits.split(people.age, stratum):
        generator = fit(people.take(train), rng)
        for i in test.tolist():
            alike = people.age[train[stratum[train] == stratum[i]]]
            if not alike.min() <= people.age[i] <= alike.max():
                continue
            z[i] = _one(people, i, generator.at, rng, draws)
    return z / np.sqrt((1 + 1 / draws) * (draws - 1) / (draws - 3))


def _one(people: People, i: int, at: Any, rng: np.random.Generator, draws: int) -> Array:
    made = at(np.full(draws, people.age[i]), {name: str(v[i]) for name, v in people.categories.items()}, rng).volumes
    sd = made.std(axis=0, ddof=1)
    return np.asarray((people.volumes[i] - made.mean(axis=0)) / np.where(sd > 0, sd, np.nan))


def calibration(z: Array, age: Array) -> pd.DataFrame:
    """Mean and SD of z, and share beyond 1.96, of all people and of each third of the ages; expected 0, 1, 0.05.

    Parameters
    ----------
    z : array, (n, regions)
    age : array, (n,)
        Years.

    Returns
    -------
    pandas.DataFrame
        ``ages, n, mean, sd, beyond``: mean over regions of the mean and of the SD over people, share of all values.
    """
    third = np.searchsorted(np.quantile(age, (1 / 3, 2 / 3)), age)
    rows = []
    for chosen in (np.ones(len(age), dtype=bool), *(third == t for t in range(3))):
        some, years = z[chosen], age[chosen]
        rows.append(
            {
                "ages": f"{years.min():.0f}-{years.max():.0f}",
                "n": int(np.isfinite(some).any(axis=1).sum()),
                "mean": float(np.nanmean(some)),
                "sd": float(np.nanmean(np.nanstd(some, axis=0, ddof=1))),
                "beyond": float(np.mean(np.abs(some[np.isfinite(some)]) > BEYOND)),
            }
        )
    return pd.DataFrame(rows)
