"""SIGKILL at seeded random moments of a run that is resumed each time: nothing half-written, and the same end.

    python benchmarks/kill.py --kills 20 --seed 0 --work DIR

One simulated person at 2 mm. The app and all its workers are killed a random time after a random number of further
stages, the final files are read, and the run goes on; where it ends before its kill, it is compared with an undisturbed
one and begun anew.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from whole import differences, faults, files, leftovers

from bids_brainage.core.stamps import SETTLED
from bids_brainage.simulate.cohort import Person, Visit, write_scans

MOST_STAGES = 3  # that a run may end before its kill, so that kills fall into all of them on a busy machine, too


def start(bids: Path, out: Path, work: Path) -> subprocess.Popen[bytes]:
    """The participant level in a process group of its own."""
    argv = [sys.executable, "-m", "bids_brainage.cli", str(bids), str(out), "participant", "-w", str(work)]
    argv += ["--skip-bids-validation", "--device", "cpu", "--nprocs", "1"]
    with (work.parent / "log.txt").open("ab") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)


def killed(process: subprocess.Popen[bytes], work: Path, more: int, after: float) -> bool:
    """Kill the whole group some seconds after so many more stages; False where it had ended by itself."""
    goal, since = len(stages(work)) + more, time.monotonic()
    while process.poll() is None:
        if len(stages(work)) < goal:
            since = time.monotonic()
        elif time.monotonic() - since > after:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the run itself failed with exit code {process.returncode}; see log.txt")
    return False


def stages(work: Path) -> list[str]:
    """Stages that are done, in that order."""
    return [p.parent.name for p in sorted(work.rglob("result_*.pklz"), key=lambda p: p.stat().st_mtime)]


def judged(out: Path, reference: Path) -> int:
    """Compare a finished run with the undisturbed one; number of differences."""
    found = [*differences(reference, out), *faults(out), *(f"{p.name}: left over" for p in leftovers(out))]
    print(f"finished: {len(files(out))} files, {len(found)} differences", flush=True)
    print("".join(f"    {line}\n" for line in found), end="", flush=True)
    return len(found)


def main() -> int:
    """Print a line a kill; 1 where anything was half-written or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    draw, root = random.Random(args.seed), args.work  # noqa: S311 - moments, no secrets
    bids = write_scans(root / "bids", [Visit(Person("01", "F", 3), 64.0, 1)], seed=1)
    time.sleep(SETTLED + 1)  # else the first run alone would not remember the scan's checksum
    begun = time.monotonic()
    if start(bids, root / "reference", root / "w0").wait():
        sys.exit(f"the undisturbed run failed; see {root / 'log.txt'}")
    whole = time.monotonic() - begun
    print(f"undisturbed: {whole:.0f} s, {len(files(root / 'reference'))} files", flush=True)
    out, work, bad, kills = root / "out", root / "w1", 0, 0
    while True:
        more, after = draw.randrange(MOST_STAGES), draw.uniform(0, whole / 4)
        if killed(start(bids, out, work), work, more if kills < args.kills else sys.maxsize, after):
            kills += 1
            found = faults(out)
            bad += len(found)
            left = len(leftovers(out))
            print(f"kill {kills}: last stage done {(stages(work) or ['none'])[-1]}, {len(files(out))} final files, "
                  f"{len(found)} unreadable, {left} temporary", *found, sep="\n    ", flush=True)  # fmt: skip
            continue
        bad += judged(out, root / "reference")
        if kills == args.kills:
            return int(bad > 0)
        for folder in (out, work):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
