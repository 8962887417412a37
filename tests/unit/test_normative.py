"""Normative centiles: the LMS method gives back what it was given, and says nothing where it knows nothing."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from bids_brainage.core.bundle import save
from bids_brainage.core.errors import BundleError, UsageError
from bids_brainage.image.muse import regions
from bids_brainage.models import registry
from bids_brainage.stats import normative as lms
from bids_brainage.toolbox import main
from bids_brainage.training import normative as recipe

SHIPPED = registry.PACKAGED / "normative"
TABLES = "muse/istaging_cn_centiles_{}.tsv"
NAMES = {47: "Hippocampus_R", 48: "Hippocampus_L", 51: "LateralVentricle_R", 81: "Frontal_WM_R"}

ages = st.floats(40, 92)
scores = st.floats(-2.5, 2.5)
sexes = st.sampled_from(["F", "M"])
columns = st.integers(0, 2)


def curves() -> lms.Curves:
    """Regions with L of 1 (a normal distribution), near 0 (log-normal), and falling from +1 to -1 with age."""
    m = np.array([[8.2, -0.1, -0.02], [9.1, 0.5, 0.1], [9.8, -0.05, 0.0]])
    s = np.array([[-2.2, 0.1], [-0.8, 0.05], [-1.9, 0.0]])
    power = np.array([[1.0, 0.0], [1e-12, 0.0], [0.0, -1.0]])
    men = np.array([[0.1], [0.1], [0.1]])
    return lms.Curves((47, 51, 81), np.stack([m, m + men * [1, 0, 0]]), np.stack([s, s]), np.stack([power] * 2), 40, 92)


def person(value: float, column: int) -> np.ndarray:
    row = np.full((1, 3), np.nan)
    row[0, column] = value
    return row


@given(ages, sexes, columns)
def test_the_median_has_z_0_and_centile_50(age, sex, column):
    shape = curves()
    x = 2 * (age - 40) / 52 - 1
    median = np.exp(np.polynomial.polynomial.polyval(x, shape.m["FM".index(sex), column]))
    assert lms.z_scores(shape, person(median, column), [age], [sex])[0, column] == pytest.approx(0, abs=1e-9)
    assert lms.centiles(shape, person(median, column), [age], [sex])[0, column] == pytest.approx(50, abs=1e-6)


@given(ages, sexes, columns, st.floats(1, 1e6), st.floats(1.001, 3))
def test_a_larger_volume_has_a_larger_z(age, sex, column, volume, factor):
    low, high = (lms.z_scores(curves(), person(v, column), [age], [sex])[0, column] for v in (volume, volume * factor))
    assert high > low


@given(ages, sexes, columns, scores)
def test_volumes_and_z_scores_are_inverse(age, sex, column, z):
    volume = lms.volumes_at(curves(), np.full((1, 3), z), [age], [sex])
    if not 0 < volume[0, column] < np.inf:  # beyond the smallest or largest volume that these curves allow
        return
    assert lms.z_scores(curves(), volume, [age], [sex])[0, column] == pytest.approx(z, abs=1e-8)
    assert lms.centiles(curves(), volume, [age], [sex])[0, column] == pytest.approx(100 * norm.cdf(z), abs=1e-6)


def test_known_values():
    spread = np.log(np.array([[[0.2]] * 3, [[0.1]] * 3]))
    powers = np.tile([[1.0], [0.0], [-1.0]], (2, 1, 1))
    flat = lms.Curves((4, 11, 23), np.log(np.full((2, 3, 1), 100.0)), spread, powers, 40, 92)
    for sex, s in (("F", 0.2), ("M", 0.1)):
        found = lms.z_scores(flat, [[120.0, 120.0, 120.0]], [60], [sex])[0]
        assert found == pytest.approx([0.2 / s, np.log(1.2) / s, (1 / 1.2 - 1) / -s])


def test_age_and_sex_of_each_row_count():
    volumes = np.full((3, 3), 4000.0)
    found = lms.z_scores(curves(), volumes, [45, 45, 85], ["F", "M", "F"])
    assert found[0, 0] != pytest.approx(found[1, 0])
    assert found[0, 0] != pytest.approx(found[2, 0])
    for i, (age, sex) in enumerate([(45, "F"), (45, "M"), (85, "F")]):
        alone = lms.z_scores(curves(), volumes[:1], [age], [sex])
        np.testing.assert_array_equal(found[i], alone[0])


@pytest.mark.parametrize(
    ("age", "sex", "known"),
    [
        *[(40, "F", True), (92, "M", True), (39.99, "F", False), (92.01, "M", False), (np.nan, "F", False)],
        *[(60, None, False), (60, "n/a", False), (60, np.nan, False)],
    ],
)
def test_nan_where_age_or_sex_is_unknown(age, sex, known):
    for function in (lms.z_scores, lms.centiles, lms.volumes_at):
        values = np.full((1, 3), 0.5) if function is lms.volumes_at else np.full((1, 3), 4000.0)
        assert np.isfinite(function(curves(), values, [age], [sex])).all() == known


@pytest.mark.parametrize("volume", [np.nan, -1.0, np.inf, -np.inf])
def test_nan_for_what_is_no_volume_in_that_region_alone(volume):
    found = lms.z_scores(curves(), [[volume, 5000.0, 5000.0]], [60], ["F"])[0]
    np.testing.assert_array_equal(np.isnan(found), [True, False, False])


def test_an_empty_region_is_smaller_than_all_others_and_finite_where_the_curves_allow():
    found = lms.z_scores(curves(), np.zeros((1, 3)), [92], ["F"])[0]
    assert found[0] == pytest.approx(-1 / np.exp(-2.1))  # L = 1
    assert found[2] == -np.inf  # L = -1
    assert lms.centiles(curves(), np.zeros((1, 3)), [92], ["F"])[0, 2] == 0
    smallest = lms.z_scores(curves(), np.full((1, 3), 1e-9), [92], ["F"])[0]
    assert (found <= smallest).all()


def test_regions_in_the_order_asked_and_nan_for_those_without_curves():
    chosen = lms.arranged(curves(), (81, 4, 47))
    volumes = np.array([[17000.0, 1000.0, 4000.0]])
    found = lms.z_scores(chosen, volumes, [60], ["M"])[0]
    expected = lms.z_scores(curves(), [[4000.0, 1.0, 17000.0]], [60], ["M"])[0]
    assert chosen.indices == (81, 4, 47)
    np.testing.assert_array_equal(found, [expected[2], np.nan, expected[0]])
    assert np.isnan(lms.z_scores(chosen, [[0.0, 0.0, 0.0]], [60], ["M"])[0, 1])


def test_nobody_at_all():
    assert lms.z_scores(curves(), np.empty((0, 3)), [], []).shape == (0, 3)


def test_many_people_need_little_more_memory_than_their_table():
    n, shape = 30_000, lms.arranged(curves(), tuple(r.number for r in regions()))
    volumes = np.full((n, 145), 4000.0)
    tracemalloc.start()
    lms.z_scores(shape, volumes, np.linspace(40, 92, n), ["F", "M"] * (n // 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * volumes.nbytes


@given(st.floats(5, 10), st.floats(-0.5, 0.5), st.floats(-3, -1.5), st.floats(-0.2, 0.2), st.floats(-0.9, 1.2))
@settings(max_examples=25)
def test_fit_recovers_known_curves(level, slope, spread, widening, power):
    known = lms.Curves((47,), np.full((2, 1, 2), [level, slope]), np.full((2, 1, 2), [spread, widening]),
                       np.full((2, 1, 1), power), 40, 92)  # fmt: skip
    years = np.arange(40, 93)
    published = np.stack(
        [lms.volumes_at(known, np.full((53, 1), z), years, ["F"] * 53)[:, 0] for z in norm.ppf(recipe.NOMINAL)], axis=1
    )
    found = recipe.fit_region(published, years)
    assert found.m[:2] == pytest.approx([level, slope], abs=1e-5)
    assert found.s[:2] == pytest.approx([spread, widening], abs=1e-3)
    assert found.power[0] == pytest.approx(power, abs=1e-2)
    assert np.abs(np.concatenate([found.m[2:], found.s[2:]])).max() < 1e-3


def test_points_that_are_no_volume_take_no_part_in_the_fit():
    years = np.arange(40, 93)
    published = 1000 * (1 + 0.5 * norm.ppf(recipe.NOMINAL)) + np.zeros((53, 1))
    spoilt = published.copy()
    spoilt[:20, 0] = -500.0
    clean, other = recipe.fit_region(published, years), recipe.fit_region(spoilt, years)
    for one, two in zip(clean, other, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


def published_table(path: Path, level: float, **changes: object) -> Path:
    """Centiles of four regions of a normal distribution that shrinks with age; a table as iSTAGING's."""
    rows = []
    for name in [*NAMES.values(), "Frontal_WM_R", "GM"]:
        for age in range(40, 93):
            middle = level * (1 - (age - 40) / 200)
            rows.append([name, age, *np.round(middle * (1 + 0.1 * norm.ppf(recipe.NOMINAL)), 1)])
    frame = pd.DataFrame(rows, columns=["VarName", "Age", *recipe.COLUMNS])
    for column, (row, value) in changes.items():
        frame.loc[row, column] = value
    frame.to_csv(path, sep="\t", index=False)
    return path


