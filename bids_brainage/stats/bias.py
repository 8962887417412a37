"""Corrections of the age bias of brain age: fitted on controls, applied to all, cross-fitted for the controls.

A brain age predicted by regression is too high for the young and too low for the old. Each correction here is fitted on
people without disease who trained no model, and changes the gap (predicted minus chronological age) of everybody. All
of them but Cole's use the person's age, so a corrected brain age says nothing about how well a model predicts age.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Form = Literal["delange", "beheshti", "cole", "popescu", "extremes", "agelevel_z"]
Method = Literal["line", "tails", "levels", "median_offset", "none"]
Array = NDArray[np.float64]

FORMS: tuple[Form, ...] = get_args(Form)
OUTSIDE = "age_outside_correction_range"
MIN_CONTROLS = 15
MIN_SPAN = 5.0
TAIL_FRACTION = 0.05
MIN_TAIL = 10
MIN_LEVEL = 10
MIN_SLOPE = 0.1


@dataclass(frozen=True)
class Correction:
    """One fitted correction.

    Attributes
    ----------
    form : str
        One of :data:`FORMS`.
    method : str
        How it was fitted: ``line`` on all controls, ``tails`` (a line on the youngest and oldest 5 %), ``levels``
        (mean and SD by age), ``median_offset`` (too few controls for a line), or ``none`` (it cannot be applied).
    slope, intercept : float
        Of the line of the form; slope per year, intercept in years. A median offset is a line too: slope 1 (or 0
        where the line is one of the gap), intercept the median gap.
    n_controls : int
        People it was fitted on.
    age_min, age_max : float
        Youngest and oldest age among them, years.
    levels : tuple of (float, float, float)
        First age, mean gap and SD of the gap of each age level; for ``agelevel_z`` alone.
    reason : str
        Why the correction cannot be applied, or empty.
    """

    form: Form
    method: Method
    slope: float = math.nan
    intercept: float = math.nan
    n_controls: int = 0
    age_min: float = math.nan
    age_max: float = math.nan
    levels: tuple[tuple[float, float, float], ...] = ()
    reason: str = ""

    def apply(self, age: ArrayLike, predicted: ArrayLike) -> Array:
        """Corrected gap of each row, years (a z-score for ``agelevel_z``).

        Parameters
        ----------
        age, predicted : array, shape (n,)
            Chronological and predicted age, years.

        Returns
        -------
        array, shape (n,)
            ``nan`` where the age or the prediction is missing, or where :attr:`reason` says why not.
        """
        x, y = _pair(age, predicted)
        if self.method == "none":
            return np.full(x.shape, np.nan)
        if self.form == "agelevel_z":
            return self._z(x, y - x)
        if self.form == "cole":
            return (y - self.intercept) / self.slope - x
        if self.form == "beheshti":
            return (y - x) - (self.slope * x + self.intercept)
        if self.form == "popescu":
            return (y - x) - (self.slope * y + self.intercept)
        return y - (self.slope * x + self.intercept)

    def corrected_age(self, age: ArrayLike, predicted: ArrayLike) -> Array:
        """Corrected brain age in years: age plus corrected gap; Cole's form needs no age.

        Raises
        ------
        ValueError
            For ``agelevel_z``, whose result is a z-score and no age.
        """
        if self.form == "agelevel_z":
            raise ValueError("agelevel_z gives a z-score, not an age")
        x, y = _pair(age, predicted)
        if self.form == "cole" and self.method != "none":
            return (y - self.intercept) / self.slope
        return x + self.apply(x, y)

    def outside(self, age: ArrayLike) -> NDArray[np.bool_]:
        """Whether each age, shape (n,), lies outside the ages of the controls; ``False`` where it is missing."""
        x = np.asarray(age, dtype=float)
        return (x < self.age_min) | (x > self.age_max)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: ``None`` for what is not a number."""
        content = asdict(self) | {"levels": [list(level) for level in self.levels]}
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Correction:
        """Inverse of :meth:`to_dict`."""
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in content.items()}
        return cls(**values | {"levels": tuple(tuple(map(float, level)) for level in content.get("levels", ()))})

    def _z(self, x: Array, gap: Array) -> Array:
        starts, means, sds = np.asarray(self.levels).T
        level = np.clip(np.searchsorted(starts, np.nan_to_num(x), side="right") - 1, 0, len(starts) - 1)
        return (gap - means[level]) / sds[level]


