"""Fidelity and privacy of synthetic people, and the generators that they judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from bids_brainage.cohort import alternatives, auc, fidelity, margins, privacy, structure, uses, validation
from bids_brainage.cohort.calibration import calibration, held_out_z
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError
from bids_brainage.toolbox import main

INDICES = (4, 11, 23, 30, 31, 32, 35, 36)
CHOICES = {
    "copula": lambda p, rng: alternatives.fit_copula(p, rng, margins.Choice(1, 1, True)),
    "mixture": lambda p, rng: alternatives.fit_mixture(p, rng, alternatives.MixtureChoice(2, 5, 0.3)),
}


def made(n: int, seed: int = 0, *, spread: float = 1.0, shift: float = 0.0) -> People:
    """People whose log volumes fall with age, share a factor, and are larger in men."""
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(40, 85, n), rng.choice(["F", "M"], n)
    head = 0.08 * rng.standard_normal(n) + 0.12 * (sex == "M")
    own = 0.06 * rng.standard_normal((n, len(INDICES)))
    slope = np.linspace(-0.008, 0.012, len(INDICES))
    logs = 8 + spread * (head[:, None] + own) + (age[:, None] - 60) * slope + shift
    icv = 1.4e6 * np.exp(head)
    return People(tuple(f"p{seed}-{i}" for i in range(n)), age, {"sex": sex}, INDICES, np.exp(logs), icv)


def kernel(people: People, rng: np.random.Generator) -> Any:
    """A generator that gives its people away: each with a little noise."""

    class Copies:
        def at(self, ages: Any, categories: Any, rng: np.random.Generator) -> People:
            chosen = people.take(rng.integers(0, len(people), len(ages)))
            noise = np.exp(0.001 * rng.standard_normal(chosen.volumes.shape))
            return People(chosen.who, chosen.age, chosen.categories, chosen.indices, chosen.volumes * noise, chosen.icv)

    return Copies()


@pytest.fixture(scope="module")
def real() -> People:
    return made(240)


@pytest.mark.parametrize("name", CHOICES)
def test_people_are_of_exactly_the_age_and_category_that_is_asked(name: str, real: People) -> None:
    rng = np.random.default_rng(1)
    ages = np.array([45.25, 80.0, 95.0])
    found = CHOICES[name](real, rng).at(ages, {"sex": "M"}, rng)
    assert found.age.tolist() == ages.tolist()
    assert found.categories["sex"].tolist() == ["M"] * 3
    assert found.volumes.shape == (3, len(INDICES))
    assert found.icv is not None
    assert (found.volumes >= 0).all()


@pytest.mark.parametrize("name", CHOICES)
def test_a_generator_keeps_level_spread_ageing_and_correlation(name: str) -> None:
    rng, many = np.random.default_rng(1), made(2000, 40)
    found = CHOICES[name](many, rng).at(np.tile(many.age, 5), {"sex": np.tile(many.categories["sex"], 5)}, rng)
    ours, theirs = (np.log(p.volumes) for p in (many, found))
    np.testing.assert_allclose(theirs.mean(axis=0), ours.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(theirs.std(axis=0), ours.std(axis=0), rtol=0.05)
    trend = structure.age_trends(many, found)
    np.testing.assert_allclose(trend["r_synthetic"], trend["r_real"], atol=0.06)
    a, b = structure.standardised(many, found)
    np.testing.assert_allclose(np.corrcoef(b.T), np.corrcoef(a.T), atol=0.06)


@pytest.mark.parametrize("name", CHOICES)
def test_the_density_prefers_people_of_the_same_kind(name: str, real: People) -> None:
    generator = CHOICES[name](real, np.random.default_rng(0))
    others = made(300, 5)
    assert generator.log_density(others).mean() > generator.log_density(made(300, 5, spread=2.0)).mean() + 1
    assert generator.log_density(others).mean() > generator.log_density(made(300, 5, shift=0.3)).mean() + 1


def test_the_density_of_a_mixture_integrates_to_one(real: People) -> None:
    one = People(real.who, real.age, real.categories, (4,), real.volumes[:, :1])
    for choice in (alternatives.MixtureChoice(2, 1, 0.3), alternatives.MixtureChoice(1, 1, 0.0)):
        generator = alternatives.fit_mixture(one, np.random.default_rng(0), choice)
        grid = np.linspace(6, 10, 4001)
        line = People(("x",) * 4001, np.full(4001, 60.0), {"sex": np.full(4001, "F")}, (4,), np.exp(grid)[:, None] - 1)
        assert np.exp(generator.log_density(line)).sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0, 1, 2, 3, 4]), st.booleans())
def test_margins_go_there_and_back(seed: int, columns: int, shaped: bool) -> None:
    people = made(80, seed)
    y, stratum = margins.log_volumes(people), margins.strata(people.categories, len(people))
    fitted = margins.fit(y, people.age, stratum, margins.Choice(columns, min(columns, 1), shaped))
    z, slope = fitted.scores(y, people.age, stratum)
    np.testing.assert_allclose(fitted.values(z, people.age, stratum), y, rtol=1e-9)
    nearby = fitted.scores(y + 1e-6, people.age, stratum)[0]
    np.testing.assert_allclose((nearby - z) / 1e-6, np.exp(slope), rtol=1e-3)


def test_held_out_likelihood_chooses_the_curve_that_is_there() -> None:
    rng = np.random.default_rng(0)
    people = made(300)
    bent = np.exp(np.log(people.volumes) + 0.002 * (people.age[:, None] - 62) ** 2)
    curved = People(people.who, people.age, people.categories, INDICES, bent, people.icv)
    candidates = [margins.Choice(columns, 0, False) for columns in (1, 3)]
    for some, columns in ((people, 1), (curved, 3)):
        best, _ = alternatives.choose(some, candidates, lambda p, c: alternatives.fit_copula(p, rng, c), rng)
        assert best.location == columns


def test_too_few_people_and_unknown_categories_are_refused(real: People) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="4 people with sex=M are too few"):
        alternatives.fit_mixture(made(5), rng)
    with pytest.raises(UsageError, match="no generator was fitted to people with sex=X"):
        CHOICES["copula"](real, rng).at(np.array([50.0]), {"sex": "X"}, rng)


def test_calibration_sees_a_generator_that_is_too_wide(real: People) -> None:
    rng = np.random.default_rng(0)
    right = calibration(held_out_z(real, CHOICES["copula"], rng), real.age)
    assert right["sd"][0] == pytest.approx(1, abs=0.08)
    assert right["beyond"][0] == pytest.approx(0.05, abs=0.02)

    class Wide:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def at(self, ages: Any, categories: Any, rng: np.random.Generator) -> People:
            one = self.inner.at(ages, categories, rng)
            centre = one.volumes.mean(axis=0)
            return People(one.who, one.age, one.categories, INDICES, centre + 1.5 * (one.volumes - centre), one.icv)

    wide = calibration(held_out_z(real, lambda p, r: Wide(CHOICES["copula"](p, r)), rng), real.age)
    assert wide["sd"][0] == pytest.approx(right["sd"][0] / 1.5, abs=0.05)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.repeat([True, False], [12, 20]))
    score = np.round(rng.standard_normal(32) + positive, 1)
    weights = auc.times_drawn(32, 5, rng)
    value, draws = auc.resampled((score, positive), weights)
    assert value == pytest.approx(roc_auc_score(positive, score))
    for row, drawn in zip(weights, draws, strict=True):
        if row[positive].any() and row[~positive].any():
            assert drawn == pytest.approx(roc_auc_score(positive, score, sample_weight=row))


def test_people_of_the_same_kind_are_alike_and_others_are_not(real: People) -> None:
    rng = np.random.default_rng(0)
    same, other = made(240, 7), made(240, 7, spread=1.6, shift=0.15)
    found = structure.correlations(real, same, rng)
    assert found.ratio == pytest.approx(1, abs=0.35)
    alone = People(other.who, other.age, other.categories, INDICES, rng.permuted(other.volumes, axis=0), other.icv)
    assert structure.correlations(real, alone, rng).ratio > 2
    table = fidelity.univariate(real, other)
    assert fidelity.univariate(real, same)["significant"].sum() <= 1
    assert table["significant"].all()
    assert (table["difference"] > 0).all()
    near, expected = structure.manifold(real, same, rng)
    assert near.coverage == pytest.approx(expected.coverage, abs=0.1)
    assert structure.manifold(real, other, rng)[0].precision < near.precision - 0.1


@pytest.mark.slow
def test_boosting_sees_what_the_linear_classifier_does_not(real: People) -> None:
    wide = made(240, 3)
    level = np.log(wide.volumes).mean(axis=0)
    wide = People(
        wide.who, wide.age, wide.categories, INDICES, np.exp(3 * (np.log(wide.volumes) - level) + level), wide.icv
    )
    found = fidelity.discrimination(real, wide, np.random.default_rng(0)).set_index(["category", "classifier"])["auc"]
    assert found["everyone", "linear SVM"] < 0.65
    assert found["everyone", "gradient boosting"] > 0.8


def test_covariates_are_learnt_from_synthetic_people(real: People) -> None:
    pytest.importorskip("xgboost")
    found = fidelity.covariates(real, made(240, 9), np.random.default_rng(0))
    value = found.set_index(["covariate", "trained_on", "measure"])["value"]
    assert value["age", "synthetic", "r"] == pytest.approx(value["age", "real", "r"], abs=0.1)
    assert value["sex", "synthetic", "AUC"] > 0.7
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()


def test_more_controls_help_a_classifier(real: People) -> None:
    ill = made(60, 11, shift=-0.08)
    found = uses.augmentation(real.take(np.arange(40)), made(400, 12), ill, np.random.default_rng(0), splits=10)
    assert found["synthetic"].tolist() == [0, 16, 32, 48, 64, 0]
    assert found["real"].tolist() == [16] * 5 + [32]
    assert found["auc"].iloc[4] > found["auc"].iloc[0]


def test_the_gap_goes_with_the_score_that_age_makes() -> None:
    pytest.importorskip("xgboost")
    rng = np.random.default_rng(0)
    judged = made(120, 20)
    older = np.where(np.arange(120) < 60, 0.0, rng.uniform(0, 20, 120))
    slope = np.linspace(-0.008, 0.012, len(INDICES))
    volumes = judged.volumes * np.exp(older[:, None] * slope)
    judged = People(judged.who, judged.age, judged.categories, INDICES, volumes, judged.icv)
    found = uses.gap_and_score(made(300), made(300, 1), judged, 30 - older, older == 0, rng)
    patients = found[found["group"] == "patients"]
    assert (patients["high"] < 0).all()
    assert found[found["group"] == "controls"]["r"].isna().all()


def test_a_copying_generator_gives_its_people_away(real: People) -> None:
    rng = np.random.default_rng(0)
    found = privacy.membership(real, kernel, rng, (300,), halves=3, resamples=200)
    worst = privacy.strongest(found)
    assert worst["auc"] > 0.85
    assert found["tpr"].max() > 0.5
    assert not privacy.may_be_called_private(worst["high"])


def test_people_whom_nobody_saw_are_not_given_away(real: People) -> None:
    rng = np.random.default_rng(0)
    others = made(400, 30)
    found = privacy.membership(real, lambda p, r: kernel(others, r), rng, (300,), halves=10, resamples=200)
    assert found["auc"].between(0.44, 0.56).all()
    apart = privacy.nearest_distances(real, made(240, 31), made(240, 32), rng)
    assert apart.ratio.low < 1.02 < apart.ratio.high + 0.1
    copied = privacy.nearest_distances(real, made(240, 31), kernel(real, rng).at(real.age, {}, rng), rng)
    assert copied.relative.high < 0.2
    assert copied.closer_to_training.low > 0.9


def test_exact_copies_are_counted(real: People) -> None:
    assert privacy.exact_copies(real, real.take(np.arange(7))) == 7
    assert privacy.exact_copies(real, made(50, 3)) == 0


@pytest.mark.parametrize(("upper", "private"), [(0.60, True), (0.61, False), (float("nan"), False), (0.5, True)])
def test_privacy_is_claimed_by_the_upper_bound_alone(upper: float, private: bool) -> None:
    assert privacy.may_be_called_private(upper) is private
    assert privacy.verdict(upper).startswith("Membership is hard") is private


def written(path: Path, people: People) -> Path:
    frame = pd.DataFrame(people.volumes, columns=[f"MUSE_{i}" for i in people.indices])
    frame.insert(0, "MUSE_702", people.icv)
    frame.insert(0, "sex", people.categories["sex"])
    frame.insert(0, "age", people.age)
    frame.insert(0, "participant_id", people.who)
    frame.to_csv(path, sep="\t", index=False)
    return path


@pytest.mark.slow
def test_the_command_writes_a_page_and_its_numbers(tmp_path: Path, real: People) -> None:
    pytest.importorskip("xgboost")
    table, synthetic = written(tmp_path / "real.tsv", real), written(tmp_path / "synthetic.tsv", made(200, 2))
    clinical = written(tmp_path / "clinical.tsv", made(120, 3))
    frame = pd.read_csv(clinical, sep="\t").assign(diagnosis=["CN"] * 60 + ["AD"] * 60, MMSE=np.arange(120) % 11 + 20)
    frame.to_csv(clinical, sep="\t", index=False)
    held = written(tmp_path / "held.tsv", made(100, 4))
    out = tmp_path / "out"
    argv = ["genmind", "validate", str(table), str(synthetic), "--out", str(out), "--splits", "2"]
    assert main([*argv, "--patients", str(clinical), "--score", "MMSE", "--held-out", str(held)]) == 0
    assert {p.name for p in out.iterdir()} == {"fidelity.html", "fidelity.json"}
    page = (out / "fidelity.html").read_text()
    for words in ("Difference of each volume", "CN vs AD", "MMSE", "The table as it is", "Pairs whose correlation"):
        assert words in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(age="n/a"), "age is missing"),
        (lambda f: f.assign(MUSE_11="n/a"), "MUSE_11 is missing"),
        (lambda f: f.head(5), "sex="),
    ],
)
def test_bad_tables_are_one_line(
    tmp_path: Path, real: People, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xgboost")
    table, synthetic = written(tmp_path / "real.tsv", real), written(tmp_path / "synthetic.tsv", made(60, 2))
    change(pd.read_csv(table, sep="\t", dtype=str)).to_csv(table, sep="\t", index=False)
    out = tmp_path / "out"
    assert main(["genmind", "validate", str(table), str(synthetic), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_copies_of_the_tested_gain_nothing_where_others_are_tested() -> None:
    """Volumes that know nothing of age: only who has seen the very people can tell it."""
    rng = np.random.default_rng(0)

    def noise(n: int) -> People:
        made_up = People(tuple(map(str, range(n))), rng.uniform(40, 85, n), {"sex": rng.choice(["F", "M"], n)}, INDICES,
                         np.exp(8 + 0.1 * rng.standard_normal((n, len(INDICES)))))  # fmt: skip
        return made_up

    seen, unseen = noise(150), noise(150)

    def error(held_out: People | None) -> float:
        rows = fidelity.covariates(seen, seen, np.random.default_rng(1), held_out)
        return float(rows.query("trained_on == 'synthetic' and measure == 'MAE, years'")["value"].iloc[0])

    assert error(None) < 6
    assert error(unseen) > 10


def test_people_without_a_diagnosis_are_no_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from types import SimpleNamespace

    from bids_brainage.toolbox.genmind.validate import _patients

    people, cells = made(6), np.array(["CN", "n/a", "AD", "", "CN", "AD"])
    table = SimpleNamespace(path=tmp_path / "p.tsv", column=lambda _: cells, numbers=lambda _: np.arange(6.0))
    found = _patients(table, people, SimpleNamespace(score="MMSE", control="CN"))
    assert found.diagnosis.tolist() == ["CN", "AD", "CN", "AD"]
    assert found.score.tolist() == [0, 2, 4, 5]
    assert len(found.people) == 4
    assert "2 people have no diagnosis" in capsys.readouterr().out


def test_categories_that_nobody_tested_has_train_nothing() -> None:
    """Their codes would be those of others."""
    people, rng = made(160), np.random.default_rng(0)
    race = np.array(["Asian", "Black", "White"])[rng.integers(0, 3, 160)]
    volumes = people.volumes * np.array([1.0, 3.0, 9.0])[np.searchsorted(["Asian", "Black", "White"], race)][:, None]
    known = People(people.who, people.age, {"race": race}, people.indices, volumes)
    for pair in (["Black", "White"], ["Asian", "Black"]):
        rows = fidelity.covariates(known, known, np.random.default_rng(1), known.take(np.isin(race, pair)))
        auc = rows.query("covariate == 'race' and measure == 'AUC'")["value"]
        assert len(auc) == 2
        assert auc.min() > 0.9


def test_a_covariate_may_have_any_name(tmp_path):
    from bids_brainage.reports.cohort import love_plot

    path = love_plot(tmp_path / "balance.png", ["site $a_$", "age"], [0.5, 0.2], [0.1, 0.0])
    assert path.stat().st_size


def test_the_verdict_does_not_hang_on_the_order_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are attacked; those of a study that stands first are not everybody."""
    monkeypatch.setattr(privacy, "MOST_ATTACKED", 150)
    leaked, safe = made(150, 1), made(150, 2)
    synthetic = kernel(leaked, np.random.default_rng(0)).at(leaked.age, {}, np.random.default_rng(0))
    volumes = np.concatenate([safe.volumes, leaked.volumes])
    sex = np.concatenate([safe.categories["sex"], leaked.categories["sex"]])
    icv = np.concatenate([np.asarray(one.icv) for one in (safe, leaked)])
    both = People((*safe.who, *leaked.who), np.concatenate([safe.age, leaked.age]), {"sex": sex}, INDICES, volumes, icv)
    found = privacy.released(both, made(200, 3), synthetic, np.random.default_rng(1))
    assert privacy.strongest(found)["auc"] > 0.65


def test_few_held_out_people_give_no_verdict(real: People) -> None:
    found = privacy.released(real, made(5, 3), made(100, 4), np.random.default_rng(0))
    assert found["high"].isna().all()
    assert "not measured" in privacy.verdict(float(privacy.strongest(found)["high"]))


@pytest.mark.parametrize(
    ("synthetic", "held_out", "words"),
    [(made(5, 4), None, "5 synthetic people are too few"), (made(100, 4), made(240).take(np.arange(30)), "30 of the")],
)
def test_what_cannot_be_judged_is_refused(real: People, synthetic: People, held_out: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        validation.validate(real, synthetic, 0, held_out=held_out)
