"""Kernel densities: the likelihood of scikit-learn, moments that hold, and draws that are what they are asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from bids_brainage.cohort import density

MEAN, SD = 500.0, 40.0


def people(n=300, d=6, seed=0):
    """Volumes that depend on the age, which comes last."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(40, 80, n)
    mix = np.eye(d - 1) + 0.4
    return np.column_stack([MEAN + 3 * (age - 60)[:, None] + SD * rng.standard_normal((n, d - 1)) @ mix, age])


@settings(max_examples=25)
@given(st.integers(3, 60), st.integers(1, 8), st.floats(0.2, 2), st.integers(0, 99))
def test_the_published_likelihood_is_that_of_scikit_learn(n, d, bandwidth, seed):
    rng = np.random.default_rng(seed)
    table, others = rng.normal(10, 3, (n, d)), rng.normal(10, 5, (17, d))
    made = density.fit(table, bandwidth, "published")
    reference = KernelDensity(bandwidth=bandwidth).fit(made.z(table)).score_samples(made.z(others))
    np.testing.assert_allclose(density.log_likelihood(made, others), reference, rtol=1e-6)


def test_the_likelihood_is_that_of_scikit_learn_in_146_dimensions():
    rng = np.random.default_rng(0)
    table, others = rng.normal(10, 3, (300, 146)), rng.normal(10, 3, (50, 146))
    made = density.fit(table, 0.5, "published")
    reference = KernelDensity(bandwidth=0.5, leaf_size=300).fit(made.centres).score_samples(made.z(others))
    np.testing.assert_allclose(density.log_likelihood(made, others), reference, rtol=1e-6)


def test_the_shrunken_likelihood_is_that_of_its_definition():
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal

    table, others = people(40), people(11, seed=1)
    made = density.fit(table, 0.7)
    parts = [
        multivariate_normal(made.shrink * c, made.variance * made.shape).logpdf(made.z(others)) for c in made.centres
    ]
    np.testing.assert_allclose(density.log_likelihood(made, others), logsumexp(parts, axis=0) - np.log(40), rtol=1e-9)


def test_the_search_chooses_as_scikit_learn_does():
    table = people(200, 5)
    folds = density.split(200, 5, seed=3)
    found = density.search(table, kernel="published", folds=folds)
    z = (table - table.mean(axis=0)) / table.std(axis=0)
    parts = [(np.setdiff1d(np.arange(200), part), part) for part in folds]
    grid = GridSearchCV(KernelDensity(), {"bandwidth": density.BANDWIDTHS}, cv=parts).fit(z)
    assert found.best == grid.best_params_["bandwidth"]
    np.testing.assert_allclose(np.array(found.scores) * 40, grid.cv_results_["mean_test_score"], rtol=1e-9)


def test_a_bandwidth_at_the_edge_is_reported_and_one_inside_is_not():
    table, folds = people(200, 5), density.split(200, 5, seed=3)
    assert density.search(table, (5.0, 6.0), kernel="published", folds=folds).at_edge
    assert not density.search(table, (0.01, 0.4, 6.0), kernel="published", folds=folds).at_edge


def test_left_out_people_are_not_seen_by_the_shrunken_search():
    table, folds = people(60, 5), density.split(60, 3, seed=0)
    found = density.search(table, (0.7,), folds=folds)
    own = [
        density.log_likelihood(made, table[part]) - np.log(made.scale).sum()
        for part in folds
        for made in [density.fit(np.delete(table, part, axis=0), 0.7)]
    ]
    assert found.scores[0] == pytest.approx(np.concatenate(own).mean())


