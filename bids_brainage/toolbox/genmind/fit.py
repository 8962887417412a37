"""``brainage genmind fit``: densities of a table of healthy people, as a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bids_brainage.toolbox.predict import add_scale


def add_parser(actions: Any) -> None:
    """Add the action."""
    made = actions.add_parser("fit", help="fit densities to a table of healthy people", description=__doc__)
    made.add_argument("table", type=Path, metavar="TABLE", help="TSV, CSV or parquet of MUSE volumes, age, sex, race")
    made.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="new folder; its name is the model's")
    made.add_argument("--by", nargs="+", metavar="COLUMN", help="columns of categories (default: sex, race if known)")
    made.add_argument("--icv", action="store_true", help="intracranial volume as a feature, to match on")
    made.add_argument(
        "--kernel",
        choices=("shrunken", "published"),
        default="shrunken",
        help="shrunken keeps means and covariances, published makes variances larger (default: %(default)s)",
    )
    made.add_argument(
        "--bandwidths", nargs="+", type=float, metavar="H", help="one, or those to search (default: 0.5 to 1.0)"
    )
    made.add_argument("--folds", type=int, default=5, metavar="N", help="of the search (default: %(default)s)")
    made.add_argument("--fewest", type=int, default=30, metavar="N", help="people of a category (default: %(default)s)")
    made.add_argument(
        "--small",
        choices=("refuse", "pool"),
        default="refuse",
        help="smaller categories are an error, or drawn from everybody of that sex (default: %(default)s)",
    )
    add_scale(made)
    made.add_argument("--licence", metavar="TEXT", help="licence and source of the table, for the card")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the folds (default: %(default)s)")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, and print a line a category."""
    from bids_brainage.cohort.density import BANDWIDTHS
    from bids_brainage.training.genmind import fit

    bundle = fit(
        args.table,
        out=args.out,
        by=args.by,
        icv=args.icv,
        kernel=args.kernel,
        bandwidths=args.bandwidths or BANDWIDTHS,
        folds=args.folds,
        fewest=args.fewest,
        small=args.small,
        licence=args.licence,
        seed=args.seed,
        scale=args.scale,
    )
    for entry in bundle.card["categories"]:
        name = ", ".join(entry["category"])
        print(
            f"{name}: {entry['n']} people of {entry['age_range'][0]:g}-{entry['age_range'][1]:g} years, "
            f"bandwidth {entry['bandwidth']:g}"
        )
        if "pooled" in entry:
            print(f"brainage: {name}: {entry['pooled']}", file=sys.stderr)
        if entry["bandwidth_at_edge_of_grid"]:
            print(
                f"brainage: {name}: {entry['bandwidth']:g} is at the edge of the grid; the best may lie beyond",
                file=sys.stderr,
            )
    print(f"{bundle.name}\t{bundle.folder}")
    return 0
