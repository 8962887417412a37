"""From tables of scans to people and controls: what is collected, averaged and chosen."""

import contextlib
import json
import logging

import numpy as np
import pandas as pd
import pytest
from brainages import rows_of, write_people, write_scan
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage import cli
from bids_brainage.core.errors import UsageError
from bids_brainage.workflows.collect import collect
from bids_brainage.workflows.controls import choose_controls
from bids_brainage.workflows.group import run_group
from bids_brainage.workflows.people import in_time, per_person

PEOPLE = pd.DataFrame(
    {"diagnosis": ["CN", "AD", None], "age": [60.0, 70.0, np.nan], "MMSE score": [30, 20, 29], "sex": ["F", "M", "F"]}
)


# --- collecting -----------------------------------------------------------------------------------------------------


def test_results_of_several_models_are_counted_and_told(tmp_path, caplog):
    """The ages of one stand on another scale: side by side they look like a difference of people."""
    out, bids = tmp_path / "out", tmp_path / "bids"
    write_people(bids, "participant_id age\n" + "\n".join(f"sub-{i:02d} {50 + i}" for i in range(12)))
    for i in range(12):
        path = write_scan(out, f"sub-{i:02d}", 51.0 + i, 50 + i)
        mark = {"Version": "0.1.0", "Template": "MNI", "Model roi": "a" * 64, "Age": str(50 + i)}
        mark |= {"Model roi": "b" * 64} if i % 4 == 0 else {}
        mark |= {"Model local": "c" * 64} if i == 7 else {}  # what others have not is no difference
        path.with_suffix(".json").write_text(json.dumps({"Fingerprint": mark}))
    result = run_group(out, bids)
    content = json.loads(result.summary.read_text())
    assert content["MadeBy"]["Model roi"] == {"a" * 64: 9, "b" * 64: 3}
    assert content["Mixed"] == "Model roi aaaaaaaa in 9, bbbbbbbb in 3"
    assert "side by side: Model roi aaaaaaaa in 9" in caplog.text
    assert "aaaaaaaa in 9, bbbbbbbb in 3" in result.report.read_text()
    run_group(out, bids, participant_label=["01", "02", "07"])
    assert json.loads(result.summary.read_text())["Mixed"] == ""
    (out / "sub-02" / "anat" / "sub-02_brainage.json").unlink()
    assert collect(out).makers["Version"] == {"0.1.0": 11, "unknown": 1}


def test_people_and_tables_that_do_not_meet_are_told(tmp_path, caplog):
    """Lost zeros, people without a result, ages that were corrected since, and columns that are not taken."""
    out, bids, phenotype = tmp_path / "out", tmp_path / "bids", tmp_path / "ph.tsv"
    for i in range(1, 7):
        write_scan(out, f"sub-{i:02d}", 51.0 + i, 50 + i)
    people = [f"sub-{i:02d} {50 + i} CN" for i in range(2, 6)]
    write_people(bids, "\n".join(["participant_id age dx", "sub-1 51 CN", "sub-06 66 AD", "sub-09 70 AD", *people]))
    phenotype.write_text("participant_id\tage\tgap\tscore\n" + "".join(f"sub-{i:02d}\t1\t2\t3\n" for i in range(1, 7)))
    run_group(out, bids, phenotype=phenotype)
    for words in (
        "participants.tsv: 1 of 6 people with a result have no row, e.g. sub-01 (there is sub-1: were zeros lost?)",
        "participants.tsv: 2 of its people have no result, e.g. sub-1",
        "participants.tsv: 1 people have another age there than in their results, e.g. sub-06; run the participant",
        "age, gap: not taken from the dataset's tables",
    ):
        assert words in caplog.text
    caplog.clear()
    write_people(bids, "\n".join(["participant_id age dx", *(f"sub-{i:02d} {50 + i} CN" for i in range(1, 7))]))
    run_group(out, bids)
    assert not [
        record for record in caplog.records if record.levelname == "WARNING" and "participants" in record.message
    ]


def test_a_dry_run_of_the_group_level_reads_and_writes_nothing(tmp_path, caplog):
    out, bids = tmp_path / "out", tmp_path / "bids"
    write_people(bids, "participant_id age\nsub-01 50")
    write_scan(out, "sub-01", 51.0, 50)
    write_scan(out, "sub-02", 51.0, 50).write_text("junk")
    before = sorted(out.rglob("*"))
    logging.getLogger("bids_brainage").propagate = True
    options = cli.parse([str(bids), str(out), "group", "--dry-run", "--models", "roi", "local"])
    with caplog.at_level("INFO"):
        assert cli.run(options) == 0
    assert "would use 1 scans of 1 people" in caplog.text
    assert "would be left out: sub-02/anat/sub-02_brainage.tsv: lacks the column" in caplog.text
    assert sorted(out.rglob("*")) == before


