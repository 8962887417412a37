"""Scripts, folders and ends of the jobs that ``brainage slurm`` sends.

``OUT_DIR/logs/slurm/NN`` holds one submission: ``tasks.tsv``, the scripts, a log and an exit code for each task,
``submitted.json`` (job numbers) and ``failed.tsv``.
"""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from bids_brainage.bids.tables import read_tsv, write_tsv
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import read_json, write_text

GROWTH_MARGIN, MOST_GIB = 3, 16
TIME_MARGIN, MEMORY_MARGIN = 10, 3  # over what was measured: busy nodes, slow disks, scans finer than 1 mm
FAILED = ("task", "participants", "exit_code", "why", "log")
MEANINGS = {
    2: "bad usage, or a dataset that cannot be used",
    130: "stopped (Ctrl-C)",
    137: "killed, most often for want of memory; ask for more by --mem",
    143: "stopped by scancel or the time limit; ask for more by --time",
}
NO_WORD = "was killed before it could say why (memory, time limit, node), or never began; see its log and sacct"


class Needs(NamedTuple):
    """Of one task: cores, memory and time limit where the user gave them, most scans, whether it takes a GPU."""

    cpus: int
    mem: str | None
    time: str | None
    scans: int
    gpu: bool


class Request(NamedTuple):
    """One submission: the app's command, BIDS and output folder, the app's options, needs, words for sbatch."""

    command: tuple[str, ...]
    folders: tuple[str, str]
    options: tuple[str, ...]
    needs: Needs
    sbatch: tuple[str, ...]


def measured() -> dict[str, tuple[float, float]]:
    """Core seconds and GiB by what takes them, from ``data/resources.tsv``."""
    with resources.as_file(resources.files("bids_brainage.data") / "resources.tsv") as path:
        return {row["what"]: (float(row["core_seconds"]), float(row["memory_gib"])) for row in read_tsv(path)}


def limits(needs: Needs) -> tuple[str, str]:
    """Memory and time limit of a task for sbatch: as given, else measurements with a margin."""
    table = measured()
    seconds = table["start"][0] + needs.scans * table["scan"][0] / min(needs.cpus, max(needs.scans, 1))
    gib = math.ceil(MEMORY_MARGIN * table["scan"][1] * needs.cpus)
    return needs.mem or f"{gib}G", needs.time or str(math.ceil(TIME_MARGIN * seconds / 60))


def shared_out(people: Sequence[str], array_size: int, per_task: int | None) -> list[list[str]]:
    """Participants of each task, in order.

    Raises
    ------
    UsageError
        Where ``per_task`` makes more tasks than ``array_size``.

    Examples
    --------
    >>> shared_out(["01", "02", "03"], 2, None)
    [['01', '02'], ['03']]
    """
    size = per_task or max(1, math.ceil(len(people) / array_size))
    tasks = [list(people[i : i + size]) for i in range(0, len(people), size)]
    if len(tasks) > array_size:
        raise UsageError(
            f"--per-task {size}: makes {len(tasks)} tasks of at most {array_size}; raise it or --array-size"
        )
    return tasks


def submissions(root: Path) -> list[Path]:
    """Folders of all submissions, first to last."""
    return sorted((p for p in root.glob("[0-9]*") if p.name.isdigit()), key=lambda p: int(p.name))


def chosen(root: Path, number: int | None = None) -> Path:
    """Folder of a submission by its number; without one, of the last that was sent, else of the last that was written.

    Raises
    ------
    UsageError
        Where there is none.
    """
    found = [one for one in submissions(root) if number in (None, int(one.name))]
    if not found:
        which = "holds no submission" if number is None else f"holds no submission {number}"
        raise UsageError(f"{root}: {which}; make one by `brainage slurm BIDS_DIR OUT_DIR --submit`")
    return max(found, key=lambda one: (bool(ids(one)), int(one.name)))


def new_folder(root: Path) -> Path:
    """A folder for the next submission."""
    folder = root / f"{max((int(one.name) for one in submissions(root)), default=0) + 1:02d}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); give an output folder of your own") from None
    return folder


def write_tasks(folder: Path, tasks: Sequence[Sequence[str]]) -> Path:
    """Which task does which participants."""
    rows = [
        {"task": n, "participants": " ".join(f"sub-{label}" for label in labels)}
        for n, labels in enumerate(tasks, start=1)
    ]
    return write_tsv(folder / "tasks.tsv", rows, ["task", "participants"])


def read_tasks(folder: Path) -> list[dict[str, str]]:
    """Rows of ``tasks.tsv``."""
    return read_tsv(folder / "tasks.tsv")