class CrossFitted(NamedTuple):
    """A correction in which no control is judged by a fit that saw that person.

    ``gap`` is the corrected gap of each row, shape (n,); ``outside`` whether its age lies outside the controls' ages;
    ``fold`` the index into ``folds`` of the fit used for the row, or -1 for ``full``, the fit on all controls.
    """

    gap: Array
    outside: NDArray[np.bool_]
    fold: NDArray[np.int64]
    full: Correction
    folds: tuple[Correction, ...]

    def apply(self, age: ArrayLike, predicted: ArrayLike, fold: ArrayLike) -> Array:
        """Corrected gap of other rows, shape (n,), of the same people, given the fold of each."""
        x, y = _pair(age, predicted)
        which = np.asarray(fold)
        gap = np.full(x.shape, np.nan)
        for index, correction in ((-1, self.full), *enumerate(self.folds)):
            rows = which == index
            gap[rows] = correction.apply(x[rows], y[rows])
        return gap


def fit(
    age: ArrayLike,
    predicted: ArrayLike,
    *,
    form: Form = "delange",
    person: ArrayLike | None = None,
    method: Method | None = None,
) -> Correction:
    """Fit one form on controls; a person with several rows enters once, with the mean of age and prediction.

    Parameters
    ----------
    age, predicted : array, shape (n,)
        Chronological age x and predicted age y of controls, years; rows with a missing value are left out.
    form : str
        ``delange`` y = a x + b, gap y - (a x + b) (de Lange & Cole 2020, NeuroImage Clin 26:102229);
        ``beheshti`` g = a x + b, gap g - (a x + b) (Beheshti et al. 2019, NeuroImage Clin 24:102063);
        ``cole`` y = a x + b, brain age (y - b) / a (Cole et al. 2018, Mol Psychiatry 23:1385);
        ``popescu`` g = a y + b, gap g - (a y + b) (Popescu et al. 2021, Front Aging Neurosci 13:761954, eq. 8);
        ``extremes`` as ``delange`` on the youngest and oldest 5 % when these are at least 10 people each, else on all
        (Kim et al. 2025, npj Aging); ``agelevel_z`` (g - mean) / SD by age level (Zhang et al. 2023, NeuroImage Clin
        37:103319), where a level is one year, widened towards older ages until it holds 10 people.
    person : array, shape (n,), optional
        Who each row belongs to; default: each row is a person.
    method : str, optional
        Fixes what :func:`choose_method` would choose, so that all folds of a cross-fit are of one kind.

    Returns
    -------
    Correction
        With ``method`` ``none`` and a reason where it cannot be fitted.
    """
    if form not in FORMS:
        raise ValueError(f"unknown correction {form!r}; known are {', '.join(FORMS)}")
    x, y = _pair(age, predicted)
    known = np.isfinite(x) & np.isfinite(y)
    who = np.arange(len(x)) if person is None else np.asarray(person)
    x, y, who = x[known], y[known], who[known]
    if not len(x):
        return Correction(form, "none", reason="no control has both an age and a brain age")
    low, high = float(x.min()), float(x.max())
    x, y = _one_row_a_person(x, y, who)
    blank = Correction(form, method or choose_method(form, x), n_controls=len(x), age_min=low, age_max=high)
    return _fitted(blank, x, y)


def choose_method(form: Form, age: ArrayLike) -> Method:
    """How a form is fitted on controls of these ages, one a person, shape (n,).

    A line needs 15 people over 5 years; with less, the median gap is all that is taken off (the rule of
    ChristianGaser/BrainAGE).
    """
    x = np.asarray(age, dtype=float)
    if form == "agelevel_z":
        return "levels" if len(x) >= MIN_CONTROLS else "none"
    if len(x) < MIN_CONTROLS or np.ptp(x) < MIN_SPAN:
        return "median_offset"
    return "tails" if form == "extremes" and _tail_size(len(x)) >= MIN_TAIL else "line"


