"""How the roi model is chosen and judged: measurement error, people at 2 mm, groups left out, patients."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bids_brainage.core.errors import UsageError
from bids_brainage.image.muse import regions
from bids_brainage.models import registry
from bids_brainage.models.base import load_model
from bids_brainage.models.roi import RoiModel
from bids_brainage.toolbox import main
from bids_brainage.training import evaluate, evidence, measurement, muse, regressors, roi
from bids_brainage.training.measurement import MeasurementError
from tests.unit.test_training_roi import INDICES, at_2mm, people

FEW = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def design(seed: int, n: int = 40, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Log volumes, correlated, with sex as the last column, and ages."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)
    sex = rng.choice([-0.5, 0.5], n)
    return np.column_stack([x, sex]), 50 + x @ rng.normal(size=k) * 5 + sex + rng.normal(0, 3, n)


@FEW
@given(st.integers(0, 10_000), st.floats(0.01, 1000))
def test_without_errors_it_is_ridge(seed: int, alpha: float) -> None:
    x, y = design(seed)
    ours = regressors.NoisyRidge(alpha).fit(x, y)
    theirs = make_pipeline(StandardScaler(), Ridge(alpha)).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-6)
    assert ours.score(x, y) == pytest.approx(-np.mean((theirs.predict(x) - y) ** 2))


@FEW
@given(
    st.integers(0, 10_000),
    st.floats(0.01, 100),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), max_size=2),
)
def test_its_penalty_is_what_copies_with_errors_do(
    seed: int, alpha: float, own: list[float], shared: list[list[float]]
) -> None:
    """Each source of error, a region's own or a shared one, moves one copy up and one down: exactly that covariance."""
    x, y = design(seed)
    x[:, :4] += 20  # so far from an empty region that a logarithm moves as its volume does
    error = MeasurementError(np.array(own), np.array(shared).reshape(-1, 4))
    ours = regressors.NoisyRidge(alpha, error, np.ones(4, dtype=bool)).fit(x, y)
    z, sources = (x - ours.mean_) / ours.scale_, np.vstack([np.diag(own), error.shared])
    moves = np.c_[sources, np.zeros(len(sources))] / ours.scale_ * np.sqrt(len(sources))
    np.testing.assert_allclose(ours.error_, moves.T @ moves / len(sources), rtol=1e-5, atol=1e-8)
    copies = [z + sign * move for move in moves for sign in (-1, 1)]
    theirs = Ridge(alpha * len(copies)).fit(np.vstack(copies), np.tile(y, len(copies)))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(z), rtol=1e-5)
    expected = np.mean([np.mean((ours.predict(c * ours.scale_ + ours.mean_) - y) ** 2) for c in copies])
    assert ours.score(x, y) == pytest.approx(-expected, rel=1e-5)


def independent(own: np.ndarray) -> MeasurementError:
    """Errors that no two regions share."""
    return MeasurementError(own, np.zeros((0, len(own))))


def errors(seed: int = 0) -> MeasurementError:
    """Own errors of 2 to 6 %, and one that all regions share."""
    rng = np.random.default_rng(seed)
    return MeasurementError(np.linspace(0.02, 0.06, len(INDICES)), rng.normal(0, 0.04, (1, len(INDICES))))


def test_error_of_a_feature_is_that_of_the_volume(tmp_path: Path) -> None:
    table = frame_table(people(4000), tmp_path)
    model = regressors.NoisyRidge(1.0, errors(), table.logged).fit(table.design(), table.age)
    drawn = table.with_error(errors(), 1).design() - table.design()
    found = np.cov(drawn / model.scale_, rowvar=False)
    np.testing.assert_allclose(found, model.error_, atol=0.08 * np.abs(model.error_).max())
    assert not model.error_[-1].any()
    assert not drawn[:, -1].any()


def test_a_shared_error_makes_a_sum_that_does_not_feel_it(tmp_path: Path) -> None:
    """The answer to what all regions share grows small beside that to independent errors of the same size."""
    train = frame_table(people(300, 1), tmp_path)
    pattern = np.where(train.logged, 0.0, 0.06)
    models = [
        regressors.NoisyRidge(10.0, error, train.logged).fit(train.design(), train.age)
        for error in (independent(pattern), MeasurementError(np.zeros(len(INDICES)), pattern[None]))
    ]
    moved = replace(train, volumes=train.volumes * np.exp(pattern)).design()
    independent_one, shared_one = (np.abs(m.predict(moved) - m.predict(train.design())).mean() for m in models)
    assert shared_one < 0.5 * independent_one