@pytest.mark.parametrize("kernel", density.KERNELS)
def test_moments_are_those_of_the_definition(kernel):
    table = people(400)
    made = replace(density.fit(table, 0.8, kernel), least=np.zeros(6))
    z = made.z(density.draw(made, np.empty((200_000, 0)), np.random.default_rng(0)))
    r = np.corrcoef(table.T)
    asked = r + 0.64 * np.eye(6) if kernel == "published" else r - made.variance * (r - made.shape)
    np.testing.assert_allclose(np.cov(z.T), asked, atol=0.02)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.02)
    if kernel == "shrunken":
        np.testing.assert_allclose(np.diag(made.shape), 1, rtol=1e-12)
        np.testing.assert_allclose(asked, r, atol=0.02)


@pytest.mark.parametrize("kernel", density.KERNELS)
def test_a_conditional_draw_is_the_joint_one_at_that_age(kernel):
    made = replace(density.fit(people(50, 3), 0.9, kernel), least=np.zeros(3))
    rng = np.random.default_rng(1)
    joint = density.draw(made, np.empty((400_000, 0)), rng)
    near = joint[np.abs(joint[:, -1] - 67) < 0.25]
    drawn = density.draw(made, np.full((20_000, 1), 67.0), rng)
    assert set(drawn[:, -1]) == {67.0}
    for feature in range(2):
        assert kstest(drawn[:, feature], near[:, feature]).pvalue > 1e-3
    assert np.corrcoef(drawn[:, :2].T)[0, 1] == pytest.approx(np.corrcoef(near[:, :2].T)[0, 1], abs=0.05)


def test_two_features_given_are_kept_and_steer_the_rest():
    table = people(300, 4)
    made = density.fit(table, 0.7)
    rows = np.column_stack([np.repeat([420.0, 580.0], 500), np.full(1000, 60.0)])
    drawn = density.draw(made, rows, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn[:, -2:], rows)
    assert drawn[500:, 0].mean() - drawn[:500, 0].mean() > 20


@settings(max_examples=50)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e4))
def test_what_is_folded_is_positive_in_order_and_what_was_seen_stays(value, least):
    low, high = density.positive(np.array([[value], [value + 1]]), np.array([least]))[:, 0]
    assert 0 < low <= high
    assert low == value or value < least
    assert low <= least or low == value


def test_volumes_near_zero_are_drawn_positive():
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.lognormal(3, 1, 200), rng.uniform(40, 80, 200)])
    for kernel in density.KERNELS:
        drawn = density.draw(density.fit(table, 0.7, kernel), np.full((5000, 1), 50.0), rng)
        assert (drawn > 0).all()
        assert np.isfinite(drawn).all()


def test_a_feature_that_does_not_vary_is_refused():
    table = people(30, 3)
    table[:, 0] = 1
    with pytest.raises(ValueError, match="vary"):
        density.fit(table, 0.7)


def test_folds_hold_everybody_once():
    parts = density.split(103, 5, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(103))
    assert {len(part) for part in parts} == {20, 21}


@pytest.mark.parametrize("rounds", [0, 1, 64])
def test_people_are_chosen_by_their_weight_at_that_age_however_many_proposals(monkeypatch, rounds):
    monkeypatch.setattr(density, "ROUNDS", rounds)
    made = density.fit(people(12, 2), 0.5, "published")
    target = np.full((60_000, 1), 1.8)
    chosen = density._choose(made, target, np.random.default_rng(0))
    weights = np.exp(-((1.8 - made.centres[:, -1]) ** 2) / (2 * made.variance))
    np.testing.assert_allclose(np.bincount(chosen, minlength=12) / 60_000, weights / weights.sum(), atol=0.01)


@pytest.mark.parametrize("kernel", density.KERNELS)
def test_an_empty_region_in_one_person_makes_no_negative_volume(kernel):
    rng = np.random.default_rng(1)
    table = np.column_stack([rng.normal(2000, 500, 200), rng.uniform(40, 80, 200)])
    table[3, 0] = 0
    drawn = density.draw(density.fit(table, 0.7, kernel), np.full((20_000, 1), 50.0), rng)
    assert (drawn[:, 0] > 0).all()
