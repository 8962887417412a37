"""Relations of a regional value with another, people as units, with covariates taken out of both."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bids_brainage.stats.groups import Interval

UNKNOWN = Interval(math.nan, math.nan, math.nan)


class Correlation(NamedTuple):
    """Number of people, r with Fisher's 95 % interval, and its two-sided p."""

    n: int
    r: Interval
    p: float


def partial_pearson(x: ArrayLike, y: ArrayLike, covariates: ArrayLike | None = None) -> Correlation:
    """Pearson r of what a linear model of the covariates leaves of x and of y.

    Fisher's z has the variance 1 / (n - k - 3) with k covariates (Fisher 1924, Metron 3:329).

    Parameters
    ----------
    x, y : array, shape (n,)
        One value a person; people with a missing value are left out.
    covariates : array, shape (n, k), optional
        Without an intercept, which is added.

    Returns
    -------
    Correlation
        With ``nan`` for fewer than k + 4 people, and where nothing varies.
    """
    from scipy.special import stdtr
    from scipy.stats import norm

    a, b = np.asarray(x, float), np.asarray(y, float)
    extra = np.zeros((len(a), 0)) if covariates is None else np.asarray(covariates, float)
    known = np.isfinite(a) & np.isfinite(b) & np.isfinite(extra).all(axis=1)
    n, k = int(known.sum()), extra.shape[1]
    if n < k + 4:
        return Correlation(n, UNKNOWN, math.nan)
    design = extra[known] - extra[known].mean(axis=0)
    design = np.column_stack([np.ones(n), design / np.where(np.ptp(design, axis=0) > 0, np.ptp(design, axis=0), 1)])
    pair = np.column_stack([a[known], b[known]])
    rest = pair - design @ np.linalg.lstsq(design, pair, rcond=None)[0]
    size = np.linalg.norm(rest, axis=0)
    if (size <= 1e-9 * np.linalg.norm(pair, axis=0)).any() or not size.all():
        return Correlation(n, UNKNOWN, math.nan)
    r = float(np.clip(rest[:, 0] @ rest[:, 1] / size.prod(), -1, 1))
    z, reach = math.atanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)), norm.isf(0.025) / math.sqrt(n - k - 3)
    t = r * math.sqrt((n - 2 - k) / max(1 - r**2, 1e-300))
    return Correlation(n, Interval(r, math.tanh(z - reach), math.tanh(z + reach)), float(2 * stdtr(n - 2 - k, -abs(t))))
