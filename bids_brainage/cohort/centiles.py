"""Bring synthetic people to published centiles of each volume by age and sex, with nobody's ranks changed.

A volume has a normal score among its generator's own people of that age and sex; the published volume of the same score
takes its place (quantile mapping). Each region is mapped by itself and rises with itself, so that rank correlations
between regions at an age are those of the generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri

from bids_brainage.cohort.margins import Choice, Margins, log_volumes, strata
from bids_brainage.cohort.margins import fit as fit_margins
from bids_brainage.cohort.people import People

Array = NDArray[np.float64]

SCORES = ndtri([0.05, 0.25, 0.50, 0.75, 0.95])


@dataclass(frozen=True)
class CentileMap:
    """From a generator's volumes to published ones.

    Attributes
    ----------
    indices : tuple of int
        MUSE indices of the k regions with published centiles.
    ages : array, shape (n_ages,)
        Years, rising. Younger and older people are moved as much as those of the nearest age.
    logs : mapping of sex to array, shape (k, n_ages, 5)
        Logarithms of the published centiles 5, 25, 50, 75, 95, mm^3.
    margins : Margins
        Of the generator's log volumes, all its regions.
    """

    indices: tuple[int, ...]
    ages: Array
    logs: Mapping[str, Array]
    margins: Margins

    def __call__(self, people: People) -> People:
        """The same people with mapped volumes; regions without centiles, and the intracranial volume, stay."""
        bare = replace(people, icv=None)
        own, stratum = log_volumes(bare), strata({"sex": people.categories["sex"]}, len(people))
        scores, volumes = self.margins.scores(own, people.age, stratum)[0], people.volumes.copy()
        known = np.clip(people.age, self.ages[0], self.ages[-1])
        moved = own - self.margins.values(scores, known, stratum)
        place = {index: column for column, index in enumerate(people.indices)}
        columns = np.array([place[index] for index in self.indices])
        for sex, logs in self.logs.items():
            rows = np.flatnonzero(people.categories["sex"] == sex)
            here = np.ix_(rows, columns)
            volumes[here] = np.exp(moved[here] + at_score(centiles_at(logs, self.ages, known[rows]), scores[here]))
        return replace(people, volumes=volumes)


def fit(drawn: People, indices: tuple[int, ...], ages: Array, published: Mapping[str, Array]) -> CentileMap:
    """The map from a generator's people, by sex, to published centiles.

    Parameters
    ----------
    drawn : People
        Many, of all ages; their log volumes are taken as normal, with a line of age and a constant SD, by sex.
    indices, ages
        As of :class:`CentileMap`.
    published : mapping of sex to array, shape (k, n_ages, 5)
        mm^3, rising along the last axis.
    """
    people = replace(drawn, icv=None, categories={"sex": drawn.categories["sex"]})
    margins = fit_margins(log_volumes(people), people.age, strata(people.categories, len(people)), Choice())
    return CentileMap(indices, ages, {sex: log_centiles(values) for sex, values in published.items()}, margins)


def log_centiles(published: ArrayLike) -> Array:
    """Logarithms of published centiles, shape (k, n_ages, 5), mm^3, of volumes that must be positive.

    Where a region's 5th centile is not positive at some age, that region's is taken, at all ages, from its 25th and
    50th as if volumes below the median were log-normal.
    """
    values = np.array(published, dtype=float)
    if (values[..., 1:] <= 0).any():
        raise ValueError("a centile above the 5th is not positive")
    unusable = (values[..., 0] <= 0).any(axis=-1)
    quarter, median = np.log(values[unusable, :, 1]), np.log(values[unusable, :, 2])
    values[unusable, :, 0] = np.exp(median + (median - quarter) * (SCORES[0] - SCORES[2]) / (SCORES[2] - SCORES[1]))
    return np.asarray(np.log(values))


def centiles_at(logs: Array, ages: Array, at: Array) -> Array:
    """Log centiles between the years, shape (n, k, 5), from (k, n_ages, 5)."""
    place = np.clip(np.searchsorted(ages, at, side="right") - 1, 0, len(ages) - 2)
    weight = ((at - ages[place]) / (ages[place + 1] - ages[place]))[:, None, None]
    by_age = logs.swapaxes(0, 1)
    return np.asarray((1 - weight) * by_age[place] + weight * by_age[place + 1])


def at_score(logs: Array, scores: Array) -> Array:
    """Log volumes at normal scores, shape (n, k), by the five of each, shape (n, k, 5).

    Monotone cubics between the centiles (Fritsch & Butland 1984, SIAM J Sci Stat Comput 5:300) and, beyond the 5th and
    95th, the straight line through the two outer centiles: log-normal tails.
    """
    shape = scores.shape
    z, y = scores.ravel(), logs.reshape(-1, len(SCORES)).T
    c = PchipInterpolator(SCORES, y, axis=0).c
    part = np.clip(np.searchsorted(SCORES, z, side="right") - 1, 0, len(SCORES) - 2)
    x, column = z - SCORES[part], np.arange(len(z))
    found = ((c[0, part, column] * x + c[1, part, column]) * x + c[2, part, column]) * x + c[3, part, column]
    slopes = np.diff(y[[0, 1, -2, -1]], axis=0)[::2] / np.diff(SCORES)[[0, -1], None]
    found = np.where(z < SCORES[0], y[0] + slopes[0] * (z - SCORES[0]), found)
    found = np.where(z > SCORES[-1], y[-1] + slopes[1] * (z - SCORES[-1]), found)
    return np.asarray(found.reshape(shape))
