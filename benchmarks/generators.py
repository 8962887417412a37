"""Generators of regional volumes in one table: calibration, correlations, discriminators and membership on held people.

    python benchmarks/generators.py --table ixi_dlmuse_1mm.tsv [--halves 20] [--rows 100 500 1000 3000] [--only copula]

Calibration: 200 draws at the exact age and sex of each person who was left out of the fit (5 folds); z should have mean
0 and SD 1, and 5 % of it lie beyond 1.96. All else is of as many synthetic people as there are real, of their ages and
sexes. Membership: the strongest of three attacks on generators refitted on random halves.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bids_brainage.cohort.alternatives import Fit
from bids_brainage.cohort.calibration import calibration, held_out_z
from bids_brainage.cohort.fidelity import discrimination
from bids_brainage.cohort.generators import GENERATORS, settled
from bids_brainage.cohort.people import People
from bids_brainage.cohort.privacy import membership, strongest
from bids_brainage.cohort.structure import correlations
from bids_brainage.training.muse import read_table


def figures(people: People, fit: Fit, halves: int, rows: list[int]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    z = calibration(held_out_z(people, fit, rng), people.age)
    made = fit(people, rng).at(people.age, people.categories, rng)
    structure, auc = correlations(people, made, rng), discrimination(people, made, rng)
    shown = {f"z, {r.ages} y (n = {r.n})": f"{r.mean:+.3f} {r.sd:.3f} {r.beyond:.3f}" for r in z.itertuples()}
    shown |= {
        "negative volumes": f"{np.mean(made.volumes < 0):.3%} of values, {np.mean((made.volumes < 0).any(1)):.0%} rows",
        "correlation RMSE": f"{structure.rmse.value:.4f}",
        "between real halves": f"{structure.rmse_between_halves.value:.4f} (ratio {structure.ratio:.2f})",
    }
    for r in auc[auc["category"] == "everyone"].itertuples():
        shown[f"AUC, {r.classifier}"] = f"{r.auc:.3f} [{r.low:.3f}, {r.high:.3f}]"
    attacks = membership(people, fit, rng, rows, halves=halves)
    for n, some in attacks.groupby("rows"):
        worst = strongest(some)
        told = f"{worst.auc:.3f} [{worst.low:.3f}, {worst.high:.3f}] {worst.attack}, TPR {some.tpr.max():.3f}"
        shown[f"membership AUC, {n} rows"] = told
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--icv", action="store_true", help="intracranial volume as a feature")
    parser.add_argument("--halves", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 500, 1000, 3000])
    parser.add_argument("--only", nargs="+", choices=GENERATORS)
    args = parser.parse_args()
    table = read_table(args.table)
    people = People(
        tuple(table.who), table.age, {"sex": table.sex}, table.indices, table.volumes, table.icv if args.icv else None
    )
    rng = np.random.default_rng(0)
    for name in args.only or GENERATORS:
        fit = settled(name, people, rng)
        started = time.monotonic()
        shown = figures(people, fit, args.halves, args.rows)
        print(f"\n{name} ({time.monotonic() - started:.0f} s)")
        for what, value in shown.items():
            print(f"  {what:32s} {value}", flush=True)


if __name__ == "__main__":
    main()
