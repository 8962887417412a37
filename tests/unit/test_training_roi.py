"""Training of the roi model: nobody judges what they fitted, and the same command gives the same bundle."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_brainage.core.errors import UsageError
from bids_brainage.models import registry
from bids_brainage.models.base import load_model
from bids_brainage.models.roi import RoiModel
from bids_brainage.toolbox import main
from bids_brainage.training import evaluate, evidence, muse, regressors, roi

INDICES = (4, 23, 30, 47, 48, 51, 52, 100)
FINE_OVER_COARSE = np.array([0.9, 1.1, 1.0, 0.95, 0.95, 1.03, 1.03, 0.8])


def people(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Ventricles grow and hippocampi shrink with age; men have larger heads."""
    rng = np.random.default_rng(seed)
    age, man = rng.uniform(40, 80, n), rng.random(n) < 0.5
    icv = rng.normal(1.4e6, 5e4, n) + 1.5e5 * man
    relative = np.tile([1e-3, 4e-4, 6e-4, 3e-3, 3e-3, 8e-3, 8e-3, 4e-3], (n, 1))
    relative[:, [0, 5, 6]] *= np.exp((age - 60) / 40)[:, None]
    relative[:, [3, 4]] *= 1 - (age[:, None] - 60) / 150
    volumes = relative * icv[:, None] * np.exp(rng.normal(0, 0.08, (n, 8)))
    frame = pd.DataFrame(volumes, columns=[f"MUSE_{i}" for i in INDICES])
    frame.insert(0, "MUSE_702", icv)
    for name, values in (("site", rng.choice(["A", "B"], n)), ("sex", np.where(man, "M", "F")), ("age", age.round(2))):
        frame.insert(0, name, values)
    frame.insert(0, "participant_id", [f"p{i:03d}" for i in range(n)])
    return frame


def at_2mm(frame: pd.DataFrame, noise: float = 0.03) -> pd.DataFrame:
    coarse = frame.copy()
    names = [f"MUSE_{i}" for i in INDICES]
    coarse[names] = frame[names] / FINE_OVER_COARSE * np.exp(np.random.default_rng(9).normal(0, noise, (len(frame), 8)))
    coarse["MUSE_702"] = frame["MUSE_702"] * 1.04
    return coarse


@pytest.fixture
def table(tmp_path: Path) -> Path:
    people().to_csv(tmp_path / "people.tsv", sep="\t", index=False, float_format="%.3f")
    return tmp_path / "people.tsv"


@pytest.fixture
def same_heads(tmp_path: Path) -> Path:
    at_2mm(people().iloc[5:60]).to_csv(tmp_path / "same.tsv", sep="\t", index=False, float_format="%.3f")
    return tmp_path / "same.tsv"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_trained_bundle_predicts_and_its_card_is_complete(table: Path, same_heads: Path, tmp_path: Path) -> None:
    bundle = roi.fit(table, same_heads=same_heads, out=tmp_path / "new" / "mine", seed=3)
    card = bundle.card
    assert (card["name"], card["architecture"], card["training"]["seed"], card["training"]["n"]) == (
        "mine",
        "roi",
        3,
        120,
    )
    assert (
        card["training"]["command"] == "brainage train roi --table people.tsv --same-heads same.tsv --out mine --seed 3"
    )
    assert "not stated" in card["licence"]
    assert set(card["files"]) == {"features.tsv", "residuals.tsv"}
    found = card["metrics"]["out_of_fold"]
    assert found["mae"]["low"] < found["mae"]["value"] < found["mae"]["high"] < found["mae_of_the_mean_age"]
    assert found["r"]["value"] > 0.8
    assert set(card["metrics"]["by_sex"]) == {"F", "M"}
    assert set(card["metrics"]["leave_one_site_out"]) == {"A", "B"}
    interval = card["metrics"]["interval_90"]
    assert interval["low"] < 0.9 < interval["high"]
    model = load_model(bundle)
    assert isinstance(model, RoiModel)
    frame = people()
    volumes = frame[[f"MUSE_{i}" for i in INDICES]].to_numpy()
    inputs = [model.inputs(v, i, s) for v, i, s in zip(volumes, frame["MUSE_702"], frame["sex"], strict=True)]
    ages = np.array([p.brain_age for p in model.predict(inputs)])
    assert np.abs(ages - frame["age"]).mean() < found["mae"]["value"] * 1.1
    np.testing.assert_allclose(np.exp(model.conversion.regions), FINE_OVER_COARSE, rtol=0.02)


def test_bundle_and_recipe_agree_on_what_the_model_says(table: Path, tmp_path: Path) -> None:
    model = load_model(roi.fit(table, out=tmp_path / "mine", seed=0))
    assert isinstance(model, RoiModel)
    known = muse.read_table(table)
    expected = roi.search(known.design(), known.age, 0).predict(known.design())
    inputs = [
        model.inputs(v, i, "M" if s == "M" else "F")
        for v, i, s in zip(known.volumes, known.icv, known.sex, strict=True)
    ]
    np.testing.assert_allclose([p.brain_age for p in model.predict(inputs)], expected, atol=1e-4)


