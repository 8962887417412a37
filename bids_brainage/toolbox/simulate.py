"""`brainage simulate`: a BIDS dataset of simulated people, with the truth about them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from bids_brainage.toolbox import show_log


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the toolbox's parser."""
    parser = subparsers.add_parser(
        "simulate",
        help="write a BIDS dataset of simulated people whose atrophy is known",
        description="Write a raw BIDS dataset of simulated T1w heads, with skull, whose planted atrophy grows with age;"
        " derivatives/truth holds label maps, regional volumes and local brain age."
        " The first person has two sessions, the second two runs.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    parser.add_argument("--n", type=int, default=4, metavar="N", help="number of people (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--resolution", type=float, default=2.0, metavar="MM", help="voxel size (default: %(default)s mm)"
    )
    parser.add_argument(
        "--ages", nargs=2, type=float, metavar=("LOW", "HIGH"), help="range of ages, years (default: 45 78)"
    )
    parser.add_argument("--sites", metavar="A,B", help="profiles of scanners, in turn (docs/simulation.md lists them)")
    parser.add_argument(
        "--disease",
        action="append",
        default=[],
        metavar="NAME:REGION+YEARS[,...]:SHARE",
        help="a share of the people is older in these regions, e.g. AD:medial_temporal+15,temporal+6:0.3; repeatable",
    )
    parser.add_argument(
        "--field",
        nargs=2,
        type=float,
        metavar=("YEARS", "MM"),
        help="everybody's local age varies by this SD, smoothly over this length",
    )
    parser.add_argument(
        "--vary-local",
        action="store_true",
        help="everybody ages unevenly in a way of their own: what trains a model of local brain age",
    )
    parser.add_argument(
        "--bases",
        type=Path,
        metavar="DIR",
        help="folder of aseg-like or MUSE label maps to take anatomies from",
    )
    parser.add_argument(
        "--maps-only", action="store_true", help="write grey and white matter maps in template space, and no scans"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the dataset; 0 when it is there."""
    from bids_brainage.simulate.cohort import AGE_RANGE, Plan, simulate_dataset
    from bids_brainage.simulate.disease import read
    from bids_brainage.simulate.sites import profiles
    from bids_brainage.training.bases import aged_bases, registered_bases

    show_log()
    sd, length = args.field or (Plan.field_sd, Plan.field_mm)
    way = registered_bases if args.maps_only else aged_bases
    plan = Plan(
        ages=tuple(args.ages) if args.ages else AGE_RANGE,
        sites=tuple(profiles(args.sites)) if args.sites is not None else (),
        diseases=tuple(read(text) for text in args.disease),
        field_sd=sd,
        field_mm=length,
        bases=partial(way, args.bases) if args.bases else None,
        maps_only=args.maps_only,
        vary_local=args.vary_local,
    )
    out = simulate_dataset(args.out, n=args.n, seed=args.seed, resolution=args.resolution, plan=plan)
    if args.maps_only:
        print(
            f"{out}: tissue maps of {args.n} simulated people and their local ages, in {out / 'derivatives' / 'maps'}"
        )
        return 0
    print(f"{out}: T1w images of {args.n} simulated people; what is true of them is in {out / 'derivatives' / 'truth'}")
    return 0