def test_collect_keeps_every_entity_as_written(tmp_path):
    write_scan(tmp_path, "sub-01_ses-pre_acq-mprage_run-02", 50.5, 48.25)
    write_scan(tmp_path, "sub-02_rec-norm", 61, flags="a,b", note="age is missing")
    scans = collect(tmp_path).scans
    assert scans["scan"].tolist() == ["sub-01_ses-pre_acq-mprage_run-02", "sub-02_rec-norm"]
    assert scans["session_id"].tolist() == ["ses-pre", ""]
    assert scans["run"].tolist() == ["02", ""]
    assert scans["acquisition"].tolist() == ["sub-01_ses-pre_acq-mprage_run-02", "sub-02"]
    assert scans["age"].iloc[0] == 48.25
    assert scans[["flags", "note"]].iloc[1].tolist() == ["a,b", "age is missing"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "lacks the column"),
        ("model\tbrain_age\n", "no row"),
        ("model\tbrain_age\nroi\n", "1 cells for 2"),
        ("model\tbrain_age\nroi\told\n", "'old' is not a number"),
        ("model\tbrain_age\nroi\tinf\n", "'inf' is not a number"),
        ("model\tbrain_age\nroi\t50\nroi\t51\n", "twice"),
        ("model\tbrain_age\nn/a\t50\n", "not named"),
        (b"model\tbrain_age\nr\xffi\t50\n", "utf-8"),
    ],
)
def test_a_damaged_table_is_named_and_left_out(tmp_path, content, said):
    write_scan(tmp_path, "sub-01", 50, 48)
    damaged = write_scan(tmp_path, "sub-02", 50, 48)
    damaged.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = collect(tmp_path)
    assert found.scans["participant_id"].tolist() == ["sub-01"]
    assert len(found.damaged) == 1
    assert found.damaged[0].startswith("sub-02/anat/sub-02_brainage.tsv: ")
    assert said in found.damaged[0]


def test_dangling_link_windows_ends_and_hidden_files(tmp_path):
    path = write_scan(tmp_path, "sub-01", 50, 48)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (path.parent / ".0123.sub-01_brainage.tsv").write_text("half written")
    (path.parent / "sub-01_run-2_brainage.tsv").symlink_to(tmp_path / "gone.tsv")
    found = collect(tmp_path)
    assert (len(found.scans), found.n_tables, len(found.damaged)) == (1, 2, 1)
    assert found.scans["training_data"].tolist() == ["real"]


def test_nothing_to_collect_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="run the participant level first"):
        collect(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        collect(tmp_path / "nowhere")
    write_scan(tmp_path, "sub-01", 50, 48).write_text("")
    with pytest.raises(UsageError, match="none of its 1 tables"):
        collect(tmp_path)


def test_participant_labels_with_and_without_prefix(tmp_path):
    for name in ("01", "02", "03"):
        write_scan(tmp_path, f"sub-{name}", 50, 48)
    assert collect(tmp_path, ("sub-03", "01")).scans["participant_id"].tolist() == ["sub-01", "sub-03"]
    with pytest.raises(UsageError, match="sub-09"):
        collect(tmp_path, ("01", "09"))


# --- from scans to people -------------------------------------------------------------------------------------------


def test_runs_are_averaged_and_reconstructions_count_once(tmp_path):
    write_scan(tmp_path, "sub-01_ses-a_run-1", 50, 48)
    write_scan(tmp_path, "sub-01_ses-a_run-2", 54, 48)
    write_scan(tmp_path, "sub-01_ses-a_rec-norm_run-2", 99, 48, flags="rec_variant")
    write_scan(tmp_path, "sub-01_ses-b", 60, 49)
    people, row = per_person(collect(tmp_path).scans)
    assert people["n_scans"].tolist() == [2, 1]
    assert people["brain_age"].tolist() == [52, 60]
    assert people["brain_age_low"].tolist() == [43, 51]
    assert people["gap"].tolist() == [4, 11]
    assert people["flags"].tolist() == ["", ""]
    assert row.tolist() == [0, 0, 0, 1]


def test_the_variant_counts_where_the_main_reconstruction_has_no_age(tmp_path):
    write_scan(tmp_path, "sub-01", None, 48)
    write_scan(tmp_path, "sub-01_rec-norm", 51, 48, flags="rec_variant")
    people, _ = per_person(collect(tmp_path).scans)
    assert (people["n_scans"].tolist(), people["brain_age"].tolist()) == ([1], [51])


def test_unusable_scans_are_listed_and_not_averaged(tmp_path):
    write_scan(tmp_path, "sub-01_run-1", 50, 48)
    write_scan(tmp_path, "sub-01_run-2", 150, 48, flags="moved,unusable")
    write_scan(tmp_path, "sub-02", None, 48, flags="no_brain")
    result = run_group(tmp_path, tmp_path / "bids")
    assert len(rows_of(result.scans)) == 3
    people = rows_of(result.participants)
    assert [p["brain_age"] for p in people] == ["50", "n/a"]
    assert [p["n_scans"] for p in people] == ["1", "0"]
    assert [p["flags"] for p in people] == ["n/a", "no_brain"]
    assert people[1]["age"] == "48"
    assert json.loads(result.summary.read_text())["Models"]["roi"]["Warnings"] == []


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.floats(20, 90)), min_size=1, max_size=30), st.randoms()
)
def test_order_of_scans_does_not_matter(scans, random):
    frame = pd.DataFrame(
        [
            {
                "participant_id": f"sub-{who}", "session_id": f"ses-{when}", "model": "roi",
                "scan": f"sub-{who}_ses-{when}_run-{i}",
                "acquisition": f"sub-{who}_ses-{when}_run-{i}", "sex": "F", "flags": "", "age": 50.0,
                "brain_age": age, "brain_age_low": age - 5, "brain_age_high": age + 5,
            }
            for i, (who, when, age) in enumerate(scans)
        ]
    )  # fmt: skip
    order = list(range(len(frame)))
    random.shuffle(order)
    straight, shuffled = per_person(frame)[0], per_person(frame.iloc[order].reset_index(drop=True))[0]
    pd.testing.assert_frame_equal(straight, shuffled)
    expected = frame.groupby(["participant_id", "session_id"])["brain_age"].mean()
    assert straight["brain_age"].to_numpy() == pytest.approx(expected.to_numpy())


