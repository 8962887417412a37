"""How large the ``roi`` model should take the error of its volumes to be: what each factor costs and what it brings.

    python benchmarks/caution.py --data DATASET --muse DIR --work DIR

DATASET and ``--work`` as of ``accuracy.py``; ``--muse`` has the tables that ``roi`` was trained on. Prints a Markdown
table: MAE by ten-fold cross-validation on volumes as DLMUSE gives them and with the app's error drawn (once the
factor), and how far ages from the app's volumes and from DLMUSE's of the same scan are apart, where the person took
part in nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from accuracy import SEGMENT, blind_ages, error_of, people, read_people

from bids_brainage.training import agreement, heads
from bids_brainage.training.measurement import MeasurementError
from bids_brainage.training.muse import Cohort
from bids_brainage.training.regressors import folds, tuned

FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
DRAWS = 8


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/dlmuse")
    parser.add_argument("--muse", type=Path, required=True, help="folder of the tables of regional volumes")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the stages' files")
    args = parser.parse_args()
    examples = [heads.prepare(head, args.work, segment_bundle=SEGMENT) for head in heads.find_heads(args.data)]
    who, cohort = agreement.people(examples), read_people(args.muse)
    judged = agreement.leave_one_out(examples, who, agreement.without_each(examples, who))
    error = error_of(judged, np.ones(len(who), bool), cohort.people().indices)
    print(
        "| errors, times | MAE | MAE, error | slope | mean difference | median absolute | largest |\n"
        + "|---" * 7
        + "|"
    )
    for factor in FACTORS:
        found = np.array(blind_ages(examples, judged, people(args.data), who, cohort, factor))
        apart = found[:, 0] - found[:, 1]
        cells = [*costs(cohort, error, factor), apart.mean(), np.median(np.abs(apart)), np.abs(apart).max()]
        print(f"| {factor:g} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)


def costs(cohort: Cohort, error: MeasurementError, factor: float) -> tuple[float, float, float]:
    """MAE without and with error, years, and the slope of predicted on true age, of people who were left out."""
    table = cohort.people()
    design, age = table.design(), table.age
    noisy = [table.with_error(error, seed).design() for seed in range(1, DRAWS + 1)]
    predicted, off = np.empty(len(age)), np.empty(len(age))
    for train, test in folds(0).split(design, age):
        model = tuned(0, error.times(factor), table.logged).fit(design[train], age[train])
        predicted[test] = model.predict(design[test])
        off[test] = np.mean([np.abs(model.predict(one[test]) - age[test]) for one in noisy], axis=0)
    return np.abs(predicted - age).mean(), off.mean(), np.polyfit(age, predicted, 1)[0]


if __name__ == "__main__":
    main()
