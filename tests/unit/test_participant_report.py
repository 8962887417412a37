"""The page of one participant, from the derivatives on disk."""

import re
from pathlib import Path

import pytest

from bids_brainage.bids.outputs import path_for
from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import write_json, write_text
from bids_brainage.core.types import Age, Scan
from bids_brainage.reports.participant import _bars, write_report
from bids_brainage.workflows.predict import COLUMNS, QUALITY

TEMPLATE = "MNI152NLin2009aSym"
ROW = {
    "model": "roi", "brain_age": "61.20", "brain_age_low": "50.10", "brain_age_high": "72.30", "age": "58.5",
    "gap": "2.70", "sex": "F", "flags": "n/a", "note": "n/a", "training_data": "real",
}  # fmt: skip


@pytest.fixture
def scan(tmp_path):
    return Scan(Path("/data/sub-01/anat/sub-01_run-02_T1w.nii.gz"), {"sub": "01", "run": "02"}, Age(58.5, ""))


def page(out, scan, *rows):
    write_tsv(path_for(scan, "brainage", out, TEMPLATE), rows, list(COLUMNS))
    write_json(path_for(scan, "brainage_json", out, TEMPLATE), {"Fingerprint": {"Input": "abc", "Age": "58.5"}})
    write_text(out / "logs" / "CITATION.md", "# Methods\n\nFirst & last.\n")
    return write_report("01", [scan], out, TEMPLATE).read_text(encoding="utf-8")


def test_it_shows_the_numbers_and_needs_no_other_file(tmp_path, scan):
    html = page(tmp_path, scan, ROW)
    for shown in ("61.2 y", "50.1 to 72.3", "58.5 y", "+2.7 y", "sub-01_run-02", "First &amp; last."):
        assert shown in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "simulated people" not in html


def test_flags_and_a_missing_age_are_said(tmp_path, scan):
    row = ROW | {"age": "n/a", "gap": "n/a", "note": "age is '89+'", "flags": "brain_cut,anisotropic"}
    html = page(tmp_path, scan, row)
    assert "brain cut" in html
    assert "anisotropic" in html
    assert "No gap: age is &#39;89+&#39;" in html


def test_measures_stand_beside_their_bounds_and_open_where_one_is_beyond(tmp_path, scan):
    good = {"measure": "similarity", "value": "0.63", "low": "0.45", "high": "n/a", "unit": "n/a", "flag": "n/a"}
    bad = good | {"measure": "icv_ml", "value": "600", "low": "900", "high": "2300", "unit": "mL"}
    bad |= {"flag": "brain_volume_unusual"}
    write_tsv(path_for(scan, "quality", tmp_path, TEMPLATE), [good], list(QUALITY))
    html = page(tmp_path, scan, ROW)
    assert "all measures within their bounds" in html
    assert "at least 0.45" in html
    assert "<details>" in html
    write_tsv(path_for(scan, "quality", tmp_path, TEMPLATE), [good, bad], list(QUALITY))
    html = page(tmp_path, scan, ROW)
    assert "1 of 2 measures beyond their bounds" in html
    assert "900 to 2300" in html
    assert "<details open>" in html
    assert "brain volume unusual" in html


@pytest.mark.parametrize("harm", ["no_column", "no_number", "no_rows", "no_fingerprint"])
def test_a_table_that_somebody_changed_is_named_with_what_to_do(tmp_path, scan, harm):
    page(tmp_path, scan, ROW)
    table, mark = (path_for(scan, name, tmp_path, TEMPLATE) for name in ("brainage", "brainage_json"))
    text = table.read_text(encoding="utf-8")
    match harm:
        case "no_column":
            table.write_text(text.replace("flags", "Flags"), encoding="utf-8")
        case "no_number":
            table.write_text(text.replace("61.20", "sixty"), encoding="utf-8")
        case "no_rows":
            table.write_text(text.partition("\n")[0] + "\n", encoding="utf-8")
        case "no_fingerprint":
            mark.write_text("{}", encoding="utf-8")
    with pytest.raises(BrainAgeError, match=r"sub-01_run-02_brainage\.tsv: .*remove sub-01_run-02_brainage\.json"):
        write_report("01", [scan], tmp_path, TEMPLATE)


def test_a_model_of_simulated_people_says_so(tmp_path, scan):
    assert "simulated people" in page(tmp_path, scan, ROW | {"training_data": "simulated"})


def test_a_model_without_interval_is_drawn(tmp_path, scan):
    html = page(tmp_path, scan, ROW | {"brain_age_low": "n/a", "brain_age_high": "n/a"})
    assert "n/a to n/a" in html
    assert "61.2 y" in html


def test_names_in_the_tables_are_escaped(tmp_path, scan):
    assert "<script>x" not in page(tmp_path, scan, ROW | {"model": "<script>x"})


def test_the_same_tables_give_the_same_bytes(tmp_path, scan):
    assert page(tmp_path, scan, ROW) == page(tmp_path, scan, ROW)


def test_the_longest_name_of_a_region_is_not_cut():
    """In an earlier page the first letters lay outside the picture: bold at 13 px takes about 8 px a letter."""
    name = "SuperiorFrontalGyrusMedialSegment_R"
    drawn = str(_bars("roi", [{"name": name, "centile": "2", "years": "1.0"}]))
    end = float(re.search(rf'x="([\d.]+)"[^>]*>{name} ', drawn)[1])
    assert end > 8 * len(f"{name} (centile 2)")
