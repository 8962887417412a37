"""``brainage genmind harmonize``: bring a study's volumes to reference people, who stay as they are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_brainage.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bids_brainage.cohort.harmonize import Harmonisation
    from bids_brainage.cohort.people import People

SITE = "site"


def add_parser(actions: Any) -> None:
    """Add ``harmonize``."""
    made = actions.add_parser("harmonize", help="bring a study's volumes to reference people", description=__doc__)
    made.add_argument("table", type=Path, metavar="TABLE", help="the study: ages, sex, ICV, MUSE volumes, site")
    by = made.add_mutually_exclusive_group(required=True)
    by.add_argument("--reference", type=Path, metavar="TABLE", help="reference people, matched to the study's controls")
    by.add_argument("--fitted", type=Path, metavar="BUNDLE", help="what --save wrote: nothing is fitted")
    made.add_argument(
        "--controls", metavar="QUERY", help="whom to fit on, e.g. \"diagnosis == 'CN'\" (with --reference)"
    )
    made.add_argument("--method", choices=("combat", "combat-gam"), default="combat-gam", help="default: %(default)s")
    made.add_argument("--site-column", default=SITE, metavar="NAME", help="default: %(default)s")
    made.add_argument("--save", type=Path, metavar="BUNDLE", help="new folder for what was fitted")
    made.add_argument("--out", type=Path, required=True, metavar="TABLE", help="the study harmonised, .tsv or .csv")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Harmonise a table, and print what is to be known of it."""
    from bids_brainage.bids.roi_tables import ICV
    from bids_brainage.cohort import harmonize, store, tables
    from bids_brainage.cohort.alike import read_once

    if args.out.resolve() in (args.table.resolve(), args.reference.resolve() if args.reference else None):
        raise UsageError(f"{args.out}: is one of the tables themselves; give another file")
    _, table, frame = read_once(args.table)
    people = tables.people_of(table, args.table, icv=ICV in table.columns)
    if args.site_column not in frame:
        raise UsageError(f"{args.table}: has no column {args.site_column!r}; name that of the sites with --site-column")
    site = frame[args.site_column].to_numpy(dtype=str)
    if args.reference is None:
        if args.controls or args.save:
            raise UsageError("--controls and --save belong to --reference; with --fitted nothing is fitted")
        fitted = store.load(args.fitted)
    else:
        fitted = _fit(args, frame, people, site)
    for note in harmonize.notes(fitted, people, site):
        print(note, file=sys.stderr)
    tables.write_volumes(args.out, frame, table.columns, harmonize.apply(fitted, people, site))
    for name, n, (low, high) in zip(fitted.sites, fitted.controls, fitted.ages, strict=True):
        print(f"{name}\t{n} controls\t{low:.1f}-{high:.1f} years\t{fitted.reference} reference people")
    return 0


def _fit(args: argparse.Namespace, frame: pd.DataFrame, people: People, site: NDArray[np.str_]) -> Harmonisation:
    """Fit on the controls, and save where asked."""
    from bids_brainage.cohort import harmonize, store, tables
    from bids_brainage.training.card import free, writing
    from bids_brainage.workflows.controls import choose_controls

    if args.controls is None:
        raise UsageError("--reference wants --controls, e.g. \"diagnosis == 'CN'\": patients must not fit it")
    chosen = choose_controls(tables.with_numbers(frame), args.controls)
    reference = tables.read_people(args.reference, needs_icv=False)
    fitted = harmonize.fit(people.take(chosen), site[chosen], reference, method=args.method)
    if not fitted.uses_icv:
        print(
            "ICV is not known of all, so head size is no covariate: age and sex alone keep their effect",
            file=sys.stderr,
        )
    if args.save:
        with writing(free(args.save)) as folder:
            store.save(folder, fitted)
    return fitted
