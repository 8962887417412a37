"""``brainage genmind``: fit, sample and match from tables as they are found, and what is said of bad ones."""

import json

import numpy as np
import pandas as pd
import pytest

from bids_brainage.bids import region_names, roi_tables
from bids_brainage.cohort import density, genmind
from bids_brainage.cohort.tables import people_of
from bids_brainage.core.bundle import load
from bids_brainage.core.errors import BundleError
from bids_brainage.toolbox import main

LABELS = region_names.region_labels()


def table(n=80, seed=0, names="muse", low=45, high=75):
    rng = np.random.default_rng(seed)
    age = rng.uniform(low, high, n).round(1)
    mean = np.random.default_rng(9).uniform(2000, 14000, len(LABELS))
    head = 1.4e6 * np.exp(0.08 * rng.standard_normal(n))
    volumes = (head / 1.4e6 * (1.2 - 0.003 * age))[:, None] * mean * np.exp(0.05 * rng.standard_normal((n, 145)))
    sex, race = np.tile(["F", "M"], n // 2), np.repeat(["White", "Black"], n // 2)
    who = [f"p{i:03d}" for i in range(n)]
    people = {"participant_id": who, "age": age, "sex": sex, "race": race, "MUSE_702": head}
    columns = [f"MUSE_{index}" for index in LABELS]
    if names == "published":
        people = {"SampleID": who, "Sex": sex, "Race": race, "Age": age}
        columns = list(LABELS.values())
    return pd.concat([pd.DataFrame(people), pd.DataFrame(volumes, columns=columns)], axis=1)


def write(folder, frame, name="t.tsv"):
    frame.to_csv(folder / name, sep="," if name.endswith("csv") else "\t", index=False)
    return folder / name


def fit(folder, frame, *options, name="t.tsv"):
    path = write(folder, frame, name)
    return main(["genmind", "fit", str(path), "--out", str(folder / "model"), "--fewest", "10", *options])


def test_fit_then_sample_then_match(tmp_path, capsys):
    assert fit(tmp_path, table(), "--bandwidths", "0.6", "0.7", "0.8", "--licence", "made up, CC0") == 0
    assert "is at the edge of the grid" in capsys.readouterr().err
    card = load(tmp_path / "model").card
    assert card["by"] == ["sex", "race"]
    assert card["training"]["data"][0]["sha256"]
    assert card["licence"] == "made up, CC0"
    assert len(card["categories"]) == 4
    assert all(entry["log_likelihood"] < 0 for entry in card["categories"])

    out = tmp_path / "drawn.csv"
    sample = ["genmind", "sample", str(tmp_path / "model"), "--n", "40", "--names", "published"]
    assert main([*sample, "--out", str(out)]) == 0
    drawn = pd.read_csv(out)
    assert list(drawn.columns)[:6] == ["SampleID", "Sex", "Race", "Age", "3rd Ventricle", "4th Ventricle"]
    assert drawn.groupby(["Sex", "Race"]).size().tolist() == [10] * 4
    assert (drawn.iloc[:, 4:] > 0).all().all()
    assert json.loads(out.with_suffix(".json").read_text())["Synthetic"] is True
    assert main([*sample, "--out", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()

    study = table(20, seed=3, low=50, high=70)
    study.loc[0, "age"] = 99
    study.loc[1, "sex"] = "?"
    path = write(tmp_path, study, "study.tsv")
    where = tmp_path / "matched"
    options = ["--out", str(where), "--k", "6", "--write-controls"]
    assert main(["genmind", "match", str(tmp_path / "model"), str(path), *options]) == 1
    assert "p000 is not matched: age 99 is outside" in capsys.readouterr().err
    z = pd.read_csv(where / "z.tsv", sep="\t")
    assert z.shape == (18, 4 + 145)
    lost = pd.read_csv(where / "unmatched.tsv", sep="\t")
    assert set(lost["participant_id"]) == {"p000", "p001"}
    rows = pd.read_csv(where / "balance.tsv", sep="\t").set_index("covariate")
    assert abs(rows.loc["age", "smd_after"]) < 1e-9
    assert (where / "balance.png").stat().st_size > 1000
    controls = pd.read_csv(where / "controls-0001.tsv", sep="\t")
    ages = study.set_index("participant_id")["age"]
    assert len(controls) == 18 * 6
    for who, age in zip(controls["participant_id"], controls["age"], strict=True):
        assert age == ages[who.split("-")[0]]


def test_a_bundle_comes_back_as_it_was_fitted_and_damage_is_seen(tmp_path):
    assert fit(tmp_path, table(), "--by", "sex", "--bandwidths", "0.7", "--icv") == 0
    frame = roi_tables.read(tmp_path / "t.tsv")
    made = genmind.fit(people_of(frame, tmp_path / "t.tsv", icv=True), bandwidths=[0.7]).model
    found = genmind.read(load(tmp_path / "model"))
    assert (found.by, found.indices, found.has_icv) == (("sex",), tuple(LABELS), True)
    for key, one in made.densities.items():
        other = found.densities[key]
        assert other.kernel == "shrunken"
        likelihood = [density.log_likelihood(each, np.ones((1, 147))) for each in (one, other)]
        np.testing.assert_allclose(*likelihood, rtol=1e-13)  # the last bit depends on where arrays lie in memory
    with pytest.raises(BundleError, match="is no genmind bundle"):
        genmind.read(type("B", (), {"card": {"architecture": "roi"}, "folder": "x"})())


def test_published_tables_are_read_as_they_are(tmp_path):
    frame = table(names="published").rename(columns={"Right Hippocampus": "H_Right Hippocampus", "Age": "age"})
    read = roi_tables.read(write(tmp_path, frame, "t.csv"), icv=False)
    own = roi_tables.read(write(tmp_path, table()))
    np.testing.assert_allclose(read.select(tuple(LABELS)), own.select(tuple(LABELS)), rtol=1e-9)
    assert people_of(read, tmp_path / "t.csv", by=("sex", "race")).categories["race"][0] == "White"


def spoilt(column, row, value):
    frame = table().astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (spoilt("MUSE_47", 3, ""), "MUSE_47 is missing or no number in 1 rows (p003)"),
        (spoilt("MUSE_47", 3, -5), "MUSE_47 is negative in 1 rows (p003)"),
        (
            spoilt([f"MUSE_{i}" for i in LABELS][:6], 3, 0),
            "the table has more than 5 empty regions, so that segmentation failed, in 1 rows (p003)",
        ),
        (spoilt("age", [1, 2, 3, 4], "89+"), "age is missing, censored or no number in 4 rows (p001, p002, p003, ...)"),
        (spoilt("sex", 3, "7"), "sex is not F or M in 1 rows (p003)"),
        (spoilt("race", 3, "9"), "race is not White, Black or Asian in 1 rows (p003)"),
        (spoilt("participant_id", 3, "p002"), "p002 stands in several rows"),
        (table().assign(MUSE_47=5.0), "MUSE_47 is the same in all"),
        (table(16), "are too few (at least 10)"),
        (table().assign(MUSE_702=lambda f: f["MUSE_702"] * 1e-3), "looks like cm^3"),
        (
            table().drop(columns="MUSE_702").pipe(lambda f: f.assign(**{c: f[c] / 1e3 for c in f if "MUSE" in c})),
            "the sum of the regions has median",
        ),
        (
            table().pipe(lambda f: f.assign(**{c: f[c] / 1e3 for c in f if "MUSE" in c and c != "MUSE_702"})),
            "of the intracranial volume, so that their units differ",
        ),
        (table()[["participant_id", "age", "sex"]], "has no column of MUSE volumes"),
    ],
)
def test_a_bad_table_is_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, frame, words):
    assert fit(tmp_path, frame, "--bandwidths", "0.7") == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t.tsv"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ages", "10", "20"], "is outside"),
        (["--ages", "70", "60"], "the first is the lower one"),
        (["--n", "0"], "--n must be"),
        (["--out", "x.xlsx"], "has no suffix of"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert fit(tmp_path, table(), "--bandwidths", "0.7") == 0
    capsys.readouterr()
    assert main(["genmind", "sample", "model", "--out", "out.tsv", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.tsv").exists()


def test_every_region_has_one_released_name():
    assert len(LABELS) == len(set(LABELS.values())) == 145
    assert set(LABELS) == set(region_names.region_names().values())
    assert LABELS[4] == "3rd Ventricle"
    assert LABELS[23] == "Right Accumbens Area"
    assert LABELS[163] == "Left OpIFG opercular part of the inferior frontal gyrus"


def test_parquet_is_read_and_written(tmp_path):
    """The same people from a parquet table as from a TSV, and drawn tables that hold the same numbers."""
    pytest.importorskip("pyarrow")
    table().to_parquet(tmp_path / "t.parquet")
    options = ["--bandwidths", "0.7", "--fewest", "10"]
    assert main(["genmind", "fit", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "a"), *options]) == 0
    assert main(["genmind", "fit", str(write(tmp_path, table())), "--out", str(tmp_path / "b"), *options]) == 0
    one, other = (genmind.read(load(tmp_path / name)) for name in "ab")
    for key, found in one.densities.items():
        np.testing.assert_allclose(found.centres, other.densities[key].centres, atol=1e-9)
    for suffix in ("parquet", "tsv"):
        sample = ["genmind", "sample", str(tmp_path / "a"), "--n", "20", "--out", str(tmp_path / f"drawn.{suffix}")]
        assert main(sample) == 0
    read, written = pd.read_parquet(tmp_path / "drawn.parquet"), pd.read_csv(tmp_path / "drawn.tsv", sep="\t")
    assert list(read.columns) == list(written.columns)
    np.testing.assert_allclose(read["MUSE_47"], written["MUSE_47"], atol=1e-3)


def test_scores_say_what_they_are_in(tmp_path):
    assert fit(tmp_path, table(), "--bandwidths", "0.7") == 0
    people = write(tmp_path, table(6, seed=1, low=55, high=65), "people.tsv")
    words = ["genmind", "match", str(tmp_path / "model"), str(people), "--k", "20"]
    assert main([*words, "--out", str(tmp_path / "matched")]) == 0
    for name, unit in (("z", "SD"), ("centile", "percent")):
        said = json.loads((tmp_path / "matched" / f"{name}.json").read_text())
        assert said["Units"] == {"age": "years", f"{name} of a volume": unit}
