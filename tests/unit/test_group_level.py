"""The group level from files to files: what is collected, averaged, corrected, flagged and written."""

import json
import logging
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from brainages import COLUMNS, number, rows_of, write_people, write_scan

from bids_brainage.reports.style import Section, page
from bids_brainage.workflows.group import run_group

OUTPUTS = [
    f"group_{name}"
    for name in ("participants.json", "participants.tsv", "scans.json", "scans.tsv", "summary.json", "summary.tsv")
]


@pytest.fixture
def cohort(tmp_path):
    """120 people with planted slope 0.7, intercept 15 and +6 years in 40 patients."""
    rng = np.random.default_rng(0)
    out, bids = tmp_path / "out", tmp_path / "bids"
    table = ["participant_id age diagnosis"]
    for i in range(120):
        age = round(float(rng.uniform(30, 85)), 2)
        patient = i % 3 == 0
        write_scan(out, f"sub-{i:03d}", round(0.7 * age + 15 + 6 * patient + float(rng.normal(0, 3)), 2), age)
        table.append(f"sub-{i:03d} {age} {'AD' if patient else 'CN'}")
    write_people(bids, "\n".join(table))
    return out, bids


# --- end to end -----------------------------------------------------------------------------------------------------


def test_planted_bias_and_effect_come_out(cohort):
    out, bids = cohort
    result = run_group(out, bids, controls="diagnosis == 'CN'")
    assert result.exit_code == 0
    model = json.loads(result.summary.read_text())["Models"]["roi"]
    line = model["Corrections"]["delange"]
    assert line["n_controls"] == 80
    assert line["slope"] == pytest.approx(0.7, abs=0.07)
    assert line["intercept"] == pytest.approx(15, abs=4)
    (pair,) = model["GroupComparisons"]["Pairs"]
    assert (pair["First"], pair["Second"]) == ("AD", "CN")
    low, high = pair["Difference"]["CI95"]
    assert low < 6 < high
    assert pair["AgeAdjustedDifference"]["Value"] == pytest.approx(6, abs=1.5)
    assert pair["CohenD"]["Value"] == pytest.approx(2, abs=0.6)
    rows = rows_of(result.participants)
    control = [r for r in rows if r["correction_control"] == "true"]
    assert {r["diagnosis"] for r in control} == {"CN"}
    gap = np.array([number(r["gap_corrected"]) for r in control])
    assert abs(gap.mean()) < 0.5


def test_scans_carry_all_forms_and_they_agree_as_they_must(cohort):
    out, bids = cohort
    result = run_group(out, bids, controls="diagnosis == 'CN'")
    rows = rows_of(result.scans)
    assert [r["gap_corrected"] for r in rows] == [r["gap_corrected"] for r in rows_of(result.participants)]
    column = {name: np.array([number(r[name]) for r in rows]) for name in rows[0] if name.startswith("gap")}
    assert column["gap_delange"] == pytest.approx(column["gap_corrected"])
    assert column["gap_beheshti"] == pytest.approx(column["gap_delange"], abs=2e-4)
    assert all(np.isfinite(values).all() for values in column.values())
    assert {r["correction"] for r in rows} == {"delange"}


def test_accuracy_is_that_of_uncorrected_ages_of_controls(cohort):
    out, bids = cohort
    result = run_group(out, bids, controls="diagnosis == 'CN'")
    control = [r for r in rows_of(result.participants) if r["diagnosis"] == "CN"]
    raw = np.mean([abs(number(r["brain_age"]) - number(r["age"])) for r in control])
    assert json.loads(result.summary.read_text())["Models"]["roi"]["RawAccuracyOnControls"]["MAE"][
        "Value"
    ] == pytest.approx(raw, rel=1e-4)
    (flat,) = rows_of(result.summary.with_suffix(".tsv"))
    assert number(flat["mae"]) == pytest.approx(raw, rel=1e-4)


def test_every_column_has_an_entry_in_its_dictionary(cohort):
    out, bids = cohort
    (bids / "participants.json").write_text(
        json.dumps({"diagnosis": {"Description": "Clinical diagnosis", "Levels": {"AD": "x"}}})
    )
    result = run_group(out, bids)
    for table in (result.scans, result.participants):
        entries = json.loads(table.with_suffix(".json").read_text())
        assert list(rows_of(table)[0]) == list(entries)
        assert all(entry["Description"] for entry in entries.values())
        assert entries["gap"]["Units"] == "year"
    assert entries["diagnosis"]["Description"] == "Clinical diagnosis"


