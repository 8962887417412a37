"""Intermediate files go as soon as their scan is complete, and no others do."""

from pathlib import Path
from typing import NamedTuple

import pytest
from nipype.pipeline import engine as pe

from bids_brainage.bids import outputs
from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import write_text
from bids_brainage.core.types import Scan
from bids_brainage.options import Options
from bids_brainage.workflows import engine
from bids_brainage.workflows.job import WORKFLOW, Job
from bids_brainage.workflows.node import node
from bids_brainage.workflows.scratch import clean, folder_of, node_name

LABELS = ("good", "bad", "last")


class Done(NamedTuple):
    file: Path


def looks(log: Path, word: str, *, out: Path) -> Done:
    """Note which scans have a work folder; one scan is bad."""
    with log.open("a") as stream:
        stream.write(f"{word}: {' '.join(sorted(p.name for p in out.parents[1].iterdir()))}\n")
    if word == "bad":
        raise ScanError("bad: is bad")
    return Done(write_text(out / "x", word))


def puts(file: Path, targets: tuple[Path, ...], *, out: Path) -> Done:
    for path in targets:
        write_text(path, file.read_text())
    return Done(write_text(out / "y", "y"))


def job(label):
    return Job(Scan(Path(f"/bids/sub-{label}_T1w.nii.gz"), {"sub": label}), {}, "new", ("brainage",))


def write_outputs(one, options):
    for path in outputs.expected(one.scan, one.artefacts, options.out_dir, options.template):
        write_text(path, "x")


def workflow_of(jobs, options, work):
    workflow = pe.Workflow(WORKFLOW, base_dir=str(work))
    for one in jobs:
        own, label = pe.Workflow(node_name(one)), one.scan.subject
        targets = outputs.expected(one.scan, one.artefacts, options.out_dir, options.template)
        first = node(f"{__name__}:looks", "conform", mem_gb=0.1, constants={"log": work / "log", "word": label})
        last = node(f"{__name__}:puts", "publish", mem_gb=0.1, constants={"targets": tuple(targets)}, artefacts=())
        own.connect(first, "file", last, "file")
        workflow.add_nodes([own])
    workflow.config["execution"] = {"crashdump_dir": str(work), "poll_sleep_duration": "0.05", "create_report": "false"}
    return workflow


def run(jobs, options, work):
    workflow = workflow_of(jobs, options, work)
    return engine.run(workflow, engine.plugin_of(workflow, jobs, options, work), jobs, options, work)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_complete_scan_s_files_go_while_the_others_run_and_a_failed_one_keeps_its_own(tmp_path, plugin, asked):
    options = Options(tmp_path, tmp_path / "out", "participant", nipype_plugin=plugin, nprocs=1, clean_workdir=asked)
    jobs = [job(label) for label in LABELS]
    write_text(tmp_path / WORKFLOW / "sub_other" / "n4" / "x", "of another process")
    reasons = run(jobs, options, tmp_path)
    seen = dict(line.split(": ") for line in (tmp_path / "log").read_text().splitlines())
    assert list(seen) == list(LABELS)
    assert ("sub_good" in seen["last"].split()) == (not asked)
    assert {"sub_bad", "sub_other"} < set(seen["last"].split())
    left = {path.name for path in (tmp_path / WORKFLOW).iterdir() if path.name.startswith("sub_")}
    assert left == ({"sub_bad", "sub_other"} if asked else {"sub_bad", "sub_good", "sub_last", "sub_other"})
    assert reasons["sub-bad"] == "bad: is bad"
    assert not outputs.missing(jobs[0].scan, jobs[0].artefacts, options.out_dir, options.template)
    again = run(jobs, options, tmp_path)
    assert again["sub-bad"] == reasons["sub-bad"]


def test_what_an_earlier_run_left_goes_with_a_complete_scan_alone(tmp_path):
    options = Options(tmp_path, tmp_path / "out", "participant")
    whole, half = job("01"), job("02")
    for one in (whole, half, job("01x")):
        write_text(folder_of(one, tmp_path) / "n4" / "x", "x")
    for one in (whole, half):
        write_outputs(one, options)
    outputs.begin([half.scan], options.out_dir)
    clean([whole, half], options, tmp_path)
    assert sorted(p.name for p in (tmp_path / WORKFLOW).iterdir()) == ["sub_01x", "sub_02"]
