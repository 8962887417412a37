"""Bias corrections: planted lines are found, identities between forms hold, and no control judges himself."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.stats import bias
from bids_brainage.stats.bias import FORMS, Correction, cross_fitted, fit

STEADY = settings(max_examples=40)

slopes = st.floats(0.2, 1.5)
intercepts = st.floats(-30, 30)
seeds = st.integers(0, 2**31)


def cohort(seed: int, n: int = 80, slope: float = 0.7, intercept: float = 15.0, noise: float = 4.0):
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 85, n)
    return age, slope * age + intercept + noise * rng.standard_normal(n)


@STEADY
@given(seeds, slopes, intercepts)
def test_exact_lines_are_recovered(seed, slope, intercept):
    age, predicted = cohort(seed, slope=slope, intercept=intercept, noise=0)
    for form in ("delange", "cole", "extremes"):
        found = fit(age, predicted, form=form)
        assert found.slope == pytest.approx(slope, abs=1e-8)
        assert found.intercept == pytest.approx(intercept, abs=1e-6)
    beheshti = fit(age, predicted, form="beheshti")
    assert (beheshti.slope, beheshti.intercept) == pytest.approx((slope - 1, intercept), abs=1e-6)


@STEADY
@given(seeds, st.floats(-0.8, 0.5), intercepts)
def test_popescu_recovers_its_own_line(seed, slope, intercept):
    """With g = a y + b exactly, age is y - g: the fit on predicted age finds a and b and leaves no gap."""
    predicted = np.random.default_rng(seed).uniform(20, 85, 60)
    age = predicted - (slope * predicted + intercept)
    found = fit(age, predicted, form="popescu")
    if np.ptp(age) >= bias.MIN_SPAN:
        assert (found.slope, found.intercept) == pytest.approx((slope, intercept), abs=1e-6)
        assert found.apply(age, predicted) == pytest.approx(np.zeros(60), abs=1e-6)


@STEADY
@given(seeds, slopes, intercepts)
def test_beheshti_is_delange_and_cole_is_delange_over_slope(seed, slope, intercept):
    age, predicted = cohort(seed, slope=slope, intercept=intercept)
    fits = {form: fit(age, predicted, form=form) for form in ("delange", "beheshti", "cole")}
    new_age, new_predicted = cohort(seed + 1, n=30)
    gaps = {form: one.apply(new_age, new_predicted) for form, one in fits.items()}
    assert gaps["beheshti"] == pytest.approx(gaps["delange"], abs=1e-8)
    if fits["cole"].method == "line":
        assert gaps["cole"] == pytest.approx(gaps["delange"] / fits["delange"].slope, abs=1e-7)


@STEADY
@given(seeds, slopes, intercepts)
def test_corrected_gap_of_the_fitted_people_is_zero_on_average_and_unrelated_to_age(seed, slope, intercept):
    age, predicted = cohort(seed, slope=slope, intercept=intercept)
    gap = fit(age, predicted).apply(age, predicted)
    assert gap.mean() == pytest.approx(0, abs=1e-8)
    assert np.corrcoef(gap, age)[0, 1] == pytest.approx(0, abs=1e-8)


def test_popescu_leaves_a_dependence_on_age():
    age, predicted = cohort(0, n=2000, noise=8)
    gap = fit(age, predicted, form="popescu").apply(age, predicted)
    assert abs(np.corrcoef(gap, age)[0, 1]) > 0.3


def test_hand_computed_example():
    age = np.arange(20.0, 36.0)
    predicted = 0.5 * age + 15
    found = fit(age, predicted)
    assert (found.slope, found.intercept, found.n_controls) == pytest.approx((0.5, 15, 16))
    assert found.apply([40.0], [38.0]) == pytest.approx([3.0])
    assert found.corrected_age([40.0], [38.0]) == pytest.approx([43.0])
    assert fit(age, predicted, form="cole").corrected_age([np.nan], [38.0]) == pytest.approx([46.0])


@STEADY
@given(seeds, st.floats(-5, 5))
def test_a_shift_of_all_predictions_changes_no_corrected_gap(seed, shift):
    age, predicted = cohort(seed)
    for form in ("delange", "beheshti", "cole", "popescu", "extremes", "agelevel_z"):
        before, after = (fit(age, p, form=form).apply(age, p) for p in (predicted, predicted + shift))
        assert after == pytest.approx(before, abs=1e-6)


@STEADY
@given(seeds)
def test_order_of_people_does_not_matter(seed):
    age, predicted = cohort(seed)
    person = np.array([f"sub-{i:03d}" for i in range(80)])
    control = np.arange(80) % 3 > 0
    order = np.random.default_rng(seed).permutation(80)
    for form in FORMS:
        straight = cross_fitted(age, predicted, control, person, form=form)
        shuffled = cross_fitted(age[order], predicted[order], control[order], person[order], form=form)
        assert shuffled.gap == pytest.approx(straight.gap[order], abs=1e-8)


@STEADY
@given(seeds, st.sampled_from(FORMS), st.integers(0, 39))
def test_own_values_never_enter_own_correction(seed, form, changed):
    """Changing all rows of a control changes the fit of others only: his own correction stays the same function."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(40), 2)
    age, predicted = cohort(seed)
    control = person < 30
    other = predicted.copy()
    other[person == changed] += rng.normal(0, 50)
    first, second = (cross_fitted(age, p, control, person, form=form) for p in (predicted, other))
    own = person == changed
    probe_age, probe = np.full(own.sum(), 50.0), np.full(own.sum(), 55.0)
    before, after = (made.apply(probe_age, probe, made.fold[own]) for made in (first, second))
    assert after == pytest.approx(before, abs=1e-9, nan_ok=True)
    assert np.isfinite(before).all() or first.full.reason


