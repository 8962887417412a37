"""Array jobs, a killed task, what is resumed, and Nipype's own plugin: on a real SLURM of one node."""

import csv
import os
import subprocess
import sys
import time

import pytest

from bids_brainage.simulate.cohort import Person, Visit, write_scans
from tests.e2e.slurm_node import slurm, why_not

PEOPLE = int(os.environ.get("SLURM_PEOPLE", "3"))
PATIENCE = 1800  # seconds
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm") / "node") as environment:
        yield environment


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    visits = [Visit(Person(f"{n:02d}", "FM"[n % 2], n), 50.0 + 4 * n, n) for n in range(1, PEOPLE + 1)]
    return write_scans(tmp_path_factory.mktemp("people") / "bids", visits, seed=3, step=2)


def brainage(bids, out, environment, *words):
    argv = [sys.executable, "-m", "bids_brainage.toolbox", "slurm", str(bids), str(out), "--mem", "2500M"]
    argv += [*words, "--skip-bids-validation", "--device", "cpu"]
    done = subprocess.run(argv, env=environment, cwd=out.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(1)


def queue(environment):
    return subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=True).stdout.strip()


def read(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def people_of(out):
    """Whom the group level has, a model as the other."""
    rows = read(out / "group_scans.tsv")
    roi, local = ([row["participant_id"] for row in rows if row["model"] == model] for model in ("roi", "local"))
    assert roi == local
    return roi


def test_a_killed_task_fails_alone_and_is_all_that_is_resumed(cluster, bids, tmp_path):
    out = tmp_path / "out"
    code, said = brainage(bids, out, cluster, "--submit", "--array-size", "100")
    assert code == 0, said
    first = out / "logs" / "slurm" / "01"
    job = said.partition("participant: job ")[2].split()[0]
    until(lambda: list((tmp_path / "work").glob("*/bids_brainage_wf/sub_02/n4")), "the second task")
    code, said = brainage(bids, out, cluster, "--submit", "--resume")
    assert code == 2
    assert "have not ended" in said
    subprocess.run(["scancel", "--signal=KILL", "--full", f"{job}_2"], env=cluster, check=True)
    until(lambda: not queue(cluster), "the end of the jobs")
    (lost,) = read(first / "failed.tsv")
    assert (lost["task"], lost["participants"]) == ("2", "sub-02")
    ends = {"n/a": "killed", "143": "stopped by scancel"}  # as SLURM's SIGTERM or the SIGKILL came first
    assert ends[lost["exit_code"]] in lost["why"]
    others = [f"sub-{n:02d}" for n in range(1, PEOPLE + 1) if n != 2]
    assert people_of(out) == others
    code, said = brainage(bids, out, cluster, "--status")
    assert code == 1
    assert f"{PEOPLE - 1} of {PEOPLE} tasks succeeded" in said

    code, said = brainage(bids, out, cluster, "--submit", "--resume")
    assert code == 0, said
    assert "1 participants in 1 tasks" in said
    until(lambda: not queue(cluster), "the end of the resumed jobs")
    second = out / "logs" / "slurm" / "02"
    assert read(second / "failed.tsv") == [], (second / "task-1.log").read_text()
    assert [row["participants"] for row in read(second / "tasks.tsv")] == ["sub-02"]
    assert len(people_of(out)) == PEOPLE
    assert (out / "group.html").is_file()


def test_nipype_s_own_plugin_runs_each_stage_as_a_job(cluster, bids, tmp_path):
    (tmp_path / "plugin.yml").write_text("plugin_args: {sbatch_args: '--mem=2500M'}\n")
    argv = [sys.executable, "-m", "bids_brainage.cli", str(bids), str(tmp_path / "out"), "participant"]
    argv += ["-w", str(tmp_path / "work"), "--nipype-plugin", "SLURM", "--plugin-file", str(tmp_path / "plugin.yml")]
    argv += ["--participant-label", "01", "--skip-bids-validation", "--device", "cpu"]
    environment = {name: value for name, value in cluster.items() if name != "LOGNAME"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*_brainage.tsv"))) == 1
    assert list((tmp_path / "work").rglob("slurm-*.out"))
