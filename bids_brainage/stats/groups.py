"""Accuracy of brain age and comparisons of groups. The units are people: one value a person, or say who is who."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.stats import two_groups

Array = NDArray[np.float64]
FEWEST_BOUNDED = 10
FEWEST_RELATED = 4


class Interval(NamedTuple):
    """An estimate with the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Accuracy(NamedTuple):
    """How well uncorrected brain ages match ages; ``mae`` and ``bias`` (predicted minus age) in years."""

    n_people: int
    n_rows: int
    mae: Interval
    r: Interval
    r2: Interval
    bias: Interval


class Difference(NamedTuple):
    """Two groups compared: ``difference`` is the mean of the first minus that of the second, in the values' unit."""

    n_first: int
    n_second: int
    difference: Interval
    d: Interval
    t: float
    dof: float
    p: float


class FTest(NamedTuple):
    """An F statistic with its degrees of freedom and p value."""

    f: float
    dof_between: float
    dof_within: float
    p: float


class Pair(NamedTuple):
    """One pair of a Games-Howell comparison; ``difference`` is the mean of ``first`` minus that of ``second``."""

    first: str
    second: str
    difference: float
    t: float
    dof: float
    p: float


class Statistic(NamedTuple):
    """A test statistic and its p value."""

    statistic: float
    p: float


