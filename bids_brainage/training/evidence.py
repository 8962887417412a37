"""What is measured of a ``roi`` model, on people whom the model that is judged did not see: the figures of its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import linregress, t

from bids_brainage.core.errors import UsageError
from bids_brainage.models.base import SEX_CODE
from bids_brainage.stats.groups import cohen_d
from bids_brainage.training import evaluate
from bids_brainage.training.measurement import MeasurementError
from bids_brainage.training.muse import FEWEST_PEOPLE, Cohort, Table, read_table
from bids_brainage.training.regressors import FOLDS, NoisyRidge, candidates, one_thread, search

if TYPE_CHECKING:
    from bids_brainage.training.roi import Fold, HeldOut

FloatArray = NDArray[np.float64]

DRAWS = 8
ALIKE_VOXEL = 1.2
HIPPOCAMPI = (47, 48)


def figures(cohort: Cohort, found: HeldOut, seed: int, error: MeasurementError | None) -> dict[str, Any]:
    """All figures of accuracy for the card, by people who were left out."""
    table = cohort.people()
    age, thirds = table.age, evaluate.age_thirds(table.age)
    sited = len(set(table.site)) > 1
    metrics = {
        "how": f"nested {FOLDS}-fold cross-validation over people; errors are predicted minus true age, in years",
        "out_of_fold": evaluate.whole(age, found.predicted, seed),
        "by_sex": evaluate.by_group(age, found.predicted, table.sex),
        "sex_difference": sex_difference(table, found.predicted),
        "by_age_third": evaluate.by_group(age, found.predicted, thirds),
        "by_site": evaluate.by_group(age, found.predicted, table.site) if sited else {},
        "leave_one_site_out": left_out(cohort, table.site, seed, error) if sited else {},
        "leave_one_table_out": {},
        "interval_90": intervals(age, found.predicted, found.half_width, thirds),
    }
    if cohort.coarse is not None:
        resolution = np.where(cohort.is_coarse, "2 mm", "1 mm")
        metrics["leave_one_table_out"] = left_out(cohort, resolution, seed, error)
        metrics["by_table"] = evaluate.by_group(age, found.predicted, resolution)
    if error is not None:
        metrics["out_of_fold_with_measurement_error"] = evaluate.whole(age, found.measured, seed)
        metrics["interval_90_with_measurement_error"] = intervals(
            age, found.measured, found.measured_half_width, thirds
        )
    return metrics


def intervals(age: FloatArray, predicted: FloatArray, half_width: FloatArray, thirds: NDArray[Any]) -> dict[str, Any]:
    """Coverage and width, overall and by third of the true ages; arguments as of :func:`evaluate.coverage`."""
    found = evaluate.coverage(age, predicted, half_width)
    found["by_age_third"] = {
        name: evaluate.coverage(age[thirds == name], predicted[thirds == name], half_width[thirds == name])
        for name in sorted(set(thirds))
    }
    return found


def sex_difference(table: Table, predicted: FloatArray) -> dict[str, Any]:
    """Gap of men minus that of women, years, as it is and at the same age (linear and quadratic), 95 % t intervals.

    Ages regress to the mean, so that the sex with the younger people reads older; the second figure is free of that.
    """
    from statsmodels.api import OLS

    man = np.array([SEX_CODE[sex] for sex in table.sex.tolist()])
    if np.ptp(man) == 0:
        return {}
    one, age = np.ones(len(man)), table.age - table.age.mean()
    designs = {"as_it_is": [man, one], "at_the_same_age": [man, one, age, age**2]}
    found: dict[str, Any] = {}
    for name, columns in designs.items():
        fitted = OLS(predicted - table.age, np.stack(columns, axis=1)).fit()
        low, high = fitted.conf_int()[0]
        found[name] = evaluate.estimate((fitted.params[0], low, high))
    return found


def left_out(
    cohort: Cohort, group: NDArray[Any], seed: int, error: MeasurementError | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of each group of people by a model of the others; those groups whose complement is too small without.

    The conversion from 2 mm comes from the heads known at both resolutions, whose ages take no part.
    """
    predicted, people = predict_left_out(cohort, group, seed, error), cohort.people()
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(group.tolist())):
        chosen = (group == name) & np.isfinite(predicted)
        found[name] = {"n": int((group == name).sum()), "n_train": int((group != name).sum())}
        if chosen.sum() >= evaluate.FEWEST:
            found[name] |= evaluate.whole(people.age[chosen], predicted[chosen], seed)
    return found


@one_thread
def predict_left_out(
    cohort: Cohort, group: NDArray[Any], seed: int, error: MeasurementError | None = None
) -> FloatArray:
    """Predictions of each group by a model of the others, years, shape (n,); ``nan`` where too few remain."""
    people = cohort.people()
    design, predicted = people.design(), np.full(len(people.age), np.nan)
    for name in sorted(set(group.tolist())):
        test = group == name
        if (~test).sum() >= FEWEST_PEOPLE // 2:
            model = search(design[~test], people.age[~test], seed, error, people.logged)
            predicted[test] = model.predict(design[test])
    return predicted


