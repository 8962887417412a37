"""Gaussian kernel densities of people's features, on z-scores: likelihood, bandwidth, and draws given some features.

Two kernels of bandwidth h around n people with z-scores z_i (mean 0, SD 1 in each of d features):

``published``
    N(z_i, h^2 I), that of GenMIND and of scikit-learn's ``KernelDensity``. The mixture has the covariance R + h^2 I
    where R is the correlation of the features: every variance grows by 1 + h^2, every correlation shrinks by as much.
``shrunken``
    N(a z_i, k S), with a = 1 / sqrt(1 + h^2), k = h^2 / (1 + h^2) and S = (1 - s) R + s I, where s is Ledoit and
    Wolf's shrinkage (2004, J Multivariate Analysis 88:365-411). The mixture has the mean 0 and the covariance
    a^2 R + k S = R - k s (R - I): means and variances are those of the people exactly, and covariances too as s goes
    to 0, as it does with many people. s keeps S regular where people are fewer than features. It is the smoothed
    bootstrap with shrinkage (Silverman & Young 1987, Biometrika 74:469-479; Jones 1991, J Multivariate Analysis
    39:157). With the kernel k I instead, variances would hold but every correlation, that with age among them, would
    shrink by 1 + h^2, which is why S has the shape of the data.

Features are positive (mm^3, years). A draw below the smallest value v0 that anybody has is folded to
v0^2 / (2 v0 - v): smooth, increasing and positive, and all that people have stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

Array = NDArray[np.float64]
Kernel = Literal["shrunken", "published"]

KERNELS: tuple[Kernel, ...] = ("shrunken", "published")
BANDWIDTHS = tuple(float(h) for h in np.round(np.arange(0.5, 1.01, 0.05), 2))
BLOCK = 1_500_000
"""Pairs of people whose distances are held at a time: 12 MB an array, and no fewer than 128 rows."""

ROUNDS = 64


@dataclass(frozen=True)
class Density:
    """A kernel density.

    Attributes
    ----------
    centres : array, shape (n, d)
        z-scores of the people.
    mean, scale, least : array, shape (d,)
        Mean, SD (of n, not n - 1) and smallest value of each feature, in its unit.
    bandwidth : float
        h, in SD.
    kernel : {"shrunken", "published"}
    shape : array, shape (d, d)
        S: correlation of the kernel; the identity of ``published``.
    """

    centres: Array
    mean: Array
    scale: Array
    least: Array
    bandwidth: float
    kernel: Kernel
    shape: Array

    @property
    def shrink(self) -> float:
        """Factor a of the centres."""
        return shrinkage(self.bandwidth, self.kernel)[0]

    @property
    def variance(self) -> float:
        """Variance k of the kernel, in SD^2."""
        return shrinkage(self.bandwidth, self.kernel)[1]

    def z(self, values: ArrayLike) -> Array:
        """Values, shape (m, d), as z-scores."""
        return np.asarray((np.asarray(values, dtype=float) - self.mean) / self.scale)


class Search(NamedTuple):
    """Cross-validated log-likelihoods: mean a person of each bandwidth, the best, and whether it ends the grid."""

    bandwidths: tuple[float, ...]
    scores: tuple[float, ...]
    best: float
    at_edge: bool


def shrinkage(bandwidth: float, kernel: Kernel) -> tuple[float, float]:
    """Factor a of the centres and variance k of the kernel."""
    squared = bandwidth**2
    return (1.0, squared) if kernel == "published" else ((1 + squared) ** -0.5, squared / (1 + squared))


def fit(values: ArrayLike, bandwidth: float, kernel: Kernel = "shrunken") -> Density:
    """The density of people, shape (n, d), whose features all vary.

    Raises
    ------
    ValueError
        Where a value is not finite, a feature is constant, or the bandwidth is not positive.
    """
    table = np.asarray(values, dtype=float)
    mean, scale = table.mean(axis=0), table.std(axis=0)
    if not (np.isfinite(table).all() and (scale > 0).all() and bandwidth > 0):
        raise ValueError("a density needs finite features that vary, and a positive bandwidth")
    centres = (table - mean) / scale
    return Density(centres, mean, scale, least_of(table), float(bandwidth), kernel, kernel_shape(centres, kernel))


def least_of(values: Array) -> Array:
    """The least value of each feature, shape (d,), below which draws are folded: where some are 0, the least above."""
    least = values.min(axis=0)
    return np.where(least == 0, np.where(values > 0, values, np.inf).min(axis=0), least)


def kernel_shape(centres: Array, kernel: Kernel) -> Array:
    """S of z-scores, shape (d, d): see the module's text."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    d = centres.shape[1]
    if kernel == "published":
        return np.eye(d)
    s = float(ledoit_wolf_shrinkage(centres, assume_centered=True))
    return np.asarray((1 - s) * centres.T @ centres / len(centres) + s * np.eye(d))