def people(path: Path, factor: float = 1.0) -> Path:
    """Healthy people drawn from these curves, at 2 mm where the factor is not 1."""
    rng = np.random.default_rng(3)
    n = 120
    age, man = rng.uniform(40, 80, n).round(1), np.arange(n) % 2 == 0
    volumes = np.where(man, 4400.0, 4000.0)[:, None] * (1 - (age[:, None] - 40) / 200) * rng.normal(1, 0.1, (n, 4))
    frame = pd.DataFrame(volumes * factor, columns=[f"MUSE_{i}" for i in NAMES])
    for name, values in (
        ("MUSE_702", rng.normal(1.4e6, 1e5, n) * factor),
        ("sex", np.where(man, "M", "F")),
        ("age", age),
    ):
        frame.insert(0, name, values)
    frame.insert(0, "participant_id", [f"p{i}" for i in range(n)])
    frame.to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    female = published_table(tmp_path / "f.tsv", 4000.0)
    male = published_table(tmp_path / "m.tsv", 4400.0)
    return ["train", "normative", "--female", str(female), "--male", str(male)]


def test_command_writes_a_bundle_that_gives_the_published_centiles(words, tmp_path, capsys):
    judged, same = people(tmp_path / "people.tsv"), people(tmp_path / "same.tsv", 1.1)
    assert main([*words, "--judge", str(judged), "--same-heads", str(same), "--out", str(tmp_path / "mine")]) == 0
    assert "mean_absolute" in capsys.readouterr().out
    found = registry.find("mine", [tmp_path])
    assert registry.role(found) == "reference"
    assert registry.available([tmp_path]) == []
    read = lms.read(tmp_path / "mine")
    assert read.indices == tuple(sorted(NAMES))
    at_40 = lms.centiles(read, [[4400.0] * 4, [4400.0] * 4], [40, 40], ["F", "M"])
    assert at_40 == pytest.approx(np.array([[84.13] * 4, [50.0] * 4]), abs=0.3)
    metrics = found.card["metrics"]
    assert metrics["fit"]["mean_absolute"] < 0.1
    assert metrics["judged"]["all"]["sd_z"] == pytest.approx(1, abs=0.1)
    assert metrics["judged"]["all"]["mean_z"]["value"] == pytest.approx(0, abs=0.15)
    assert metrics["judged"]["all"]["beyond_1.96"] == pytest.approx(0.05, abs=0.03)
    assert metrics["resolution_2mm"]["raw"]["mean_difference_z"] == pytest.approx(1.0, abs=0.1)
    assert metrics["resolution_2mm"]["converted"]["mean_difference_z"] == pytest.approx(0.0, abs=0.02)


