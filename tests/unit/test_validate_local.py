"""Validation of local models: what is read off changes, pairs that differ by an offset alone, the whole command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.errors import UsageError
from bids_brainage.models.base import load_model
from bids_brainage.simulate import aging, anatomy, maps
from bids_brainage.simulate.cohort import people as trained_people
from bids_brainage.simulate.cohort import visits
from bids_brainage.simulate.local import Spot
from bids_brainage.simulate.person import Person, grown
from bids_brainage.simulate.second import SECOND
from bids_brainage.toolbox import main
from bids_brainage.training.validate import measures
from bids_brainage.training.validate.counterfactuals import Arm, measured, with_offset
from bids_brainage.training.validate.people import SCHEMES, UNSEEN, Plan, shared_out, subjects, trained_on
from bids_brainage.training.validate.scenes import Scene, Stage, inputs
from bids_brainage.training.validate.table import Key, Row, Sample, means, reliability, resolution, side_by_side
from tests.unit.localbundle import make_bundle

SIZE = (40, 40, 40)
PERSON = Person("x", "F", 2**31 + 7, field_sd=3.0)


@pytest.fixture(scope="module")
def head() -> anatomy.Anatomy:
    return anatomy.build(2)


@pytest.fixture(scope="module")
def stage(head) -> Stage:
    return Stage(maps.tissues(head, 2), aging.fractions(head, 4), ())


def seen(stage, person, scheme, seed=1, rng=None) -> maps.TissueMaps:
    rng = rng or np.random.default_rng(seed)
    return maps.tissue_maps(person, 60.0, stage.tissues, stage.shares, rng, spacing=4.0, scheme=scheme)


def ball(middle, radius: float) -> np.ndarray:
    places = np.indices(SIZE) - np.array(middle)[:, None, None, None]
    return (places**2).sum(0) <= radius**2


# -- what is read off a change ------------------------------------------------


@given(st.floats(-2, 2), st.lists(st.floats(-20, 20).filter(lambda y: abs(y) > 1), min_size=1, max_size=6))
def test_the_slope_of_a_proportional_change_is_its_factor(factor, years):
    assert measures.slope(years, factor * np.array(years)) == pytest.approx(factor, abs=1e-9)


def test_inside_is_where_years_were_planted_and_nowhere_outside_the_brain():
    truth = np.array([60, 60, 60, 0, 60], np.float32)
    planted = np.array([70, 60.4, 0, 70, 66], np.float32)
    assert measures.inside(truth, planted, 10.0).tolist() == [True, False, False, False, True]
    assert measures.inside(np.float32([60, 60]), np.float32([50, 60]), -10.0).tolist() == [True, False]


def test_zones_part_the_brain_by_distance_in_mm():
    region, brain = ball((20, 20, 20), 3), ball((20, 20, 20), 18)
    zones = measures.zones(measures.distance(region, 2.0), brain)
    assert sum(zone.astype(int) for zone in zones.values())[brain].tolist() == [1] * int(brain.sum())
    assert not any(zone[~brain].any() for zone in zones.values())
    assert zones["inside"].sum() == region.sum()
    assert zones["0-10 mm"][20, 20, 28]
    assert zones["10-20 mm"][20, 20, 29]
    assert zones["over 20 mm"][20, 20, 34]


def test_localisation_is_the_share_of_pairs_in_the_right_order():
    region, brain = ball((20, 20, 20), 5), ball((20, 20, 20), 15)
    change = np.where(region, -3.0, 1.0).astype(np.float32)
    assert measures.localisation(change, region, brain) == 1
    assert measures.localisation(np.where(region, 1.0, -3.0).astype(np.float32), region, brain) == 0
    assert measures.localisation(np.ones(SIZE, np.float32), region, brain) == pytest.approx(0.5)
    assert np.isnan(measures.localisation(change, np.zeros_like(region), brain))


@pytest.mark.parametrize("sd", [4.0, 8.0])
def test_the_half_width_of_a_gaussian_is_known(sd):
    middle, spacing = np.array([20.3, 19.8, 20.1]), 1.5
    away = np.linalg.norm((np.indices(SIZE).reshape(3, -1).T - middle) * spacing, axis=1).reshape(SIZE)
    change = (10 * np.exp(-(away**2) / (2 * sd**2))).astype(np.float32)
    profile = measures.profile(change, measures.centre(np.where(change > 0.5, change, 0)), spacing, np.ones(SIZE, bool))
    assert measures.half_width(profile) == pytest.approx(sd * np.sqrt(2 * np.log(2)), abs=0.8)
    assert np.isnan(measures.half_width(-profile))
    assert np.isnan(measures.half_width(np.ones(30)))


def test_a_map_that_finds_half_of_the_years_and_leaks_a_tenth_is_read_so():
    region, brain = ball((20, 20, 20), 4), ball((20, 20, 20), 18)
    arms = []
    for years in (-10.0, 15.0):
        change = np.where(region, 0.5 * years, 0).astype(np.float32)
        near = brain & ~region & (measures.distance(region, 1.5) <= 10)
        change[near] = 0.1 * years
        arms.append(Arm(years, region, brain, np.where(region, years, 0).astype(np.float32), [change]))
    found = {m.quantity: m.value for m in measured(arms, 1.5)}
    assert found["slope_inside"] == pytest.approx(0.5)
    assert found["leakage 0-10 mm"] == pytest.approx(0.1)
    assert found["leakage over 20 mm"] == 0
    assert found["change_inside -10"] == pytest.approx(-5)
    assert found["localisation_auc"] == 1


# -- figures over people ------------------------------------------------------


def test_means_have_intervals_over_people_and_leave_out_what_is_not_known():
    key = Key("b", "standard", "slope_inside", "thalamus")
    (row,) = means([Sample(key, v) for v in (0.4, 0.5, 0.6, np.nan)], 0)
    assert (row.value, row.n) == (0.5, 3)
    assert 0.4 <= row.low < row.value < row.high <= 0.6
    (few,) = means([Sample(key, 0.4)], 0)
    assert few == Row(key, 0.4, None, None, 1)
    (none,) = means([Sample(key, np.nan)], 0)
    assert none.value is None


def test_reliability_of_known_pairs():
    people, rng = np.linspace(-10, 10, 200), np.random.default_rng(0)
    gaps = people[:, None] + rng.normal(0, 2, (200, 2))
    sd, icc = reliability("b", "standard", "same_site", gaps, 0)
    assert sd.key.quantity == "same_site_sd_global"
    assert sd.low < 2 < sd.high
    assert icc.value == pytest.approx(people.var() / (people.var() + 4), abs=0.05)


def test_the_resolution_is_of_the_mean_profile():
    at = (np.arange(30) + 0.5) * 1.5
    several = [height * np.exp(-(at**2) / 72) for height in (1.0, 2.0, 3.0)]
    row = resolution(Key("b", "standard", "half_width_mm", "x"), several, 0)
    assert row.value == pytest.approx(6 * np.sqrt(2 * np.log(2)), abs=0.5)
    assert row.low == pytest.approx(row.high)


def test_bundles_stand_side_by_side():
    rows = [
        Row(Key(b, "standard", "slope_inside", "frontal"), v, 0.1, 0.9, 5) for b, v in (("age", 0.2), ("truth", 0.8))
    ]
    rows.append(Row(Key("truth", "second", "global_r", "brain"), None, None, None, 0))
    headings, lines = side_by_side(rows)
    assert headings == ["generator", "quantity", "region", "age", "truth"]
    assert lines[0] == ["standard", "slope_inside", "frontal", "0.20 (0.10 to 0.90)", "0.80 (0.10 to 0.90)"]
    assert lines[1][3:] == ["n/a", "n/a"]


# -- who is simulated ---------------------------------------------------------


def test_no_seed_is_one_that_training_could_draw():
    plan = Plan(n=50)
    own = subjects(plan, (20.0, 90.0))
    assert min(seed for s in own for seed in (s.person.seed, *s.scans)) >= 2**31
    trained = trained_people(50, 0)
    assert max(seed for v in visits(trained, 0) for seed in (v.person.seed, v.seed)) < 2**31
    assert len({seed for s in own for seed in (s.person.seed, *s.scans)}) == 150
    assert own == subjects(plan, (20.0, 90.0))
    assert {s.age for s in own} >= {20.0, 90.0}


@given(st.integers(5, 60), st.integers(1, 20), st.integers(0, 1000))
def test_each_base_is_had_by_women_and_men_alike(n, count, seed):
    people = subjects(Plan(n=n, seed=seed), (20.0, 90.0))
    groups = shared_out(people, count, seed)
    assert sorted(one.number for group in groups for one in group) == list(range(n))
    for sex in "FM":
        having = [sum(one.person.sex == sex for one in group) for group in groups]
        assert max(having) - min(having) <= 1
    sizes = [len(group) for group in groups]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_site_of_training_is_refused_and_the_default_is_never_one(tmp_path):
    bundle = make_bundle(tmp_path / "b", training={"kind": "simulated", "sites": {"sharp": 3, "unknown": 2}})
    assert trained_on(bundle) == {"sharp", "unknown", "standard", "cut"}
    for site in ("sharp", "standard"):
        with pytest.raises(UsageError, match=rf"--site {site}: local was trained on it"):
            Plan(site=site).check([bundle])
    Plan(site="soft").check([bundle])
    Plan().check([bundle])
    assert Plan().site == UNSEEN
    with pytest.raises(UsageError, match="no site is called 'x'"):
        Plan(site="x").check([bundle])


# -- pairs --------------------------------------------------------------------


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=list(SCHEMES))
def test_a_pair_has_the_same_errors_and_differs_by_the_offset_alone(stage, scheme):
    draws = [np.random.default_rng(1) for _ in range(2)]
    without = seen(stage, PERSON, scheme, rng=draws[0])
    older = seen(stage, with_offset(PERSON, "left_temporal", 15.0), scheme, rng=draws[1])
    other = seen(stage, PERSON, scheme, seed=2)
    assert draws[0].bit_generator.state == draws[1].bit_generator.state, "both arms draw the same errors"
    region = measures.inside(without.age_map, older.age_map, 15.0)
    known = (without.age_map > 0) & (older.age_map > 0)
    off = (older.age_map - without.age_map)[known & ~region]
    assert np.abs(off).max() < 0.5
    change, far = older.gm - without.gm, known & (measures.distance(region, 4.0) > 20)
    assert change[region].mean() < 0
    assert np.abs(change[far]).mean() < 0.2 * np.abs(other.gm - without.gm)[far].mean()


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=list(SCHEMES))
def test_nothing_planted_changes_nothing(stage, scheme):
    without, none = seen(stage, PERSON, scheme), seen(stage, with_offset(PERSON, "left_temporal", 0.0), scheme)
    assert all(np.array_equal(a, b) for a, b in zip(without, none, strict=True))


def test_both_generators_reach_the_same_volumes_by_other_deformations(head, stage):
    person = replace(PERSON, offsets={"medial_temporal": 15.0})
    first, second = (
        grown(person, 70.0, head, stage.shares, divided=True, growth=scheme.growth)
        for scheme in (maps.STANDARD, SECOND)
    )
    assert first.planted == pytest.approx(second.planted, nan_ok=True)
    assert np.abs(first.warp.displacement - second.warp.displacement).max() > 0.5
    found = [volumes(stage.shares, aged.warp) for aged in (first, second)]
    tissue = np.isfinite(first.planted)
    assert found[1][tissue] == pytest.approx(found[0][tissue], rel=0.04)


def volumes(shares: aging.Fractions, warp) -> np.ndarray:
    from bids_brainage.simulate.deform import apply, nodes, sample

    points = nodes(shares.values.shape[1:], shares.origin, shares.spacing)
    return sample(shares.values, shares.origin, shares.spacing, apply(warp, points)).sum((1, 2, 3), dtype=np.float64)


def test_a_change_at_the_rim_keeps_the_mean_of_each_region(stage):
    factors = np.full(len(stage.shares.values), 0.8)
    log = aging.at_rims(stage.shares, factors, 1.0)
    total = np.tensordot(stage.shares.values, log, 3)
    assert np.abs(log).max() > 0.05
    assert abs(float(total.sum())) < 1e-3 * float(stage.shares.values.sum())


def test_a_spot_is_planted_where_it_was_asked_for(stage):
    spot = Spot((-28.0, 30.0, 22.0), 15.0, 5.0)
    without, found = seen(stage, PERSON, maps.STANDARD), seen(stage, replace(PERSON, spots=(spot,)), maps.STANDARD)
    change = np.where((without.age_map > 0) & (found.age_map > 0), found.age_map - without.age_map, 0)
    assert 8 < change.max() < 15.1
    assert (
        np.linalg.norm(measures.centre(np.where(change > 1, change, 0)) * 4 + without.affine[:3, 3] - spot.middle) < 12
    )


def test_a_model_is_given_the_tissue_and_the_sex_alone(stage, tmp_path):
    model = load_model(make_bundle(tmp_path / "b", resolution=4.0))
    made = seen(stage, PERSON, maps.STANDARD)
    given_ = inputs(model, made, PERSON)
    told = inputs(model, made._replace(age_map=np.full_like(made.age_map, 99)), replace(PERSON, label="x", gap=30.0))
    assert np.array_equal(given_.maps, told.maps)
    assert given_.sex == told.sex == "F"
    assert set(vars(given_)) == {"maps", "sex", "source"}
    ages = model.ages(given_)
    assert np.array_equal(np.isfinite(ages), model.brain.data)
    assert isinstance(Scene(made.age_map, [ages]).truth, np.ndarray)


# -- the command --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "2"], "give 5 people at least"),
        (["--chain", "50"], "give a number from 0"),
        (["--chain", "1"], "do not fit these bundles"),
        (["--device", "nonsense"], "--device nonsense: is no device"),
    ],
)
def test_bad_words_give_one_line_and_no_files(words, message, tmp_path, capsys):
    make_bundle(tmp_path / "b", resolution=4.0)
    assert main(["validate", "local", str(tmp_path / "b"), "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bundles_that_do_not_fit_are_refused(tmp_path, capsys):
    make_bundle(tmp_path / "six")
    make_bundle(tmp_path / "four", resolution=4.0, name="four")
    make_bundle(tmp_path / "three", resolution=3.0, name="three")
    out = ["--out", str(tmp_path / "out")]
    assert main(["validate", "local", str(tmp_path / "six"), *out]) == 2
    assert "people are simulated in MNI152NLin2009aSym at 1 to 4 mm" in capsys.readouterr().err
    assert main(["validate", "local", str(tmp_path / "four"), str(tmp_path / "three"), *out]) == 2
    assert "has another brain or voxel size" in capsys.readouterr().err


@pytest.mark.slow
def test_two_bundles_are_judged_on_the_same_people(tmp_path, capsys):
    make_bundle(tmp_path / "age", resolution=4.0, bins=False, name="age", maps=["age", "sd"])
    make_bundle(tmp_path / "truth", resolution=4.0, bins=False, name="truth", maps=["age", "sd"])
    out = tmp_path / "out"
    words = [str(tmp_path / "age"), str(tmp_path / "truth"), "--out", str(out), "--quick"]
    assert main(["validate", "local", *words]) == 0
    assert "simulated people" in capsys.readouterr().out
    rows = read_tsv(out / "validation.tsv")
    assert {row["generator"] for row in rows} == set(SCHEMES)
    by_bundle = [[{**r, "bundle": ""} for r in rows if r["bundle"] == name] for name in ("age", "truth")]
    assert by_bundle[0] == by_bundle[1], "the same weights on the same people"
    quantities = {row["quantity"] for row in by_bundle[0]}
    assert {"voxel_mae", "global_r", "slope_inside", "leakage 0-10 mm", "same_site_icc_global"} <= quantities
    assert all(float(row["value"]) == float(row["value"]) for row in by_bundle[0] if row["quantity"] == "voxel_mae")
    details = json.loads((out / "validation.json").read_text())
    assert len(details["figures"]) == len(rows)
    assert "simulated people" in (out / "validation.html").read_text()
    assert (out / "validation.png").stat().st_size > 10_000
