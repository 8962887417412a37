"""``brainage genmind sample``: synthetic people from a fitted model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bids_brainage.toolbox.genmind.model import add_model


def add_parser(actions: Any) -> None:
    """Add the action."""
    made = actions.add_parser("sample", help="draw synthetic people", description=__doc__)
    add_model(made)
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help=".tsv, .csv or .parquet")
    made.add_argument("--n", type=int, default=18000, metavar="N", help="people, as many of each category as of others")
    made.add_argument(
        "--ages", nargs=2, type=float, metavar=("LOW", "HIGH"), help="uniform in this range (default: as the model's)"
    )
    made.add_argument("--like", type=Path, metavar="TABLE", help="ages and categories of this table's people instead")
    made.add_argument(
        "--names",
        choices=("muse", "published"),
        default="muse",
        help="columns MUSE_47 ..., or as the published data set has them (default: %(default)s)",
    )
    made.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same people (default: %(default)s)")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the table."""
    import numpy as np

    from bids_brainage.bids import roi_tables
    from bids_brainage.cohort.genmind import sample, sample_like
    from bids_brainage.cohort.scales import scale_of_bundle
    from bids_brainage.cohort.tables import people_of, write
    from bids_brainage.core.errors import UsageError
    from bids_brainage.models.roi import SCALE_KEY
    from bids_brainage.toolbox.genmind.model import find_model

    if args.n < 1 or (args.ages and args.like):
        raise UsageError("--n must be at least 1, and --ages and --like exclude each other")
    if args.ages and args.ages[0] > args.ages[1]:
        raise UsageError(f"--ages {args.ages[0]:g} {args.ages[1]:g}: the first is the lower one")
    bundle, model = find_model(args)
    rng = np.random.default_rng(args.seed)
    if args.like:
        study = people_of(roi_tables.read(args.like, icv=False), args.like, by=model.by)
        drawn = sample_like(model, study, args.n, rng)
    else:
        drawn = sample(model, args.n, rng, tuple(args.ages) if args.ages else None)
    about = {
        SCALE_KEY: scale_of_bundle(bundle.card),
        "Model": bundle.name,
        "ModelDigest": bundle.digest,
        "Licence": bundle.card["licence"],
        "Seed": args.seed,
    }
    write(args.out, drawn, names=args.names, about={**about, "Synthetic": True})
    print(f"{args.out}: {len(drawn)} synthetic people of {bundle.name}")
    return 0
