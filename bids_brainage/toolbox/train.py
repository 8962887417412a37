"""``brainage train``: one recipe a kind of bundle, each made again by one command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bids_brainage.core.bundle import Bundle


def add_parser(subparsers: Any) -> None:
    """Add ``train`` with one subcommand for each recipe."""
    made = subparsers.add_parser("train", help="fit a model and write it as a bundle", description=__doc__)
    recipes = made.add_subparsers(required=True, metavar="RECIPE")
    for add in RECIPES:
        add(recipes)


def _roi(recipes: Any) -> None:
    """Brain age from regional volumes."""
    recipe = recipes.add_parser("roi", help="brain age from a table of regional volumes", description=_roi.__doc__)
    recipe.add_argument(
        "--table",
        type=Path,
        required=True,
        metavar="FILE",
        help="TSV: participant_id, age, sex, MUSE_702, MUSE_<index>; 1 mm",
    )
    recipe.add_argument(
        "--same-heads", type=Path, metavar="FILE", help="TSV of some of these people, segmented at 2 mm"
    )
    recipe.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="new folder; its name becomes the model's"
    )
    recipe.add_argument("--seed", type=int, default=0, metavar="N", help="of folds and bootstrap (default: 0)")
    recipe.set_defaults(run=run_roi)


def run_roi(args: argparse.Namespace) -> int:
    """Fit the ``roi`` model and print how well it does on people who were left out."""
    from bids_brainage.training.roi import fit

    return _report(fit(args.table, same_heads=args.same_heads, out=args.out, seed=args.seed))


def _report(bundle: Bundle) -> int:
    from bids_brainage.toolbox.models import summary

    print(summary(bundle))
    return 0


RECIPES = (_roi,)
