"""Intermediate files of scans: where they lie, and when they go (``--clean-workdir``)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from bids_brainage.options import Options
from bids_brainage.workflows.job import WORKFLOW, Job, missing


def node_name(job: Job) -> str:
    """A scan's stem as Nipype allows it in names."""
    return job.scan.stem.replace("-", "_").replace("+", "_")


def folder_of(job: Job, work: Path) -> Path:
    """Where the intermediate files of one scan lie, and of no other."""
    return work / WORKFLOW / node_name(job)


def clean(jobs: Iterable[Job], options: Options, work: Path) -> None:
    """Remove the intermediate files of the scans that are complete; a scan that is not keeps its own."""
    for job in jobs:
        if not missing(job, options):
            shutil.rmtree(folder_of(job, work), ignore_errors=True)
