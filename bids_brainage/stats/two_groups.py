"""Two groups compared with covariates where their variances may differ: Welch's test carried over to a linear model.

The coefficient of the group in ``value = group + covariates`` (least squares) over its HC2 standard error (MacKinnon &
White 1985, J Econometrics 29:305: squared residuals over one minus leverage), with Satterthwaite's degrees of freedom
of the two groups' shares in its square. Without covariates that is Welch's t. With one variance for both groups, as in
the ordinary t of a linear model, a small group that varies more is found to differ several times too often.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
ALONE = 1e-9
"""One minus the leverage of a person whom the model fits whatever the value: no residual, no share in the variance."""


class Design(NamedTuple):
    """Who is compared, and given what.

    Attributes
    ----------
    basis : array, shape (people, columns)
        Orthonormal; the first column is the group, less what the covariates explain of it.
    length : float
        Of that column before it was given the length 1.
    shares : array, shape (2, people)
        What each person's squared residual adds to the variance of the projection on that column, by group.
    sizes : array, shape (2,)
        People of each group.
    """

    basis: Array
    length: float
    shares: Array
    sizes: Array


class Comparison(NamedTuple):
    """Groups compared in each column of values, shape (columns,); ``nan`` where nothing varies.

    The difference is first minus second group, in the values' unit, as is its standard error; p is two-sided.
    """

    difference: Array
    error: Array
    t: Array
    dof: Array
    p: Array


def design(first: ArrayLike, nuisance: ArrayLike) -> Design:
    """The design of a comparison.

    Parameters
    ----------
    first : array of bool, shape (people,)
        Who belongs to the first group; all others to the second.
    nuisance : array, shape (people, columns)
        The covariates, with an intercept.

    Raises
    ------
    ValueError
        Where a group has fewer than two people, the columns depend on each other, or there are no more people than
        columns.
    """
    member = np.asarray(first).astype(bool)
    columns = np.column_stack([np.asarray(nuisance, float), member])
    groups = np.stack([member, ~member])
    sizes = groups.sum(axis=1).astype(float)
    n, k = columns.shape
    if sizes.min() < 2:
        raise ValueError("a comparison needs at least two people in each group")
    if n <= k or np.linalg.matrix_rank(columns) < k:
        raise ValueError(f"{n} people do not tell {k} columns of the design apart")
    covariates = np.linalg.qr(columns[:, :-1])[0]
    own = member - covariates @ (covariates.T @ member)
    length = float(np.linalg.norm(own))
    basis = np.column_stack([own / length, covariates])
    left = 1 - (basis**2).sum(axis=1)
    share = np.divide(basis[:, 0] ** 2, left, out=np.zeros(n), where=left > ALONE)
    return Design(basis, length, groups * share, sizes)


def compare(values: ArrayLike, of: Design) -> Comparison:
    """Compare the groups in each column of values, shape (people, columns)."""
    left = residual(values, of.basis[:, 1:])
    projection = of.basis[:, 0] @ left
    rest = left - np.outer(of.basis[:, 0], projection)
    variances = of.shares @ rest**2
    t, dof = statistic(projection, variances, of.sizes)
    with np.errstate(invalid="ignore"):
        t = np.where(variances.sum(axis=0) > 0, t, np.nan)
    return Comparison(projection / of.length, np.sqrt(variances.sum(axis=0)) / of.length, t, dof, two_sided(t, dof))


def residual(values: ArrayLike, covariates: ArrayLike) -> Array:
    """What an orthonormal basis leaves of each column; 0 where that does not vary, so that rounding is no finding."""
    y, basis = np.asarray(values, float), np.asarray(covariates, float)
    varies = np.ptp(y, axis=0) > 1e-6 * np.abs(y).max(axis=0)
    centred = y - y.mean(axis=0)
    return np.asarray((centred - basis @ (basis.T @ centred)) * varies)


def statistic(projection: NDArray[Any], variances: NDArray[Any], sizes: Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """T and its degrees of freedom, of the shares of both groups in the variance, (2, ...); t is 0 where that is 0."""
    total = variances.sum(axis=0)
    varies = total > 0
    t = np.divide(projection, np.sqrt(total), out=np.zeros_like(total), where=varies)
    below = (variances**2 / (sizes - 1).astype(variances.dtype).reshape(2, *[1] * (variances.ndim - 1))).sum(axis=0)
    return t, np.divide(total**2, below, out=np.ones_like(total), where=varies)


def two_sided(t: ArrayLike, dof: ArrayLike) -> Array:
    """Two-sided p of Student's t."""
    from scipy.special import stdtr

    return np.asarray(2 * stdtr(dof, -np.abs(t)))
