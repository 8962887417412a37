"""Reference people: exact ages, categories by size, bundles that come back, and controls that match."""

import numpy as np
import pytest

from bids_brainage.cohort import density, genmind, matching
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError

N, R = 400, 5


def cohort(n=N, seed=0, icv=False, race=True, ages=(40, 80)):
    rng = np.random.default_rng(seed)
    age = rng.uniform(*ages, n).round(2)
    sex = rng.choice(["F", "M"], n)
    head = 1.4e6 + 1.5e5 * (sex == "M") + 8e4 * rng.standard_normal(n)
    volumes = head[:, None] * (0.01 - 3e-5 * (age[:, None] - 60)) * np.exp(0.08 * rng.standard_normal((n, R)))
    categories = {"sex": sex} | ({"race": rng.choice(["White", "Black"], n)} if race else {})
    return People(tuple(map(str, range(n))), age, categories, tuple(range(1, R + 1)), volumes, head if icv else None)


def model(by=("sex",), **options):
    return genmind.fit(cohort(**options), by=by, bandwidths=[0.7]).model


def test_people_drawn_have_the_ages_and_categories_asked_for_and_a_seed_repeats_them():
    made = model(("sex", "race"))
    ages = np.linspace(45, 75, 60)
    given = {"sex": np.tile(["F", "M"], 30), "race": "Black"}
    drawn = made.at(ages, given, np.random.default_rng(1))
    np.testing.assert_array_equal(drawn.age, ages)
    assert drawn.categories["sex"].tolist() == given["sex"].tolist()
    assert set(drawn.categories["race"]) == {"Black"}
    assert (drawn.volumes > 0).all()
    again = made.at(ages, given, np.random.default_rng(1))
    np.testing.assert_array_equal(drawn.volumes, again.volumes)


def test_each_sex_is_drawn_from_its_own_density():
    drawn = model().at(np.full(4000, 60.0), {"sex": np.repeat(["F", "M"], 2000)}, np.random.default_rng(0))
    people = cohort()
    for sex in "FM":
        near = people.volumes[(people.categories["sex"] == sex) & (np.abs(people.age - 60) < 10)].mean()
        assert drawn.volumes[drawn.categories["sex"] == sex].mean() == pytest.approx(near, rel=0.02)


@pytest.mark.parametrize(
    ("ages", "given", "words"),
    [
        ([20.0], {"sex": "F"}, "age 20 is outside 40"),
        ([np.nan], {"sex": "F"}, "age nan is outside"),
        ([60.0], {"sex": "X"}, "no reference people of sex X"),
        ([60.0], {"race": "White"}, "tells people apart by sex"),
    ],
)
def test_what_the_model_does_not_know_is_refused(ages, given, words):
    with pytest.raises(UsageError, match=words):
        model().at(ages, given, np.random.default_rng(0))


def test_a_small_category_is_refused_or_pooled_with_its_reason():
    people = cohort()
    race = people.categories["race"].copy()
    race[:5] = "Asian"
    few = People(people.who, people.age, {**people.categories, "race": race}, people.indices, people.volumes)
    with pytest.raises(UsageError, match=r"people of sex ., race Asian are too few"):
        genmind.fit(few, by=("sex", "race"), bandwidths=[0.7])
    fitted = genmind.fit(few, by=("sex", "race"), bandwidths=[0.7], small="pool")
    women = fitted.model.densities["F", "Asian"]
    assert len(women.centres) == (people.categories["sex"] == "F").sum()
    assert "drawn from all" in fitted.pooled["F", "Asian"]
    assert {tuple(e["category"]) for e in genmind.entries(fitted) if "pooled" in e} == set(fitted.pooled)


def test_a_region_that_is_the_same_in_everybody_is_named():
    people = cohort()
    people.volumes[:, 2] = 7.0
    with pytest.raises(UsageError, match="MUSE_3 is the same in all"):
        genmind.fit(people, bandwidths=[0.7])


def test_the_search_is_kept_with_its_edge():
    fitted = genmind.fit(cohort(), bandwidths=[3.0, 4.0], kernel="published")
    assert all(entry["bandwidth_at_edge_of_grid"] and entry["bandwidth"] == 3.0 for entry in genmind.entries(fitted))


def test_a_sample_is_even_over_categories_and_keeps_to_a_range():
    made = model(("sex", "race"))
    made = genmind.GenMIND(made.by, made.indices, dict(reversed(made.densities.items())))
    rng = np.random.default_rng(0)
    drawn = genmind.sample(made, 402, rng, ages=(50, 60))
    assert 50 <= drawn.age.min() <= drawn.age.max() <= 60
    pairs = list(zip(drawn.categories["sex"], drawn.categories["race"], strict=True))
    assert sorted(pairs.count(key) for key in made.densities) == [100, 100, 101, 101]
    free = genmind.sample(made, 400, rng)
    assert free.age.min() >= 40
    assert free.age.max() <= 80
    study = cohort(50, seed=9, ages=(45, 75))
    like = genmind.sample_like(made, study, 500, rng)
    assert set(like.age) <= set(study.age)


