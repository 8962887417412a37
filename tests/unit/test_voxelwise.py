"""Voxelwise statistics against scipy, statsmodels and pingouin, and what they must hold whatever the data."""

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from bids_brainage.stats import two_groups, voxelwise
from bids_brainage.stats.groups import cohen_d as one_d

SEED = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25)


def people(seed, n, voxels=4, offset=0.0):
    rng = np.random.default_rng(seed)
    return offset + rng.normal(0, rng.uniform(0.1, 9, voxels), (n, voxels))


@FEW
@given(SEED, st.integers(2, 12), st.integers(2, 12), st.sampled_from([0.0, 50.0, -1e7]))
def test_welch_is_scipy_s(seed, n, m, offset):
    a, b = people(seed, n, offset=offset), people(seed + 1, m, offset=offset) + 1
    found = voxelwise.welch(voxelwise.moments(a), voxelwise.moments(b))
    known = ttest_ind(a, b, equal_var=False)
    for mine, other in zip(found, (known.statistic, known.df, known.pvalue), strict=True):
        assert mine == pytest.approx(other, rel=1e-6)


@FEW
@given(SEED, st.integers(3, 9), st.integers(3, 9))
def test_cohen_d_is_that_of_the_tables(seed, n, m):
    a, b = people(seed, n), people(seed + 1, m)
    d = voxelwise.cohen_d(voxelwise.moments(a), voxelwise.moments(b))
    assert d == pytest.approx([one_d(x, y).value for x, y in zip(a.T, b.T, strict=True)])
    g = pingouin.compute_effsize(a[:, 0], b[:, 0], eftype="hedges")  # by the approximation 1 - 3 / (4 m - 1)
    assert d[0] * voxelwise.hedges_factor(n + m - 2) == pytest.approx(g, rel=0.01)


def test_hedges_factor_makes_d_unbiased():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, (4, 200_000)), rng.normal(0, 1, (4, 200_000))
    d = voxelwise.cohen_d(voxelwise.moments(a), voxelwise.moments(b))
    assert d.mean() > 1.1
    assert d.mean() * voxelwise.hedges_factor(6) == pytest.approx(1, abs=0.01)


@settings(max_examples=6)
@given(SEED, st.integers(5, 10), st.integers(2, 4))
def test_icc_is_pingouin_s(seed, n, k):
    rng = np.random.default_rng(seed)
    data = 60 + rng.normal(0, 5, (n, 1, 3)) + rng.normal(0, 2, (1, k, 3)) + rng.normal(0, 3, (n, k, 3))
    found = voxelwise.icc(data)
    who, session = np.indices((n, k)).reshape(2, -1)
    for voxel in range(3):
        long = pd.DataFrame({"who": who, "session": session, "value": data[..., voxel].ravel()})
        table = pingouin.intraclass_corr(data=long, targets="who", raters="session", ratings="value")
        value = dict(zip(table["Type"].str.upper(), table["ICC"], strict=True))
        assert found.agreement[voxel] == pytest.approx(value.get("ICC2", value.get("ICC(A,1)")), abs=1e-6)
        assert found.consistency[voxel] == pytest.approx(value.get("ICC3", value.get("ICC(C,1)")), abs=1e-6)


def test_a_shift_between_sessions_lowers_agreement_alone():
    data = np.random.default_rng(1).normal(0, 5, (20, 1, 2)) + np.array([0, 10])[None, :, None]
    found = voxelwise.icc(data)
    assert found.consistency == pytest.approx(1)
    assert (found.agreement < 0.6).all()


def test_icc_refuses_people_with_fewer_sessions():
    with pytest.raises(ValueError, match="person 2 has 1 sessions"):
        voxelwise.icc([np.zeros((2, 3)), np.zeros((1, 3))])
    with pytest.raises(ValueError, match="two people"):
        voxelwise.icc([np.zeros((2, 3))])


def scores(design, y):
    found = two_groups.compare(y, design)
    return voxelwise.score(found.t, found.dof)