def test_patterns_that_repeats_share_are_found_again() -> None:
    """Own errors and the shared one come out as they were put in; both sides count alike."""
    rng, mirror = np.random.default_rng(0), np.array([1, 0, 3, 2, 4, 5])
    known = MeasurementError(np.full(6, 0.02), np.array([[0.1, 0.1, -0.05, -0.05, 0.0, 0.08]]))
    start = MeasurementError(np.full(6, 0.02), np.zeros((0, 6)))
    found = measurement.with_repeats(start, known.draw(rng, 400), 1, mirror)
    np.testing.assert_allclose(np.abs(found.shared), np.abs(known.shared), atol=0.01)
    np.testing.assert_allclose(found.own, known.own, atol=0.006)
    start = MeasurementError(np.full(6, 0.3), np.full((1, 6), 0.1))
    found = measurement.with_repeats(start, known.draw(rng, 40), 1, mirror)
    np.testing.assert_allclose(found.own, 0.3)
    np.testing.assert_allclose(found.shared[0], 0.1)


def test_errors_against_a_reference_are_parted_into_shared_and_own() -> None:
    """A kind of structure that a head has too large is found as shared; what its regions do one by one is their own."""
    rng, kinds = np.random.default_rng(1), np.repeat([2, 3], 40)
    mirror = np.arange(80).reshape(-1, 2)[:, ::-1].reshape(-1)
    common = rng.normal(size=(400, 2)) @ np.array([[0.05, 0.03], [0.0, 0.02]])
    ratio = np.repeat(common, 40, axis=1) + rng.normal(size=(400, 80)) * 0.1
    found = measurement.against_reference(ratio, kinds, mirror)
    np.testing.assert_allclose(found.own, 0.1, rtol=0.1)
    assert np.array_equal(found.own, found.own[mirror])
    between = found.shared.T @ found.shared
    np.testing.assert_allclose(between[[0, 0, 79], [39, 79, 40]], [0.0025, 0.0015, 0.0013], atol=5e-4)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_no_error_of_a_reference_is_lost(heads: int, seed: int) -> None:
    """The mean square over regions is that of the ratios, as far as own errors are not drawn to the median."""
    rng = np.random.default_rng(seed)
    ratio, kinds = rng.normal(size=(heads, 30)) * 0.1, np.repeat([1, 2, 3], 10)
    found = measurement.against_reference(ratio, kinds, np.arange(30))
    own = ((heads + measurement.PRIOR_HEADS) * found.own**2).sum() - 30 * measurement.PRIOR_HEADS * np.median(
        ratio_rest(ratio, kinds)
    )
    np.testing.assert_allclose(own / heads + (found.shared**2).sum(), (ratio**2).mean(axis=0).sum(), rtol=1e-9)


