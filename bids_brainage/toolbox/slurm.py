"""``brainage slurm``: a dataset as an array job of participants, and the group level after it."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_brainage import __version__
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json
from bids_brainage.options import WORK, parser, read
from bids_brainage.toolbox import slurm_jobs as jobs

APP = (sys.executable, "-m", "bids_brainage.cli")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of ``brainage slurm``; all others go to the app."""
    made = subparsers.add_parser(
        "slurm",
        allow_abbrev=False,
        help="run a dataset as a SLURM array job, with the group level after it",
        description="Write the scripts of an array job over participants and of a group job after it into"
        " OUT_DIR/logs/slurm/NN. Options that are not listed here are the app's own, e.g. --models or -w.",
    )
    made.add_argument("bids_dir", type=Path)
    made.add_argument("out_dir", type=Path)
    made.add_argument("--submit", action="store_true", help="send the jobs, too")
    made.add_argument("--resume", action="store_true", help="only participants with a scan that is not complete")
    made.add_argument("--status", action="store_true", help="say which tasks of the last submission failed, and why")
    made.add_argument("--submission", type=_positive, metavar="NN", help="of --status: this one, not the last sent")
    made.add_argument(
        "--array-size", type=_positive, default=1000, metavar="N",
        help="at most this many tasks; more participants share tasks (default: %(default)s, as most clusters allow)",
    )  # fmt: skip
    made.add_argument("--per-task", type=_positive, metavar="N", help="participants a task (default: as few as fit)")
    made.add_argument("--at-once", type=_positive, metavar="N", help="at most this many tasks run at the same time")
    made.add_argument("--cpus", type=_positive, default=1, metavar="N", help="cores a task (default: %(default)s)")
    made.add_argument("--mem", metavar="SIZE", help="memory a task, e.g. 8G (default: thrice what was measured)")
    made.add_argument("--time", metavar="TIME", help="time limit of a task, e.g. 2:00:00 (default: from measurements)")
    made.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="for sbatch, e.g. --sbatch=--partition=short"
    )
    made.add_argument(
        "--command", metavar="WORDS", help="runs the app (default: this Python), e.g. 'apptainer run -B /data app.sif'"
    )
    made.set_defaults(run=run, app_options=[])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Write, and with ``--submit`` send, the jobs; or tell what became of the last ones."""
    root = args.out_dir.resolve() / "logs" / "slurm"
    if args.status:
        return status(jobs.chosen(root, args.submission))
    asked = given(args)
    if asked.get("dry_run"):
        raise UsageError("--dry-run: would reach every task; leave --submit out and read the scripts instead")
    for earlier in jobs.submissions(root) if args.submit else ():
        if jobs.running(numbers := jobs.ids(earlier)):
            raise UsageError(f"{earlier}: its jobs have not ended; wait for them or scancel {' '.join(numbers)}")
    scans = planned(args)
    people = list(dict.fromkeys(person for person, why in scans if why or not args.resume))
    folder = jobs.new_folder(root)
    tasks = jobs.shared_out(people, args.array_size, args.per_task)
    scans_of = Counter(person for person, _ in scans)
    request = request_of(args, asked, max((sum(scans_of[person] for person in task) for task in tasks), default=0))
    jobs.write_tasks(folder, tasks)
    written = [jobs.write_participant(folder, request, len(tasks), args.at_once)] if tasks else []
    written.append(jobs.write_group(folder, request, len(scans) if gives_maps(asked) else 0))
    print(f"{len(people)} participants in {len(tasks)} tasks: {', '.join(map(str, written))}")
    if args.submit:
        submit(folder, written)
    return 0


def planned(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Participant of each scan and why it must run, ``""`` where it is complete: the app's own dry run."""
    argv = [*APP, str(args.bids_dir), str(args.out_dir), "participant", *args.app_options, "--dry-run"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{args.bids_dir}: nothing was written, for the reason above")
    cells = [line.split("\t") for line in done.stdout.splitlines()]
    return [(stem.split("_")[0].removeprefix("sub-"), "" if why == "complete" else why) for stem, why, *_ in cells]


def request_of(args: argparse.Namespace, asked: Mapping[str, Any], scans: int) -> jobs.Request:
    """What each job is to run and asks for; ``asked`` as of :func:`given`."""
    command = shlex.split(args.command) if args.command else APP
    folders = (str(args.bids_dir.resolve()), str(args.out_dir.resolve()))
    unless_asked = {"work_dir": ("--work-dir", str(WORK.resolve())), "nprocs": ("--nprocs", str(args.cpus))}
    defaults = [word for name, words in unless_asked.items() if name not in asked for word in words]
    options = (*defaults, *args.app_options, "--skip-bids-validation")
    needs = jobs.Needs(args.cpus, args.mem, args.time, scans, asked.get("device") == "cuda")
    return jobs.Request(tuple(command), folders, options, needs, tuple(args.sbatch))


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The app's options, by flags and ``--config``."""
    argv = [str(args.bids_dir), str(args.out_dir), "participant", *args.app_options]
    return read(parser("bids-brainage", __version__), argv)


def gives_maps(asked: Mapping[str, Any]) -> bool:
    """Whether a model may write maps of brain age: any but ``roi``."""
    return tuple(asked.get("models", ("roi", "local"))) != ("roi",)


def submit(folder: Path, scripts: list[Path]) -> None:
    """Send the array, then the group job, which waits for its end however it ends."""
    sent: dict[str, str] = {}
    for script in scripts:
        after = [f"--dependency=afterany:{sent['participant']}"] if sent else []
        sent[script.stem] = jobs.sbatch([*after, str(script)])
        write_json(folder / "submitted.json", sent)
        print(f"submitted {script.stem}: job {sent[script.stem]}")


def status(folder: Path) -> int:
    """Write ``failed.tsv`` and print it; 1 where a task failed."""
    rows = jobs.failures(folder)
    written = jobs.write_failures(folder, rows)
    total = len(jobs.read_tasks(folder))
    print(f"{total - len(rows)} of {total} tasks succeeded; {written}")
    for row in rows:
        print(f"task {row['task']} (sub-{', sub-'.join(row['participants'].split())}): {row['why']}")
    return int(bool(rows))
