"""Brain age from tables of volumes that people already have, in all the forms in which they come."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.bids import region_names, roi_tables
from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.errors import UsageError
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.toolbox import main
from bids_brainage.workflows.predict import COLUMNS

MODEL = load_model(find("roi", [PACKAGED]))
INDICES = (702, *MODEL.indices)
NAMES = {index: name for name, index in region_names.region_names().items()}


def people(n=4, seed=0):
    """Volumes of plausible people, mm^3, by MUSE index."""
    rng = np.random.default_rng(seed)
    icv = rng.normal(1.45e6, 1e5, n)
    typical = np.where(MODEL.logged, np.exp(MODEL.mean), MODEL.mean)
    volumes = np.abs(typical * icv[:, None] * rng.normal(1, 0.05, (n, len(MODEL.indices))))
    return pd.DataFrame(np.c_[icv, volumes], columns=list(INDICES))


def write(path, frame, name="MUSE_{}", who="participant_id", **more):
    table = frame.rename(columns={index: name.format(index) for index in frame.columns}).copy()
    table.insert(0, who, [f"P{n:02d}" for n in range(len(frame))])
    for column, values in more.items():
        table[column] = values
    table.to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    return path


def predict(table, out, *more):
    code = main(["predict", str(table), "--out", str(out), *more])
    return code, [{**row, "note": row["note"].replace(table.name, "TABLE")} for row in read_tsv(out)]


@pytest.mark.parametrize(
    ("name", "who", "file"),
    [
        ("MUSE_{}", "participant_id", "a.tsv"),
        ("DL_MUSE_Volume_{}", "MRID", "a.csv"),
        ("{}", "MRID", "a.csv"),
        ("MUSE_Volume_{}", "PTID", "a.tsv"),
    ],
)
def test_every_form_gives_the_same_ages(tmp_path, name, who, file):
    frame = people()
    plain = predict(write(tmp_path / "plain.tsv", frame), tmp_path / "plain-out.tsv")
    other = predict(write(tmp_path / file, frame, name, who), tmp_path / "out.tsv")
    assert plain == other
    assert plain[0] == 0
    assert all(20 < float(row["brain_age"]) < 110 for row in plain[1])
    assert list(plain[1][0]) == ["participant_id", *COLUMNS]


def test_names_of_regions_do_as_well(tmp_path):
    frame = people().rename(columns={index: NAMES[index] for index in MODEL.indices} | {702: "ICV"})
    frame.insert(0, "subject", [f"P{n:02d}" for n in range(len(frame))])
    frame.to_csv(tmp_path / "named.tsv", sep="\t", index=False)
    plain = predict(write(tmp_path / "plain.tsv", people()), tmp_path / "plain-out.tsv")
    assert predict(tmp_path / "named.tsv", tmp_path / "out.tsv") == plain


def test_the_apps_own_table_is_read_with_its_scale(tmp_path):
    volumes = people(1).iloc[0]
    rows = [f"{index}\tx\t{volume}" for index, volume in volumes.items()]
    own = tmp_path / "sub-01_desc-muse_volumes.tsv"
    own.write_text("\n".join(["index\tname\tvolume_mm3", *rows]) + "\n")
    ages = {}
    for scale in ("dlmuse-1mm", "dlmuse-2mm"):
        own.with_suffix(".json").write_text(json.dumps({"VolumeScale": scale}))
        code, found = predict(own, tmp_path / "out.tsv")
        assert (code, found[0]["participant_id"]) == (0, "sub-01")
        ages[scale] = float(found[0]["brain_age"])
        artefacts = {"muse_volumes": own, "sex": None}
        assert ages[scale] == pytest.approx(MODEL.predict([MODEL.prepare(artefacts)])[0].brain_age, abs=0.006)
    assert ages["dlmuse-1mm"] != ages["dlmuse-2mm"]


def test_age_and_sex_are_used_as_in_the_app(tmp_path):
    table = write(tmp_path / "t.tsv", people(), age=["61.5", "89+", "", "19"], sex=["F", "male", "n/a", "M"])
    _, rows = predict(table, tmp_path / "out.tsv")
    assert [row["age"] for row in rows] == ["61.5", "n/a", "n/a", "19"]
    assert [row["sex"] for row in rows] == ["F", "M", "n/a", "M"]
    assert float(rows[0]["gap"]) == pytest.approx(float(rows[0]["brain_age"]) - 61.5, abs=0.01)
    assert rows[1]["gap"] == "n/a"
    assert "censored" in rows[1]["note"]
    assert "sex_missing" in rows[2]["flags"]
    assert "age_outside_model_range" in rows[3]["flags"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.assign(**{"MUSE_47": [""] + [1.0] * 3}), "MUSE_47 is missing"),
        (lambda f: f.assign(**{"MUSE_47": [-5.0] + [1.0] * 3}), "MUSE_47 is missing or negative"),
        (lambda f: f.assign(**{"MUSE_702": [0.0] + [1.5e6] * 3}), "the ICV is missing or not positive"),
        (lambda f: f.assign(**{f"MUSE_{i}": [0.0] + [9e3] * 3 for i in MODEL.indices[:20]}), "20 regions are empty"),
    ],
)
def test_a_bad_row_has_no_age_and_the_others_have_one(tmp_path, capsys, spoil, words):
    table = write(tmp_path / "t.tsv", people())
    spoil(pd.read_csv(table, sep="\t")).to_csv(table, sep="\t", index=False)
    code, rows = predict(table, tmp_path / "out.tsv")
    assert code == 1
    assert (rows[0]["brain_age"], rows[0]["flags"]) == ("n/a", "unusable")
    assert words in rows[0]["note"]
    assert all(row["brain_age"] != "n/a" for row in rows[1:])
    assert "1 rows without brain age (P00)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f / 1000, "looks like cm^3"),
        (lambda f: f / 1e6, "looks like litres"),
        (lambda f: f / 6e6, "is no intracranial volume, or volumes were normalised"),
        (lambda f: f.drop(columns=702), "has no intracranial volume"),
        (lambda f: f[[702]], "has no column of MUSE volumes"),
        (lambda f: f.drop(columns=[47, 48]), "lacks 2 of the"),
        (lambda f: f.iloc[:0], "has no row"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path, capsys, spoil, words):
    table = write(tmp_path / "t.tsv", spoil(people()))
    assert main(["predict", str(table), "--out", str(tmp_path / "out.tsv")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out.tsv").exists()


def test_the_same_region_twice_and_no_people_are_refused(tmp_path):
    frame = people().rename(columns={47: "MUSE_47"})
    frame["47"] = 1.0
    with pytest.raises(UsageError, match="are the same region"):
        roi_tables.read(write(tmp_path / "t.tsv", frame, "{}"))
    people().to_csv(tmp_path / "u.tsv", sep="\t", index=False)
    with pytest.raises(UsageError, match="has no column of people"):
        roi_tables.read(tmp_path / "u.tsv")
    with pytest.raises(UsageError, match=r"none\.tsv: cannot be read"):
        roi_tables.read(tmp_path / "none.tsv")


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=12))
def test_any_column_name_is_a_volume_or_not_and_never_a_crash(tmp_path_factory, text):
    frame = pd.DataFrame({"participant_id": ["a"], "MUSE_702": ["1500000"], "MUSE_47": ["3500"], text: ["1"]})
    try:
        columns = roi_tables._volume_columns(tmp_path_factory.getbasetemp() / "t", frame)
    except UsageError:
        return
    assert columns[47] in ("MUSE_47", text)


def test_the_output_must_not_be_the_table(tmp_path):
    table = write(tmp_path / "t.tsv", people())
    before = table.read_bytes()
    assert main(["predict", str(table), "--out", str(table)]) == 2
    assert table.read_bytes() == before


def test_rows_with_more_cells_than_the_header_are_refused(tmp_path):
    """They would move every volume to the column before."""
    lines = write(tmp_path / "t.csv", people()).read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([lines[0], *(f"{line}," for line in lines[1:])]) + "\n")
    with pytest.raises(UsageError, match=r"t\.csv: cannot be read"):
        roi_tables.read(tmp_path / "t.csv")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    frame = people()
    table = pd.read_csv(write(tmp_path / "t.tsv", frame), sep="\t")
    table.insert(3, "MUSE_47", table["MUSE_47"] * 2, allow_duplicates=True)
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    with pytest.raises(UsageError, match="has the column 'MUSE_47' 2 times"):
        roi_tables.read(tmp_path / "t.tsv")


def test_a_table_of_the_app_without_the_file_that_says_its_scale_is_refused(tmp_path, capsys):
    """Taken as another scale, it would give other ages without a word."""
    frame = people(1).iloc[0]
    path = tmp_path / "sub-01_desc-muse_volumes.tsv"
    path.write_text("\n".join(["index\tname\tvolume_mm3", *(f"{i}\tx\t{v:.1f}" for i, v in frame.items())]) + "\n")
    assert main(["predict", str(path), "--out", str(tmp_path / "out.tsv")]) == 2
    assert "on which scale the volumes are; give --scale" in capsys.readouterr().err
    assert main(["predict", str(path), "--out", str(tmp_path / "out.tsv"), "--scale", "dlmuse-2mm"]) == 0
    renamed = tmp_path / "renamed.tsv"
    renamed.write_bytes(path.read_bytes())
    assert main(["predict", str(renamed), "--out", str(tmp_path / "none.tsv")]) == 2
    path.with_suffix(".json").write_text(json.dumps({"VolumeScale": "dlmuse-2mm"}))
    assert main(["predict", str(path), "--out", str(tmp_path / "again.tsv")]) == 0
    assert (tmp_path / "again.tsv").read_text() == (tmp_path / "out.tsv").read_text()


def test_tables_of_several_scans_one_under_the_other_are_refused(tmp_path, capsys):
    """The last scan would be everybody's."""
    rows = [f"{i}\tx\t{v:.1f}" for n in range(3) for i, v in people(3).iloc[n].items()]
    path = tmp_path / "all.tsv"
    path.write_text("\n".join(["index\tname\tvolume_mm3", *rows]) + "\n")
    assert main(["predict", str(path), "--out", str(tmp_path / "out.tsv"), "--scale", "dlmuse-2mm"]) == 2
    assert "region 702 more than once, so it is of several scans" in capsys.readouterr().err
    assert not (tmp_path / "out.tsv").exists()


