"""The descriptors say what the options say, and what they lead to is a command line that the app takes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bids_brainage import __version__, cli, options
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json, write_text
from bids_brainage.toolbox import brainlife
from bids_brainage.toolbox.descriptor import descriptor
from bids_brainage.toolbox.docker import IMAGE
from tests.unit.test_options import OPTION_VALUES

DESCRIPTORS = Path(__file__).resolve().parents[2] / "descriptors"
COMMITTED = DESCRIPTORS / "bids-brainage.json"


def bosh(*argv):
    program = shutil.which("bosh", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("needs `bosh`: pip install boutiques")
    done = subprocess.run([program, *map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_committed_descriptor_is_that_of_the_options():
    """Make it anew by ``brainage descriptor > descriptors/bids-brainage.json``."""
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == descriptor()


def test_the_schema_accepts_it():
    assert bosh("validate", COMMITTED).strip() == "OK"


def test_a_simulated_call_with_every_option_is_parsed_to_the_same_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bids", "DIR"):
        (tmp_path / name).mkdir()
    for name in ("FILE.json", "FILE.tsv", "FILE.yml"):
        (tmp_path / name).write_text("{}")
    given = {"bids_dir": "bids", "out_dir": "out dir", "level": "group", **OPTION_VALUES}
    line = bosh("exec", "simulate", "-i", write_json(tmp_path / "call.json", given), COMMITTED).splitlines()[-1]
    program, *words = shlex.split(line)
    assert program == "bids-brainage"
    expected = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    parsed = cli.parse(words)
    for name, value in expected.items():
        assert str(getattr(parsed, name)) == str(value), name


def test_words_are_the_way_back_from_the_parser():
    parser = options.parser("bids-brainage", "1")
    words = ["b", "o", "group", *options.words(OPTION_VALUES)]
    values = vars(parser.parse_args(words))
    assert options.words(values) == options.words(OPTION_VALUES)
    assert set(values) == {*OPTION_VALUES, "bids_dir", "out_dir", "level"}
    assert options.words({"random_seed": 0}) == ["--random-seed", "0"]


AGES = "model\tbrain_age\tbrain_age_low\tbrain_age_high\tage\tgap\tsex\tflags\tnote\ttraining_data\n"


def test_brainlife_shows_the_brain_age_and_keeps_it(tmp_path):
    write_text(
        tmp_path / "sub-01" / "anat" / "sub-01_brainage.tsv",
        AGES
        + "roi\t70.10\t60.00\t81.00\t64.5\t5.60\tF\tn/a\tn/a\treal\nx\t66.00\tn/a\tn/a\tn/a\tn/a\tF\tbad\tn/a\treal\n",
    )
    regions = "".join(f"roi\t{i}\tregion{i}\t100\t50\t{(-1) ** i * i / 10}\n" for i in range(20))
    write_text(
        tmp_path / "sub-01" / "anat" / "sub-01_desc-brainage_contributions.tsv",
        "model\tindex\tname\tvolume_mm3\tcentile\tyears\n" + regions,
    )
    made = brainlife.product(tmp_path)
    first, second, ages, bars = made["brainlife"]
    assert (first["type"], second["type"]) == ("success", "warning")
    assert "70.10 years (90 % interval 60.00 to 81.00)" in first["msg"]
    assert "bad" in second["msg"]
    assert ages["data"][0]["y"] == [70.1, 66.0]
    assert ages["data"][0]["error_y"]["array"] == pytest.approx([10.9, 0])
    assert ages["data"][1]["y"] == [64.5, None]
    assert bars["data"][0]["y"][-1] == "region19"
    assert len(bars["data"][0]["x"]) == brainlife.SHOWN_REGIONS
    assert made["brain_age"]["x"] == {
        "brain_age": 66.0, "brain_age_low": None, "brain_age_high": None, "age": None, "gap": None, "flags": ["bad"],
    }  # fmt: skip
    assert len(json.dumps(made)) < 8000


def test_brainlife_config_becomes_a_dataset_that_the_app_reads(tmp_path):
    from bids_brainage.bids.inputs import find_scans

    config = json.loads((DESCRIPTORS / "brainlife" / "config.json").read_text())
    (tmp_path / "task").mkdir()
    write_text(tmp_path / "input" / "t1.nii.gz", "not read here")
    brainlife.write_bids(config, tmp_path / "task", tmp_path / "task" / "bids")
    (scan,) = find_scans(tmp_path / "task" / "bids").scans
    assert (scan.subject, scan.age.years, scan.sex) == ("01", 64.5, "F")


def test_brainlife_without_an_image_is_one_line(tmp_path, capsys):
    from bids_brainage.toolbox import main

    write_json(tmp_path / "config.json", {"t1": "gone.nii.gz"})
    assert main(["brainlife", str(tmp_path / "config.json")]) == 2
    shown = capsys.readouterr().err
    assert "gone.nii.gz" in shown
    assert len(shown.splitlines()) == 1


def test_brainlife_config_of_odd_types_is_read_or_refused(tmp_path):
    """The platform's form gives what people type."""
    with pytest.raises(UsageError, match=r"'models' \(3\) is no list of names"):
        brainlife.models({"models": 3})
    (tmp_path / "t1.nii.gz").write_bytes(b"x")
    for inputs in ([None], "x", [{"id": "t1", "meta": "x"}], [{"id": "t1", "meta": {"subject": "A-1"}}]):
        config = {"t1": "t1.nii.gz", "_inputs": inputs, "sex": "f\tm", "age": 50}
        image = brainlife.write_bids(config, tmp_path, tmp_path / "bids")
    assert image.name == "sub-A1_T1w.nii.gz"
    assert (tmp_path / "bids" / "participants.tsv").read_text().endswith("sub-A1\t50\tf m\n")


def test_the_brainlife_task_uses_the_image_of_this_version():
    assert f"docker://{IMAGE}" in (DESCRIPTORS / "brainlife" / "main").read_text(encoding="utf-8")
    assert __version__ in IMAGE
