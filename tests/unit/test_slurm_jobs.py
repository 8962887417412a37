"""Scripts of the array job, and what is said of tasks that failed."""

import argparse
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json, write_text
from bids_brainage.toolbox import main, slurm, slurm_jobs
from tests.unit.trees import make_dataset, t1w, tiny_nifti

NEEDS = slurm_jobs.Needs(cpus=1, mem=None, time=None, scans=1, gpu=False)
APP = 'printf "%s\\n" "$@" > "$0.words"; exit ${CODE:-0}'


@given(st.integers(1, 3000), st.integers(1, 1500))
def test_each_participant_is_in_one_task_and_no_more_tasks_than_allowed(people, size):
    labels = [str(n) for n in range(people)]
    tasks = slurm_jobs.shared_out(labels, size, None)
    assert [label for task in tasks for label in task] == labels
    assert len(tasks) <= size
    assert all(tasks)
    assert max(map(len, tasks)) <= -(-people // size)


def test_too_many_tasks_are_refused():
    with pytest.raises(UsageError, match="makes 3 tasks of at most 2"):
        slurm_jobs.shared_out(["01", "02", "03"], 2, 1)
    assert slurm_jobs.shared_out(["01", "02", "03"], 2, 2) == [["01", "02"], ["03"]]
    assert slurm_jobs.shared_out([], 2, None) == []


def test_limits_grow_with_scans_and_cores_and_give_way_to_the_user():
    one, many = slurm_jobs.limits(NEEDS), slurm_jobs.limits(NEEDS._replace(scans=10))
    assert int(many[1]) > 5 * int(one[1])
    assert one[0] == many[0] == "6G"
    assert int(slurm_jobs.limits(NEEDS._replace(scans=10, cpus=5))[1]) < int(many[1])
    assert slurm_jobs.limits(NEEDS._replace(mem="9G", time="1:00")) == ("9G", "1:00")


@pytest.fixture
def array(tmp_path):
    """Two tasks whose app notes its words and ends as the environment says."""
    folder = tmp_path / "out dir" / "logs" / "slurm" / "01"
    app = write_text(tmp_path / "the app", APP)
    request = slurm_jobs.Request(
        ("sh", str(app)), ("bids", "out dir"), ("--models", "roi"), NEEDS._replace(gpu=True), ("--partition=x",)
    )
    slurm_jobs.write_tasks(folder, [["01", "02"], ["03"]])
    return slurm_jobs.write_participant(folder, request, 2, 5), app


def task(script, number, code):
    environment = {"SLURM_ARRAY_TASK_ID": str(number), "CODE": str(code), "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", str(script)], env=environment, check=False).returncode


def test_a_task_runs_its_participants_and_keeps_the_exit_code(array):
    script, app = array
    assert task(script, 1, 0) == 0
    words = app.with_name("the app.words").read_text().splitlines()
    assert words == ["bids", "out dir", "participant", "--models", "roi", "--participant-label", "sub-01", "sub-02"]
    assert task(script, 2, 1) == 1
    assert app.with_name("the app.words").read_text().splitlines()[-1] == "sub-03"
    text = script.read_text()
    for line in ("--array=1-2%5", "--gres=gpu:1", "--mem=6G", "--cpus-per-task=1", "--partition=x"):
        assert f"#SBATCH {line}\n" in text
    assert f'#SBATCH --output="{script.parent}/task-%a.log"' in text


def test_failed_tasks_are_told_with_the_reason(array):
    script, _ = array
    assert task(script, 1, 1) == 1
    said = "10:00:00 I fine\n10:00:01 E x.nii: is empty; get it\n10:00:02 E 1 of 2 scans are complete\n"
    write_text(script.parent / "task-1.log", said)
    first, second = slurm_jobs.failures(script.parent)
    assert first == {
        "task": "1", "participants": "sub-01 sub-02", "exit_code": "1", "why": "x.nii: is empty; get it",
        "log": "task-1.log",
    }  # fmt: skip
    assert (second["exit_code"], second["why"]) == ("n/a", slurm_jobs.NO_WORD)
    limit = "slurmstepd-n1: error: *** JOB 4 ON n1 CANCELLED AT 10:10 DUE TO TIME LIMIT ***"
    write_text(script.parent / "task-2.log", f"{limit}\n10:00:02 E stopped; what is complete stays\n")
    assert slurm_jobs.failures(script.parent)[1]["why"] == f"{slurm_jobs.NO_WORD}; {limit}"
    assert task(script, 1, 137) == 137
    assert slurm_jobs.failures(script.parent)[0]["why"].startswith("killed, most often for want of memory")
    assert task(script, 2, 0) == 0
    assert [row["task"] for row in slurm_jobs.failures(script.parent)] == ["1"]