@STEADY
@given(seeds)
def test_all_sessions_of_a_person_share_a_fold_and_patients_get_the_full_fit(seed):
    person = np.random.default_rng(seed).integers(0, 30, 80)
    age, predicted = cohort(seed)
    control = person < 20
    made = cross_fitted(age, predicted, control, person)
    assert all(len(set(made.fold[person == who])) == 1 for who in set(person.tolist()))
    assert (made.fold[~control] == -1).all()
    assert (made.fold[control] >= 0).all()
    assert made.gap[~control] == pytest.approx(made.full.apply(age, predicted)[~control])


def test_a_converter_is_not_judged_by_her_own_control_session():
    age, predicted = cohort(3, n=40)
    person = np.append(np.arange(39), 0)
    control = np.ones(40, dtype=bool)
    control[-1] = False
    made = cross_fitted(age, predicted, control, person)
    assert made.fold[-1] == made.fold[0] >= 0


def test_cross_fit_is_honest_where_in_sample_flatters():
    age, predicted = cohort(5, n=20, noise=10)
    everyone, person = np.ones(20, dtype=bool), np.arange(20)
    inside = fit(age, predicted).apply(age, predicted)
    outside = cross_fitted(age, predicted, everyone, person).gap
    assert outside.std() > inside.std()


@STEADY
@given(st.integers(1, 14), seeds)
def test_few_controls_get_a_median_offset(n, seed):
    age, predicted = cohort(seed, n=n)
    for form in ("delange", "beheshti", "cole", "popescu", "extremes"):
        found = fit(age, predicted, form=form)
        assert found.method == "median_offset"
        assert found.apply(age, predicted) == pytest.approx(predicted - age - np.median(predicted - age), abs=1e-9)


def test_a_narrow_range_gets_a_median_offset_and_the_folds_follow():
    age, predicted = cohort(1, n=100)
    age = 60 + age % 4
    made = cross_fitted(age, predicted, np.ones(100, dtype=bool), np.arange(100))
    assert {made.full.method, *(one.method for one in made.folds)} == {"median_offset"}


def test_folds_use_the_kind_of_fit_that_all_controls_allow():
    age, predicted = cohort(1, n=15)
    made = cross_fitted(age, predicted, np.ones(15, dtype=bool), np.arange(15))
    assert {made.full.method, *(one.method for one in made.folds)} == {"line"}
    assert all(one.n_controls < 15 for one in made.folds)


def test_extremes_uses_five_percent_tails_only_when_they_hold_ten_people():
    age = np.linspace(20, 80, 400)
    predicted = np.where((age < 30) | (age > 70), 0.5 * age + 20, 99.0)
    tails = fit(age, predicted, form="extremes")
    assert (tails.method, tails.slope, tails.intercept) == ("tails", pytest.approx(0.5), pytest.approx(20))
    few = fit(age[::4], predicted[::4], form="extremes")
    assert few.method == "line"
    assert few.slope == pytest.approx(fit(age[::4], predicted[::4]).slope)


def test_age_levels_give_standard_scores_in_each_level():
    age, predicted = cohort(2, n=3000, noise=5)
    found = fit(age, predicted, form="agelevel_z")
    z = found.apply(age, predicted)
    starts = [start for start, _, _ in found.levels]
    level = np.searchsorted(starts, age, side="right") - 1
    for i in range(len(starts)):
        assert (level == i).sum() >= bias.MIN_LEVEL
        assert z[level == i].mean() == pytest.approx(0, abs=1e-9)
        assert z[level == i].std(ddof=1) == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match="z-score"):
        found.corrected_age(age, predicted)