def test_regions_in_another_unit_than_the_icv_are_refused(tmp_path, capsys):
    frame = people()
    frame[list(MODEL.indices)] /= 1000
    table = write(tmp_path / "a.tsv", frame)
    assert main(["predict", str(table), "--out", str(tmp_path / "out.tsv")]) == 2
    assert "of the intracranial volume, so that their units differ" in capsys.readouterr().err


def test_sessions_stay_apart(tmp_path):
    table = write(tmp_path / "a.tsv", people(2), session_id=["ses-1", ""])
    code, rows = predict(table, tmp_path / "out.tsv")
    assert code == 0
    assert list(rows[0])[:2] == ["participant_id", "session_id"]
    assert [row["session_id"] for row in rows] == ["ses-1", "n/a"]


def test_a_model_without_conversion_refuses_volumes_of_2_mm(tmp_path, capsys):
    folder = tmp_path / "models" / "mine"
    shutil.copytree(find("roi", [PACKAGED]).folder, folder)
    card = json.loads((folder / "model.json").read_text())
    card["arguments"]["converts_2mm"] = False
    (folder / "model.json").write_text(json.dumps(card | {"name": "mine"}))
    words = ["--model", "mine", "--models-dir", str(folder.parent), "--scale", "dlmuse-2mm"]
    table = write(tmp_path / "a.tsv", people())
    assert main(["predict", str(table), "--out", str(tmp_path / "out.tsv"), *words]) == 2
    assert "bundle mine has no conversion" in capsys.readouterr().err
