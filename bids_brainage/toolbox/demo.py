"""``brainage demo``: simulated heads, or the user's dataset, through both levels, and the table of ages."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of ``brainage demo``."""
    made = subparsers.add_parser(
        "demo", help="run both levels on simulated heads, or on your dataset, and show the ages"
    )
    made.add_argument("--bids", type=Path, help="your BIDS dataset (default: simulated heads)")
    made.add_argument(
        "--out", type=Path, help="output folder (default: demo/derivatives; with --bids, demo/derivatives-NAME)"
    )
    made.add_argument("--nprocs", type=int, help="processes at once (default: all cores)")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate if there is no dataset, run participant and group, print what came out."""
    home = Path("demo")
    bids = args.bids or home / "bids"
    out = args.out or home / ("derivatives" if args.bids is None else f"derivatives-{args.bids.resolve().name}")
    if args.bids is None and not (bids / "dataset_description.json").is_file():
        from bids_brainage.simulate.cohort import simulate_dataset

        say(f"Simulating a small BIDS dataset in {bids}: heads with skull whose planted atrophy grows with age")
        simulate_dataset(bids, n=DEMO_PEOPLE, seed=0)
    common = [str(bids), str(out)]
    extra = ["--work-dir", str(home / "work"), *(["--nprocs", str(args.nprocs)] if args.nprocs else [])]
    codes = []
    for level in ("participant", "group"):
        say(f"bids-brainage {bids} {out} {level}")
        argv = [sys.executable, "-m", "bids_brainage.cli", *common, level, *extra]
        codes.append(subprocess.run(argv, check=False).returncode)
        if codes[-1] not in (0, 1):
            return codes[-1]
    show(out)
    return max(codes)


DEMO_PEOPLE = 4
SHOWN = ("scan", "model", "brain_age", "brain_age_low", "brain_age_high", "age", "gap", "gap_corrected", "flags")


def say(text: str) -> None:
    """One line of what is being done."""
    print(f"== {text}", file=sys.stderr, flush=True)


def show(out: Path) -> None:
    """The table of ages, and where the reports are."""
    from bids_brainage.bids.tables import read_tsv

    rows = [{k: row.get(k, "n/a") for k in SHOWN} for row in read_tsv(out / "group_scans.tsv")]
    widths = {k: max(len(k), *(len(row[k]) for row in rows)) for k in SHOWN}
    print()
    print("  ".join(k.ljust(widths[k]) for k in SHOWN))
    for row in rows:
        print("  ".join(row[k].ljust(widths[k]) for k in SHOWN))
    print(f"\nReports: {out / 'group.html'}")
    for page in sorted(out.glob("sub-*.html")):
        print(f"         {page}")