def test_the_group_job_tells_of_failures_first_and_then_runs_on_what_there_is(tmp_path):
    request = slurm_jobs.Request(("app",), ("/bids", "/out"), ("--controls", "dx == 'CN'"), NEEDS, ())
    folder = tmp_path / "02"
    lines = slurm_jobs.write_group(folder, request, 3).read_text().splitlines()
    assert lines[-2].endswith("-m bids_brainage.toolbox slurm /bids /out --status --submission 02")
    assert lines[-1].startswith("app /bids /out group --controls ")


def test_submissions_have_folders_of_their_own(tmp_path):
    with pytest.raises(UsageError, match="holds no submission"):
        slurm_jobs.chosen(tmp_path)
    made = [slurm_jobs.new_folder(tmp_path).name for _ in range(11)]
    assert made[0] == "01"
    assert slurm_jobs.chosen(tmp_path).name == "11"
    write_json(tmp_path / "11" / "submitted.json", {"participant": "7", "group": "8"})
    assert slurm_jobs.ids(tmp_path / "11") == ["7", "8"]
    assert slurm_jobs.ids(tmp_path / "10") == []
    slurm_jobs.new_folder(tmp_path)
    assert slurm_jobs.chosen(tmp_path).name == "11"  # 12 was never sent
    assert slurm_jobs.chosen(tmp_path, 2).name == "02"
    with pytest.raises(UsageError, match="holds no submission 13"):
        slurm_jobs.chosen(tmp_path, 13)


def test_jobs_that_run_are_seen_behind_a_submission_that_was_only_written(tmp_path, monkeypatch, capsys):
    """The same participants would run twice at the same time."""
    squeue = write_text(tmp_path / "bin" / "squeue", "#!/bin/sh\necho 7\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    root = tmp_path / "out" / "logs" / "slurm"
    write_json(slurm_jobs.new_folder(root) / "submitted.json", {"participant": "7"})
    slurm_jobs.new_folder(root)
    (tmp_path / "bids").mkdir()
    assert main(["slurm", str(tmp_path / "bids"), str(tmp_path / "out"), "--submit", "--resume"]) == 2
    assert "01: its jobs have not ended; wait for them or scancel 7" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_used_is_one_line(tmp_path):
    write_text(tmp_path / "out", "a file")
    with pytest.raises(UsageError, match="cannot be made"):
        slurm_jobs.new_folder(tmp_path / "out")


@pytest.mark.parametrize("words", [["--dry-run"], ["--dry"], ["--config", "dry.toml"]])
def test_a_dry_run_of_all_tasks_is_refused(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "dry.toml", "dry_run = true\n")
    assert main(["slurm", str(tmp_path), str(tmp_path / "out"), *words]) == 2
    assert "leave --submit out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_slurm_it_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch: is not on the PATH"):
        slurm_jobs.sbatch(["x.sh"])


@pytest.mark.slow
def test_the_command_plans_by_the_app_s_own_dry_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "bids")
    for label in ("01", "02", "03"):
        tiny_nifti(tmp_path / "bids" / t1w(label))
    words = ["slurm", "bids", "out", "--per-task", "2", "--skip-bids-validation", "--models", "roi"]
    assert main(words) == 0
    folder = tmp_path / "out" / "logs" / "slurm" / "01"
    assert [row["participants"] for row in slurm_jobs.read_tasks(folder)] == ["sub-01 sub-02", "sub-03"]
    script = (folder / "participant.sh").read_text()
    assert f"{sys.executable} -m bids_brainage.cli {tmp_path}/bids {tmp_path}/out participant" in script
    assert "--models roi" in script
    with pytest.raises(SystemExit, match="2"):
        main(["slurm", "bids", "out", "--modles", "roi"])
    assert "unrecognized arguments: --modles" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--device=cuda"], ["--config", "c.toml"]])