# --- choosing controls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (None, [1, 1, 1]),
        ("diagnosis == 'CN'", [1, 0, 0]),
        ("diagnosis in ['CN', 'HC']", [1, 0, 0]),
        ("diagnosis.isin(['CN'])", [1, 0, 0]),
        ("not diagnosis == 'CN'", [0, 1, 1]),
        ("diagnosis.isna()", [0, 0, 1]),
        ("`MMSE score` > 28 and age < 65", [1, 0, 0]),
        ("(age > 50) & (sex == 'M')", [0, 1, 0]),
        ("50 < age < 65", [1, 0, 0]),
        ("age.between(50, 65) or sex == 'M'", [1, 1, 0]),
    ],
)
def test_queries(query, expected):
    assert choose_controls(PEOPLE, query).tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("group == 'CN'", "no column 'group'; there are diagnosis, age"),
        ("`no such` == 1", "no column 'no such'"),
        ("diagnosis == 'XX'", "chooses nobody; diagnosis holds AD, CN"),
        ("age", "not a condition"),
        ("age + 1", "not a condition"),
        ("True", "names no column"),
        ("diagnosis > 3", "cannot be evaluated"),
        ("age ==", "no valid query"),
        ("@PEOPLE.age > 3", "no valid query"),
        ("`@PEOPLE`.age > 3", "not allowed"),
        ("__import__('os').system('true')", "not allowed"),
        ("age.to_csv('x')", "not allowed"),
        ("age.__class__", "not allowed"),
        ("age.isin.__globals__", "not allowed"),
        ("diagnosis.str.contains('C')", "not allowed"),
        ("[x for x in age]", "not allowed"),
        ("(lambda: 1)()", "not allowed"),
        ("age ** 9 ** 9 > 1", "not allowed"),
    ],
)
def test_refused_queries(query, said):
    with pytest.raises(UsageError, match=r"^--controls ") as refused:
        choose_controls(PEOPLE, query)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text(alphabet="age><=0'\"`@_().[] &|~+-*sexdiagno,:", max_size=30))
def test_any_text_is_answered_or_refused(query):
    with contextlib.suppress(UsageError):
        assert choose_controls(PEOPLE, query).shape == (3,)


def test_a_session_that_is_asked_for_is_the_only_one(tmp_path):
    for name in ("pre", "post"):
        write_scan(tmp_path, f"sub-01_ses-{name}", 50, 48)
    assert collect(tmp_path, (), ("pre",)).scans["session_id"].tolist() == ["ses-pre"]
    assert collect(tmp_path, (), ("ses-post",)).scans["session_id"].tolist() == ["ses-post"]
    with pytest.raises(UsageError, match="ses-other"):
        collect(tmp_path, (), ("other",))


