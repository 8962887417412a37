"""``brainage genmind match``: synthetic controls of each person of a table, and each person's scores against them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_brainage.toolbox.genmind.model import add_model
from bids_brainage.toolbox.predict import add_scale

if TYPE_CHECKING:
    from bids_brainage.cohort.genmind import GenMIND
    from bids_brainage.cohort.matching import Balance, Scores
    from bids_brainage.cohort.people import People


def add_parser(actions: Any) -> None:
    """Add the action."""
    made = actions.add_parser("match", help="controls of people, and their z-scores", description=__doc__)
    add_model(made)
    made.add_argument("table", type=Path, metavar="TABLE", help="TSV, CSV or parquet of the people's MUSE volumes")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder of the tables")
    made.add_argument("--k", type=int, default=50, metavar="N", help="controls a person (default: %(default)s)")
    add_scale(made)
    made.add_argument("--on-icv", action="store_true", help="match on intracranial volume too; wants a model with it")
    made.add_argument("--write-controls", action="store_true", help="write the controls themselves")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same controls (default: 0)")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write scores, centiles, balance and its figure, and who was not matched; 1 where somebody was not."""
    from bids_brainage.bids import roi_tables
    from bids_brainage.cohort.matching import balance_of, score
    from bids_brainage.cohort.scales import on_scale, scale_of, scale_of_bundle
    from bids_brainage.cohort.tables import complete_people
    from bids_brainage.core.errors import UsageError
    from bids_brainage.models.roi import SCALE_KEY
    from bids_brainage.toolbox.genmind.model import find_model

    if args.k < 3:
        raise UsageError(f"--k {args.k}: a score needs at least 3 controls a person")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"{args.out}: is there already; remove it or give another folder")
    bundle, model = find_model(args)
    if args.on_icv and not model.has_icv:
        raise UsageError(f"--on-icv: {bundle.name} knows no intracranial volume; fit one with --icv")
    table = roi_tables.read(args.table, icv=args.on_icv)
    table = on_scale(table, args.scale or scale_of(args.table), scale_of_bundle(bundle.card), args.table)
    with_icv = model.has_icv and roi_tables.ICV in table.columns
    people, lost = complete_people(table, args.table, by=model.by, indices=model.indices, icv=with_icv)
    reasons = model.why_not(people.age, people.categories, people.icv if args.on_icv else None)
    lost |= {who: reason for who, reason in zip(people.who, reasons, strict=True) if reason}
    people = people.take([not reason for reason in reasons])
    if not len(people):
        who, why = next(iter(lost.items()))
        raise UsageError(f"{args.table}: nobody can be matched ({who}: {why}); use people that the model knows")
    found = score(model, people, args.k, args.seed, on_icv=args.on_icv)
    write(args.out, people, found, lost, balance_of(model, people, found, args.k, args.seed), bundle.name)
    if args.write_controls:
        write_controls(args, model, people, {"Model": bundle.name, SCALE_KEY: scale_of_bundle(bundle.card)})
    print(f"{args.out}: {args.k} controls each of {len(people)} people, by {bundle.name}")
    for who, why in list(lost.items())[:5]:
        print(f"brainage: {who} is not matched: {why}", file=sys.stderr)
    if len(lost) > 5:
        print(f"brainage: {len(lost)} people are not matched; see unmatched.tsv", file=sys.stderr)
    return 1 if lost else 0


def write(out: Path, people: People, found: Scores, lost: dict[str, str], rows: Sequence[Balance], model: str) -> None:
    """Write the tables and the figure."""
    from dataclasses import replace

    from bids_brainage.bids.tables import write_tsv
    from bids_brainage.cohort import tables
    from bids_brainage.reports.cohort import love_plot

    for name, values, unit in (("z", found.z, "SD"), ("centile", found.centile, "percent")):
        about = {
            "Model": model,
            "Values": f"{name} of each volume among the person's own matched controls, {unit}",
            "Units": {"age": "years", f"{name} of a volume": unit},
        }
        tables.write(out / f"{name}.tsv", replace(people, volumes=values, icv=None), about=about)
    names = ("covariate", "people", "before", "after", "smd_before", "smd_after")
    write_tsv(out / "balance.tsv", [row._asdict() for row in rows], names)
    love_plot(
        out / "balance.png",
        [row.covariate for row in rows],
        [row.smd_before for row in rows],
        [row.smd_after for row in rows],
    )
    unmatched = [{"participant_id": who, "reason": why} for who, why in lost.items()]
    write_tsv(out / "unmatched.tsv", unmatched, ("participant_id", "reason"))


def write_controls(args: argparse.Namespace, model: GenMIND, people: People, about: dict[str, Any]) -> None:
    """The same controls that gave the scores, a row each, a file a part of the people."""
    from dataclasses import replace

    from bids_brainage.cohort.matching import controls
    from bids_brainage.cohort.tables import write

    drawn = controls(model, people, args.k, args.seed, on_icv=args.on_icv)
    for part, (rows, synthetic) in enumerate(drawn, start=1):
        who = [f"{person}-control-{j}" for person in people.who[rows] for j in range(1, args.k + 1)]
        told = {**about, "Synthetic": True, "Seed": args.seed}
        write(args.out / f"controls-{part:04d}.tsv", replace(synthetic, who=tuple(who)), about=told)