def test_a_gpu_is_asked_for_however_the_app_is_told(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "c.toml", 'device = "cuda"\n')
    args = argparse.Namespace(bids_dir=tmp_path, out_dir=tmp_path, app_options=words)
    assert requested(args).needs.gpu
    args.app_options = [*words, "--device", "cpu"]
    assert not requested(args).needs.gpu


def test_what_the_config_file_says_is_not_taken_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "c.toml", 'work_dir = "/scratch/me"\nnprocs = 4\n')
    args = argparse.Namespace(bids_dir=tmp_path, out_dir=tmp_path, app_options=["--config", "c.toml"])
    assert requested(args).options == ("--config", "c.toml", "--skip-bids-validation")
    args.app_options = []
    words = ("--work-dir", str(tmp_path / "work"), "--nprocs", "1", "--skip-bids-validation")
    assert requested(args).options == words


def requested(args):
    args = argparse.Namespace(**vars(args), command=None, cpus=1, mem=None, time=None, sbatch=[])
    return slurm.request_of(args, slurm.given(args), 1)


def test_the_group_job_gets_more_for_more_maps_and_no_more_than_clusters_give():
    few, many, most = (slurm_jobs.group_limits(n) for n in (10, 1000, 100_000))
    assert int(few[1]) <= 10
    assert 12 <= int(many[1]) <= 60
    assert int(most[1]) <= 24 * 60
    assert [int(memory.removesuffix("G")) for memory, _ in (few, many, most)] == [2, 4, 18]


@pytest.mark.parametrize("flag", ["--participant-label", "--participant", "--participant-label=01"])
def test_a_task_is_told_its_own_participants_alone(tmp_path, flag):
    """A list that is given twice is joined: each task would do everybody."""
    words = (flag, "02", "--models", "roi", "-w", "x") if "=" not in flag else (flag, "--models", "roi", "-w", "x")
    request = slurm_jobs.Request(("app",), ("b", "o"), words, NEEDS, ())
    (line,) = [
        line
        for line in slurm_jobs.write_participant(tmp_path, request, 2, None).read_text().splitlines()
        if line.startswith("app ")
    ]
    assert line == "app b o participant --models roi -w x --participant-label $labels"
    assert flag in slurm_jobs.write_group(tmp_path, request, 0).read_text()


def test_a_participant_called_nan_is_one(tmp_path):
    """In tables that word is a missing value."""
    slurm_jobs.write_tasks(tmp_path, [["nan"], ["none", "01"]])
    assert [row["participants"] for row in slurm_jobs.read_tasks(tmp_path)] == ["sub-nan", "sub-none sub-01"]


@pytest.mark.slow
def test_scans_that_cannot_be_read_have_a_task_that_says_so(tmp_path, monkeypatch):
    """A link to nowhere, as of git-annex: without a task nobody would hear of it."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "bids")
    tiny_nifti(tmp_path / "bids" / t1w("01"))
    lost = tmp_path / "bids" / t1w("annex")
    lost.parent.mkdir(parents=True)
    lost.symlink_to(tmp_path / "nowhere")
    assert main(["slurm", "bids", "out", "--skip_bids_validation", "--models", "roi"]) == 0
    tasks = slurm_jobs.read_tasks(tmp_path / "out" / "logs" / "slurm" / "01")
    assert sorted(word for row in tasks for word in row["participants"].split()) == ["sub-01", "sub-annex"]


@pytest.mark.slow
def test_jobs_for_gpu_nodes_are_written_on_a_node_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "bids")
    tiny_nifti(tmp_path / "bids" / t1w("01"))
    words = ["slurm", "bids", "out", "--skip-bids-validation", "--models", "roi", "--device", "cuda"]
    assert main(words) == 0
    assert "--gres=gpu:1" in (tmp_path / "out" / "logs" / "slurm" / "01" / "participant.sh").read_text()
