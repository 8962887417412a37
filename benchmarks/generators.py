"""Generators of regional volumes in one table: calibration, correlations, discriminators and membership on held people.

    python benchmarks/generators.py --table ixi_dlmuse_1mm.tsv [--halves 20] [--rows 100 500 1000 3000] [--only copula]

Calibration: 200 draws at the exact age and sex of each person who was left out of the fit (5 folds); z should have mean
0 and SD 1, and 5 % of it lie beyond 1.96. All else is of as many synthetic people as there are real, of their ages and
sexes. Membership: the strongest of three attacks on generators refitted on random halves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import KernelDensity

from bids_brainage.cohort.alternatives import Fit, choose_copula, choose_mixture, fit_copula, fit_mixture
from bids_brainage.cohort.calibration import calibration, held_out_z
from bids_brainage.cohort.fidelity import discrimination
from bids_brainage.cohort.margins import categories_of, strata
from bids_brainage.cohort.people import People
from bids_brainage.cohort.privacy import membership, strongest
from bids_brainage.cohort.structure import correlations
from bids_brainage.training.muse import read_table

BANDWIDTH = 0.7


class Published:
    """Kernel density of z-scores by category, the same width on all features, given age by the weights of kernels."""

    def __init__(self, people: People) -> None:
        self.people, self.stratum = people, strata(people.categories, len(people))
        self.kernels = {name: self._kernel(people.features[self.stratum == name]) for name in set(self.stratum)}

    @staticmethod
    def _kernel(features: Any) -> tuple[Any, Any, Any]:
        mean, sd = features.mean(axis=0), features.std(axis=0)
        density = KernelDensity(bandwidth=BANDWIDTH).fit((features - mean) / sd)
        return np.asarray(density.tree_.data), mean, sd

    def at(self, ages: Any, categories: Mapping[str, Any], rng: np.random.Generator) -> People:  # noqa: D102
        stratum, n = strata(categories, len(ages)), len(ages)
        made = np.empty((n, self.people.features.shape[1]))
        for i, (age, name) in enumerate(zip(ages, stratum, strict=True)):
            z, mean, sd = self.kernels[name]
            log_weight = -0.5 * (((age - mean[-1]) / sd[-1] - z[:, -1]) / BANDWIDTH) ** 2
            weight = np.exp(log_weight - log_weight.max())
            row = z[rng.choice(len(z), p=weight / weight.sum())]
            made[i] = mean + sd * (row + BANDWIDTH * rng.standard_normal(len(row)))
        k = len(self.people.indices)
        icv = made[:, k] if self.people.icv is not None else None
        who = tuple(map(str, range(n)))
        return People(who, np.array(ages), categories_of(categories, n), self.people.indices, made[:, :k], icv)


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
    parser.add_argument("--halves", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 500, 1000, 3000])
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    table = read_table(args.table)
    people = People(tuple(table.who), table.age, {"sex": table.sex}, table.indices, table.volumes, table.icv)
    rng = np.random.default_rng(0)
    copula, mixture = choose_copula(people, rng), choose_mixture(people, rng)
    print(f"chosen by held-out likelihood, for all refits: {copula}, {mixture}")
    fits: dict[str, Fit] = {
        "published kernel": lambda some, rng: Published(some),
        "copula": lambda some, rng: fit_copula(some, rng, copula),
        "mixture": lambda some, rng: fit_mixture(some, rng, mixture),
        "mixture, rest independent": lambda some, rng: fit_mixture(some, rng, mixture._replace(joined=False)),
    }
    for name, fit in fits.items():
        if args.only and name not in args.only:
            continue
        started = time.monotonic()
        shown = figures(people, fit, args.halves, args.rows)
        print(f"\n{name} ({time.monotonic() - started:.0f} s)")
        for what, value in shown.items():
            print(f"  {what:32s} {value}", flush=True)


if __name__ == "__main__":
    main()
