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


def _atlas(recipes: Any) -> None:
    """Regions of the brain in template space, from heads with a DLMUSE segmentation."""
    recipe = recipes.add_parser(
        "atlas", help="the MUSE atlas, from heads segmented by DLMUSE", description=_atlas.__doc__
    )
    recipe.add_argument(
        "--data", type=Path, required=True, metavar="DATASET", help="BIDS dataset with derivatives/dlmuse"
    )
    recipe.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    recipe.add_argument("--work", type=Path, metavar="DIR", help="keeps the stages' files (default: beside the bundle)")
    recipe.add_argument("--threads", type=int, default=1, metavar="N", help="of each stage; one gives the same bytes")
    recipe.set_defaults(run=run_atlas)


def run_atlas(args: argparse.Namespace) -> int:
    """Build the atlas and print how well it does on heads that were left out."""
    from bids_brainage.models.registry import PACKAGED, find
    from bids_brainage.training import atlas

    work = args.work or args.out.with_name(f"{args.out.name}-work")
    segment = find("segment", [PACKAGED]).folder
    heads = atlas.find_heads(args.data)
    return _report(atlas.build(heads, args.out, work=work, segment_bundle=segment, threads=args.threads))


def _report(bundle: Bundle) -> int:
    from bids_brainage.toolbox.models import summary

    print(summary(bundle))
    return 0


RECIPES = (_roi, _atlas)
