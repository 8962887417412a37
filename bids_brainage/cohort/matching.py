"""Synthetic controls matched to people, and how far each person's regions are from those of the controls.

Controls are drawn at a person's age, categories and, where asked for, intracranial volume, so that a match is exact and
never fails within what the model knows. They are draws from a model and no people: a test has one number a person, and
the number of controls never enters it (:func:`group_test`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr

from bids_brainage.cohort.genmind import GenMIND, sample
from bids_brainage.cohort.people import Generator, People
from bids_brainage.stats.groups import Difference, Interval, welch_t

Array = NDArray[np.float64]

CONTROLS = 50
CHUNK = 20_000
"""Controls that are held at a time."""
UNMATCHED = 1000
"""People of the reference to whom people are compared before matching."""


class Scores(NamedTuple):
    """People against their own controls.

    Attributes
    ----------
    z : array, shape (n, regions)
        Standard normal scores.
    centile : array, shape (n, regions)
        Share of the controls with a smaller volume, percent.
    icv : array, shape (n, k), or None
        Intracranial volumes of the controls, mm^3.
    """

    z: Array
    centile: Array
    icv: Array | None


class Balance(NamedTuple):
    """A covariate's standardised mean difference, people minus others, before and after matching, in SD."""

    covariate: str
    people: float
    before: float
    after: float
    smd_before: float
    smd_after: float