def test_head_size_can_be_given_and_steers_the_volumes():
    made = model(icv=True)
    heads = np.repeat([1.3e6, 1.6e6], 1000)
    drawn = made.at(np.full(2000, 60.0), {"sex": "F"}, np.random.default_rng(0), icv=heads)
    np.testing.assert_array_equal(drawn.icv, heads)
    assert drawn.volumes[1000:].mean() / drawn.volumes[:1000].mean() > 1.1
    with pytest.raises(UsageError, match="knows no intracranial volume"):
        model().at([60.0], {"sex": "F"}, np.random.default_rng(0), icv=[1.4e6])


def test_people_like_the_reference_have_standard_normal_scores():
    made, people = model(n=2000), cohort(seed=5, n=600, ages=(43, 77))
    found = matching.score(made, people, k=10)
    assert abs(found.z.mean()) < 0.1
    assert found.z.std() == pytest.approx(1, abs=0.1)
    assert 0.03 < (np.abs(found.z) > 1.96).mean() < 0.08
    assert 0 < found.centile.min() < found.centile.max() < 100
    rank = [np.corrcoef(found.z[:, r], found.centile[:, r])[0, 1] for r in range(R)]
    assert min(rank) > 0.9


def test_scores_are_those_of_the_t_distribution_exactly():
    own = np.random.default_rng(0).normal(10, 2, (40_000, 4, 1))
    volumes = np.random.default_rng(1).normal(10, 2, (40_000, 1))
    z, centile = matching.against(volumes, own)
    assert z.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.05, abs=0.005)
    np.testing.assert_allclose(np.unique(centile), [10, 30, 50, 70, 90])


def test_scores_do_not_depend_on_the_size_of_a_chunk_of_people_before(monkeypatch):
    made, people = model(), cohort(30, seed=2, ages=(45, 75))
    for rows, drawn in matching.controls(made, people, 4, seed=0, chunk=40):
        np.testing.assert_array_equal(drawn.age, np.repeat(people.age[rows], 4))
        assert drawn.categories["sex"].tolist() == np.repeat(people.categories["sex"][rows], 4).tolist()


def test_matching_balances_what_it_matches_on():
    made = model(icv=True)
    people = cohort(300, seed=3, icv=True, ages=(45, 75))
    old = people.take(people.age > 65)
    found = matching.score(made, old, k=5, on_icv=True)
    before = genmind.sample(made, 500, np.random.default_rng(0))
    own = matching.covariates(old)
    after = {name: np.repeat(values, 5) for name, values in own.items()} | {"icv": found.icv.ravel()}
    table = {row.covariate: row for row in matching.balance(own, matching.covariates(before), after)}
    assert abs(table["age"].smd_before) > 1
    assert all(abs(row.smd_after) < 1e-6 for row in table.values())
    assert {"sex F", "icv"} <= set(table)


def test_a_group_is_tested_by_one_number_a_person():
    z = np.random.default_rng(0).normal(size=(40, 100))
    first = np.arange(40) < 20
    found = matching.group_test(z, first, ~first)
    assert (found.n_first, found.n_second) == (20, 20)
    shifted = matching.group_test(z + first[:, None], first, ~first, regions=[0, 1])
    assert shifted.p < 0.01
    with pytest.raises(ValueError, match="both groups"):
        matching.group_test(z, first, first)


def test_a_test_of_nothing_is_seldom_positive():
    found = matching.false_positives(model(race=False), cohort(40, seed=4, race=False, ages=(45, 75)), repeats=300, k=4)
    assert found.value <= 0.07


def test_few_controls_and_other_regions_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        matching.score(model(), cohort(5, ages=(45, 75)), k=2)
    people = cohort(5, ages=(45, 75))
    other = People(people.who, people.age, people.categories, (7, 8, 9, 10, 11), people.volumes)
    with pytest.raises(ValueError, match="other regions"):
        matching.score(model(), other, k=3)


def test_default_bandwidths_are_those_of_the_paper():
    assert density.BANDWIDTHS[0] == 0.5
    assert density.BANDWIDTHS[-1] == 1.0


def test_nobody_of_those_it_was_fitted_on_is_outside_its_ages():
    """Ages that come from dates have many digits."""
    people = cohort()
    people = People(people.who, people.age + np.pi / 1e7, people.categories, people.indices, people.volumes)
    made = genmind.fit(people, by=("sex",), bandwidths=[0.7]).model
    assert set(made.why_not(people.age, people.categories)) == {""}


def test_a_volume_that_is_far_beyond_all_controls_has_a_finite_score():
    own = np.random.default_rng(0).normal(80, 8, (1, 5000, 1))
    z, centile = matching.against(np.array([[4700.0]]), own)
    assert 30 < z[0, 0] < 40
    assert centile[0, 0] > 99


def test_a_head_of_a_size_that_nobody_has_is_refused():
    made = model(icv=True)
    reasons = made.why_not([60.0, 60.0, 60.0, 20.0], {"sex": "F"}, [1.4e6, 2.2e6, np.nan, 2.2e6])
    assert reasons[0] == ""
    assert reasons[1].startswith("the intracranial volume, 2200 mL, is outside 1")
    assert reasons[2] == "the intracranial volume is missing or not positive"
    assert reasons[3].startswith("age 20")