def accuracy(
    age: ArrayLike, predicted: ArrayLike, person: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> Accuracy:
    """MAE, Pearson r, R2 and bias with percentile bootstrap intervals, people resampled.

    A person's rows share one weight, so that many scans of one person count as one person. Fewer than ten people have
    no intervals: percentiles of so few cover far less than 95 %. Fewer than four have no r and no R2.

    Parameters
    ----------
    age, predicted : array, shape (n,)
        Age and uncorrected brain age, years; rows with a missing value are left out.
    person : array, shape (n,)
        Who each row belongs to.
    resamples : int
        Bootstrap resamples; beyond 20,000 people fewer, in proportion, and at least 200.
    seed : int
        Of the resamples.
    """
    x, y, who = np.asarray(age, float), np.asarray(predicted, float), np.asarray(person)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    people, index, rows = np.unique(who[known], return_inverse=True, return_counts=True)
    if not len(people):
        nothing = Interval(math.nan, math.nan, math.nan)
        return Accuracy(0, 0, nothing, nothing, nothing, nothing)
    centred_x, centred_y, gap = x - x.mean(), y - y.mean(), y - x
    parts = (np.abs(gap), gap, centred_x, centred_y, centred_x**2, centred_y**2, centred_x * centred_y, gap**2)
    sums = np.stack([np.bincount(index, part) / rows for part in parts])
    n, found = len(people), _measures(sums.mean(axis=1))
    if n < FEWEST_RELATED:
        found[1:3] = math.nan
    if n < FEWEST_BOUNDED:
        return Accuracy(n, len(x), *(Interval(float(value), math.nan, math.nan) for value in found))
    rng = np.random.default_rng(seed)
    resamples = min(resamples, max(200, 20_000 * resamples // n))
    draws = np.stack([_measures(sums @ np.bincount(rng.integers(0, n, n), minlength=n) / n) for _ in range(resamples)])
    return Accuracy(n, len(x), *(_percentile(v, d) for v, d in zip(found, draws.T, strict=True)))


def _measures(means: Array) -> Array:
    """MAE, r, R2 (1 - residual / total) and bias from the means of the eight parts of :func:`accuracy`."""
    absolute, gap, mx, my, xx, yy, xy, squared = means
    total, spread = xx - mx**2, yy - my**2
    correlated = total > 1e-12 and spread > 1e-12
    r = max(-1.0, min(1.0, (xy - mx * my) / math.sqrt(total * spread))) if correlated else math.nan
    return np.array([absolute, r, 1 - squared / total if total > 1e-12 else math.nan, gap])


def _percentile(value: float, draws: Array) -> Interval:
    known = draws[np.isfinite(draws)]
    if len(known) < 2:
        return Interval(float(value), math.nan, math.nan)
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def welch_t(first: ArrayLike, second: ArrayLike) -> Difference:
    """Welch's t test of two independent groups, with Cohen's d.

    Parameters
    ----------
    first, second : array, shape (n,), (m,)
        One value a person; at least two in each group.

    Raises
    ------
    ValueError
        Where a group has fewer than two values.
    """
    from scipy.stats import ttest_ind

    a, b = _known(first), _known(second)
    if min(len(a), len(b)) < 2:
        raise ValueError("a comparison needs at least two people in each group")
    test = ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = Interval(float(a.mean() - b.mean()), float(interval.low), float(interval.high))
    return Difference(
        len(a), len(b), difference, cohen_d(a, b), float(test.statistic), float(test.df), float(test.pvalue)
    )


def cohen_d(first: ArrayLike, second: ArrayLike) -> Interval:
    """Cohen's d with the pooled SD and its parametric interval; ``nan`` where no value varies.

    The interval takes the groups to vary alike: where a smaller group varies twice as much, it covers some 80 %.
    """
    import pingouin

    a, b = _known(first), _known(second)
    if max(np.ptp(a), np.ptp(b)) < 1e-12:
        return Interval(math.nan, math.nan, math.nan)
    d = float(pingouin.compute_effsize(a, b, eftype="cohen"))
    low, high = pingouin.compute_esci(d, len(a), len(b), eftype="cohen", decimals=12)
    return Interval(d, float(low), float(high))


def two_sample_z(first: ArrayLike, second: ArrayLike) -> Statistic:
    """Two-sample z test of the means with unequal variances; for large groups."""
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    z, p = CompareMeans(DescrStatsW(_known(first)), DescrStatsW(_known(second))).ztest_ind(usevar="unequal")
    return Statistic(float(z), float(p))


def welch_anova(groups: Sequence[ArrayLike]) -> FTest:
    """Welch's ANOVA of two or more independent groups, one value a person."""
    from statsmodels.stats.oneway import anova_oneway

    test = anova_oneway([_known(group) for group in groups], use_var="unequal")
    between, within = test.df
    return FTest(float(test.statistic), float(between), float(within), float(test.pvalue))


def games_howell(groups: Mapping[str, ArrayLike]) -> tuple[Pair, ...]:
    """All pairs of groups after Welch's ANOVA, p values adjusted by Games and Howell (1976)."""
    import pandas as pd
    import pingouin

    values = {name: _known(group) for name, group in groups.items()}
    table = pd.DataFrame(
        {
            "value": np.concatenate(list(values.values())),
            "group": np.repeat(list(values), [len(v) for v in values.values()]),
        }
    )
    found = pingouin.pairwise_gameshowell(data=table, dv="value", between="group")
    columns = zip(*(found[name] for name in ("A", "B", "diff", "T", "df", "pval")), strict=True)
    return tuple(Pair(str(a), str(b), *map(float, numbers)) for a, b, *numbers in columns)


def adjust(p: ArrayLike, method: Literal["fdr_bh", "bonferroni", "holm"] = "fdr_bh") -> Array:
    """P values adjusted for their number, shape (n,), by Benjamini-Hochberg, Bonferroni or Holm."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, float)
    return np.asarray(multipletests(values, method=method)[1]) if len(values) else values


def icc(ratings: ArrayLike) -> Interval:
    """ICC(2,1): absolute agreement of single measurements, two-way random effects (Shrout & Fleiss 1979).

    Parameters
    ----------
    ratings : array, shape (n_people, n_measurements)
        No missing values; at least five people and two measurements.

    Returns
    -------
    Interval
        Bounds to two decimals, as pingouin gives them.
    """
    import pandas as pd
    import pingouin

    values = np.asarray(ratings, float)
    people, raters = np.indices(values.shape).reshape(2, -1)
    long = pd.DataFrame({"person": people, "measurement": raters, "value": values.ravel()})
    table = pingouin.intraclass_corr(data=long, targets="person", raters="measurement", ratings="value")
    row = table[table["Type"].isin(["ICC2", "ICC(A,1)"])].iloc[0]
    low, high = row[next(name for name in table.columns if name.startswith("CI95"))]
    return Interval(float(row["ICC"]), float(low), float(high))


def nested_f(response: ArrayLike, reduced: ArrayLike, full: ArrayLike) -> FTest:
    """F test of linear models of which the second holds the first; an intercept is added to both.

    Parameters
    ----------
    response : array, shape (n,)
        One value a person.
    reduced, full : array, shape (n, k), (n, m)
        Design matrices without an intercept, k < m.
    """
    import statsmodels.api as sm

    y = np.asarray(response, float)
    small, large = (
        sm.OLS(y, sm.add_constant(np.asarray(design, float), has_constant="add")).fit() for design in (reduced, full)
    )
    f, p, between = large.compare_f_test(small)
    return FTest(float(f), float(between), float(large.df_resid), float(p))


def age_adjusted(values: ArrayLike, first: ArrayLike, age: ArrayLike) -> tuple[Interval, float]:
    """Difference of two groups with age as a covariate, each group with its own variance: :mod:`two_groups`.

    Parameters
    ----------
    values : array, shape (n,)
        One value a person.
    first : array of bool, shape (n,)
        Who belongs to the first group.
    age : array, shape (n,)
        Years.

    Returns
    -------
    (Interval, float)
        In the values' unit with its interval, and its p value; ``nan`` for fewer than five people, or two in a group.
    """
    from scipy.special import stdtrit

    y, x, member = np.asarray(values, float), np.asarray(age, float), np.asarray(first, bool)
    known = np.isfinite(y) & np.isfinite(x)
    covariates = np.column_stack([np.ones(known.sum()), x[known]])
    try:
        design = two_groups.design(member[known], covariates)
    except ValueError:
        return Interval(math.nan, math.nan, math.nan), math.nan
    found = two_groups.compare(y[known][:, None], design)
    difference, error, _, dof, p = (float(one[0]) for one in found)
    half = error * float(stdtrit(dof, 0.975))
    return Interval(difference, difference - half, difference + half), p


def ks(first: ArrayLike, second: ArrayLike) -> Statistic:
    """Two-sample Kolmogorov-Smirnov test."""
    from scipy.stats import ks_2samp

    test = ks_2samp(_known(first), _known(second))
    return Statistic(float(test.statistic), float(test.pvalue))


def pearson(x: ArrayLike, y: ArrayLike) -> Interval:
    """Pearson r with Fisher's interval, shape (n,) each, one pair a person; ``nan`` below four or for constants."""
    from scipy.stats import pearsonr

    a, b = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 4 or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return Interval(math.nan, math.nan, math.nan)
    found = pearsonr(a, b)
    bounds = found.confidence_interval(0.95)
    return Interval(float(found.statistic), float(bounds.low), float(bounds.high))


def _known(values: ArrayLike) -> Array:
    array = np.asarray(values, float).ravel()
    return array[np.isfinite(array)]
