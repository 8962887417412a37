"""The `roi` regression trained on synthetic people against the same trained on the real people behind them.

    python benchmarks/synthetic_training.py --data MUSE [--seeds 20] [--n 3000]

Each seed: two thirds of the real people (IXI at 1 mm, others at 2 mm brought to it) train; the generators see these
alone, and their synthetic people have ages and sexes of them, drawn with replacement. The other third, and a clinical
table, judge both. Ratio: mean absolute error of the model of synthetic people by that of real ones, a person's errors
averaged over the seeds that left the person out; 95 % interval by people resampled. d: MCI and AD against CN, by gaps
corrected on the CN, each CN left out of the own correction; mean and range over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from bids_brainage.cohort.generators import GENERATORS, settled
from bids_brainage.cohort.people import People
from bids_brainage.stats.bias import cross_fitted
from bids_brainage.stats.groups import cohen_d
from bids_brainage.training import card, muse
from bids_brainage.training.regressors import one_thread, search

REAL = "real people"


def people_of(table):
    return People(tuple(table.who), table.age, {"sex": table.sex}, table.indices, table.volumes, table.icv)


def table_of(people):
    site = np.full(len(people), "")
    return muse.Table(
        who=np.array(people.who),
        age=people.age,
        sex=people.categories["sex"],
        site=site,
        icv=people.icv,
        volumes=people.volumes,
        indices=people.indices,
    )


def trained(table, seed):
    return search(table.design(), table.age, seed, None, table.logged)


def separation(model, clinical, diagnosis):
    predicted = model.predict(clinical.design())
    gap = cross_fitted(clinical.age, predicted, diagnosis == "CN", clinical.who).gap
    controls = gap[diagnosis == "CN"]
    return [cohen_d(gap[diagnosis == name], controls).value for name in ("MCI", "AD")]


@one_thread
def compare(real, clinical, diagnosis, names, seeds, n):
    """Absolute errors (names, people), correlations (names, seeds), and d (names, seeds, 2)."""
    errors = np.full((len(names), seeds, len(real.age)), np.nan)
    r, d = np.empty((len(names), seeds)), np.empty((len(names), seeds, 2))
    fits = {name: settled(name, people_of(real), np.random.default_rng(0)) for name in names if name != REAL}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(real.age))
        test, train = np.sort(order[: len(order) // 3]), real.rows(np.sort(order[len(order) // 3 :]))
        chosen = rng.integers(0, len(train.age), n)
        for i, name in enumerate(names):
            seen = train
            if name != REAL:
                generator = fits[name](people_of(train), rng)
                seen = table_of(generator.at(train.age[chosen], {"sex": train.sex[chosen]}, rng))
            model = trained(seen, seed)
            predicted = model.predict(real.design()[test])
            errors[i, seed, test] = np.abs(predicted - real.age[test])
            r[i, seed] = np.corrcoef(predicted, real.age[test])[0, 1]
            d[i, seed] = separation(model, clinical, diagnosis)
    return np.nanmean(errors, axis=1), r, d


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ixi_dlmuse_*.tsv and clinical_muse.tsv")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--n", type=int, default=3000, help="synthetic people")
    parser.add_argument("--only", nargs="+", choices=GENERATORS, default=GENERATORS)
    args = parser.parse_args()
    fine, coarse, heads = (args.data / f"ixi_dlmuse_{name}.tsv" for name in ("1mm", "2mm", "2mm_same_heads"))
    real = muse.read_cohort(fine, coarse, heads, list(card.left_out(coarse))).people()
    path = args.data / "clinical_muse.tsv"
    clinical, diagnosis = muse.read_table(path), pd.read_csv(path, sep="\t")["diagnosis"].to_numpy(dtype=str)
    names = [REAL, *args.only]
    errors, r, d = compare(real, clinical, diagnosis, names, args.seeds, args.n)
    known = np.isfinite(errors[0])
    errors = errors[:, known]
    draws = np.random.default_rng(0).integers(0, known.sum(), (2000, known.sum()))
    print("| trained on | MAE, years | ratio (95 % interval) | r | d of MCI | d of AD |\n|---|---|---|---|---|---|")
    for i, name in enumerate(names):
        ratio = errors[i].mean() / errors[0].mean()
        low, high = np.quantile(errors[i][draws].mean(axis=1) / errors[0][draws].mean(axis=1), (0.025, 0.975))
        told = [f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" for x in d[i].T]
        shown = f"{ratio:.3f} ({low:.3f} to {high:.3f})" if i else "1"
        print(f"| {name} | {errors[i].mean():.2f} | {shown} | {r[i].mean():.3f} | {' | '.join(told)} |")
    print(f"\n{known.sum()} people judged; {args.seeds} seeds, {args.n} synthetic people each")


if __name__ == "__main__":
    main()