def resolution_agreement(rounds: list[Fold], cohort: Cohort) -> dict[str, Any]:
    """Age from 2 mm volumes minus age from 1 mm volumes of the same heads, in years.

    Model and conversion are blind to the head that is judged. A difference that changes with age would show that the
    conversion does not hold for people of other ages than these.
    """
    if cohort.heads is None:
        return {}
    fine, coarse = cohort.heads
    difference, untouched, without_slope = (np.empty(len(fine.who)) for _ in range(3))
    for _, test, model, _, people in rounds:
        judged, by = np.isin(fine.who, people.who[test]), cohort.conversion(judged=people.who[test])
        if by is None or not judged.any():
            continue
        head, reference = coarse.rows(judged), model.predict(fine.rows(judged).design())
        difference[judged] = model.predict(head.converted(by).design()) - reference
        without_slope[judged] = model.predict(head.converted(replace(by, slope=1.0)).design()) - reference
        untouched[judged] = model.predict(head.design()) - reference
    size = np.abs(difference)
    return {
        "n": len(difference),
        "mean_difference": evaluate.figure(difference.mean()),
        "median_absolute_difference": evaluate.figure(float(np.median(size))),
        "largest_absolute_difference": evaluate.figure(size.max()),
        "difference_per_year_of_age": _per_year(difference, fine.age),
        "difference_per_year_of_age_without_slope": _per_year(without_slope, fine.age),
        "mean_difference_without_conversion": evaluate.figure(untouched.mean()),
    }


def _per_year(values: FloatArray, age: FloatArray) -> dict[str, float | None]:
    """Slope of ``values`` on age by least squares, with its 95 % t interval."""
    found = linregress(age, values)
    margin = float(t.ppf(0.975, len(age) - 2)) * found.stderr
    return evaluate.estimate((found.slope, found.slope - margin, found.slope + margin))


@one_thread
def comparison(rounds: list[Fold], seed: int, error: MeasurementError | None = None) -> dict[str, dict[str, Any]]:
    """Every candidate on the same folds and people: accuracy, and the difference of its MAE from the baseline's.

    The intervals of the differences are paired bootstraps over people. With measurement errors, also the MAE on the
    people left out when their volumes have such errors, the mean of eight draws.
    """
    people = rounds[0].people
    draws = 1 if error is None else DRAWS
    errors: dict[str, list[FloatArray]] = {}
    for name, make in candidates(people.logged, seed, error).items():
        errors[name] = [np.full(len(people.age), np.nan) for _ in range(2)]
        for train, test, _, _, table in rounds:
            design = table.design()
            model = make().fit(design[train], table.age[train])
            errors[name][0][test] = model.predict(design[test]) - table.age[test]
            measured = [table.with_error(error, seed + 1 + k).design()[test] for k in range(draws)]
            errors[name][1][test] = np.mean([np.abs(model.predict(d) - table.age[test]) for d in measured], axis=0)
    base = [np.abs(values) for values in next(iter(errors.values()))]
    found: dict[str, dict[str, Any]] = {}
    for name, (plain, noisy) in errors.items():
        whole = evaluate.whole(people.age, people.age + plain, seed)
        found[name] = {key: whole[key] for key in ("mae", "r", "slope_of_predicted_on_age")}
        found[name]["rmse"] = evaluate.figure(np.sqrt((plain**2).mean()))
        found[name]["mae_minus_baseline"] = evaluate.mean_difference(np.abs(plain), base[0], seed)
        if error is not None:
            found[name]["mae_with_measurement_error"] = evaluate.figure(noisy.mean())
            found[name]["with_measurement_error_minus_baseline"] = evaluate.mean_difference(noisy, base[1], seed)
    return found


def patients(path: Path, model: NoisyRidge, indices: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """A table of people with ``diagnosis`` (CN, others) at about 1 mm, none of whom trained: what the gap tells apart.

    Raises
    ------
    UsageError
        Where the table has no diagnosis, other regions, or fewer than ten CN.
    """
    table = read_table(path, fewest=1)
    diagnosis = pd.read_csv(path, sep="\t").get("diagnosis", pd.Series(dtype=str)).to_numpy(dtype=str)
    if (diagnosis == "CN").sum() < evaluate.FEWEST or table.indices != tuple(indices):
        raise UsageError(f"{path}: has no 10 people with diagnosis CN, or other regions; give such a table")
    predicted = model.predict(table.design())
    control = diagnosis == "CN"
    alike = _multiples(table.volumes, ALIKE_VOXEL)
    return {
        "file": path.name,
        "CN": evaluate.whole(table.age[control], predicted[control], seed),
        "cohens_d_against_CN": {
            "all": separation(table, predicted, diagnosis),
            "volumes that are multiples of 1.2 mm3": separation(table.rows(alike), predicted[alike], diagnosis[alike])
            if (control & alike).sum() >= evaluate.FEWEST
            else {},
        },
    }


def _multiples(volumes: FloatArray, voxel: float) -> NDArray[np.bool_]:
    """Who was segmented on voxels of this size, mm^3, to the three decimals of a table."""
    count = volumes / voxel
    return np.asarray((np.abs(count - count.round()) < 0.01).all(axis=1))


def separation(table: Table, predicted: FloatArray, diagnosis: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """Cohen's d of each diagnosis against CN: of the gap, and of hippocampi relative to ICV; positive is older-looking.

    ``at the same age``: less the slope on age that controls have.
    """
    hippocampi = table.volumes[:, np.isin(table.indices, HIPPOCAMPI)].sum(axis=1) / table.icv
    control = diagnosis == "CN"
    found: dict[str, dict[str, Any]] = {}
    for name, values in {"gap": predicted - table.age, "hippocampi / ICV": -hippocampi}.items():
        slope = np.polyfit(table.age[control], values[control], 1)[0]
        for label, measure in ((name, values), (f"{name}, at the same age", values - slope * table.age)):
            found[label] = {
                other: {"n": int((diagnosis == other).sum())}
                | evaluate.estimate(cohen_d(measure[diagnosis == other], measure[control]))
                for other in sorted(set(diagnosis.tolist()) - {"CN"})
                if (diagnosis == other).sum() >= evaluate.FEWEST
            }
    return found
