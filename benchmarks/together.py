"""Several processes at once on one output folder, one work folder and one saved index: results as those of one.

    python benchmarks/together.py --n 8 --work DIR [--scan T1w.nii.gz]

One scan (default: a simulated person at 2 mm) under as many names, a process each, all started together. Afterwards all
brain ages must be the same, every file whole, the app must find nothing left to do, the validator no error, and the
group level everybody. Memory is that of all processes together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from speed import memory_of
from whole import faults, files, leftovers

from bids_brainage.bids.tables import read_tsv, write_tsv
from bids_brainage.core.files import copy, write_json, write_text
from bids_brainage.simulate.cohort import Person, Visit, write_scans


def app(root: Path, level: str, *words: str) -> list[str]:
    """The command, on the folders that all share."""
    argv = [sys.executable, "-m", "bids_brainage.cli", str(root / "bids"), str(root / "out"), level]
    return [*argv, "-w", str(root / "work"), "--bids-database-dir", str(root / "index"), "--device", "cpu", *words]


def together(root: Path, labels: list[str]) -> tuple[list[int], float, float]:
    """Exit codes, seconds, and the most memory in GiB that all processes had together."""
    started, peak, running = time.monotonic(), 0, []
    for label in labels:
        words = ("--participant-label", label, "--nprocs", "1", "--skip-bids-validation", "--clean-workdir")
        with (root / f"log-{label}.txt").open("w") as log:
            one = subprocess.Popen(app(root, "participant", *words), stdout=log, stderr=log, start_new_session=True)
        running.append(one)
    while any(one.poll() is None for one in running):
        peak = max(peak, sum(memory_of(one.pid) for one in running))
        time.sleep(1)
    return [one.returncode for one in running], time.monotonic() - started, peak / 2**30


def checked(root: Path, people: int) -> list[str]:
    """What is wrong with the results, a line each."""
    out = root / "out"
    found = [*faults(out), *(f"{p.relative_to(out)}: left over" for p in leftovers(out))]
    found += [f"{p.name} is left in the work folder" for p in (root / "work").glob("*/bids_brainage_wf/*")]
    again = subprocess.run(app(root, "participant"), capture_output=True, text=True, check=False)
    found += [] if again.returncode == 0 and "; 0 to do" in again.stderr else [again.stderr]
    group = subprocess.run(app(root, "group"), capture_output=True, text=True, check=False)
    rows = read_tsv(out / "group_participants.tsv") if group.returncode == 0 else []
    n = len({row["participant_id"] for row in rows})
    found += [] if n == people else [f"the group level has {n} of {people} people: {group.stderr}"]
    ages = {(row["model"], row["brain_age"]) for path in out.rglob("*_brainage.tsv") for row in read_tsv(path)}
    found += [] if len(ages) == len({model for model, _ in ages}) else [f"brain ages of the same scan: {sorted(ages)}"]
    validator = Path(sys.executable).with_name("bids-validator-deno")
    told = subprocess.run([str(validator), "--format", "json", str(out)], capture_output=True, text=True, check=False)
    return found + [str(i) for i in json.loads(told.stdout)["issues"]["issues"] if i["severity"] == "error"]


def copies(scan: Path | None, folder: Path, labels: list[str]) -> None:
    """A dataset of one scan under several names."""
    if scan is None:
        (scan,) = write_scans(folder / "one", [Visit(Person("01", "F", 3), 64.0, 1)], seed=1).glob("sub-01/*/*.nii.gz")
    for label in labels:
        copy(scan, folder / "bids" / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz")
    write_json(folder / "bids" / "dataset_description.json", {"Name": "one scan", "BIDSVersion": "1.10.0"})
    write_text(folder / "bids" / "README", "One scan under several names.\n")
    rows = [{"participant_id": f"sub-{label}", "age": 64, "sex": "F"} for label in labels]
    write_tsv(folder / "bids" / "participants.tsv", rows, list(rows[0]))


def main() -> int:
    """Print the figures; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8, help="processes")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--scan", type=Path)
    args = parser.parse_args()
    labels = [f"{n:02d}" for n in range(1, args.n + 1)]
    copies(args.scan, args.work, labels)
    codes, seconds, peak = together(args.work, labels)
    wrong = [*(f"sub-{label}: exit code {code}" for label, code in zip(labels, codes, strict=True) if code)]
    wrong += checked(args.work, args.n)
    print(
        f"{args.n} processes at once: {seconds:.0f} s, {peak:.2f} GiB together, {len(files(args.work / 'out'))} files"
    )
    print("\n".join(wrong) or "nothing is wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
