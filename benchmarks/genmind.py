"""Speed of reference people: fit with its search against scikit-learn's, and fit, draw and match at full size."""

import argparse
import resource
import time
from contextlib import contextmanager

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from bids_brainage.cohort import density, genmind, matching
from bids_brainage.cohort.people import People

REGIONS = 145
RACES = ("White", "Black", "Asian")


def people(n, seed=0, low=22.0, high=90.0):
    """People with correlated volumes that fall with age."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(low, high, n)
    mix = np.random.default_rng(1).standard_normal((20, REGIONS))
    z = (
        0.6 * rng.standard_normal((n, 20)) @ mix / 4
        + 0.7 * rng.standard_normal((n, REGIONS))
        - (age[:, None] - 56) / 40
    )
    categories = {"sex": np.resize(["F", "M"], n), "race": np.resize(np.repeat(RACES, 2), n)}
    return People(tuple(map(str, range(n))), age, categories, tuple(range(1, REGIONS + 1)), 5000 * np.exp(0.1 * z))


@contextmanager
def timed(what):
    start, used = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    print(f"| {what} | {wall:.2f} | {cpu:.2f} |", flush=True)
    timed.last = wall, cpu


def against_sklearn(n):
    """The same z-scores, grid and folds; one leaf, because the bounds of many cancel badly in 146 dimensions."""
    table = people(n).features
    folds = density.split(n, 5, seed=0)
    with timed(f"search, published kernel, {n} x {REGIONS + 1}"):
        found = density.search(table, kernel="published", folds=folds)
        density.fit(table, found.best, "published")
    own = timed.last
    parts = [(np.setdiff1d(np.arange(n), part), part) for part in folds]
    z = (table - table.mean(axis=0)) / table.std(axis=0)
    with timed(f"scikit-learn GridSearchCV, {n} x {REGIONS + 1}, one process"):
        grid = GridSearchCV(KernelDensity(leaf_size=n), {"bandwidth": density.BANDWIDTHS}, cv=parts).fit(z)
    theirs = timed.last
    same = found.best == grid.best_params_["bandwidth"]
    default = KernelDensity(bandwidth=0.7).fit(z[parts[0][0]]).score(z[folds[0]]) / len(folds[0])
    exact = KernelDensity(bandwidth=0.7, leaf_size=n).fit(z[parts[0][0]]).score(z[folds[0]]) / len(folds[0])
    print(f"| mean log-likelihood at 0.7: {exact:.1f}; of scikit-learn's default leaf size: {default:.1f} | | |")
    scores = np.array(found.scores) * n / 5
    error = np.abs(scores / grid.cv_results_["mean_test_score"] - 1).max()
    print(f"| ratio | {theirs[0] / own[0]:.0f} | {theirs[1] / own[1]:.0f} |")
    print(f"| same bandwidth: {same} ({found.best}); largest relative difference of log-likelihoods {error:.1e} | | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sklearn", type=int, default=6000, metavar="N", help="people of the comparison; 0 leaves it out"
    )
    parser.add_argument("--people", type=int, default=34_000, metavar="N", help="people of the fit at full size")
    parser.add_argument("--match", type=int, default=100_000, metavar="N", help="people who are matched")
    parser.add_argument("--k", type=int, default=10, metavar="N", help="controls a person")
    args = parser.parse_args()
    print("| what | seconds | processor seconds |\n|---|---|---|")
    if args.sklearn:
        against_sklearn(args.sklearn)
    reference = people(args.people)
    for kernel in density.KERNELS:
        with timed(f"fit with search, {args.people} x {REGIONS + 1}, six categories, {kernel}"):
            model = genmind.fit(reference, by=("sex", "race"), kernel=kernel).model
    model = genmind.fit(reference, by=("sex", "race"), bandwidths=[0.7]).model
    with timed("sample 18000"):
        genmind.sample(model, 18_000, np.random.default_rng(0))
    study = people(args.match, seed=5, low=25, high=85)
    with timed(f"match and score {args.match} people, {args.k} controls each"):
        matching.score(model, study, args.k)
    print(f"| peak memory, MiB | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} | |")


if __name__ == "__main__":
    main()
