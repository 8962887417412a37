"""The command line, the TOML file and the docs come from one dataclass."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bids_brainage import cli, options, toolbox
from bids_brainage.core.errors import UsageError
from bids_brainage.options import Options

ROOT = Path(__file__).resolve().parents[2]
OPTION_VALUES = {
    "participant_label": ["01", "sub-02"], "session_label": ["pre"], "bids_filter_file": "FILE.json",
    "bids_database_dir": "db", "skip_bids_validation": True, "derivatives": ["fmriprep=/x"], "models": ["roi", "other"],
    "models_dir": "DIR", "template": "MNI152NLin6Asym", "random_seed": 7, "force": True, "phenotype": "FILE.tsv",
    "minimal_outputs": True,
    "atlas": "FILE.json", "atlas_space": "MNI152NLin6Asym", "genmind": "reference", "genmind_controls": 20,
    "controls": "diagnosis == 'CN'", "work_dir": "w", "nprocs": 3, "omp_nthreads": 2, "mem_mb": 4000, "device": "cpu",
    "nipype_plugin": "Linear", "plugin_file": "FILE.yml", "stop_on_first_crash": True, "clean_workdir": True,
    "dry_run": True, "write_graph": True, "verbose": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("bids", "DIR"):
        (tmp_path / name).mkdir()
    for name in ("FILE.json", "FILE.tsv", "FILE.yml"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def argv_of(values):
    words = ["bids", "out", "participant"]
    for name, value in values.items():
        words.append(options.flag_name(name))
        words += [] if value is True else [str(v) for v in (value if isinstance(value, list) else [value])]
    return words


def test_every_option_has_a_value_in_these_tests():
    assert set(OPTION_VALUES) == {f.name for f in options.fields()} - {"config"}


def test_flags_and_toml_give_the_same_options(folder):
    lines = [
        f"{name.replace('_', '-')} = {str(v).lower() if v is True else repr(v)}" for name, v in OPTION_VALUES.items()
    ]
    (folder / "run.toml").write_text("\n".join(lines))
    from_flags = cli.parse(argv_of(OPTION_VALUES))
    from_file = cli.parse(["bids", "out", "participant", "--config", "run.toml"])
    assert dataclasses.replace(from_file, config=None) == from_flags
    for f in options.fields():
        if f.name != "config":
            assert getattr(from_flags, f.name) != f.default, f"--{f.name} changes nothing"


def test_the_spelling_of_the_bids_apps_specification_is_understood(folder):
    """Generic runners of BIDS Apps write underscores."""
    found = cli.parse(["bids", "out", "participant", "--participant_label", "0_1", "--skip_bids_validation"])
    assert found.participant_label == ("0_1",)
    assert found.skip_bids_validation


def test_genmind_alone_asks_for_the_first_reference(folder):
    assert cli.parse(["bids", "out", "group"]).genmind is None
    assert cli.parse(["bids", "out", "group", "--genmind"]).genmind == "auto"
    assert cli.parse(["bids", "out", "group", "--genmind", "--genmind-controls", "9"]).genmind_controls == 9


def test_the_command_line_wins_over_the_file(folder):
    (folder / "run.toml").write_text("nprocs = 3\nomp-nthreads = 2")
    parsed = cli.parse(["bids", "out", "participant", "--config", "run.toml", "--nprocs", "5"])
    assert (parsed.nprocs, parsed.omp_nthreads) == (5, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [("nproc = 1", "unknown option 'nproc'"), ("nprocs = 'two'", "is not int"),
     ("device = 'gpu'", "auto or cpu or cuda"),
     ("models = [1]", "is not a list of str"), ("force = 1", "is not bool"), ("x = [", "not a readable TOML")],
)  # fmt: skip
def test_a_wrong_toml_file_is_one_line(folder, line, message):
    (folder / "run.toml").write_text(line)
    with pytest.raises(UsageError, match=message) as caught:
        cli.parse(["bids", "out", "participant", "--config", "run.toml"])
    assert "run.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere", "out", "participant"], "no such folder"), (["bids", "bids", "participant"], "same folder"),
     (["bids/sub", ".", "participant"], "lies inside"),
     (["bids", "out", "participant", "-w", "bids/w"], "w: the work folder lies"),
     (["bids", "out", "participant", "-w", "a,b"], "a,b: ANTs cannot work"),
     (["bids", "out\udce9", "participant"], "is not in UTF-8"),
     (["bids", "out", "participant", "--config", "none.toml"], "--models: names none"),
     (["bids", "out", "participant", "--nprocs", "0"], "at least 1"),
     (["bids", "out", "participant", "--bids-filter-file", "none.json"], "no such file"),
     (["bids", "out", "group", "--phenotype", "none.tsv"], "no such file"),
     (["bids", "out", "group", "--atlas", "none.nii.gz", "--atlas-space", "X"], "no such file"),
     (["bids", "out", "group", "--atlas", "FILE.json"], "without the other"),
     (["bids", "out", "participant", "--models-dir", "none"], "no such folder")],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line_with_exit_code_2(folder, words, message, capsys):
    (folder / "bids" / "sub").mkdir()
    (folder / "none.toml").write_text("models = []")
    assert cli.main(words) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 1


def test_the_docs_hold_the_table_of_options():
    assert options.table() in (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")


def test_labels_are_shown_with_defaults():
    text = " ".join(options.parser("bids-brainage", "1").format_help().split())
    assert "(default: roi local)" in text
    assert "%%" not in text


@pytest.mark.parametrize("module", ["bids_brainage.cli", "bids_brainage.toolbox"])
def test_help_imports_nothing_heavy(module):
    code = (
        f"import sys, {module} as m\ntry:\n    m.main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "heavy = {'numpy', 'torch', 'ants', 'nipype', 'pandas', 'bids', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 5  # the figure itself is in benchmarks/


def test_the_toolbox_says_what_the_system_said_in_one_line(tmp_path, capsys):
    assert toolbox.main(["genmind", "sample", "--n", "5", "--out", "/proc/nowhere/x.tsv"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("brainage: ")
    assert said.count("\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error():
    start = "import sys; from bids_brainage.toolbox import main; sys.exit(main(['models', 'show', 'roi']))"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options(Path(), Path(), "group").force = True
