"""Group statistics against published examples, and what must not depend on scale, order or number of scans."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.stats import groups

STEADY = settings(max_examples=25)
seeds = st.integers(0, 2**31)

# Shrout & Fleiss (1979), Psychological Bulletin 86:420, table 2: six targets, four judges; ICC(2,1) = 0.29.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def two(seed: int, n: int = 30, m: int = 25, shift: float = 1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.normal(0, 2, m)


def test_icc_of_shrout_and_fleiss():
    found = groups.icc(SHROUT_FLEISS)
    assert found.value == pytest.approx(0.29, abs=0.005)
    assert (found.low, found.high) == pytest.approx((0.02, 0.76), abs=0.006)


def test_icc_of_wine_judges_as_in_the_manual_of_pingouin():
    import pingouin

    table = pingouin.read_dataset("icc").pivot(index="Wine", columns="Judge", values="Scores")
    found = groups.icc(table.to_numpy())
    assert found.value == pytest.approx(0.728, abs=5e-4)
    assert (found.low, found.high) == (0.43, 0.93)


def test_icc_sees_a_constant_offset_between_measurements():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 5, 40)
    same = true[:, None] + rng.normal(0, 0.5, (40, 2))
    assert groups.icc(same).value > 0.97
    assert groups.icc(same + np.array([0, 10])).value < 0.7


def test_welch_t_on_a_textbook_sample():
    """Student's sleep data (1908): Welch's t -1.8608 on 17.776 degrees of freedom, p 0.07939 (R's example)."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = groups.welch_t(first, second)
    assert (found.t, found.dof, found.p) == pytest.approx((-1.8608, 17.776, 0.07939), abs=1e-3)
    assert (found.difference.low, found.difference.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-5)


@STEADY
@given(seeds)
def test_difference_is_antisymmetric_and_d_has_no_unit(seed):
    first, second = two(seed)
    there, back = groups.welch_t(first, second), groups.welch_t(second, first)
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.d.value == pytest.approx(-back.d.value)
    assert there.d.low < there.d.value < there.d.high
    scaled = groups.cohen_d(12 * first + 3, 12 * second + 3)
    assert scaled == pytest.approx(there.d)


def test_cohen_d_by_hand():
    assert groups.cohen_d([1.0, 2, 3], [3.0, 4, 5]).value == pytest.approx(-2.0)
    assert np.isnan(groups.cohen_d([1.0, 1], [1.0, 1]).value)


def test_comparisons_need_people():
    with pytest.raises(ValueError, match="two people"):
        groups.welch_t([1.0], [1.0, 2.0])


def test_missing_values_are_left_out():
    first, second = two(1)
    padded = groups.welch_t(np.append(first, np.nan), second)
    assert padded == groups.welch_t(first, second)


@STEADY
@given(seeds)
def test_welch_anova_of_two_groups_is_welch_t_squared(seed):
    first, second = two(seed)
    anova, t = groups.welch_anova([first, second]), groups.welch_t(first, second)
    assert (anova.f, anova.p, anova.dof_within) == pytest.approx((t.t**2, t.p, t.dof), rel=1e-6)


def test_welch_anova_and_games_howell_agree_with_pingouin():
    import pingouin

    data = pingouin.read_dataset("anova")
    values = {name: part["Pain threshold"].to_numpy(float) for name, part in data.groupby("Hair color")}
    assert groups.welch_anova(list(values.values())).f == pytest.approx(5.890115, abs=1e-5)
    pairs = groups.games_howell(values)
    assert len(pairs) == 6
    assert all(0 <= pair.p <= 1 for pair in pairs)
    first = pairs[0]
    assert first.difference == pytest.approx(values[first.first].mean() - values[first.second].mean())


def test_adjusted_p_values_by_hand():
    assert groups.adjust([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert groups.adjust([0.01, 0.02, 0.5], "bonferroni") == pytest.approx([0.03, 0.06, 1.0])
    assert len(groups.adjust([])) == 0


def test_two_sample_z_by_hand():
    first, second = two(2, 200, 150)
    z = (first.mean() - second.mean()) / np.sqrt(first.var(ddof=1) / 200 + second.var(ddof=1) / 150)
    assert groups.two_sample_z(first, second).statistic == pytest.approx(z)


@STEADY
@given(seeds)
def test_nested_f_of_one_term_is_its_t_squared(seed):
    first, second = two(seed)
    values, member = np.concatenate([first, second]), np.repeat([True, False], [30, 25])
    age = np.random.default_rng(seed + 1).uniform(40, 80, 55)
    nested = groups.nested_f(values, age[:, None], np.column_stack([age, member]))
    design = sm.add_constant(np.column_stack([member, age]))
    assert nested.p == pytest.approx(sm.OLS(values, design).fit().pvalues[1])
    difference, p = groups.age_adjusted(values, member, age)
    assert difference.low < difference.value < difference.high
    assert (p < 0.05) == (not difference.low < 0 < difference.high)


def test_age_as_covariate_takes_away_a_difference_that_age_made():
    rng = np.random.default_rng(3)
    age = np.concatenate([rng.uniform(40, 60, 200), rng.uniform(60, 80, 200)])
    values, member = 0.5 * age + rng.normal(0, 1, 400), np.arange(400) >= 200
    assert groups.welch_t(values[member], values[~member]).difference.value == pytest.approx(10, abs=1)
    adjusted, _ = groups.age_adjusted(values, member, age)
    assert adjusted.low < 0 < adjusted.high
    assert np.isnan(groups.age_adjusted([1.0, 2], [True, False], [50, 60])[1])


def test_ks_and_pearson():
    first = two(4)[0]
    assert groups.ks(first, first) == pytest.approx((0, 1))
    assert groups.ks([0.0, 1, 2], [10.0, 11, 12]).statistic == 1
    assert groups.pearson([1, 2, 3, 4.0], [2, 4, 6, 9.0]).value == pytest.approx(0.9948, abs=1e-3)
    assert np.isnan(groups.pearson([1, 2, 3.0], [1, 2, 3.0]).low)
    assert np.isnan(groups.pearson(np.ones(9), np.arange(9.0)).value)


@STEADY
@given(seeds)
def test_accuracy_of_one_scan_a_person_is_the_plain_formula(seed):
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, 50)
    predicted = age + rng.normal(1, 4, 50)
    found = groups.accuracy(age, predicted, np.arange(50), resamples=50)
    assert found.mae.value == pytest.approx(np.abs(predicted - age).mean())
    assert found.bias.value == pytest.approx((predicted - age).mean())
    assert found.r.value == pytest.approx(np.corrcoef(age, predicted)[0, 1])
    assert found.r2.value == pytest.approx(1 - ((predicted - age) ** 2).sum() / ((age - age.mean()) ** 2).sum())


def test_accuracy_counts_people_not_scans():
    rng = np.random.default_rng(5)
    age = rng.uniform(20, 80, 30)
    predicted = age + rng.normal(0, 4, 30)
    many = np.append(np.arange(30), np.zeros(300, int))
    found = groups.accuracy(age[many], predicted[many], many)
    once = groups.accuracy(age, predicted, np.arange(30))
    assert (found.n_people, found.n_rows) == (30, 330)
    assert found.mae == pytest.approx(once.mae)
    assert found.bias == pytest.approx(once.bias)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    covered = 0
    for seed in range(200):
        age = rng.uniform(20, 80, 60)
        found = groups.accuracy(age, age + rng.normal(2, 5, 60), np.arange(60), resamples=200, seed=seed)
        covered += found.bias.low <= 2 <= found.bias.high
    assert 0.88 <= covered / 200 <= 0.99


def test_accuracy_of_nobody_and_of_a_constant():
    assert groups.accuracy([np.nan], [50.0], ["a"]).n_people == 0
    constant = groups.accuracy(np.arange(20.0, 40), np.full(20, 30.0), np.arange(20), resamples=20)
    assert np.isnan(constant.r.value)
    assert constant.mae.value == pytest.approx(5)


@pytest.mark.parametrize(
    ("n", "bounded", "related"), [(1, False, False), (3, False, False), (9, False, True), (10, True, True)]
)
def test_few_people_have_no_interval_and_fewer_no_r(n, bounded, related):
    age = np.linspace(40, 70, n)
    found = groups.accuracy(age, age + np.random.default_rng(n).normal(0, 4, n), np.arange(n))
    assert np.isfinite([found.mae.value, found.bias.value]).all()
    assert np.isfinite([found.mae.low, found.bias.high]).tolist() == [bounded] * 2
    assert np.isfinite([found.r.value, found.r2.value]).tolist() == [related] * 2


def test_no_r_is_beyond_one():
    age = np.linspace(40, 70, 12)
    found = groups.accuracy(age, 0.1 + 1.1 * age, np.arange(12))
    assert max(found.r) <= 1