def log_likelihood(density: Density, values: ArrayLike) -> Array:
    """Log density of people, shape (m,), per unit of z-score: what scikit-learn gives on z-scores.

    In many dimensions scikit-learn gives it with one leaf (``leaf_size`` of n) alone: with several, the bounds that its
    tree adds and takes away are larger than the density by more than double precision holds, and what remains of them
    is returned (scikit-learn issues 7492, 25799). With 146 features such a search finds about 0.7 where the likelihood
    itself still rises.

    Parameters
    ----------
    values : array, shape (m, d)
        Features in their units.
    """
    return _scores(density.centres, density.z(values), density.shape, (density.bandwidth,), density.kernel)[0]


def search(
    values: ArrayLike,
    bandwidths: Sequence[float] = BANDWIDTHS,
    *,
    kernel: Kernel = "shrunken",
    folds: Sequence[NDArray[np.intp]],
) -> Search:
    """The bandwidth that gives people left out the largest mean log-likelihood.

    ``published`` z-scores everybody once, as GenMIND does; ``shrunken`` takes means, SDs and S of each fold's own
    training people. Likelihoods of the two kernels are not compared with each other.

    Parameters
    ----------
    values : array, shape (n, d)
    bandwidths : sequence of float
        The grid, SD.
    folds : sequence of int array
        Who is left out each time; see :func:`split`.
    """
    grid = tuple(sorted(float(h) for h in bandwidths))
    table = np.asarray(values, dtype=float)
    if kernel == "published":
        table = fit(table, 1.0, kernel).centres
    total, people = np.zeros(len(grid)), 0
    for left_out in folds:
        inside = np.ones(len(table), dtype=bool)
        inside[left_out] = False
        train, test = table[inside], table[left_out]
        if kernel == "shrunken":
            mean, scale = train.mean(axis=0), np.maximum(train.std(axis=0), np.finfo(float).tiny)
            train, test = (train - mean) / scale, (test - mean) / scale
            logs = _scores(train, test, kernel_shape(train, kernel), grid, kernel) - np.log(scale).sum()
        else:
            logs = _scores(train, test, np.eye(table.shape[1]), grid, kernel)
        total += logs.sum(axis=1)
        people += len(test)
    mean_scores = total / people
    best = int(np.argmax(mean_scores))
    edge = len(grid) > 1 and best in (0, len(grid) - 1)
    return Search(grid, tuple(mean_scores.tolist()), grid[best], edge)


def split(n: int, folds: int, seed: int) -> list[NDArray[np.intp]]:
    """People 0 to n - 1 in ``folds`` parts of nearly one size, at random."""
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(n), folds)]


def draw(density: Density, given: ArrayLike, rng: np.random.Generator) -> Array:
    """People with exactly these values of the last m features, one a row.

    A person of the sample is chosen with the weight that the kernel gives there, N(t; a c_i, k S_cc); the other
    features then follow the kernel's conditional Gaussian, drawn as x + S_vc S_cc^-1 (t - x_c) from a joint draw
    (x, x_c) of the kernel (Matheron's rule), so that nothing is approximated.

    Parameters
    ----------
    given : array, shape (n, m)
        In the features' units; m may be 0.
    rng : numpy.random.Generator

    Returns
    -------
    array, shape (n, d)
        All features; below the smallest value seen, folded (see the module's text).
    """
    known = np.asarray(given, dtype=float)
    n, m = known.shape
    d = len(density.mean)
    first, scale = d - m, np.sqrt(density.variance)
    target = (known - density.mean[first:]) / density.scale[first:]
    chosen = _choose(density, target, rng)
    noise = rng.standard_normal((n, d))
    if density.kernel == "shrunken":
        noise = noise @ np.linalg.cholesky(density.shape).T
    z = density.shrink * density.centres[chosen] + scale * noise
    if m:
        gain = np.linalg.solve(density.shape[first:, first:], density.shape[first:, :first])
        z[:, :first] += (target - z[:, first:]) @ gain
    values = positive(z * density.scale + density.mean, density.least)
    values[:, first:] = known
    return values