def write_participant(folder: Path, request: Request, tasks: int, at_once: int | None) -> Path:
    """The script of the array; each task leaves its log and its exit code beside it."""
    memory, time = limits(request.needs)
    directives = _directives(request, "participant", memory, time, folder / "task-%a.log")
    directives += [f"--array=1-{tasks}{f'%{at_once}' if at_once else ''}"]
    directives += ["--gres=gpu:1"] if request.needs.gpu else []
    options = without(request.options, "--participant-label")  # a list that is given twice is joined
    call = shlex.join([*request.command, *request.folders, "participant", *options, "--participant-label"])
    body = (
        f"folder={shlex.quote(str(folder))}\n"
        'labels=$(awk -F "\\t" -v task="$SLURM_ARRAY_TASK_ID" \'$1 == task { print $2 }\' "$folder/tasks.tsv")\n'
        "trap : TERM  # the app ends by itself, and its exit code is still noted\n"
        f"{call} $labels\n"
        "code=$?\n"
        'echo "$code" > "$folder/.$SLURM_ARRAY_TASK_ID" && mv "$folder/.$SLURM_ARRAY_TASK_ID" '
        '"$folder/task-$SLURM_ARRAY_TASK_ID.code"\n'
        'exit "$code"\n'
    )
    return write_text(folder / "participant.sh", _script(directives, request.sbatch) + body)


def without(options: Sequence[str], flag: str) -> list[str]:
    """Options but a flag, as it is or shortened, and the values after it."""
    kept, skipping = list[str](), False
    for word in options:
        name = word.partition("=")[0]
        if word.startswith("-"):
            skipping = len(name) > len("--p") and flag.startswith(name)
        if not skipping:
            kept.append(word)
    return kept


def group_limits(maps: int) -> tuple[str, str]:
    """Memory and time limit of the group level on so many maps of brain age: measurements with a margin.

    The margin of what grows with the maps is smaller: there it is a long run, whose parts average out.
    """
    (seconds, gib), (more_seconds, more_gib) = (measured()[what] for what in ("group", "group_map"))
    memory = math.ceil(MEMORY_MARGIN * gib + min(GROWTH_MARGIN * maps * more_gib, MOST_GIB))
    return f"{memory}G", str(math.ceil((TIME_MARGIN * seconds + GROWTH_MARGIN * maps * more_seconds) / 60))


def write_group(folder: Path, request: Request, maps: int) -> Path:
    """The script of the group job: which tasks failed, then the group level on what there is of so many maps."""
    directives = _directives(request, "group", *group_limits(maps), folder / "group.log")
    own = ["--status", "--submission", folder.name]
    tell = shlex.join([sys.executable, "-m", "bids_brainage.toolbox", "slurm", *request.folders, *own])
    call = shlex.join([*request.command, *request.folders, "group", *request.options])
    return write_text(folder / "group.sh", _script(directives, request.sbatch) + f"{tell}\n{call}\n")


def _directives(request: Request, level: str, memory: str, time: str, log: Path) -> list[str]:
    given = {"job-name": f"brainage-{level}", "cpus-per-task": request.needs.cpus, "mem": memory, "time": time}
    quoted = f'"{log}"' if " " in str(log) else str(log)
    return [f"--{name}={value}" for name, value in given.items()] + [f"--output={quoted}"]


def _script(directives: Sequence[str], more: Sequence[str]) -> str:
    return "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in (*directives, *more))


def sbatch(words: Sequence[str]) -> str:
    """Send a script; returns the number of its job.

    Raises
    ------
    UsageError
        Where there is no SLURM here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UsageError("sbatch: is not on the PATH; run this where SLURM is, or leave --submit out")
    done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{words[-1]}: sbatch refused it ({' '.join(done.stderr.split())}); correct the request")
    return done.stdout.strip().partition(";")[0]


def ids(folder: Path) -> list[str]:
    """Numbers of the jobs of a submission; none where it was only written."""
    path = folder / "submitted.json"
    return list(read_json(path).values()) if path.is_file() else []


def running(numbers: Sequence[str]) -> bool:
    """Whether one of these jobs waits or runs."""
    if not numbers or shutil.which("squeue") is None:
        return False
    argv = ["squeue", "--noheader", "--jobs", ",".join(numbers), "--format", "%i"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise UsageError(
            f"squeue: whether jobs {' '.join(numbers)} run is not known ({' '.join(done.stderr.split())}); try again"
        )
    return bool(done.stdout.strip())


def failures(folder: Path) -> list[dict[str, str]]:
    """One row for each task that did not, or not yet, end with exit code 0: :data:`FAILED`."""
    waiting = running(ids(folder)[:1])
    rows = []
    for task in read_tasks(folder):
        code, log = folder / f"task-{task['task']}.code", folder / f"task-{task['task']}.log"
        ended = code.read_text(encoding="utf-8").strip() if code.is_file() else ""
        if ended != "0":
            rows.append({**task, "exit_code": ended or "n/a", "why": why(ended, log, waiting), "log": log.name})
    return rows


def why(code: str, log: Path, waiting: bool) -> str:
    """Why a task failed: what its exit code means, SLURM's word in its log, and the app's own lines on errors.

    The app's last line only counts scans, so it is shown where it is the only one.
    """
    if not code and waiting:
        return "has not ended"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    slurm = [line for line in lines if line.startswith("slurmstepd")]
    said = [line[11:] for line in lines if line[9:11] == "E "]
    meant = MEANINGS.get(int(code), "") if code.isdigit() else NO_WORD
    words = [meant, *slurm, *(said[:-1] or ([] if meant or slurm else said))]
    return "; ".join(filter(None, words)) or f"exit code {code}; see its log"


def write_failures(folder: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write ``failed.tsv``."""
    return write_tsv(folder / "failed.tsv", rows, FAILED)