@pytest.mark.slow
def test_same_command_gives_the_same_bytes(table: Path, same_heads: Path, tmp_path: Path) -> None:
    made = [contents(roi.fit(table, same_heads=same_heads, out=tmp_path / place / "mine").folder) for place in "ab"]
    assert made[0] == made[1]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_nobody_takes_part_in_their_own_prediction_interval_or_deviation(table: Path) -> None:
    known = muse.read_table(table)
    folds = roi.cross_fit(muse.Cohort(known), 0)
    before = roi.held_out(folds, 0)
    who, neighbour = next(fold.test for fold in folds if 17 in fold.test)[:2]
    age, volumes = known.age.copy(), known.volumes.copy()
    age[who] += 500
    volumes[who] *= 3
    changed = muse.replace(known, age=age, volumes=volumes)
    other_folds = roi.cross_fit(muse.Cohort(changed), 0)
    after = roi.held_out(other_folds, 0)
    restored = roi.held_out([fold._replace(people=known) for fold in other_folds], 0)
    assert restored.predicted[who] == before.predicted[who]
    assert restored.half_width[who] == before.half_width[who]
    assert after.predicted[neighbour] == before.predicted[neighbour]
    assert after.largest_z[neighbour] == before.largest_z[neighbour]
    assert after.largest_z[who] > before.largest_z[who]
    assert np.abs(after.predicted - before.predicted).max() > 1


def test_a_site_takes_no_part_in_its_own_prediction(table: Path) -> None:
    known = muse.read_table(table)
    before = evidence.predict_left_out(muse.Cohort(known), known.site, 0)
    mine = known.site == "A"
    changed = muse.replace(known, age=np.where(mine, known.age + 100, known.age))
    after = evidence.predict_left_out(muse.Cohort(changed), known.site, 0)
    np.testing.assert_array_equal(after[mine], before[mine])
    assert (after[~mine] > before[~mine] + 50).all()


def test_resolution_is_judged_blind_to_the_head(table: Path, same_heads: Path) -> None:
    cohort = muse.read_cohort(table, None, same_heads)
    found = evidence.resolution_agreement(roi.cross_fit(cohort, 0), cohort)
    assert found["n"] == 55
    assert abs(found["mean_difference"]) < 0.5 < abs(found["mean_difference_without_conversion"])
    assert found["difference_per_year_of_age"]["low"] < found["difference_per_year_of_age"]["high"]
    assert cohort.heads is not None
    fine, coarse = cohort.heads
    volumes = coarse.volumes.copy()
    volumes[7] *= 5
    changed = muse.replace(cohort, heads=(fine, muse.replace(coarse, volumes=volumes)))
    blind, seeing = ([c.conversion(judged=j) for c in (cohort, changed)] for j in (fine.who[7:9], ()))
    assert blind[0] is not None
    assert blind[1] is not None
    np.testing.assert_array_equal(blind[0].regions, blind[1].regions)
    assert blind[0].slope == blind[1].slope
    assert seeing[0] is not None
    assert seeing[1] is not None
    assert (seeing[0].regions != seeing[1].regions).all()


def test_ages_take_no_part_in_the_conversion(table: Path, tmp_path: Path) -> None:
    frame = at_2mm(people().iloc[5:60])
    found = []
    for n, shift in enumerate((0, 30)):
        path = tmp_path / f"same{n}.tsv"
        frame.assign(age=frame["age"] + shift).to_csv(path, sep="\t", index=False)
        found.append(muse.conversion(*muse.pair(muse.read_table(table), path)))
    np.testing.assert_array_equal(found[0].regions, found[1].regions)
    assert found[0].icv == found[1].icv == pytest.approx(-np.log(1.04), abs=1e-6)
    assert found[0].slope == found[1].slope


def test_paired_rows_are_the_same_people(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "shuffled.tsv"
    at_2mm(people()).sample(40, random_state=0).to_csv(path, sep="\t", index=False)
    fine, coarse = muse.pair(muse.read_table(table), path)
    assert fine.who.tolist() == coarse.who.tolist()
    np.testing.assert_allclose(coarse.icv / fine.icv, 1.04, rtol=1e-5)


def test_log_ratios_shrink_noisy_regions_most() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.2, -0.2, 0.1, -0.1, 0.0, 0.2])
    noise = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 1.5])
    coarse = np.full((12, 6), 1e6)
    fine = coarse * np.exp(truth + rng.normal(0, noise, (12, 6)))
    plain = np.log(fine / coarse).mean(axis=0)
    shrunk = muse.log_ratios(fine, coarse)
    moved = np.abs(shrunk - plain)
    assert moved[5] > 5 * moved[:5].max()
    assert abs(shrunk[5] - plain.mean()) < abs(plain[5] - plain.mean())
    np.testing.assert_allclose(muse.log_ratios(coarse * 2, coarse), np.log(2), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="age"), "lacks column age"),
        (lambda f: f.drop(columns=[f"MUSE_{i}" for i in INDICES]), "lacks column MUSE_<index>"),
        (lambda f: f.assign(sex="X"), "p000 has a sex other than F and M"),
        (lambda f: f.assign(sex=f["sex"].where(f.index != 3)), "p003 has a sex other than F and M"),
        (lambda f: f.assign(participant_id="p"), "p stands twice"),
        (lambda f: f.assign(age=f["age"].where(f.index != 3)), "p003 has a missing or negative value"),
        (lambda f: f.assign(MUSE_47=f["MUSE_47"].where(f.index != 4, -1)), "p004 has a missing or negative value"),
        (
            lambda f: f.assign(**{f"MUSE_{i}": f[f"MUSE_{i}"].where(f.index != 5, 0) for i in INDICES}),
            "p005 has many empty regions",
        ),
        (lambda f: f.head(99), "99 people are too few"),
    ],
)
def test_unusable_tables_are_refused_with_one_line(tmp_path: Path, change, said: str) -> None:
    change(people()).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        muse.read_table(tmp_path / "t.tsv")
    assert "\n" not in str(error.value)