def positive(values: Array, least: Array) -> Array:
    """Values below ``least`` folded into 0 to ``least``; where ``least`` is not positive, as they are."""
    low = (values < least) & (least > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(low, least**2 / (2 * least - values), values)


def _choose(density: Density, target: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """Which person each draw starts from, shape (n,), for z-scores ``target``, shape (n, m), of the last features.

    By rejection: anybody is proposed, and taken with the probability exp(-(squared distance) / 2). Where nobody was
    taken after ``ROUNDS`` proposals, the weights of all are summed; each way has the same distribution.
    """
    n, m = target.shape
    chosen = np.asarray(rng.integers(0, len(density.centres), n))
    if not m:
        return chosen
    factor = np.linalg.cholesky(density.shape[-m:, -m:] * density.variance)
    at, centres = _whitened(target, factor), _whitened(density.shrink * density.centres[:, -m:], factor)
    pending = np.arange(n)
    for _ in range(ROUNDS):
        distance = ((at[pending] - centres[chosen[pending]]) ** 2).sum(axis=1)
        pending = pending[rng.random(len(pending)) >= np.exp(-distance / 2)]
        if not len(pending):
            return chosen
        chosen[pending] = rng.integers(0, len(centres), len(pending))
    for rows in _blocks(len(pending), len(centres)):
        ends: Array = np.cumsum(_weights(at[pending[rows]], centres), axis=1)
        for row, end, uniform in zip(pending[rows], ends, rng.random(len(ends)), strict=True):
            chosen[row] = np.searchsorted(end[:-1], uniform * end[-1], side="right")
    return chosen


def _weights(at: Array, centres: Array) -> Array:
    """exp(-(squared distance) / 2) of every pair, shape (n, m), times what makes the largest of each row 1."""
    logs = at @ centres.T - (centres**2).sum(axis=1) / 2
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)))


def _whitened(values: Array, factor: NDArray[Any]) -> Array:
    return np.asarray(solve_triangular(factor, values.T, lower=True).T)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows with at most ``BLOCK`` pairs."""
    step = max(128, BLOCK // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _scores(train: Array, test: Array, shape: Array, bandwidths: Sequence[float], kernel: Kernel) -> Array:
    """Log density at each bandwidth of ``test``, shape (bandwidths, m), by kernels around ``train``, all z-scores.

    One product of matrices serves all bandwidths: |y - a c|^2 = |y|^2 - 2 a y c + a^2 |c|^2 in whitened coordinates.
    """
    d = train.shape[1]
    logdet = 0.0
    if kernel == "shrunken":
        factor = np.linalg.cholesky(shape)
        logdet = 2 * float(np.log(np.diag(factor)).sum())
        train, test = _whitened(train, factor), _whitened(test, factor)
    found = np.empty((len(bandwidths), len(test)))
    half = (train**2).sum(axis=1) / 2
    blocks = list(_blocks(len(test), len(train)))
    product, logs = np.empty((2, blocks[0].stop, len(train)))
    for rows in blocks:
        here = test[rows]
        product, logs = product[: len(here)], logs[: len(here)]
        np.matmul(here, train.T, out=product)
        own = (here**2).sum(axis=1) / 2
        for i, bandwidth in enumerate(bandwidths):
            a, k = shrinkage(bandwidth, kernel)
            np.multiply(product, 1 / a, out=logs)
            np.subtract(logs, half, out=logs)
            top = logs.max(axis=1)
            np.subtract(logs, top[:, None], out=logs)
            np.multiply(logs, a**2 / k, out=logs)
            np.exp(logs, out=logs)
            whole = np.log(logs.sum(axis=1)) + top * (a**2 / k) - own / k
            found[i, rows] = whole - np.log(len(train)) - 0.5 * (d * np.log(2 * np.pi * k) + logdet)
    return found