def test_same_input_gives_the_same_bytes(cohort):
    out, bids = cohort

    def run():
        run_group(out, bids, controls="diagnosis == 'CN'")
        return {name: (out / name).read_bytes() for name in [*OUTPUTS, "group.html"]}

    assert run() == run()
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted([*OUTPUTS, "group.html"])


def test_phenotype_columns_join_by_person_and_session(tmp_path):
    out, bids = tmp_path / "out", tmp_path / "bids"
    for session in ("pre", "post"):
        for name in ("01", "02"):
            write_scan(out, f"sub-{name}_ses-{session}", 50, 48)
    write_people(bids, "participant_id site age\nsub-01 A 48\nsub-02 B 48")
    phenotype = tmp_path / "extra.tsv"
    phenotype.write_text("participant_id\tsession_id\tscore\n01\tpre\t3\nsub-01\tses-post\t4.5\n")
    rows = rows_of(run_group(out, bids, phenotype=phenotype, controls="score > 4").participants)
    assert [(r["participant_id"], r["session_id"], r["site"], r["score"]) for r in rows] == [
        ("sub-01", "ses-post", "A", "4.5"),
        ("sub-01", "ses-pre", "A", "3"),
        ("sub-02", "ses-post", "B", "n/a"),
        ("sub-02", "ses-pre", "B", "n/a"),
    ]
    assert [r["correction_control"] for r in rows] == ["true", "false", "false", "false"]


def test_few_people_get_a_median_offset(tmp_path):
    for i in range(6):
        write_scan(tmp_path, f"sub-{i}", 55 + i, 50 + 5 * i)
    result = run_group(tmp_path, tmp_path / "bids")
    assert {r["correction"] for r in rows_of(result.participants)} == {"median_offset"}
    (flat,) = rows_of(result.summary.with_suffix(".tsv"))
    assert flat["correction"] == "median_offset"


def test_one_person_and_missing_ages_still_give_a_report(tmp_path, caplog):
    write_scan(tmp_path, "sub-01", 55)
    with caplog.at_level(logging.INFO, logger="bids_brainage"):
        result = run_group(tmp_path, tmp_path / "bids")
    (row,) = rows_of(result.participants)
    assert (row["brain_age"], row["age"], row["gap"], row["gap_corrected"], row["correction"]) == (
        "55",
        "n/a",
        "n/a",
        "n/a",
        "n/a",
    )
    assert "Brain age of the group" in result.report.read_text()


def test_who_is_older_than_all_controls_is_flagged(cohort):
    out, bids = cohort
    write_scan(out, "sub-old", 80, 99)
    result = run_group(out, bids, controls="diagnosis == 'CN'")
    flagged = {
        r["participant_id"] for r in rows_of(result.participants) if "age_outside_correction_range" in r["flags"]
    }
    assert "sub-old" in flagged
    assert "age_outside_correction_range" in next(r for r in rows_of(result.scans) if r["scan"] == "sub-old")["flags"]


def test_damaged_table_makes_the_exit_code_one_and_everyone_is_said(cohort, caplog):
    out, bids = cohort
    write_scan(out, "sub-bad", 80, 70).write_text("nonsense")
    with caplog.at_level(logging.INFO, logger="bids_brainage"):
        result = run_group(out, bids)
    assert result.exit_code == 1
    assert "sub-bad/anat/sub-bad_brainage.tsv" in caplog.text
    assert "everyone (120 people), because no --controls was given" in caplog.text
    content = json.loads(result.summary.read_text())
    assert content["DamagedTables"] == list(result.damaged)
    assert content["Controls"]["Query"] is None
    html = result.report.read_text()
    assert "fitted on everyone, patients included" in html
    assert "could not be read: 1 tables or folders, e.g. sub-bad/" in html


