"""Two rivals of the kernel density, exactly conditional on age: a Gaussian copula and a Gaussian mixture.

Both work on log volumes, so that no volume is negative, and have a density: what is a choice (spline columns, shapes,
components, dimensions, shrinkage) is made by the log-likelihood of people who were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bids_brainage.cohort.margins import (
    Choice,
    Margins,
    enough,
    known,
    log_volumes,
    people_from,
    strata,
)
from bids_brainage.cohort.margins import fit as fit_margins
from bids_brainage.cohort.people import Generator, People

Array = NDArray[np.float64]
Fit = Callable[[People, np.random.Generator], Generator]
FOLDS = 5


class WithDensity(Generator, Protocol):
    """A generator that says how likely people are."""

    def log_density(self, people: People) -> Array:
        """Logarithm of the density of the log volumes given age and categories, shape (n,)."""
        ...


C = TypeVar("C")


def choose(
    people: People,
    candidates: Sequence[C],
    fit: Callable[[People, C], WithDensity],
    rng: np.random.Generator,
) -> tuple[C, Array]:
    """The candidate with the largest mean log density of people left out, over five folds that balance the strata.

    Returns
    -------
    (candidate, array)
        The best, and the mean held-out log density of each.
    """
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    found = np.zeros(len(candidates))
    for train, test in folds.split(people.age, strata(people.categories, len(people))):
        for i, candidate in enumerate(candidates):
            found[i] += fit(people.take(train), candidate).log_density(people.take(test)).sum()
    found /= len(people)
    return candidates[int(np.argmax(found))], found


@dataclass(frozen=True)
class Copula:
    """Margins that follow age in each category, joined by one normal copula.

    Attributes
    ----------
    indices : tuple of int
        MUSE indices.
    margins : Margins
    correlation : array, (k, k)
        Of the normal scores; what the first principal components leave is shrunken (Ledoit & Wolf 2004, J
        Multivariate Analysis 88:365). Shrinking all alike learns single people by heart where there are few.
    """

    indices: tuple[int, ...]
    margins: Margins
    correlation: Array

    def at(self, ages: Array, categories: Mapping[str, Any], rng: np.random.Generator) -> People:
        """People of exactly these ages and categories."""
        n = len(ages)
        z = rng.standard_normal((n, len(self.correlation))) @ np.linalg.cholesky(self.correlation).T
        logs = self.margins.values(z, np.asarray(ages, dtype=float), strata(categories, n))
        return people_from(logs, ages, categories, self.indices)

    def log_density(self, people: People) -> Array:
        """Of log volumes given age and categories, shape (n,)."""
        z, slope = self.margins.scores(log_volumes(people), people.age, strata(people.categories, len(people)))
        return np.atleast_1d(multivariate_normal(cov=self.correlation).logpdf(z)) + slope.sum(axis=1)


def choose_copula(people: People, rng: np.random.Generator) -> Choice:
    """Spline columns by held-out likelihood; then dimensions; then whether shapes are worth it."""

    def best(candidates: Sequence[Choice]) -> Choice:
        return choose(people, candidates, lambda some, c: fit_copula(some, rng, c), rng)[0]

    curve = best([Choice(location, scale) for location, scale in product((1, 2, 3, 4), (0, 1))])
    joined = best([curve._replace(dimensions=q) for q in (0, 2, 5, 10, 20)])
    return best([joined, joined._replace(shaped=True)])


def fit_copula(people: People, rng: np.random.Generator, choice: Choice | None = None) -> Copula:
    """Fit the copula; without a ``choice`` it is made by held-out likelihood.

    Raises
    ------
    UsageError
        Where a category has fewer than 20 people, or a volume is missing or negative.
    """
    choice = choice or choose_copula(people, rng)
    y, stratum = log_volumes(people), strata(people.categories, len(people))
    margins = fit_margins(y, people.age, stratum, choice)
    z = margins.scores(y, people.age, stratum)[0]
    return Copula(people.indices, margins, _structured(z, choice.dimensions) if choice.dimensions else _correlation(z))


class MixtureChoice(NamedTuple):
    """What a mixture is made of.

    Attributes
    ----------
    components : int
    dimensions : int
        Principal components that the mixture is of.
    shrinkage : float
        How far each component's covariance is drawn to that of all, 0 to 1.
    joined : bool
        Whether what the principal components leave is correlated; where it is not, a region is less like its mirror,
        and people are harder to recognise.
    """

    components: int = 1
    dimensions: int = 5
    shrinkage: float = 0.0
    joined: bool = True


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture of age and principal components of log volumes; what these leave is normal at all ages.

    Attributes
    ----------
    indices : tuple of int
    offset : mapping of stratum to array, (k,)
        Mean of log volumes of the stratum at age 0 of the standardised age, age apart.
    scale : array, (k,)
        SD of log volumes within strata.
    loadings : array, (q, k)
    noise : array, (k, k)
        Covariance that the components leave, its correlations shrunken (Ledoit-Wolf).
    age : (float, float)
        Mean and SD, years.
    weights, means, covariances : array, (c,), (c, 1 + q), (c, 1 + q, 1 + q)
        Of the mixture, standardised age first.
    """

    indices: tuple[int, ...]
    offset: Mapping[str, Array]
    scale: Array
    loadings: Array
    noise: Array
    age: tuple[float, float]
    weights: Array
    means: Array
    covariances: Array

    def at(self, ages: Array, categories: Mapping[str, Any], rng: np.random.Generator) -> People:
        """People of exactly these ages and categories: a component by its weight at that age, then its conditional."""
        n, q = len(ages), len(self.loadings)
        log_weights, means, covariances = self._given(np.asarray(ages, dtype=float))
        component = (np.exp(log_weights).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=means.shape[1] - 1)
        scores = means[np.arange(n), component]
        for c, covariance in enumerate(covariances):
            rows = component == c
            scores[rows] += rng.multivariate_normal(np.zeros(q), covariance, int(rows.sum()), method="eigh")
        z = scores @ self.loadings + rng.standard_normal((n, len(self.noise))) @ np.linalg.cholesky(self.noise).T
        return people_from(self._offset(categories, n) + z * self.scale, ages, categories, self.indices)

    def log_density(self, people: People) -> Array:
        """Of log volumes given age and categories, shape (n,)."""
        z = (log_volumes(people) - self._offset(people.categories, len(people))) / self.scale
        log_weights, means, covariances = self._given(people.age)
        parts = [
            multivariate_normal(cov=self.loadings.T @ covariance @ self.loadings + self.noise).logpdf(
                z - means[:, c] @ self.loadings
            )
            for c, covariance in enumerate(covariances)
        ]
        return np.asarray(logsumexp(log_weights + np.column_stack(parts), axis=1) - np.log(self.scale).sum())

    def _offset(self, categories: Mapping[str, Any], n: int) -> Array:
        stratum = strata(categories, n)
        known(stratum, self.offset)
        return np.array([self.offset[name] for name in stratum.tolist()]).reshape(n, -1)

    def _given(self, ages: Array) -> tuple[Array, Array, Array]:
        """Log weights (n, c), means (n, c, q) and covariances (c, q, q) of the components given age."""
        x = (ages - self.age[0]) / self.age[1]
        variance, cross = self.covariances[:, 0, 0], self.covariances[:, 0, 1:]
        off = x[:, None] - self.means[:, 0]
        log_weights = np.log(self.weights) - 0.5 * (off**2 / variance + np.log(variance))
        means = self.means[:, 1:] + off[:, :, None] * (cross / variance[:, None])
        covariances = self.covariances[:, 1:, 1:] - np.einsum("ci,cj,c->cij", cross, cross, 1 / variance)
        return log_weights - logsumexp(log_weights, axis=1, keepdims=True), means, covariances