def test_the_first_session_is_the_earliest_by_age_and_then_by_number():
    rows = pd.DataFrame(
        {
            "participant_id": ["sub-1"] * 3 + ["sub-2"] * 2,
            "session_id": ["ses-10", "ses-2", "ses-post", "ses-post", "ses-pre"],
            "age": [60.0, 60.0, 61.0, 52.0, 50.0],
        }
    )
    first = in_time(rows).drop_duplicates("participant_id")
    assert first["session_id"].tolist() == ["ses-2", "ses-pre"]


def test_the_datasets_own_columns_stay_as_they_were_written(tmp_path):
    write_scan(tmp_path / "out", "sub-01", 50.00004, 48)
    write_scan(tmp_path / "out", "sub-02", 51, 49)
    write_people(tmp_path / "bids", "participant_id prs code\nsub-01 1.234e-05 12345678901234567\nsub-02 0.00002 n/a")
    rows = rows_of(run_group(tmp_path / "out", tmp_path / "bids").participants)
    assert [float(row["prs"]) for row in rows] == [1.234e-05, 2e-05]
    assert [row["code"] for row in rows] == ["12345678901234567", "n/a"]
    assert rows[0]["brain_age"] == "50"


def test_a_phenotype_table_that_knows_nobody_is_refused_and_one_that_knows_some_is_told(tmp_path, caplog):
    write_scan(tmp_path / "out", "sub-00", 50, 48)
    write_scan(tmp_path / "out", "sub-01", 51, 49)
    write_people(tmp_path / "bids", "participant_id sex\nsub-00 F")
    table = tmp_path / "phenotype.tsv"
    table.write_text("participant_id\tdiagnosis\n0\tCN\n1\tAD\n")
    with pytest.raises(UsageError, match=r"nobody of it has a result, e\.g\. sub-0; there is sub-00: were zeros"):
        run_group(tmp_path / "out", tmp_path / "bids", phenotype=table)
    table.write_text("participant_id\tdiagnosis\n00\tCN\n7\tAD\n")
    run_group(tmp_path / "out", tmp_path / "bids", phenotype=table)
    assert "1 rows are of nobody with a result, e.g. sub-7" in caplog.text


def test_numbers_that_were_written_in_full_stay_numbers(tmp_path):
    write_scan(tmp_path / "out", "sub-01", 50, 48)
    write_scan(tmp_path / "out", "sub-02", 51, 49)
    text = "participant_id bmi\nsub-01 24.123456789012345\nsub-02 31.700000000000003"
    write_people(tmp_path / "bids", text)
    result = run_group(tmp_path / "out", tmp_path / "bids", controls="bmi < 25")
    assert [row["correction_control"] for row in rows_of(result.participants)] == ["true", "false"]


def test_a_phenotype_table_of_other_people_than_those_asked_for_is_no_error(tmp_path, caplog):
    for label in ("01", "02"):
        write_scan(tmp_path / "out", f"sub-{label}", 50, 48)
    write_people(tmp_path / "bids", "participant_id sex\nsub-01 F")
    (tmp_path / "p.tsv").write_text("participant_id\tdiagnosis\n02\tCN\n")
    run_group(tmp_path / "out", tmp_path / "bids", phenotype=tmp_path / "p.tsv", participant_label=("01",))
    assert "of nobody" not in caplog.text


def test_a_damaged_table_of_a_session_that_was_not_asked_for_is_no_matter(tmp_path):
    write_scan(tmp_path, "sub-01_ses-pre", 50, 48)
    write_scan(tmp_path, "sub-01_ses-post", 50, 48).write_text("")
    assert collect(tmp_path, (), ("pre",)).damaged == ()
    assert len(collect(tmp_path).damaged) == 1


def test_a_participant_without_the_session_that_is_asked_for_is_told(tmp_path):
    write_scan(tmp_path, "sub-01_ses-1", 50, 48)
    write_scan(tmp_path, "sub-02_ses-2", 50, 48)
    with pytest.raises(UsageError, match="no brain age of sub-02 in ses-1"):
        collect(tmp_path, ("01", "02"), ("1",))


def test_a_table_whose_name_lacks_its_session_is_damage(tmp_path):
    write_scan(tmp_path, "sub-01_ses-1", 50, 48)
    write_scan(tmp_path, "sub-02_ses-1", 50, 48)
    stray = next((tmp_path / "sub-02").rglob("*_brainage.tsv"))
    stray.rename(stray.with_name("sub-02_brainage.tsv"))
    found = collect(tmp_path)
    assert found.scans["participant_id"].tolist() == ["sub-01"]
    assert "names of its folders" in found.damaged[0]
