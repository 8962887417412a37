"""Welch's test with covariates against scipy and statsmodels, and its errors where groups vary differently."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import ttest_ind

from bids_brainage.stats import groups, two_groups, voxelwise

FEW = settings(max_examples=25)
SEED = st.integers(0, 2**32 - 1)


def people(rng, n, m, voxels=4, spread=(5.0, 10.0)):
    """Values of two groups that vary differently, who is of the first, and ages."""
    values = np.concatenate([rng.normal(0, spread[0], (n, voxels)), rng.normal(0, spread[1], (m, voxels))])
    return values, np.arange(n + m) < n, rng.uniform(40, 80, n + m)


@FEW
@given(SEED, st.integers(2, 12), st.integers(2, 12), st.sampled_from([0.0, 50.0, -1e6]))
def test_without_covariates_it_is_welch_s(seed, n, m, offset):
    values, first, _ = people(np.random.default_rng(seed), n, m)
    values += offset
    found = two_groups.compare(values, two_groups.design(first, np.ones((n + m, 1))))
    known = ttest_ind(values[first], values[~first], equal_var=False)
    for mine, other in ((found.t, known.statistic), (found.dof, known.df), (found.p, known.pvalue)):
        assert mine == pytest.approx(other, rel=1e-6)


@FEW
@given(SEED, st.integers(4, 20), st.integers(4, 20))
def test_with_covariates_it_is_least_squares_with_hc2_errors_in_any_order(seed, n, m):
    rng = np.random.default_rng(seed)
    values, first, age = people(rng, n, m)
    nuisance = np.column_stack([np.ones(n + m), age])
    found = two_groups.compare(values, two_groups.design(first, nuisance))
    for voxel, column in enumerate(values.T):
        known = sm.OLS(column, np.column_stack([nuisance, first])).fit(cov_type="HC2")
        assert found.difference[voxel] == pytest.approx(known.params[2], rel=1e-6, abs=1e-9)
        assert found.error[voxel] == pytest.approx(known.bse[2], rel=1e-6)
    order = rng.permutation(n + m)
    again = two_groups.compare(values[order], two_groups.design(first[order], nuisance[order]))
    assert again.t == pytest.approx(found.t, rel=1e-8)
    assert again.dof == pytest.approx(found.dof, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(60, 15), (15, 60), (60, 8), (30, 30)])
@pytest.mark.parametrize("spread", [(5.0, 5.0), (5.0, 10.0)])
def test_it_errs_as_often_as_it_says_whoever_varies_more(n, m, spread):
    values, first, age = people(np.random.default_rng(n + m), n, m, 8000, spread)
    design = two_groups.design(first, np.column_stack([np.ones(n + m), age + 8 * first]))
    assert (two_groups.compare(values, design).p <= 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_the_interval_with_age_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        values, first, age = people(rng, 60, 15, 1)
        found, _ = groups.age_adjusted(values[:, 0] + 0.3 * age, first, age)
        held += found.low < 0 < found.high
    assert 0.92 <= held / 400 <= 0.98


def test_who_alone_has_a_covariate_takes_no_part():
    rng = np.random.default_rng(1)
    values, first, age = people(rng, 10, 10)
    alone = np.arange(20) == 3
    nuisance = np.column_stack([np.ones(20), age])
    with_him = two_groups.compare(values, two_groups.design(first, np.column_stack([nuisance, alone])))
    without = two_groups.compare(values[~alone], two_groups.design(first[~alone], nuisance[~alone]))
    assert with_him.difference == pytest.approx(without.difference)
    assert with_him.error == pytest.approx(without.error)


@pytest.mark.parametrize(
    ("first", "nuisance", "words"),
    [
        ([1, 1, 0, 0, 0], np.column_stack([np.ones(5), [1, 1, 0, 0, 0]]), "do not tell"),
        ([1, 1, 0, 0], np.random.default_rng(0).normal(size=(4, 3)), "do not tell"),
        ([1, 0, 0, 0, 0], np.ones((5, 1)), "two people"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(first, nuisance, words):
    with pytest.raises(ValueError, match=words):
        two_groups.design(first, nuisance)


def test_what_does_not_vary_is_no_number():
    values = np.random.default_rng(4).normal(0, 1, (12, 3))
    values[:, 1] = 5.1
    found = two_groups.compare(values, two_groups.design(np.arange(12) % 2 == 0, np.ones((12, 1))))
    assert np.isnan(found.t).tolist() == [False, True, False]
    assert np.isnan(found.p).tolist() == [False, True, False]


@pytest.mark.parametrize("dof", [4.0, 9.5, 40.0, 500.0])
def test_the_score_is_as_rare_as_t(dof):
    t = np.array([0.5, 2.0, 4.0, 6.0])
    assert voxelwise.score(-t, np.full(4, dof)) == pytest.approx(-ndtri(two_groups.two_sided(t, dof) / 2), rel=0.01)


def test_the_corrected_p_holds_where_the_smaller_group_varies_more():
    """By one variance for both groups, 70 in 100 such studies would find something."""
    rng = np.random.default_rng(5)
    wrong = 0
    for seed in range(100):
        values, first, age = people(rng, 60, 15, 50)
        design = two_groups.design(first, np.column_stack([np.ones(75), age]))
        largest = voxelwise.max_statistic([values], design, permutations=199, seed=seed)
        found = two_groups.compare(values, design)
        wrong += np.nanmin(voxelwise.corrected_p(voxelwise.score(found.t, found.dof), largest)) <= 0.05
    assert wrong <= 13
