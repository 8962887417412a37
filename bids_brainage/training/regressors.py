"""The regression of the ``roi`` model, and those that it was compared with.

All of them take :meth:`bids_brainage.training.muse.Table.design`: volumes relative to ICV, ventricles as logarithms,
and the code of sex as the last column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import StackingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

from bids_brainage.core.errors import UsageError
from bids_brainage.training.measurement import MeasurementError
from bids_brainage.training.muse import LOG_OFFSET

FloatArray = NDArray[np.float64]

PENALTIES = np.logspace(1, 4, 13)
FOLDS = 10
COPIES = 6
CAUTION = 2.0
"""How many times as large as measured the errors enter the fit of the ``roi`` model.

They were measured on eleven heads, ten of them old and of one project; other scanners will err more. The error expected
on volumes as the app measures them hardly changes with the factor (docs/models.md), while the difference between ages
from the app's volumes and from the reference's falls with it.
"""

one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


class NoisyRidge(RegressorMixin, BaseEstimator):
    r"""Ridge regression on standardised features that are measured with known errors, which predicting adds.

    Minimises :math:`|y - Zb|^2 + \alpha |b|^2 + n\, b^T E b`, E the covariance of the errors in SDs of the features:
    what ridge regression with penalty alpha tends to on ever more copies of the data with fresh errors of that
    covariance (Bishop 1995, Neural Computation 7:108-116; exact for linear models). Without errors it is ridge
    regression.

    Parameters
    ----------
    alpha : float
        Penalty of every coefficient.
    error : MeasurementError, optional
        Of log volumes; the last column, sex, has none.
    logged : array of bool, shape (k,), optional
        Regions that enter as logarithms; wanted with ``error``.
    """

    def __init__(
        self, alpha: float = 1.0, error: MeasurementError | None = None, logged: NDArray[np.bool_] | None = None
    ) -> None:
        self.alpha, self.error, self.logged = alpha, error, logged

    def fit(self, design: FloatArray, age: FloatArray) -> NoisyRidge:
        """Fit; ``design`` of shape (n, k + 1), ``age`` in years."""
        self.mean_, self.scale_ = design.mean(axis=0), design.std(axis=0)
        self.scale_[self.scale_ == 0] = 1.0
        z = (design - self.mean_) / self.scale_
        self.error_ = self._error(design) / np.outer(self.scale_, self.scale_)
        penalty = self.alpha * np.eye(z.shape[1]) + len(z) * self.error_
        self.intercept_ = float(age.mean())
        self.coef_ = np.linalg.solve(z.T @ z + penalty, z.T @ (age - self.intercept_))
        return self

    def predict(self, design: FloatArray) -> FloatArray:
        """Ages in years."""
        return np.asarray(self.intercept_ + (design - self.mean_) / self.scale_ @ self.coef_)

    def score(self, design: FloatArray, age: FloatArray, sample_weight: None = None) -> float:
        """Minus the mean squared error that is expected when these features are measured with the errors."""
        del sample_weight
        return -float(np.mean((self.predict(design) - age) ** 2) + self.coef_ @ self.error_ @ self.coef_)

    def _error(self, design: FloatArray) -> FloatArray:
        """Mean covariance of the errors of the features, to first order, in their units."""
        found = np.zeros((design.shape[1],) * 2)
        if self.error is not None and self.logged is not None:
            regions = design[:, :-1]
            log_rate = 1 - LOG_OFFSET * np.exp(-np.where(self.logged, regions, 0.0))
            rate = np.where(self.logged, log_rate, regions)
            found[:-1, :-1] = self.error.covariance() * (rate.T @ rate / len(rate))
        return found


class WithCopies(RegressorMixin, BaseEstimator):
    """Any regression on log volumes, fitted on copies of the data with fresh errors."""

    def __init__(self, inner: Any, error: MeasurementError, copies: int = COPIES) -> None:
        self.inner, self.error, self.copies = inner, error, copies

    def fit(self, design: FloatArray, age: FloatArray) -> WithCopies:
        """Fit; ``design`` holds log volumes."""
        copies = np.tile(design, (self.copies, 1))
        copies[:, :-1] += self.error.draw(np.random.default_rng(0), len(copies))
        self.inner_ = self.inner.fit(copies, np.tile(age, self.copies))
        return self

    def predict(self, design: FloatArray) -> FloatArray:
        """Ages in years."""
        return np.asarray(self.inner_.predict(design))


class Families(GroupKFold):
    """Folds that keep people of the same age together: twins, or one person who stands twice.

    IXI has a dozen pairs of women with neighbouring numbers and the same age to the hundredth, whose volumes are more
    alike than those of others. Ages in whole years say nothing of that: there everybody is a group of their own.
    """

    def split(
        self, X: Any, y: FloatArray | None = None, groups: None = None
    ) -> Iterator[tuple[NDArray[np.int_], NDArray[np.int_]]]:
        """As of scikit-learn; ``y`` are the ages, shape (n,), years."""
        del groups
        age = np.asarray(y, dtype=float)
        _, eldest, same = np.unique(age, return_index=True, return_inverse=True)
        yield from super().split(X, y, np.where(age == np.rint(age), np.arange(len(age)), eldest[same]))


def folds(seed: int, number: int = FOLDS) -> Families:
    """Of both levels of cross-validation."""
    return Families(number, shuffle=True, random_state=seed)


@one_thread
def search(
    design: FloatArray,
    age: FloatArray,
    seed: int,
    error: MeasurementError | None = None,
    logged: NDArray[np.bool_] | None = None,
) -> NoisyRidge:
    """The ``roi`` model's regression, the penalty chosen by 10-fold cross-validation of its score."""
    found: NoisyRidge = tuned(seed, error and error.times(CAUTION), logged).fit(design, age).best_estimator_
    return found


