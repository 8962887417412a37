"""The wrapper's command mounts what the options name, and the app in it gets what the user typed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bids_brainage import options
from bids_brainage.core.files import write_text
from bids_brainage.toolbox import docker
from tests.unit.test_options import OPTION_VALUES

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """#!/bin/sh
printf '%s\\n' "$@" > "$RECORD"
while [ "$1" != IMAGE ]; do shift; done
shift
exec "$PYTHON" -m bids_brainage.cli "$@"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("bids", "DIR", "reused", "bin"):
        (tmp_path / name).mkdir()
    for name in ("FILE.json", "FILE.tsv", "FILE.yml"):
        write_text(tmp_path / "files" / name, "{}")
    monkeypatch.chdir(tmp_path)
    for name in docker.HOMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def shown(capsys, *words):
    assert docker.main([*words, "--dry-run"]) == 0
    return shlex.split(capsys.readouterr().out)


def mounts(line):
    given = [line[i + 1] for i, word in enumerate(line) if word == "-v"]
    return {text.split(":")[0]: text.split(":")[2] for text in given}


def test_input_is_read_only_and_output_and_work_are_not(folder, capsys):
    line = shown(capsys, "bids", "bids/derivatives/x", "participant", "--models", "roi", "local")
    assert mounts(line) == {
        f"{folder}/bids": "ro", f"{folder}/bids/derivatives/x": "rw", f"{folder}/work": "rw",
    }  # fmt: skip
    assert list(mounts(line)) == sorted(mounts(line))  # the dataset before the folder in it
    assert line[:3] == ["docker", "run", "--rm"]
    assert line[line.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert not (folder / "bids" / "derivatives").exists()
    image = line.index(docker.IMAGE)
    assert line[image + 1 : image + 4] == [f"{folder}/bids", f"{folder}/bids/derivatives/x", "participant"]
    assert line[image + 4 :] == ["--models", "roi", "local", "--work-dir", f"{folder}/work"]


def test_every_option_that_is_a_path_is_mounted_and_absolute(folder, capsys):
    values = dict(OPTION_VALUES) | {"derivatives": ["fmriprep=reused"]}
    del values["dry_run"]
    paths = [f for f in options.fields() if options.kind(f)[0] is Path and f.name in values]
    values |= {f.name: f"files/{values[f.name]}" for f in paths if str(values[f.name]).startswith("FILE")}
    line = shown(capsys, "bids", "out", "group", *options.words(values))
    inside = vars(options.parser("x", "1").parse_args(line[line.index(docker.IMAGE) + 1 :]))
    for f in paths:
        assert inside[f.name] == folder / values[f.name]
        where = inside[f.name].parent if inside[f.name].is_file() else inside[f.name]
        assert mounts(line)[str(where)] == ("rw" if f.metadata["made"] else "ro")
    assert inside["derivatives"] == [f"fmriprep={folder}/reused"]
    assert mounts(line)[f"{folder}/reused"] == "ro"
    others = {name: value for name, value in values.items() if name not in {*(f.name for f in paths), "derivatives"}}
    assert {name: inside[name] for name in others} == others


def test_a_model_by_its_folder_is_mounted_and_a_name_stays(folder, capsys):
    line = shown(capsys, "bids", "out", "group", "--genmind", "reused")
    assert mounts(line)[f"{folder}/reused"] == "ro"
    assert line[line.index("--genmind") + 1] == f"{folder}/reused"
    line = shown(capsys, "bids", "out", "group", "--genmind")
    assert line[line.index("--genmind") + 1] == "auto"


def test_a_derivative_dataset_without_a_name_is_named_after_its_folder(folder, capsys):
    (folder / "fmriprep").symlink_to(folder / "reused")
    line = shown(capsys, "bids", "out", "participant", "--derivatives", "reused", "fmriprep")
    first = line.index("--derivatives") + 1
    assert line[first : first + 2] == [f"reused={folder}/reused", f"fmriprep={folder}/reused"]
    assert mounts(line)[f"{folder}/reused"] == "ro"
    assert str(folder) not in mounts(line)


def test_a_file_that_is_a_link_keeps_its_name_and_what_lies_beside_it(folder, capsys):
    (folder / "annex").mkdir()
    (folder / "files" / "FILE.tsv").rename(folder / "annex" / "MD5E-s3.tsv")
    (folder / "files" / "FILE.tsv").symlink_to(folder / "annex" / "MD5E-s3.tsv")
    line = shown(capsys, "bids", "out", "group", "--phenotype", "files/FILE.tsv")
    assert line[line.index("--phenotype") + 1] == f"{folder}/files/FILE.tsv"
    assert mounts(line)[f"{folder}/files"] == mounts(line)[f"{folder}/annex"] == "ro"


def test_what_the_caller_s_groups_may_read_is_read(folder, capsys, monkeypatch):
    monkeypatch.setattr(os, "getgroups", lambda: [os.getgid(), 4321, 1234])
    line = shown(capsys, "bids", "out", "group")
    assert [line[i + 1] for i, word in enumerate(line) if word == "--group-add"] == ["1234", "4321"]
    podman = shown(capsys, "bids", "out", "group", "--engine", "podman")
    assert "--group-add" not in podman
    assert podman[podman.index("--security-opt") + 1] == "label=disable"


def test_a_config_file_is_read_outside(folder, capsys):
    write_text(folder / "run.toml", 'models_dir = "DIR"\nnprocs = 3\nrandom_seed = 7')
    line = shown(capsys, "bids", "out", "participant", "--config", "run.toml", "--random-seed", "0")
    words = line[line.index(docker.IMAGE) + 4 :]
    assert words == [
        "--models-dir", f"{folder}/DIR", "--random-seed", "0", "--work-dir", f"{folder}/work", "--nprocs", "3",
    ]  # fmt: skip
    assert mounts(line)[f"{folder}/DIR"] == "ro"


def test_the_gpu_and_installed_models_reach_the_container(folder, capsys, monkeypatch):
    monkeypatch.setenv("BIDS_BRAINAGE_HOME", str(folder / "home"))
    line = shown(capsys, "bids", "out", "participant", "--device", "cuda")
    assert line[line.index("--gpus") + 1] == "all"
    assert f"BIDS_BRAINAGE_HOME={folder}/home" in line
    assert mounts(line)[f"{folder}/home"] == "rw"
    line = shown(capsys, "bids", "out", "participant", "--device", "cuda", "--engine", "podman")
    assert "nvidia.com/gpu=all" in line
    assert "--gpus" not in shown(capsys, "bids", "out", "participant", "--device", "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "out", "participant"], "none: there is no such folder"),
        (["bids", "out", "group", "--phenotype", "gone.tsv"], "gone.tsv: there is no such file"),
        (["bids", "files/FILE.tsv", "group"], "FILE.tsv: is a file; give a folder"),
        (["/usr", "out", "group"], "/usr: cannot be shared"),
        (["/usr/local", "out", "group"], "/usr/local: cannot be shared"),
        (["bids", "out", "participant", "-w", "bids/work"], "bids/work: the work folder lies inside the dataset"),
        (["bids", "bids/out", "participant"], "bids/out: lies inside the dataset"),
        (["bids", "out", "participant", "--engine", "podman"], "podman: is not installed"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_nothing_is_made(folder, words, message, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert docker.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (folder / "out").exists()


def test_a_colon_in_a_path_is_refused(folder, capsys):
    (folder / "a:b").mkdir()
    assert docker.main(["a:b", "out", "group", "--dry-run"]) == 2
    assert "colon" in capsys.readouterr().err


def test_the_app_gets_the_words_and_its_exit_code_comes_back(folder):
    """An engine that runs the app without a container: what the wrapper passes on is what the app takes."""
    engine = write_text(folder / "bin" / "docker", ENGINE)
    engine.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "RECORD": str(folder / "words"), "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    argv = [sys.executable, "-m", "bids_brainage.toolbox.docker", "bids", "out", "group", "--image", "IMAGE"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{folder}/out: holds no sub-*/anat/*_brainage.tsv" in done.stderr  # the app's own word
    assert (folder / "out").is_dir()
    assert not (folder / "work").exists()  # only the participant level has one


def test_it_needs_the_standard_library_alone(folder):
    argv = [sys.executable, "-S", "-m", "bids_brainage.toolbox.docker", "bids", "out", "group", "--dry-run"]
    done = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("docker run")
