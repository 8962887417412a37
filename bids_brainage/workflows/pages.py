"""The participants' pages after a run: which are written anew, and which scans each shows."""

from __future__ import annotations

from collections.abc import Sequence

from bids_brainage.bids import inputs, outputs
from bids_brainage.core.errors import BrainAgeError, in_a_line
from bids_brainage.core.types import Scan
from bids_brainage.options import Options
from bids_brainage.workflows.job import Job, missing


def write_reports(jobs: Sequence[Job], options: Options) -> list[str]:
    """One page a participant where a scan was done or the page is not there; returns why any could not be written.

    A page is written again where another process finished a session of that participant meanwhile: whoever writes
    last has seen every result.
    """
    own: dict[str, list[Job]] = {}
    for job in jobs:
        own.setdefault(job.scan.subject, []).append(job)
    faults: list[str] = []
    shown: dict[str, list[Scan]] = {}
    while True:
        try:
            further = others(jobs, options)
        except BrainAgeError as error:
            return [*faults, f"no page was written: {error}"]
        due = [subject for subject in own if subject not in shown or shown[subject] != further.get(subject, [])]
        if not due:
            return faults
        shown |= {subject: further.get(subject, []) for subject in due}
        faults += [fault for subject in due if (fault := _write(subject, own[subject], shown[subject], options))]


def _write(subject: str, jobs: Sequence[Job], further: Sequence[Scan], options: Options) -> str:
    """Write the page of a participant where it is due; why it could not be written, or empty."""
    from bids_brainage.reports.participant import page_of, write_report

    scans = [job.scan for job in jobs if not missing(job, options)] + list(further)
    page = page_of(subject, options.out_dir)
    if not scans or not (any(job.why for job in jobs) or not page.is_file()):
        return ""
    try:
        write_report(subject, sorted(scans, key=lambda scan: scan.stem), options.out_dir, options.template)
    except BrainAgeError as error:
        return str(error)
    except OSError as error:  # another process of this participant, or a disk that is full
        return f"{page}: not written ({in_a_line(error)}); run again"
    return ""


def others(jobs: Sequence[Job], options: Options) -> dict[str, list[Scan]]:
    """By participant, scans with a result that this run was not asked for: their page shows them, too."""
    asked = {job.scan.stem for job in jobs}
    if not asked or not (options.session_label or options.bids_filter_file):
        return {}
    subjects = tuple(dict.fromkeys(job.scan.subject for job in jobs))
    found: dict[str, list[Scan]] = {}
    for scan in inputs.find_scans(options.bids_dir, participant_label=subjects).scans:
        mark = outputs.path_for(scan, outputs.MARK, options.out_dir, options.template)
        if scan.stem not in asked and mark.is_file():
            found.setdefault(scan.subject, []).append(scan)
    return found
