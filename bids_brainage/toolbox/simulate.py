"""`brainage simulate`: a BIDS dataset of simulated people, with the truth about them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the toolbox's parser."""
    parser = subparsers.add_parser(
        "simulate",
        help="write a BIDS dataset of simulated people whose atrophy is known",
        description="Write a raw BIDS dataset of simulated T1w heads, with skull, whose planted atrophy grows with age;"
        " derivatives/truth holds label maps and regional volumes."
        " The first person has two sessions, the second two runs.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    parser.add_argument("--n", type=int, default=4, metavar="N", help="number of people (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--resolution", type=float, default=2.0, metavar="MM", help="voxel size (default: %(default)s mm)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the dataset; 0 when it is there."""
    from bids_brainage.simulate.cohort import simulate_dataset

    out = simulate_dataset(args.out, n=args.n, seed=args.seed, resolution=args.resolution)
    print(f"{out}: T1w images of {args.n} simulated people; what is true of them is in {out / 'derivatives' / 'truth'}")
    return 0
