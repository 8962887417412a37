"""This installation computes what the shipped results say, and the command sees where one does not."""

import json

import pytest

from bids_brainage.toolbox import main, selftest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_this_installation_gives_the_stored_results(tmp_path, capsys, monkeypatch):
    assert main(["selftest", "--out", str(tmp_path / "kept")]) == 0
    assert "values are within their tolerance" in capsys.readouterr().out
    found = {
        stem: selftest.results(tmp_path / "kept" / "bids", tmp_path / "kept" / "derivatives", stem)
        for stem in selftest.stored()
    }
    found["sub-golden1"]["age: roi"] += 2
    monkeypatch.setattr(selftest, "through_the_app", lambda folder: found)
    assert main(["selftest"]) == 1
    said = capsys.readouterr().out
    assert "differs  sub-golden1  age: roi" in said
    assert "do not trust this installation" in said
    assert main(["selftest", "--record", str(tmp_path / "new.json")]) == 0
    assert json.loads((tmp_path / "new.json").read_text())["scans"]["sub-golden1"] == found["sub-golden1"]


def test_a_folder_that_holds_another_run_is_refused(tmp_path, capsys):
    (tmp_path / "bids").mkdir()
    assert main(["selftest", "--out", str(tmp_path)]) == 2
    assert "give an empty folder" in capsys.readouterr().err
