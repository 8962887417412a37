"""A killed worker fails its own scan; the others finish, and the run ends."""

import os
import signal
import time
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
from nipype.pipeline import engine as pe

from bids_brainage.cli import Terminated
from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import write_text
from bids_brainage.workflows.node import node, stopped
from bids_brainage.workflows.plugin import Linear, MultiProc, last_words


class Done(NamedTuple):
    file: Path


def works(word: str, *, out: Path) -> Done:
    time.sleep(0.5)
    return Done(write_text(out / "done.txt", word))


def follows(log: Path, before: Path | None = None, *, out: Path) -> Done:
    with log.open("a") as stream:
        stream.write(f"{out}\n")
    return Done(write_text(out / "done.txt", ""))


def refuses(word: str, *, out: Path) -> Done:
    raise ScanError(f"{word}: is bad")


def dies(word: str, *, out: Path) -> Done:
    os.kill(os.getpid(), signal.SIGKILL)
    return Done(out)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("processes", [1, 3])
def test_others_finish_when_a_worker_is_killed(tmp_path, processes):
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    for name, function in {"a": "dies", "b": "works", "c": "works"}.items():
        workflow.add_nodes([node(f"{__name__}:{function}", name, mem_gb=0.1, constants={"word": name})])
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path / "crash"), "poll_sleep_duration": "0.1"}
    (tmp_path / "crash").mkdir()
    plugin = MultiProc(plugin_args={"n_procs": processes, "mp_context": "forkserver"})
    with pytest.raises(RuntimeError, match="killed"):
        workflow.run(plugin=plugin)
    assert not (tmp_path / "wf" / "a" / "done.txt").exists()
    assert [(tmp_path / "wf" / n / "done.txt").read_text() for n in "bc"] == ["b", "c"]


@pytest.mark.timeout(120)
def test_a_scan_is_finished_before_the_next_is_begun(tmp_path):
    """Where the time runs out, most of the scans that were begun are complete."""
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    for scan in ("scan_c", "scan_a", "scan_b"):
        own, stages = pe.Workflow(scan), [None] * 3
        for number in range(3):
            stages[number] = node(f"{__name__}:follows", f"s{number}", mem_gb=0.1, constants={"log": tmp_path / "log"})
            own.add_nodes([stages[number]])
            if number:
                own.connect(stages[number - 1], "file", stages[number], "before")
        workflow.add_nodes([own])
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path), "poll_sleep_duration": "0.05"}
    workflow.run(plugin=MultiProc(plugin_args={"n_procs": 1, "mp_context": "forkserver"}))
    scans = [line.split("/")[-2] for line in (tmp_path / "log").read_text().splitlines()]
    assert len(scans) == 9
    assert len(list(groupby(scans))) == 3


@pytest.mark.timeout(120)
def test_others_finish_when_no_crash_report_can_be_written(tmp_path):
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    for name, function in {"a": "refuses", "b": "works"}.items():
        workflow.add_nodes([node(f"{__name__}:{function}", name, mem_gb=0.1, constants={"word": name})])
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path / "file" / "x"), "poll_sleep_duration": "0.1"}
    (tmp_path / "file").write_text("")
    plugin = MultiProc(plugin_args={"n_procs": 1, "mp_context": "forkserver"})
    with pytest.raises(RuntimeError, match="a: is bad"):
        workflow.run(plugin=plugin)
    assert (tmp_path / "wf" / "b" / "done.txt").read_text() == "b"
    assert plugin.failed == {"wf.a": "a: is bad"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("\tbids_brainage.core.errors.ScanError: x.nii: is empty", "x.nii: is empty"),
        ("ValueError: 3", "ValueError: 3"),
        ("OSError: [Errno 28] No space left on device: '/w/x'", "No space left on device (/w/x); check space"),
        ("OSError: [Errno 28] No space left on device", "No space left on device; check space"),
    ],
)
def test_the_last_words_of_a_traceback_are_one_line(line, words):
    assert last_words(f"Traceback (most recent call last):\n  File x\n{line}\n\n").startswith(words)


def is_stopped(log: Path, *, out: Path) -> Done:
    with log.open("a") as stream:
        stream.write("begun\n")
    raise Terminated


def test_what_stops_a_stage_stops_the_serial_run(tmp_path):
    """Nipype takes it for an error of the stage, and would go on with the next scan until the time is up."""
    workflow = pe.Workflow("wf", base_dir=str(tmp_path))
    for scan in ("scan_a", "scan_b"):
        own = pe.Workflow(scan)
        own.add_nodes([node(f"{__name__}:is_stopped", "s", mem_gb=0.1, constants={"log": tmp_path / "log"})])
        workflow.add_nodes([own])
    workflow.config["execution"] = {"crashdump_dir": str(tmp_path), "stop_on_first_crash": "False"}
    try:
        with pytest.raises(Terminated):
            workflow.run(plugin=Linear(plugin_args={}))
    finally:
        stopped.clear()
    assert (tmp_path / "log").read_text() == "begun\n"