def ratio_rest(ratio: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Mean square of what is left of each region."""
    rest = [ratio[:, kinds == k] - ratio[:, kinds == k].mean(axis=1, keepdims=True) for k in np.unique(kinds)]
    return (np.concatenate(rest, axis=1) ** 2).mean(axis=0)


def test_people_of_one_age_stay_in_one_fold() -> None:
    """Twins, or one person who stands twice; whole years say nothing of that."""
    rng = np.random.default_rng(0)
    age = np.round(rng.uniform(20, 80, 150), 2) + 0.001
    age[1::3] = age[::3]
    tests = [test for _, test in regressors.folds(0).split(np.zeros(150), age)]
    assert sorted(np.concatenate(tests).tolist()) == list(range(150))
    fold = np.empty(150, int)
    for number, test in enumerate(tests):
        fold[test] = number
    assert np.array_equal(fold[1::3], fold[::3])
    whole = [len(test) for _, test in regressors.folds(0).split(np.zeros(150), np.full(150, 60.0))]
    assert whole == [15] * 10


def frame_table(frame: pd.DataFrame, folder: Path, name: str = "people.tsv", fewest: int = 1) -> muse.Table:
    frame.to_csv(folder / name, sep="\t", index=False, float_format="%.3f")
    return muse.read_table(folder / name, fewest=fewest)


def test_knowing_the_error_helps_where_there_is_one(tmp_path: Path) -> None:
    train, test = frame_table(people(200, 1), tmp_path), frame_table(people(400, 2), tmp_path)
    sd = independent(np.where(np.isin(INDICES, [47, 48]), 0.5, 0.02))
    plain = roi.search(train.design(), train.age, 0)
    knowing = roi.search(train.design(), train.age, 0, sd, train.logged)
    worse, better = (np.abs(m.predict(test.with_error(sd, 3).design()) - test.age).mean() for m in (plain, knowing))
    assert better < worse - 1
    assert np.abs(knowing.coef_[[3, 4]]).max() < 0.3 * np.abs(plain.coef_[[3, 4]]).max()


def test_no_error_leaves_the_table(tmp_path: Path) -> None:
    table = frame_table(people(20), tmp_path)
    assert table.with_error(None, 0) is table
    np.testing.assert_array_equal(table.with_error(independent(np.zeros(8)), 0).volumes, table.volumes)
    drawn = [table.with_error(independent(np.full(8, 0.1)), s).volumes for s in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()


@FEW
@given(st.floats(0.8, 1.3), st.integers(0, 1000))
def test_slope_and_ratios_are_found_again(slope: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    icv = rng.normal(1.4e6, 1e5, 60)
    middle = np.array([0.01, 0.02, 0.05, 0.1])
    spread = rng.normal(0, 0.1, (60, 4))
    kinds = np.full(60, "F")
    tables = [
        muse.Table(np.arange(60).astype(str), icv, kinds, kinds, icv * scale, volumes, (47, 48, 100, 101))
        for scale, volumes in (
            (1.0, middle * np.exp(spread * slope) * icv[:, None]),
            (1.04, 1.3 * middle * np.exp(spread) * icv[:, None]),
        )
    ]
    found = muse.conversion(*tables)
    assert found.slope == pytest.approx(slope, rel=5e-3)
    back = tables[1].converted(found)
    np.testing.assert_allclose(back.volumes, tables[0].volumes, rtol=0.05)
    np.testing.assert_allclose(back.icv, tables[0].icv)


def test_differences_that_shrink_at_2mm_show_as_a_dependence_on_age(tmp_path: Path) -> None:
    fine = frame_table(people(200), tmp_path)
    relative = fine.volumes / fine.icv[:, None]
    centre = np.exp(np.log(relative).mean(axis=0))
    coarse = muse.replace(fine, volumes=centre * (relative / centre) ** 0.7 * fine.icv[:, None])
    cohort = muse.Cohort(fine, None, (fine, coarse))
    found = evidence.resolution_agreement(roi.cross_fit(cohort, 0), cohort)
    assert found["difference_per_year_of_age_without_slope"]["high"] < -0.1
    assert abs(found["difference_per_year_of_age"]["value"]) < 0.02


def files(folder: Path, coarse: pd.DataFrame | None = None) -> dict[str, Path]:
    """A table at 1 mm, other people at 2 mm (one failed), and heads at both."""
    others = at_2mm(people(30, 4)).assign(participant_id=[f"q{i:02d}" for i in range(30)])
    others.loc[7, [f"MUSE_{i}" for i in INDICES]] = 0
    made = {"fine": people(), "coarse": others if coarse is None else coarse, "same": at_2mm(people().iloc[5:60])}
    for name, frame in made.items():
        frame.to_csv(folder / f"{name}.tsv", sep="\t", index=False, float_format="%.3f")
    return {name: folder / f"{name}.tsv" for name in made}


def test_people_at_2mm_train_and_failed_ones_are_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = files(tmp_path)
    error = tmp_path / "error.tsv"
    error.write_text("index\trelative_sd\n702\t0.02\n" + "".join(f"{i}\t0.05\n" for i in INDICES))
    words = ["train", "roi", "--table", given_["fine"], "--coarse-table", given_["coarse"]]
    words += ["--same-heads", given_["same"], "--noise", error, "--out", tmp_path / "mine", "--seed", "0"]
    assert main(list(map(str, words))) == 0
    assert "left out of training: q07 (many empty regions: the segmentation failed)" in capsys.readouterr().out
    bundle = registry.verified(tmp_path / "mine")
    training, metrics = bundle.card["training"], bundle.card["metrics"]
    assert (training["n"], training["n_1mm"], set(training["left_out"])) == (149, 120, {"q07"})
    assert training["command"] == (
        "brainage train roi --table fine.tsv --coarse-table coarse.tsv --same-heads same.tsv --noise error.tsv "
        "--out mine --seed 0"
    )
    assert {name: found["n"] for name, found in metrics["leave_one_table_out"].items()} == {"1 mm": 120, "2 mm": 29}
    assert abs(metrics["leave_one_table_out"]["2 mm"]["bias"]["value"]) < 3
    assert metrics["interval_90_with_measurement_error"]["low"] < 0.9
    wide, narrow = (metrics[f"out_of_fold{s}"]["mae"]["value"] for s in ("_with_measurement_error", ""))
    assert wide > narrow
    model = load_model(bundle)
    assert isinstance(model, RoiModel)
    assert 0.9 < model.conversion.slope < 1.1
    assert sum(1 for _ in (tmp_path / "mine" / "residuals.tsv").open()) == 150


def test_a_head_that_judges_the_app_never_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = files(tmp_path)
    monkeypatch.setattr(roi.card, "provenance", lambda path: {"file": path.name, "judging_heads": ["q03"]})
    card = roi.fit(given_["fine"], coarse_table=given_["coarse"], same_heads=given_["same"], out=tmp_path / "mine").card
    assert set(card["training"]["left_out"]) == {"q03", "q07"}
    assert card["training"]["n"] == 148


def test_the_judging_head_of_the_shipped_table_is_known(shared_data: Path) -> None:
    entry = roi.card.provenance(shared_data / "muse" / "ixi_dlmuse_2mm.tsv")
    assert entry["judging_heads"] == ["IXI012-HH-1211"]
    assert muse.failed(shared_data / "muse" / "ixi_dlmuse_2mm.tsv") == ["IXI256-HH-1723"]


def test_people_at_2mm_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    given_ = files(tmp_path)
    with pytest.raises(UsageError, match="need --same-heads"):
        roi.fit(given_["fine"], coarse_table=given_["coarse"], out=tmp_path / "mine")
    files(tmp_path, at_2mm(people().head(3)))
    with pytest.raises(UsageError, match="p000 stands in the other table too"):
        roi.fit(given_["fine"], coarse_table=given_["coarse"], same_heads=given_["same"], out=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_nobody_judged_takes_part_in_the_conversion_of_others(tmp_path: Path) -> None:
    given_ = files(tmp_path)
    cohort = muse.read_cohort(given_["fine"], given_["coarse"], given_["same"], ["q07"])
    judged = cohort.people().who[10:30]
    assert cohort.heads is not None
    coarse = cohort.heads[1]
    volumes = np.where(np.isin(coarse.who, judged)[:, None], coarse.volumes * 2, coarse.volumes)
    changed = muse.replace(cohort, heads=(cohort.heads[0], muse.replace(coarse, volumes=volumes)))
    np.testing.assert_array_equal(cohort.people(judged).volumes, changed.people(judged).volumes)
    assert (cohort.people().volumes[-29:] != changed.people().volumes[-29:]).any()
    assert cohort.people().who.tolist() == cohort.people(judged).who.tolist()
    assert cohort.is_coarse.sum() == 29


def test_each_round_sees_a_conversion_blind_to_its_test_people(tmp_path: Path) -> None:
    given_ = files(tmp_path)
    cohort = muse.read_cohort(given_["fine"], given_["coarse"], given_["same"], ["q07"])
    assert cohort.heads is not None
    known = 0
    for fold in roi.cross_fit(cohort, 0):
        test = fold.people.who[fold.test]
        np.testing.assert_array_equal(fold.people.volumes, cohort.people(test).volumes)
        known += int(np.isin(cohort.heads[0].who, test).sum())
    assert known == 55
    assert (cohort.people(test).volumes != cohort.people().volumes).any()


def test_intervals_are_those_of_volumes_with_the_error(tmp_path: Path) -> None:
    cohort = muse.Cohort(frame_table(people(200), tmp_path))
    sd = independent(np.full(len(INDICES), 0.3))
    found = roi.held_out(roi.cross_fit(cohort, 0, sd), 0, sd)
    age = cohort.fine.age
    with_error = evaluate.coverage(age, found.measured, found.measured_half_width)
    assert with_error["low"] < 0.9 < with_error["high"]
    assert evaluate.coverage(age, found.predicted, found.half_width)["low"] > 0.9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index\tsd\n4\t0.1\n", "lacks column index or relative_sd"),
        ("index\trelative_sd\n4\t0.1\n", "no usable value for MUSE index 23"),
        ("index\trelative_sd\n4\t-0.1\n23\t0.1\n", "no usable value for MUSE index 4"),
        ("index\trelative_sd\n4\tn/a\n23\t0.1\n", "no usable value for MUSE index 4"),
        ("index\trelative_sd\tshared_1\n4\t0.1\t0.1\n23\t0.1\tn/a\n", "no usable value for MUSE index 23"),
        ("index\trelative_sd\n4\t0.1\n4\t0.1\n23\t0.1\n", "MUSE index 4 stands twice"),
    ],
)
def test_unusable_errors_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "error.tsv").write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)):
        measurement.read_error(tmp_path / "error.tsv", (4, 23))


def test_errors_are_read_in_the_order_of_the_regions(tmp_path: Path) -> None:
    text = "index\trelative_sd\tshared_1\n23\t0.2\t-0.1\n702\t0.9\t0\n4\t0\t0.3\n"
    (tmp_path / "error.tsv").write_text(text)
    found = measurement.read_error(tmp_path / "error.tsv", (4, 23))
    assert found.own.tolist() == [0.0, 0.2]
    assert found.shared.tolist() == [[0.3, -0.1]]


def test_shipped_errors_are_of_the_size_that_the_atlas_card_states() -> None:
    """One is the root mean square of log ratios, relative to ICV, the other the median absolute error.

    What the ventricles share counts their horns too: their large parts have less of their own than the horns.
    """
    volumes = registry.find("muse-atlas", registry.search_path()).card["metrics"]["volumes"]
    model = load_model(registry.find("roi", registry.search_path()))
    assert isinstance(model, RoiModel)
    known = measurement.read_error(registry.PACKAGED.parent / "muse_error.tsv", model.indices)
    errors = np.sqrt(np.diag(known.covariance()))
    error = dict(zip(model.indices, errors, strict=True))
    thin = {region.number for region in regions() if region.name.startswith(("Fornix", "InfLatVentricle"))}
    assert all(0.01 < value < (1.0 if index in thin else 0.5) for index, value in error.items()), "5 mm lose the thin"
    assert error[51] == error[52] < error[49] == error[50]
    assert error[47] == error[48]
    stated = volumes["median of 145 regions"]["median_absolute_error_percent"]
    assert 0.8 < float(np.median(errors)) * 67.449 / stated < 1.5


def test_sex_difference_is_that_at_the_same_age(tmp_path: Path) -> None:
    table = frame_table(people(2000), tmp_path)
    man = table.sex == "M"
    table = muse.replace(table, age=table.age - 8 * man)
    regressed = 60 + 0.5 * (table.age - 60)
    found = evidence.sex_difference(table, regressed)
    assert found["as_it_is"]["value"] > 3
    assert found["at_the_same_age"]["value"] == pytest.approx(0, abs=0.01)
    real = evidence.sex_difference(table, regressed + 3 * man)
    assert real["at_the_same_age"]["value"] == pytest.approx(3, abs=0.01)


@given(st.lists(st.floats(20, 90), min_size=20, max_size=100))
def test_nine_people_stand_beyond_either_end_of_the_age_range(ages: list[float]) -> None:
    age = np.array(ages)
    low, high = roi.age_range(age)
    assert low <= high
    assert (age < low).sum() <= 9 < (age <= low).sum()
    assert (age > high).sum() <= 9 < (age >= high).sum()


def clinic(folder: Path, n: int = 60) -> Path:
    frame = people(n, 8)
    diagnosis = np.repeat(["CN", "AD", "MCI"], n // 3)
    volumes = [f"MUSE_{i}" for i in INDICES]
    frame.loc[diagnosis == "AD", ["MUSE_47", "MUSE_48"]] *= 0.7
    frame[volumes] = (frame[volumes] / 1.2).round() * 1.2
    frame.loc[::4, volumes] += 0.5
    frame.assign(diagnosis=diagnosis).to_csv(folder / "clinic.tsv", sep="\t", index=False, float_format="%.3f")
    return folder / "clinic.tsv"


def test_patients_are_told_from_controls_overall_and_among_alike_voxels(tmp_path: Path) -> None:
    table = frame_table(people(200), tmp_path)
    model = roi.search(table.design(), table.age, 0)
    found = evidence.patients(clinic(tmp_path), model, table.indices)
    assert found["CN"]["n"] == 20
    everyone, alike = found["cohens_d_against_CN"].values()
    assert {k: v["n"] for k, v in everyone["gap"].items()} == {"AD": 20, "MCI": 20}
    assert {k: v["n"] for k, v in alike["gap"].items()} == {"AD": 15, "MCI": 15}
    for measures in (everyone, alike):
        assert set(measures) == {"gap", "gap, at the same age", "hippocampi / ICV", "hippocampi / ICV, at the same age"}
        assert measures["hippocampi / ICV"]["AD"]["low"] > 0
        assert measures["gap, at the same age"]["AD"]["value"] > 0.8
        assert measures["hippocampi / ICV"]["MCI"]["low"] < 0 < measures["hippocampi / ICV"]["MCI"]["high"]


def test_older_patients_are_not_told_apart_at_the_same_age(tmp_path: Path) -> None:
    table = frame_table(people(600), tmp_path)
    diagnosis = np.where(np.random.default_rng(5).uniform(40, 80, 600) < table.age, "AD", "CN")
    predicted = 60 + 0.5 * (table.age - 60) + np.random.default_rng(1).normal(0, 2, 600)
    found = evidence.separation(table, predicted, diagnosis)
    assert found["gap"]["AD"]["high"] < -0.5
    assert found["gap, at the same age"]["AD"]["low"] < 0 < found["gap, at the same age"]["AD"]["high"]
    hippocampi = found["hippocampi / ICV, at the same age"]["AD"]
    assert found["hippocampi / ICV"]["AD"]["low"] > 0.5 > hippocampi["high"]


def test_patients_without_diagnosis_or_with_other_regions_are_refused(tmp_path: Path) -> None:
    table = frame_table(people(200), tmp_path)
    model = roi.search(table.design(), table.age, 0)
    with pytest.raises(UsageError, match="diagnosis CN"):
        evidence.patients(tmp_path / "people.tsv", model, table.indices)
    with pytest.raises(UsageError, match="other regions"):
        evidence.patients(clinic(tmp_path), model, table.indices[::-1])


def test_paired_difference_is_of_the_same_people() -> None:
    first = np.random.default_rng(0).normal(5, 3, 200)
    found = evaluate.mean_difference(first + 0.3, first, 0)
    assert found == {"value": 0.3, "low": 0.3, "high": 0.3}
    noisy = evaluate.mean_difference(first, np.zeros(200), 0)
    assert noisy["low"] is not None
    assert noisy["high"] is not None
    assert noisy["high"] - noisy["low"] == pytest.approx(2 * 1.96 * 3 / np.sqrt(200), rel=0.2)


@pytest.mark.slow
def test_candidates_are_judged_on_the_same_people_as_the_baseline(tmp_path: Path) -> None:
    pytest.importorskip("xgboost", reason="the comparison needs xgboost-cpu")
    cohort = muse.Cohort(frame_table(people(), tmp_path))
    sd = independent(np.full(len(INDICES), 0.1))
    rounds = roi.cross_fit(cohort, 0, sd)
    found = evidence.comparison(rounds, 0, sd)
    assert next(iter(found)) == "ridge"
    assert set(found["ridge"]["mae_minus_baseline"].values()) == {0.0}
    ours = evaluate.whole(cohort.fine.age, roi.held_out(rounds, 0, sd).predicted, 0)
    assert found[f"ridge, errors {regressors.CAUTION:g} times as large"]["mae"] == ours["mae"]
    for name, row in found.items():
        assert (
            row["mae"]["value"] + 0.001 >= row["mae_minus_baseline"]["value"] + found["ridge"]["mae"]["value"] - 0.002
        )
        assert row["mae"]["value"] < 8, name
        assert row["mae_with_measurement_error"] > row["mae"]["value"]