def test_constant_and_impossible_models_are_flagged(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(30):
        age = float(rng.uniform(20, 80))
        values = {
            "constant": 40.0,
            "wild": 150 + float(rng.normal(0, 9)),
            "noise": float(rng.uniform(30, 60)),
            "good": age + float(rng.normal(0, 3)),
        }
        write_scan(tmp_path, f"sub-{i:02d}", values, round(age, 1))
    result = run_group(tmp_path, tmp_path / "bids")
    flags = {r["model"]: set(r["warnings"].split(",")) for r in rows_of(result.summary.with_suffix(".tsv"))}
    assert "constant_output" in flags["constant"]
    assert "implausible_output" in flags["wild"]
    assert "no_relation_to_age" in flags["noise"]
    assert flags["good"] == {"n/a"}
    assert "do not interpret" in result.report.read_text()


def test_simulated_training_data_is_said_everywhere(cohort, caplog):
    out, bids = cohort
    write_scan(out, "sub-000", 50, 48, training_data="simulated")
    with caplog.at_level(logging.INFO, logger="bids_brainage"):
        result = run_group(out, bids)
    assert json.loads(result.summary.read_text())["SimulatedTrainingData"] is True
    assert "trained on simulated people" in result.report.read_text()
    assert "simulated people" in caplog.text


def test_three_groups_get_anova_and_games_howell(tmp_path):
    rng = np.random.default_rng(2)
    out, bids, table = tmp_path / "out", tmp_path / "bids", ["participant_id group"]
    for i in range(90):
        age = float(rng.uniform(40, 80))
        write_scan(out, f"sub-{i:02d}", round(age + (i % 3) * 3 + float(rng.normal(0, 2)), 2), round(age, 2))
        table.append(f"sub-{i:02d} {i % 3}")
    write_people(bids, "\n".join(table))
    found = json.loads(run_group(out, bids, controls="group == 0").summary.read_text())["Models"]["roi"][
        "GroupComparisons"
    ]
    assert list(found["Groups"]) == ["0", "1", "2"]
    assert found["WelchANOVA"]["P"] < 1e-6
    assert all(pair["PGamesHowell"] < 0.05 and pair["PBenjaminiHochberg"] < 0.05 for pair in found["Pairs"])


# --- the page -------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Collects what a page would fetch, and whether its tags close."""

    void = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "data", "action") or (k == "href" and tag == "link")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


def test_report_is_one_wellformed_file_without_requests(cohort):
    out, bids = cohort
    html = run_group(out, bids, controls="diagnosis == 'CN'").report.read_text()
    parser = Links()
    parser.feed(html)
    assert parser.open == []
    assert parser.fetched == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", html)
    assert html.count('role="img"') == html.count("<title>") - 1 == 4
    assert "nan" not in re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.S).lower().split()


def test_text_from_the_dataset_is_escaped(tmp_path):
    out, bids = tmp_path / "out", tmp_path / "bids"
    for i in range(12):
        write_scan(out, f"sub-{i:02d}", {"<b>m": 50.0 + i}, 50 + 2 * i, flags="<img/src=x>")
    write_people(bids, "participant_id group\n" + "\n".join(f"sub-{i:02d} <script>{i % 2}" for i in range(12)))
    html = run_group(out, bids, controls="group != '<i>'").report.read_text()
    for evil in ("<b>m", "<img/src", "<script>0", "<i>"):
        assert evil not in html
    assert "&lt;script&gt;0" in html


def test_plain_text_sections_are_escaped_by_page():
    html = page("A & B", [Section("a", "x < y", "<b>bold</b>")])
    assert "A &amp; B" in html
    assert "x &lt; y" in html
    assert "<b>bold" not in html


@pytest.mark.slow
def test_a_hundred_thousand_scans(tmp_path):
    rng = np.random.default_rng(3)
    out = tmp_path / "out"
    n = 100_000
    age = rng.uniform(20, 90, n).round(2)
    predicted = (0.8 * age + 11 + rng.normal(0, 5, n)).round(2)
    header = "\t".join(COLUMNS)
    for i in range(n):
        folder = out / f"sub-{i:06d}" / "anat"
        folder.mkdir(parents=True)
        row = f"roi\t{predicted[i]}\tn/a\tn/a\t{age[i]}\tn/a\tF\tn/a\tn/a\treal"
        (folder / f"sub-{i:06d}_brainage.tsv").write_text(f"{header}\n{row}\n")
    started = time.process_time()
    result = run_group(out, tmp_path / "bids")
    assert time.process_time() - started < 120
    assert result.report.stat().st_size < 1_000_000
    assert sum(1 for _ in result.scans.open()) == n + 1
    line = json.loads(result.summary.read_text())["Models"]["roi"]["Corrections"]["delange"]
    assert (line["slope"], line["intercept"]) == pytest.approx((0.8, 11), abs=0.1)