def cross_fitted(
    age: ArrayLike,
    predicted: ArrayLike,
    control: ArrayLike,
    person: ArrayLike,
    *,
    form: Form = "delange",
    folds: int = 10,
    seed: int = 0,
) -> CrossFitted:
    """Correct everybody by controls, each control by a fit that excluded that person.

    Parameters
    ----------
    age, predicted : array, shape (n,)
        Chronological and predicted age, years; may hold ``nan``.
    control : array of bool, shape (n,)
        Rows on which the correction may be fitted.
    person : array, shape (n,)
        Who each row belongs to. Folds are of people: all rows of a person with any control row are corrected by the
        fit without that person; all other people by the fit on all controls.
    form : str
        As in :func:`fit`.
    folds : int
        Number of folds; at most one a person.
    seed : int
        Of the random deal of people to folds. The deal depends on who the controls are, not on the order of rows.
    """
    x, y = _pair(age, predicted)
    who = np.unique(np.asarray(person), return_inverse=True)[1]
    usable = np.asarray(control, dtype=bool) & np.isfinite(x) & np.isfinite(y)
    people = np.unique(who[usable])
    full = fit(x[usable], y[usable], form=form, person=who[usable])
    count = max(min(folds, len(people)), 1)
    deal = np.random.default_rng(seed).permutation(np.arange(len(people)) % count)
    fold_of_person = np.full(who.max(initial=-1) + 1, -1)
    fold_of_person[people] = deal
    fold = fold_of_person[who]
    fits = []
    for index in range(count if len(people) else 0):
        rows = usable & (fold != index)
        fits.append(fit(x[rows], y[rows], form=form, person=who[rows], method=full.method if rows.any() else None))
    blank = CrossFitted(np.empty(0), full.outside(x), fold, full, tuple(fits))
    return blank._replace(gap=blank.apply(x, y, fold))


def _pair(age: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(age, dtype=float), np.asarray(predicted, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"{x.shape} ages for {y.shape} predictions; give one age a prediction")
    return x, y


def _one_row_a_person(x: Array, y: Array, who: NDArray[Any]) -> tuple[Array, Array]:
    people, index, count = np.unique(who, return_inverse=True, return_counts=True)
    if len(people) == len(x):
        return x, y
    return np.bincount(index, x) / count, np.bincount(index, y) / count


def _tail_size(n: int) -> int:
    return max(int(TAIL_FRACTION * n + 0.5), 1)


def _tails(x: Array, y: Array) -> tuple[Array, Array]:
    """The youngest and the oldest people, with all who are as old as the last of them: order decides nothing."""
    size, ordered = _tail_size(len(x)), np.sort(x)
    ends = (x <= ordered[size - 1]) | (x >= ordered[-size])
    return x[ends], y[ends]


def _fitted(blank: Correction, x: Array, y: Array) -> Correction:
    """The coefficients, by the method that was chosen."""
    if blank.method == "none":
        return replace(blank, reason=f"{len(x)} controls; age levels need at least {MIN_CONTROLS}")
    if blank.method == "levels":
        return _fit_levels(blank, x, y - x)
    if blank.method == "median_offset":
        slope = 0.0 if blank.form in ("beheshti", "popescu") else 1.0
        return replace(blank, slope=slope, intercept=float(np.median(y - x)))
    if blank.method == "tails":
        x, y = _tails(x, y)
    return _fit_line(blank, x, y)


def _fit_line(blank: Correction, x: Array, y: Array) -> Correction:
    """Least squares for the line of the form; refuses what a later division or extrapolation would turn into noise."""
    predictor, response = {"beheshti": (x, y - x), "popescu": (y, y - x)}.get(blank.form, (x, y))
    deviation = predictor - predictor.mean()
    variance = float(deviation @ deviation)
    if variance <= 1e-12 * max(float(predictor @ predictor), 1.0):
        what = "predictions" if blank.form == "popescu" else "ages"
        return replace(blank, method="none", reason=f"the {what} of the controls are all the same; no line fits")
    slope = float(deviation @ response) / variance
    intercept = float(response.mean() - slope * predictor.mean())
    line = replace(blank, slope=slope, intercept=intercept)
    if blank.form == "cole" and slope < MIN_SLOPE:
        return replace(line, method="none", reason=f"slope {slope:.3f} of predicted on true age is below {MIN_SLOPE}")
    return line


def _fit_levels(blank: Correction, x: Array, gap: Array) -> Correction:
    """Mean and SD of the gap by year of age, widened until it holds enough people; a short rest joins the last."""
    order = np.argsort(x, kind="stable")
    years, gap = np.floor(x[order]), gap[order]
    changes = np.concatenate([[0], np.flatnonzero(np.diff(years)) + 1])
    starts = [0]
    for change in changes:
        if change - starts[-1] >= MIN_LEVEL:
            starts.append(int(change))
    if len(starts) > 1 and len(gap) - starts[-1] < MIN_LEVEL:
        starts.pop()
    groups = np.split(gap, starts[1:])
    levels = tuple(
        (float(years[first]), float(group.mean()), float(group.std(ddof=1)))
        for first, group in zip(starts, groups, strict=True)
    )
    if min(len(group) for group in groups) < 2 or min(sd for _, _, sd in levels) < 1e-9:
        return replace(blank, method="none", reason="the gaps of an age level do not vary; no z-score exists")
    return replace(blank, levels=levels)
