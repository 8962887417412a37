"""Scores of healthy people who were left out, against controls matched by age and sex, for both kernels.

Scores of a calibrated model have mean 0, SD 1 and 5 % beyond 1.96. Intervals: people resampled.
"""

import argparse
from pathlib import Path

import numpy as np

from bids_brainage.bids import roi_tables
from bids_brainage.cohort import density, genmind, matching
from bids_brainage.cohort.tables import people_of


def left_out(people, bandwidths, kernel, folds, k, seed):
    """Scores of everybody by a model of the others, shape (n, regions); nan where the others do not reach the age."""
    z = np.full(people.volumes.shape, np.nan)
    chosen = []
    for part in density.split(len(people), folds, seed):
        train = people.take(np.setdiff1d(np.arange(len(people)), part))
        fitted = genmind.fit(train, bandwidths=bandwidths, kernel=kernel, seed=seed)
        chosen += [made.bandwidth for made in fitted.model.densities.values()]
        test = people.take(part)
        known = [not why for why in fitted.model.why_not(test.age, test.categories)]
        z[part[known]] = matching.score(fitted.model, test.take(known), k, seed).z
    return z, chosen


def figures(z):
    return np.array([np.nanmean(z), np.nanstd(z, ddof=1), 100 * (np.abs(z) > 1.96).mean()])


def line(z, rng, draws=1000):
    """Mean, SD and percent beyond 1.96, each with its 95 % interval over people."""
    many = np.array([figures(z[rng.integers(0, len(z), len(z))]) for _ in range(draws)])
    low, high = np.percentile(many, (2.5, 97.5), axis=0)
    shown = zip(figures(z), low, high, strict=True)
    return " | ".join(f"{value:.2f} ({a:.2f} to {b:.2f})" for value, a, b in shown)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="healthy people, e.g. ixi_dlmuse_1mm.tsv")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--k", type=int, default=matching.CONTROLS)
    parser.add_argument("--bandwidths", type=float, nargs="+", default=[0.5, 0.7, 1.0], help="each on its own")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    people = people_of(roi_tables.read(args.table), args.table)
    limits = np.quantile(people.age, [1 / 3, 2 / 3])
    third = np.digitize(people.age, limits)
    rng = np.random.default_rng(args.seed)
    print("| kernel, bandwidth | ages | n | mean z | SD of z | % beyond 1.96 |\n|---|---|---|---|---|---|")
    for kernel in density.KERNELS:
        for grid in [*([h] for h in args.bandwidths), density.BANDWIDTHS]:
            z, chosen = left_out(people, grid, kernel, args.folds, args.k, args.seed)
            name = f"{kernel}, {chosen[0]:g}" if len(grid) == 1 else f"{kernel}, searched ({np.median(chosen):g})"
            done = np.isfinite(z).all(axis=1)
            names = ("all", f"to {limits[0]:.0f}", f"{limits[0]:.0f} to {limits[1]:.0f}", f"from {limits[1]:.0f}")
            for which, label in zip((None, 0, 1, 2), names, strict=True):
                rows = done if which is None else done & (third == which)
                print(f"| {name} | {label} | {rows.sum()} | {line(z[rows], rng)} |", flush=True)


if __name__ == "__main__":
    main()