def choose_mixture(people: People, rng: np.random.Generator) -> MixtureChoice:
    """Components, dimensions and shrinkage by held-out likelihood."""
    candidates = [MixtureChoice(1, q, 0.0) for q in (2, 5, 10, 20, 40)]
    candidates += [MixtureChoice(*c) for c in product((2, 3), (2, 5, 10), (0.3, 0.7))]
    return choose(people, candidates, lambda some, c: fit_mixture(some, rng, c), rng)[0]


def fit_mixture(people: People, rng: np.random.Generator, choice: MixtureChoice | None = None) -> Mixture:
    """Fit the mixture by scikit-learn's EM; without a ``choice`` it is made by held-out likelihood.

    The covariance of each component is drawn to the weighted mean of all, which leaves the total as it is.

    Raises
    ------
    UsageError
        Where a category has fewer than 20 people, or a volume is missing or negative.
    """
    choice = choice or choose_mixture(people, rng)
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    seed = int(rng.integers(2**31))
    y, stratum = log_volumes(people), strata(people.categories, len(people))
    age = float(people.age.mean()), float(people.age.std()) or 1.0
    x = (people.age - age[0]) / age[1]
    offset = _offsets(y, x, stratum)
    z = y - np.array([offset[name] for name in stratum.tolist()])
    scale = np.where(z.std(axis=0) > 0, z.std(axis=0), 1.0)
    z /= scale
    pca = PCA(min(choice.dimensions, *np.subtract(z.shape, 1)), svd_solver="full").fit(z)
    scores = (z - pca.mean_) @ pca.components_.T
    noise = _shrunken(z - pca.mean_ - scores @ pca.components_)
    noise = noise if choice.joined else np.diag(np.diag(noise))
    for name in offset:
        offset[name] = offset[name] + pca.mean_ * scale
    mixture = GaussianMixture(choice.components, reg_covar=1e-4, random_state=seed).fit(np.column_stack([x, scores]))
    pooled = np.einsum("c,cij->ij", mixture.weights_, mixture.covariances_)
    covariances = (1 - choice.shrinkage) * mixture.covariances_ + choice.shrinkage * pooled
    return Mixture(
        people.indices,
        offset,
        scale,
        pca.components_,
        noise,
        age,
        np.asarray(mixture.weights_),
        np.asarray(mixture.means_),
        covariances,
    )


