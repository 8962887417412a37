"""Penalised cubic splines of age, fitted to all regions at once (the smooth term of ComBat-GAM)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

FloatArray = NDArray[np.float64]

DEGREE = 3
FUNCTIONS = 10
WEIGHTS = np.logspace(-4, 8, 73)


@dataclass(frozen=True)
class Spline:
    """Cubic B-splines without the first, which the intercept stands for.

    Attributes
    ----------
    knots : array
        Years; the outer ones ``DEGREE + 1`` times. Ages outside count as the outermost.
    """

    knots: FloatArray

    @classmethod
    def over(cls, age: FloatArray) -> Spline:
        """Ten functions, the inner knots at quantiles of the ages: what statsmodels makes with ``df=10``."""
        from statsmodels.gam.api import BSplines

        return cls(np.asarray(BSplines(age[:, None], df=[FUNCTIONS], degree=[DEGREE]).smoothers[0].knots))

    def basis(self, age: FloatArray) -> FloatArray:
        """Values at ages in years, shape (n, 9)."""
        inside = np.clip(age, self.knots[0], self.knots[-1])
        return np.asarray(BSpline.design_matrix(inside, self.knots, DEGREE).toarray()[:, 1:])

    def penalty(self) -> FloatArray:
        """Integral of the products of second derivatives over age, shape (9, 9).

        The second derivative is linear between knots, so Simpson's rule is exact in each interval.
        """
        edges = np.unique(self.knots)
        points = np.column_stack([edges[:-1], (edges[:-1] + edges[1:]) / 2, edges[1:]])
        weights = np.diff(edges)[:, None] / 6 * [1, 4, 1]
        size = len(self.knots) - DEGREE - 1
        second = BSpline(self.knots, np.eye(size), DEGREE).derivative(2)
        inside = np.clip(points, np.nextafter(edges[:-1], np.inf)[:, None], np.nextafter(edges[1:], -np.inf)[:, None])
        values = second(inside.ravel())[:, 1:]
        return np.asarray(values.T @ (weights.ravel()[:, None] * values))


def fit_penalised(design: FloatArray, y: FloatArray, penalty: FloatArray, weights: FloatArray = WEIGHTS) -> FloatArray:
    """Least squares with a penalty on the last columns, its weight chosen for each region.

    Minimises |y - X b|^2 + w b' P b, w by generalised cross-validation, n |y - X b|^2 / (n - trace)^2 (Craven & Wahba
    1978, Numerische Mathematik 31:377-403), of those given.

    Parameters
    ----------
    design : array, shape (n, q)
        Of full rank.
    y : array, shape (n, k)
    penalty : array, shape (p, p)
        Of the last p columns.
    weights : array, shape (m,)
        Among which w is chosen.

    Returns
    -------
    array, shape (q, k)
    """
    n, q = design.shape
    whole = np.zeros((q, q))
    whole[-len(penalty) :, -len(penalty) :] = penalty
    orthogonal, triangle = np.linalg.qr(design)
    half = np.linalg.solve(triangle.T, whole)
    eigenvalues, vectors = np.linalg.eigh(np.linalg.solve(triangle.T, half.T))
    parts = vectors.T @ (orthogonal.T @ y)
    shrink = 1 / (1 + weights[:, None] * np.maximum(eigenvalues, 0))
    rest = (y**2).sum(axis=0) - (parts**2).sum(axis=0)
    error = rest + np.einsum("wq,qk->wk", (1 - shrink) ** 2, parts**2)
    best = np.argmin(error / (n - shrink.sum(axis=1))[:, None] ** 2, axis=0)
    return np.asarray(np.linalg.solve(triangle, vectors @ (shrink[best].T * parts)))