@pytest.mark.parametrize("width", [3, 7, 100])
def test_permutation_begins_with_the_data_and_is_freedman_and_lane_s(width):
    rng = np.random.default_rng(2)
    n, tested = 24, np.arange(24) % 2
    nuisance = np.column_stack([np.ones(n), rng.uniform(20, 80, n)])
    y = 40 + rng.normal(0, 5, (n, 11)) + 0.2 * nuisance[:, 1:]
    chunks = [y[:, i : i + width] for i in range(0, 11, width)]
    design = two_groups.design(tested, nuisance)
    found = voxelwise.max_statistic(chunks, design, permutations=20, seed=5)
    explained = nuisance @ np.linalg.lstsq(nuisance, y, rcond=None)[0]
    draws = np.random.default_rng(5)
    orders = [np.arange(n), *(draws.permutation(n) for _ in range(20))]
    for order, value in zip(orders, found, strict=True):
        # t does not depend on which side of the model the order is undone
        inverse = np.argsort(order)
        known = scores(design, explained + (y - explained)[inverse]).max()
        assert value == pytest.approx(known, rel=1e-4)


def test_permutation_keeps_the_family_wise_error_and_finds_what_is_there():
    rng = np.random.default_rng(3)
    tested, nuisance = np.arange(30) % 2, np.column_stack([np.ones(30), rng.uniform(20, 80, 30)])
    design = two_groups.design(tested, nuisance)
    wrong = 0
    for seed in range(200):
        y = rng.normal(0, 1, (30, 1)) + rng.normal(0, 1, (30, 40))  # correlated voxels
        largest = voxelwise.max_statistic([y], design, permutations=99, seed=seed)
        wrong += voxelwise.corrected_p([largest[0]], largest)[0] <= 0.05
    assert 2 <= wrong <= 20  # of 200, 10 are expected
    y[:, 7] += 6 * tested
    largest = voxelwise.max_statistic([y], design, permutations=199)
    p = voxelwise.corrected_p(scores(design, y), largest)
    assert p[7] == pytest.approx(1 / 200)
    assert (np.delete(p, 7) > 0.05).all()


def test_voxels_that_do_not_vary_are_no_number_and_no_finding():
    y = np.random.default_rng(4).normal(0, 1, (12, 3))
    y[:, 1] = 5.1
    a, b = voxelwise.moments(y[::2]), voxelwise.moments(y[1::2])
    assert np.isnan([voxelwise.welch(a, b).t[1], voxelwise.cohen_d(a, b)[1]]).all()
    design = two_groups.design(np.arange(12) % 2, np.ones((12, 1)))
    assert np.isnan(scores(design, y)).tolist() == [False, True, False]
    largest = voxelwise.max_statistic([y], design, permutations=9)
    assert np.isfinite(largest).all()
    assert np.isnan(voxelwise.corrected_p([np.nan, 1.0], largest)).tolist() == [True, False]


def test_no_person_is_refused():
    with pytest.raises(ValueError, match="no person"):
        voxelwise.moments([])
    with pytest.raises(ValueError, match="two people"):
        voxelwise.welch(voxelwise.moments([np.ones(2)]), voxelwise.moments([np.ones(2)]))


@pytest.mark.parametrize(("n", "least"), [(3, 2 / 20), (4, 2 / 70)])
def test_no_p_is_below_what_the_orders_of_few_people_can_give(n, least):
    """Whatever the effect, the same split of people and its mirror image must be counted each time they are drawn."""
    design = two_groups.design(np.repeat([True, False], n), np.ones((2 * n, 1)))
    for seed in range(4):
        values = 60 + np.random.default_rng(seed).normal(0, 1, (2 * n, 2000))
        values[:n, 0] = 1000 + 1e-3 * values[:n, 0]
        values[n:, 0] *= 1e-3
        largest = voxelwise.max_statistic([values], design, permutations=1000, seed=seed)
        found = np.nanmin(voxelwise.corrected_p(scores(design, values), largest))
        assert found > 0.6 * least


def test_the_threshold_is_where_the_corrected_p_is_alpha():
    largest = np.random.default_rng(0).permutation(np.linspace(2, 6, 1001))
    found = voxelwise.threshold(largest, 0.05)
    assert voxelwise.corrected_p(found, largest) == pytest.approx(50 / 1001)
    assert voxelwise.corrected_p(found - 0.005, largest) > 0.05
    assert voxelwise.threshold(largest[:10], 0.05) == np.inf
    tied = np.repeat([5.0, 4.0, 3.0], [60, 40, 901])
    assert voxelwise.threshold(tied, 0.05) == np.inf  # 60 of 1001 reach the largest
    assert voxelwise.threshold(np.repeat([6.0, 5.0, 3.0], [10, 60, 931]), 0.05) == 6