def test_other_heads_and_taken_folders_are_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers = people().assign(participant_id=[f"q{i}" for i in range(120)])
    strangers.to_csv(tmp_path / "q.tsv", sep="\t", index=False)
    with pytest.raises(UsageError, match="shares 0 people"):
        roi.fit(table, same_heads=tmp_path / "q.tsv", out=tmp_path / "mine")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    assert main(["train", "roi", "--table", str(table), "--out", str(taken)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (taken / "mine.txt").read_text() == "keep"
    assert main(["train", "roi", "--table", str(tmp_path / "absent.tsv"), "--out", str(tmp_path / "x")]) == 2
    assert "absent.tsv: not a readable TSV" in capsys.readouterr().err


def test_coverage_counts_and_is_exact() -> None:
    found = evaluate.coverage(np.zeros(10), np.array([0.0] * 9 + [5.0]), np.full(10, 1.0))
    assert (found["covered"], found["value"], found["mean_width"]) == (9, 0.9, 2.0)
    assert (found["low"], found["high"]) == (0.555, 0.997)


def test_age_thirds_and_small_groups() -> None:
    age = np.arange(30.0, 90.0)
    thirds = evaluate.age_thirds(age)
    assert [int((thirds == name).sum()) for name in sorted(set(thirds))] == [20, 20, 20]
    grouped = evaluate.by_group(age, age + 2, np.array(["A"] * 55 + ["B"] * 5))
    assert grouped == {"A": {"n": 55, "mae": 2.0, "bias": 2.0}, "B": {"n": 5}}


@pytest.mark.slow
def test_shipped_bundle_is_what_the_command_makes(shared_data: Path, tmp_path: Path) -> None:
    shipped = registry.find("roi", registry.search_path())
    tables = shared_data / "muse"
    made = roi.fit(
        tables / "ixi_dlmuse_1mm.tsv",
        coarse_table=tables / "ixi_dlmuse_2mm.tsv",
        same_heads=tables / "ixi_dlmuse_2mm_same_heads.tsv",
        noise=registry.PACKAGED.parent / "muse_error.tsv",
        judged=tables / "clinical_muse.tsv",
        out=tmp_path / "roi",
        seed=shipped.card["training"]["seed"],
    )
    for name in shipped.card["files"]:
        assert made.file(name).read_bytes() == shipped.file(name).read_bytes(), name
    cards = [json.loads((bundle.folder / "model.json").read_text()) for bundle in (made, shipped)]
    software = [card["training"].pop("software") for card in cards]
    assert cards[1]["training"]["command"].replace(" --compare", "") == cards[0]["training"]["command"]
    compared = cards[1]["metrics"]["candidates"][f"ridge, errors {regressors.CAUTION:g} times as large"]
    assert compared["mae"] == cards[0]["metrics"]["out_of_fold"]["mae"]
    for card in cards:
        del card["training"]["command"], card["metrics"]["candidates"]
    assert cards[0] == cards[1]
    assert software[0].keys() == software[1].keys()


def test_a_failed_segmentation_is_noticed(shared_data: Path) -> None:
    with pytest.raises(UsageError, match=r"IXI256.* has many empty regions"):
        muse.read_table(shared_data / "muse" / "ixi_dlmuse_2mm.tsv", fewest=10)


def test_card_holds_for_the_people_it_names(shared_data: Path) -> None:
    card = registry.find("roi", registry.search_path()).card
    fine = muse.read_table(shared_data / "muse" / "ixi_dlmuse_1mm.tsv")
    left_out = card["training"]["left_out"]
    assert set(left_out) == {"IXI012-HH-1211", "IXI256-HH-1723"}
    coarse = muse.read_table(shared_data / "muse" / "ixi_dlmuse_2mm.tsv", fewest=1, leave_out=list(left_out))
    assert card["training"]["n"] == len(fine.who) + len(coarse.who) == 218 + 62
    age = np.concatenate([fine.age, coarse.age])
    low, high = card["age_range"]
    assert 20 < low < high < 75
    assert card["training"]["ages"]["outside_age_range"] == ((age < low) | (age > high)).sum() == 18