def test_same_command_gives_the_same_bytes_and_takes_no_folder_that_is_there(words, tmp_path):
    for place in ("a", "b"):
        assert main([*words, "--out", str(tmp_path / place / "mine")]) == 0
    for name in ("model.json", "curves.tsv"):
        assert (tmp_path / "a/mine" / name).read_bytes() == (tmp_path / "b/mine" / name).read_bytes()
    assert main([*words, "--out", str(tmp_path / "a" / "mine")]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centile_50": (0, 9000.0)}, "Hippocampus_R at 40 years"),
        ({"centile_50": (0, np.nan)}, "Hippocampus_R at 40 years"),
        ({"centile_95": (212, 9000.0)}, "Frontal_WM_R stands twice"),
        ({"Age": (0, 41)}, "Hippocampus_R stands twice"),
        ({"VarName": (0, "Nothing")}, "Hippocampus_R"),
    ],
)
def test_tables_that_would_spoil_the_curves_are_refused(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        recipe.read_published(published_table(tmp_path / "f.tsv", 4000.0, **changes))


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "f.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(UsageError, match="lacks column"):
        recipe.read_published(tmp_path / "f.tsv")
    with pytest.raises(UsageError, match="not a readable TSV"):
        recipe.read_published(tmp_path / "absent.tsv")


def test_other_bundles_are_no_curves(tmp_path):
    with pytest.raises(BundleError, match="normative"):
        lms.read(registry.PACKAGED / "roi")
    card = json.loads((SHIPPED / "model.json").read_text())
    (tmp_path / "curves.tsv").write_text("index\tsex\n4\tF\n")
    save(tmp_path, card)
    with pytest.raises(BundleError, match="normative"):
        lms.read(tmp_path)


def test_what_ships_is_small_and_never_gives_a_brain_age():
    assert sum(path.stat().st_size for path in SHIPPED.glob("curves.tsv")) < 100_000
    assert registry.role(registry.find("normative", [registry.PACKAGED])) == "reference"
    assert "normative" not in {bundle.name for bundle in registry.available([registry.PACKAGED])}
    shipped = lms.read(SHIPPED)
    assert len(shipped.indices) == 141
    assert (shipped.low, shipped.high) == (40, 92)
    assert set(shipped.indices) < {region.number for region in regions()}


@given(st.floats(40, 92), sexes)
@settings(max_examples=50)
def test_the_shipped_curves_do_not_cross_and_keep_their_order_at_every_age(age, sex):
    shipped = lms.read(SHIPPED)
    z = np.repeat(np.array([[-1.6], [-0.7], [0.0], [0.7], [1.6], [2.2]]), 141, axis=1)
    volumes = lms.volumes_at(shipped, z, [age] * 6, [sex] * 6)
    assert (np.diff(volumes, axis=0)[volumes[:-1] > 0] > 0).all()
    assert np.isfinite(volumes).all()


@pytest.mark.parametrize(("sex", "word"), [("F", "female"), ("M", "male")])
def test_the_shipped_bundle_reproduces_the_published_centiles(shared_data, sex, word):
    number = {region.name: region.number for region in regions()}
    shipped = lms.read(SHIPPED)
    with (shared_data / TABLES.format(word)).open() as stream:
        rows = [r for r in csv.DictReader(stream, delimiter="\t") if r["VarName"] in number and int(r["Age"]) <= 92]
    assert {number[row["VarName"]] for row in rows} == set(shipped.indices)
    volumes = np.full((5 * len(rows), 141), np.nan)
    where = [shipped.indices.index(number[row["VarName"]]) for row in rows for _ in range(5)]
    values = np.array([[float(row[f"centile_{c}"]) for c in (5, 25, 50, 75, 95)] for row in rows])
    volumes[np.arange(len(volumes)), where] = values.ravel()
    years = np.repeat([float(row["Age"]) for row in rows], 5)
    found = lms.centiles(shipped, volumes, years, [sex] * len(years))[np.arange(len(volumes)), where]
    differences = np.abs(found - np.tile([5, 25, 50, 75, 95], len(rows)))[values.ravel() > 0]
    assert differences.mean() < 0.3
    assert (differences < 3).mean() > 0.99
    assert differences.max() < 8