def controls(
    generator: Generator, people: People, k: int, seed: int, *, on_icv: bool = False, chunk: int = CHUNK
) -> Iterator[tuple[slice, People]]:
    """``k`` controls a person, in the people's order, a part of the people at a time.

    Every ``chunk`` controls have their own stream of random numbers, which is that of the seed and their place.

    Yields
    ------
    slice, People
        Which people, and their controls: all of the first, all of the second, ...
    """
    step = max(1, chunk // k)
    for part, start in enumerate(range(0, len(people), step)):
        rows = slice(start, min(start + step, len(people)))
        given = {name: np.repeat(values[rows], k) for name, values in people.categories.items()}
        rng = np.random.default_rng([seed, part])
        ages = np.repeat(people.age[rows], k)
        if not on_icv:
            yield rows, generator.at(ages, given, rng)
            continue
        if not isinstance(generator, GenMIND) or people.icv is None:
            raise ValueError("matching on intracranial volume needs people and a GenMIND model that have it")
        yield rows, generator.at(ages, given, rng, icv=np.repeat(people.icv[rows], k))


def score(generator: Generator, people: People, k: int = CONTROLS, seed: int = 0, *, on_icv: bool = False) -> Scores:
    """Each person's regions against ``k`` controls of their own.

    With the mean m and the SD s of k controls, (v - m) / (s sqrt(1 + 1 / k)) of a person like them has Student's t
    distribution with k - 1 degrees of freedom (Crawford & Howell 1998, Clin Neuropsychol 12:482-486,
    doi:10.1076/clin.12.4.482.7241); z is the normal score of the same probability, so that few controls do not make
    people look extreme.

    Parameters
    ----------
    generator : Generator
        Its volumes are those of ``people``, in their order.
    k : int
        Controls a person, at least 3.

    Raises
    ------
    ValueError
        Where k is less than 3, or regions differ.
    """
    if k < 3:
        raise ValueError("a score needs at least 3 controls a person")
    z, centile = np.empty(people.volumes.shape), np.empty(people.volumes.shape)
    icv = np.empty((len(people), k))
    known = True
    for rows, drawn in controls(generator, people, k, seed, on_icv=on_icv):
        if drawn.indices != people.indices:
            raise ValueError("people and controls have other regions")
        own = drawn.volumes.reshape(-1, k, len(people.indices))
        z[rows], centile[rows] = against(people.volumes[rows], own)
        known = known and drawn.icv is not None
        if drawn.icv is not None:
            icv[rows] = drawn.icv.reshape(-1, k)
    return Scores(z, centile, icv if known else None)


def against(volumes: Array, own: Array) -> tuple[Array, Array]:
    """Scores and centiles of volumes, shape (n, r), among their own controls, shape (n, k, r); see :func:`score`."""
    k = own.shape[1]
    mean = own.mean(axis=1)
    sd = np.sqrt(np.einsum("nkr,nkr->nr", own, own) / k - mean**2) * np.sqrt(k / (k - 1))
    t = (volumes - mean) / (sd * np.sqrt(1 + 1 / k))
    z = -np.sign(t) * ndtri(np.maximum(stdtr(k - 1, -np.abs(t)), np.finfo(float).tiny))  # 37.5 SD at most
    centile = 100 * ((own < volumes[:, None]).sum(axis=1) + 0.5) / (k + 1)
    return np.asarray(z), np.asarray(centile)


def covariates(people: People) -> dict[str, Array]:
    """What people are matched on as numbers, shape (n,): age, each value of each category, and intracranial volume."""
    found = {"age": people.age}
    for name, values in people.categories.items():
        found |= {f"{name} {value}": (values == value).astype(float) for value in sorted(set(values.tolist()))}
    if people.icv is not None:
        found["icv"] = people.icv
    return found


def balance(people: Mapping[str, Array], before: Mapping[str, Array], after: Mapping[str, Array]) -> list[Balance]:
    """Standardised mean differences of covariates that all three have, see :func:`covariates`.

    The difference of the means by the root of the mean of the two variances, people's and others before matching
    (Austin 2009, Stat Med 28:3083-3107, doi:10.1002/sim.3697); below 0.1 is usually called balanced.
    """
    found = []
    for name, own in people.items():
        if name not in before or name not in after:
            continue
        means = [float(np.mean(values[name])) for values in (people, before, after)]
        sd = float(np.sqrt((np.var(own) + np.var(before[name])) / 2))
        differences = [(means[0] - other) / sd if sd > 0 else 0.0 for other in means[1:]]
        found.append(Balance(name, *means, *differences))
    return found


def balance_of(model: GenMIND, people: People, found: Scores, k: int, seed: int) -> list[Balance]:
    """Balance of people against a sample that nobody matched, and against the ``k`` controls each of ``found``.

    Ages and categories of controls are those of their people exactly (:meth:`GenMIND.at`); of the intracranial volume
    the controls' own values count.
    """
    own = covariates(people)
    after = {name: np.repeat(values, k) for name, values in own.items()}
    if found.icv is not None:
        after["icv"] = found.icv.ravel()
    unmatched = sample(model, max(UNMATCHED, len(model.densities)), np.random.default_rng([seed, 1]))
    before = {name: np.zeros(1) for name in own} | covariates(unmatched)
    return balance(own, before, after)


def group_test(z: ArrayLike, first: ArrayLike, second: ArrayLike, regions: Sequence[int] | None = None) -> Difference:
    """Two groups of people by one number a person: the mean of their z over regions.

    Groups of people are compared with each other; controls are no group. What the model gets wrong at an age is the
    same for both groups, and cancels as far as their ages agree.

    Parameters
    ----------
    z : array, shape (n, regions)
        Of :func:`score`; regions with a missing score are left out of a person's mean.
    first, second : bool array, shape (n,)
        Who is in which group; nobody is in both.
    regions : sequence of int, optional
        Columns of ``z`` (default: all).

    Raises
    ------
    ValueError
        Where somebody is in both groups, or a group has fewer than two people.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if (one & two).any():
        raise ValueError("nobody can be in both groups")
    columns = np.asarray(z, dtype=float)
    each = np.nanmean(columns if regions is None else columns[:, list(regions)], axis=1)
    return welch_t(each[one], each[two])


def false_positives(
    generator: Generator, people: People, *, repeats: int = 200, k: int = CONTROLS, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """Share of :func:`group_test` below ``alpha`` where nothing differs, with its exact 95 % interval.

    Each time the people are drawn anew from the generator, at their ages and categories, scored against controls of
    their own, and divided at random.
    """
    from scipy.stats import binomtest

    found = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        drawn = generator.at(people.age, people.categories, rng)
        z = score(generator, drawn, k, seed=int(rng.integers(2**31))).z
        first = rng.permutation(len(drawn)) < len(drawn) // 2
        found += group_test(z, first, ~first).p < alpha
    exact = binomtest(int(found), repeats).proportion_ci(0.95, method="exact")
    return Interval(found / repeats, float(exact.low), float(exact.high))
