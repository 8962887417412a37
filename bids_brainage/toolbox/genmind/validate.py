"""``brainage genmind validate``: fidelity and privacy of synthetic people, as one page and its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_brainage.core.errors import UsageError

if TYPE_CHECKING:
    from bids_brainage.cohort.alike import Read
    from bids_brainage.cohort.people import People
    from bids_brainage.cohort.validation import Patients

REFIT = ("shrunken-kernel", "published-kernel", "copula", "mixture", "mixture-independent")


def add_parser(actions: Any) -> None:
    """Add the command."""
    parser = actions.add_parser(
        "validate",
        help="whether synthetic people are like real ones, and what they tell of them",
        description="Compare a table of synthetic people with one of real people: volumes, correlations, ageing,"
        " classifiers, uses and privacy. Writes fidelity.html and fidelity.json.",
    )
    add = parser.add_argument
    add("real", type=Path, metavar="REAL", help="table of real people: age, sex, any race, MUSE volumes in mm^3")
    add("synthetic", type=Path, metavar="SYNTHETIC", help="table of synthetic people with the same columns")
    add("--patients", type=Path, metavar="TABLE", help="table with a column diagnosis, for classifiers and gaps")
    add("--control", default="CN", metavar="LABEL", help="diagnosis of healthy people in it (default: CN)")
    add("--score", metavar="COLUMN", help="clinical score in it that the brain-age gap may go with, e.g. MMSE")
    add("--held-out", type=Path, metavar="TABLE", help="real people who did not train; REAL are those who did")
    add("--refit", choices=REFIT, help="refit this generator on halves of REAL and infer membership")
    add("--splits", type=int, default=50, metavar="N", help="random splits of the classifiers (default: 50)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of fidelity.html and fidelity.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run all tests, write both files, and print what matters most."""
    import numpy as np

    from bids_brainage.cohort.alike import read_alike
    from bids_brainage.cohort.fidelity import xgboost
    from bids_brainage.cohort.generators import settled
    from bids_brainage.cohort.validation import validate
    from bids_brainage.reports.fidelity import write

    if args.splits < 2:
        raise UsageError(f"--splits {args.splits}: is too few; give at least 2")
    if args.score and not args.patients:
        raise UsageError("--score: is a column of the patients' table; give --patients too")
    xgboost()
    given = {name: path for name in ("real", "synthetic", "patients", "held_out") if (path := getattr(args, name))}
    read, alike = read_alike(*given.values())
    people = dict(zip(given, alike, strict=True))
    summary = validate(
        people["real"],
        people["synthetic"],
        args.seed,
        patients=_patients(read[2], alike[2], args) if args.patients else None,
        held_out=people.get("held_out"),
        refit=(args.refit, settled(args.refit, people["real"], np.random.default_rng(args.seed)))
        if args.refit
        else None,
        splits=args.splits,
    )
    report = write(args.out, summary)
    for row in summary["Discrimination"]:
        print(f"{row['classifier']}, {row['category']}: AUC {row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    print(summary["Privacy"]["Verdict"])
    print(report)
    return 0


def _patients(table: Read, people: People, args: argparse.Namespace) -> Patients:
    import numpy as np

    from bids_brainage.bids.tables import is_missing
    from bids_brainage.cohort.alike import DIAGNOSIS
    from bids_brainage.cohort.validation import Patients

    diagnosis = table.column(DIAGNOSIS)
    if diagnosis is None:
        raise UsageError(f"{table.path}: has no column diagnosis; add one")
    score = table.numbers(args.score) if args.score else None
    known = np.array([not is_missing(cell.strip()) for cell in diagnosis.tolist()])
    if not known.all():
        print(f"{table.path}: {int((~known).sum())} people have no diagnosis and are left out")
    return Patients(
        people.take(known), diagnosis[known], args.control, None if score is None else score[known], args.score or ""
    )