def tuned(seed: int, error: MeasurementError | None = None, logged: NDArray[np.bool_] | None = None) -> GridSearchCV:
    """Ridge regression that reckons with the errors as they are given, before its penalty is chosen."""
    return GridSearchCV(NoisyRidge(error=error, logged=logged), {"alpha": PENALTIES}, cv=folds(seed))


def candidates(
    logged: NDArray[np.bool_], seed: int, error: MeasurementError | None = None
) -> dict[str, Callable[[], Any]]:
    """What the comparison fits, by name, the baseline first: each a maker of an estimator without a fit.

    Parameters
    ----------
    logged : array of bool, shape (k,)
        Regions that enter the design as logarithms; candidates on "log" features take it of all regions.
    seed : int
        Of folds.
    error : MeasurementError, optional
        Of the volumes; with it come the candidates that reckon with it.
    """
    logs = _logs(logged)

    def ridge(*steps: Any) -> GridSearchCV:
        return _tuned(make_pipeline(*steps, StandardScaler(), Ridge()), {"ridge__alpha": PENALTIES * 3}, seed)

    made: dict[str, Callable[[], Any]] = {
        "ridge": lambda: tuned(seed),
        "ridge, log volumes": lambda: ridge(logs),
        "ridge, splines": lambda: ridge(logs, StandardScaler(), SplineTransformer(4, degree=2, extrapolation="linear")),
        "support vectors, RBF": lambda: _svr(logs, seed),
        "Gaussian process": lambda: _gaussian_process(logs),
        "XGBoost": lambda: _xgboost(seed),
        "stack": lambda: StackingRegressor(
            [("ridge", ridge()), ("svr", _svr(logs, seed)), ("gp", _gaussian_process(logs))],
            LinearRegression(positive=True),
            cv=folds(seed, 5),
        ),
    }
    if error is not None:
        made["ridge, errors in variables"] = lambda: tuned(seed, error, logged)
        made[f"ridge, errors {CAUTION:g} times as large"] = lambda: tuned(seed, error.times(CAUTION), logged)
        made["support vectors, noisy copies"] = lambda: make_pipeline(
            logs, WithCopies(make_pipeline(StandardScaler(), SVR(C=10, gamma=1e-3, epsilon=2.0)), error)
        )
    return made


def _logs(logged: NDArray[np.bool_]) -> FunctionTransformer:
    """Logarithms of the features that are none yet; sex stays."""
    linear = np.append(~logged, False)
    return FunctionTransformer(lambda x: np.where(linear, np.log(np.where(linear, x, 1.0) + LOG_OFFSET), x))


def _tuned(estimator: Any, grid: dict[str, Any], seed: int) -> GridSearchCV:
    return GridSearchCV(estimator, grid, scoring="neg_mean_squared_error", cv=folds(seed, 5))


def _svr(logs: FunctionTransformer, seed: int) -> GridSearchCV:
    grid = {"svr__C": [3, 10, 30, 100, 300], "svr__gamma": [3e-4, 1e-3, 3e-3]}
    return _tuned(make_pipeline(logs, StandardScaler(), SVR(epsilon=2.0)), grid, seed)


def _gaussian_process(logs: FunctionTransformer) -> Pipeline:
    """RBF kernel and noise by marginal likelihood."""
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(15.0, (2, 200)) + WhiteKernel(0.2, (1e-2, 2))
    return make_pipeline(logs, StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True))


def _xgboost(seed: int) -> GridSearchCV:
    try:
        from xgboost import XGBRegressor
    except ImportError:
        raise UsageError("the comparison needs xgboost; install xgboost-cpu, or leave --compare out") from None
    start = XGBRegressor(
        n_jobs=1, learning_rate=0.05, subsample=0.7, colsample_bytree=0.3, reg_lambda=5.0, random_state=seed
    )
    return _tuned(start, {"n_estimators": [200, 400], "max_depth": [2, 3]}, seed)