def test_age_levels_need_fifteen_controls_and_varying_gaps():
    age, predicted = cohort(2, n=14)
    assert "14 controls" in fit(age, predicted, form="agelevel_z").reason
    assert "do not vary" in fit(np.arange(20, 60.0), np.arange(20, 60.0), form="agelevel_z").reason


def test_cole_refuses_a_slope_near_zero():
    age, predicted = cohort(4, slope=0.01, intercept=50, noise=0.1)
    found = fit(age, predicted, form="cole")
    assert found.method == "none"
    assert "slope" in found.reason
    assert np.isnan(found.apply(age, predicted)).all()
    assert np.isnan(found.corrected_age(age, predicted)).all()
    assert np.isfinite(fit(age, predicted).apply(age, predicted)).all()


def test_popescu_refuses_constant_predictions():
    age, _ = cohort(4)
    assert "predictions" in fit(age, np.full(80, 50.0), form="popescu").reason


def test_missing_ages_stay_missing_and_change_nothing():
    age, predicted = cohort(6)
    person, control = np.arange(82), np.ones(82, dtype=bool)
    padded_age, padded = np.append(age, [np.nan, 50]), np.append(predicted, [60, np.nan])
    for form in FORMS:
        made = cross_fitted(padded_age, padded, control, person, form=form)
        assert np.isnan(made.gap[-2:]).all()
        assert not made.outside[-2:].any()
        assert made.full == fit(age, predicted, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_no_controls_give_a_reason_and_no_number(form):
    age, predicted = cohort(6)
    made = cross_fitted(age, predicted, np.zeros(80, dtype=bool), np.arange(80), form=form)
    assert np.isnan(made.gap).all()
    assert "no control" in made.full.reason
    alone = cross_fitted(age, predicted, np.arange(80) == 0, np.arange(80), form="delange")
    assert math.isnan(alone.gap[0])
    assert np.isfinite(alone.gap[1:]).all()


def test_nobody_at_all():
    made = cross_fitted([], [], [], [])
    assert made.gap.shape == (0,)
    assert made.full.method == "none"


def test_flag_outside_the_ages_of_the_controls():
    age, predicted = cohort(7)
    control = (age > 40) & (age < 70)
    made = cross_fitted(age, predicted, control, np.arange(80))
    assert (made.outside == ~((age >= age[control].min()) & (age <= age[control].max()))).all()
    assert made.outside.any()


def test_a_person_scanned_often_counts_once():
    age, predicted = cohort(8, n=30)
    person = np.concatenate([np.arange(30), np.zeros(500, dtype=int)])
    many = fit(np.append(age, np.full(500, age[0])), np.append(predicted, np.full(500, predicted[0])), person=person)
    once = fit(age, predicted)
    assert many.n_controls == 30
    assert (many.slope, many.intercept) == pytest.approx((once.slope, once.intercept))


@STEADY
@given(seeds, st.sampled_from(FORMS), st.integers(0, 300))
def test_json_round_trip(seed, form, n):
    age, predicted = cohort(seed, n=n)
    found = fit(age, predicted, form=form)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = Correction.from_dict(content)
    assert again.to_dict() == found.to_dict()
    assert again.apply(age, predicted) == pytest.approx(found.apply(age, predicted), nan_ok=True)


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="unknown correction"):
        fit([1.0], [2.0], form="magic")
    with pytest.raises(ValueError, match="one age a prediction"):
        fit([1.0, 2.0], [2.0])


def test_large_cohort_recovers_planted_line_within_its_error():
    age, predicted = cohort(9, n=100_000, slope=0.8, intercept=9, noise=6)
    made = cross_fitted(age, predicted, np.ones(100_000, dtype=bool), np.arange(100_000))
    error = 6 / (age.std() * np.sqrt(100_000))
    assert made.full.slope == pytest.approx(0.8, abs=5 * error)
    assert abs(np.corrcoef(made.gap, age)[0, 1]) < 1e-3


def test_people_of_one_age_are_in_a_tail_together_whatever_their_order():
    rng = np.random.default_rng(0)
    age = rng.integers(45, 80, 400).astype(float)
    predicted = age + rng.normal(0, 6, 400)
    straight = fit(age, predicted, form="extremes")
    assert straight.method == "tails"
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(400)
        again = fit(age[order], predicted[order], form="extremes")
        assert (again.slope, again.intercept) == pytest.approx((straight.slope, straight.intercept))