def _shrunken(left: Array) -> Array:
    """Covariance of centred columns: their variances, and correlations shrunken."""
    sd = np.maximum(left.std(axis=0), 1e-3)
    return _correlation(left / sd) * np.outer(sd, sd)


def _structured(z: Array, dimensions: int) -> Array:
    """Correlation of centred columns: principal components as they are, and the shrunken rest."""
    from sklearn.decomposition import PCA

    pca = PCA(min(dimensions, *np.subtract(z.shape, 1)), svd_solver="full").fit(z)
    scores = (z - pca.mean_) @ pca.components_.T
    found = pca.components_.T * scores.var(axis=0) @ pca.components_ + _shrunken(
        z - pca.mean_ - scores @ pca.components_
    )
    sd = np.sqrt(np.diag(found))
    return np.asarray(found / np.outer(sd, sd))


def _correlation(z: Array) -> Array:
    """Ledoit-Wolf covariance of centred columns, brought to a diagonal of 1."""
    from sklearn.covariance import LedoitWolf

    shrunken = LedoitWolf(assume_centered=True).fit(z).covariance_
    sd = np.sqrt(np.diag(shrunken))
    return np.asarray(shrunken / np.outer(sd, sd))


def _offsets(y: Array, x: Array, stratum: NDArray[np.str_]) -> dict[str, Array]:
    """Mean log volumes of each stratum with the linear effect of age taken out, (k,) each."""
    names = enough(stratum)
    design = np.column_stack([*(stratum == name for name in names), x]).astype(float)
    return dict(zip(names, np.linalg.lstsq(design, y)[0], strict=False))
