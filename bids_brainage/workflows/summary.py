"""What the group level says of each model: raw accuracy on controls, corrections, differences of groups, warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_brainage.stats.groups import (
    Accuracy,
    Interval,
    accuracy,
    adjust,
    age_adjusted,
    cohen_d,
    games_howell,
    ks,
    welch_anova,
    welch_t,
)
from bids_brainage.workflows.people import UNUSABLE, Fits, has_flag, in_time

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

GROUPING = ("diagnosis", "diagnostic_group", "dx", "group", "patient_group")
MOST_GROUPS = 8
SMALLEST_GROUP = 3
CONSTANT_SD = 0.5
NO_SPREAD = 1e-9
ENOUGH = 5
OLDEST = 120.0
DIGITS = 6


def grouping_column(people: pd.DataFrame, candidates: Sequence[str]) -> str | None:
    """The first of the dataset's columns that names diagnostic groups, two to eight of them, or ``None``."""
    by_name = {name.casefold(): name for name in candidates}
    for name in GROUPING:
        column = by_name.get(name)
        if column is not None and 2 <= people[column].dropna().nunique() <= MOST_GROUPS:
            return column
    return None


def summarise(
    scans: pd.DataFrame, people: pd.DataFrame, control: NDArray[np.bool_], fits: Fits, grouping: str | None, seed: int
) -> dict[str, Any]:
    """Summary by model, as JSON can hold it.

    Parameters
    ----------
    scans, people : pandas.DataFrame
        Tables of the group level.
    control : array of bool, shape (n_people,)
        Rows of ``people`` that are controls.
    fits
        Corrections by model and form.
    grouping : str, optional
        Column of ``people`` with diagnostic groups.
    seed : int
        Of the bootstrap.
    """
    models: dict[str, Any] = {}
    for model, corrections in fits.items():
        own = (people["model"] == model).to_numpy()
        rows, of_model = people[own], scans[(scans["model"] == model).to_numpy()]
        judged = rows[control[own]]
        found = accuracy(judged["age"], judged["brain_age"], judged["participant_id"].to_numpy(dtype=object), seed=seed)
        known = np.isfinite(rows["brain_age"].to_numpy())
        models[model] = {
            "TrainingData": sorted({str(kind) for kind in of_model["training_data"] if kind}),
            "Scans": len(of_model),
            "ScansWithoutBrainAge": int(of_model["brain_age"].isna().sum()),
            "People": int(rows["participant_id"].nunique()),
            "Sessions": len(rows),
            "SessionsWithoutAge": int((known & rows["age"].isna().to_numpy()).sum()),
            "RawAccuracyOnControls": accuracy_entry(found),
            "Corrections": {form: correction.to_dict() for form, correction in corrections.items()},
            "GroupComparisons": compare_groups(rows, grouping) if grouping else None,
            "Warnings": warnings(of_model[~has_flag(of_model["flags"], UNUSABLE)], judged, found),
        }
    return models


def accuracy_entry(found: Accuracy) -> dict[str, Any]:
    """Accuracy as JSON."""
    return {
        "People": found.n_people,
        "Sessions": found.n_rows,
        "MAE": interval_entry(found.mae),
        "PearsonR": interval_entry(found.r),
        "R2": interval_entry(found.r2),
        "Bias": interval_entry(found.bias),
    }


def interval_entry(interval: Interval) -> dict[str, Any]:
    """An estimate and its 95 % interval as JSON; ``None`` for what is not a number."""
    return {"Value": number(interval.value), "CI95": [number(interval.low), number(interval.high)]}


def number(value: float) -> float | None:
    """Six significant digits, or ``None``."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def warnings(scans: pd.DataFrame, controls: pd.DataFrame, found: Accuracy) -> list[dict[str, str]]:
    """What makes a model's output as a whole doubtful: constant, impossible, or unrelated to age."""
    ages = scans["brain_age"].to_numpy()
    ages = ages[np.isfinite(ages)]
    noted = []
    impossible = int(((ages < 0) | (ages > OLDEST)).sum())
    if impossible:
        noted.append(
            _warning(
                "implausible_output", f"{impossible} of {len(ages)} brain ages lie outside 0 to {OLDEST:.0f} years"
            )
        )
    if len(ages) >= ENOUGH and ages.std() < CONSTANT_SD:
        noted.append(
            _warning("constant_output", f"all {len(ages)} brain ages are nearly the same (SD {ages.std():.2f} years)")
        )
    spread = np.ptp(controls["age"].dropna()) if controls["age"].notna().any() else 0.0
    if found.n_people >= 20 and spread >= 10 and not found.r.low > 0:
        noted.append(
            _warning(
                "no_relation_to_age", "brain age does not rise with age in the controls (the interval of r holds 0)"
            )
        )
    if not len(ages):
        noted.append(_warning("no_output", "no scan has a brain age"))
    return noted


def _warning(flag: str, text: str) -> dict[str, str]:
    return {"Flag": flag, "Text": text + "; do not interpret these brain ages before the cause is known"}


def compare_groups(rows: pd.DataFrame, grouping: str) -> dict[str, Any] | None:
    """Differences of the corrected gap between diagnostic groups; a person counts once, with the first session.

    Returns
    -------
    dict or None
        Welch's ANOVA for three groups and more, and each pair with Welch's t, Cohen's d, the difference with age as a
        covariate, Games-Howell's p (three groups and more), Kolmogorov-Smirnov, both p by Benjamini-Hochberg over the
        pairs, and how far the groups are apart in age (``AgesApart``, in pooled SDs): the line of the correction errs
        for all people of an age alike, which no test but that with age as a covariate reckons with. ``None`` where
        fewer than two groups have three people.
    """
    known = rows[rows["gap_corrected"].notna() & rows[grouping].notna()]
    known = in_time(known).drop_duplicates("participant_id")
    labels = known[grouping].map(group_label).to_numpy(dtype=object)
    gap, age = known["gap_corrected"].to_numpy(), known["age"].to_numpy()
    groups = {name: gap[labels == name] for name in sorted(set(labels))}
    groups = {
        name: values for name, values in groups.items() if len(values) >= SMALLEST_GROUP and np.ptp(values) > NO_SPREAD
    }
    if len(groups) < 2:
        return None
    pairs = [_pair(first, second, groups, labels, gap, age) for first, second in combinations(groups, 2)]
    for name in ("P", "AgeAdjustedP"):
        known_p = [pair for pair in pairs if pair[name] is not None]
        for pair, corrected in zip(known_p, adjust([pair[name] for pair in known_p]), strict=True):
            pair[f"{name}BenjaminiHochberg"] = number(corrected)
    entry: dict[str, Any] = {"Column": grouping, "Of": "gap_corrected", "Groups": _described(groups), "Pairs": pairs}
    entry["WelchANOVA"] = None
    if len(groups) > 2:
        test = welch_anova(list(groups.values()))
        entry["WelchANOVA"] = {
            "F": number(test.f),
            "DoF": [number(test.dof_between), number(test.dof_within)],
            "P": number(test.p),
        }
        found = {frozenset((p.first, p.second)): p.p for p in games_howell(groups)}
        for pair in pairs:
            pair["PGamesHowell"] = number(found[frozenset((pair["First"], pair["Second"]))])
    return entry


def group_label(value: Any) -> str:
    """A group's name as shown: a number without ``.0``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _described(groups: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    return {
        name: {"People": len(v), "Mean": number(v.mean()), "SD": number(v.std(ddof=1))} for name, v in groups.items()
    }


def _pair(
    first: str, second: str, groups: Mapping[str, NDArray[np.float64]], labels: NDArray[np.object_], gap: Any, age: Any
) -> dict[str, Any]:
    test = welch_t(groups[first], groups[second])
    both = (labels == first) | (labels == second)
    adjusted, adjusted_p = age_adjusted(gap[both], labels[both] == first, age[both])
    apart = cohen_d(age[labels == first], age[labels == second]).value
    return {
        "First": first,
        "Second": second,
        "Difference": interval_entry(test.difference),
        "CohenD": interval_entry(test.d),
        "T": number(test.t),
        "DoF": number(test.dof),
        "P": number(test.p),
        "AgeAdjustedDifference": interval_entry(adjusted),
        "AgeAdjustedP": number(adjusted_p),
        "AgeAdjustedPBenjaminiHochberg": None,
        "AgesApart": number(apart),
        "PKolmogorovSmirnov": number(ks(groups[first], groups[second]).p),
    }


def summary_rows(models: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The summary as a flat table: a row a model, and its columns in order."""
    rows = []
    for model, entry in models.items():
        found, default = entry["RawAccuracyOnControls"], entry["Corrections"]["delange"]
        row = {"model": model, "training_data": ",".join(entry["TrainingData"]), "n_scans": entry["Scans"]}
        row |= {"n_people": entry["People"], "n_sessions": entry["Sessions"], "n_controls": found["People"]}
        for name, key in (("mae", "MAE"), ("r", "PearsonR"), ("bias", "Bias")):
            row |= {
                name: found[key]["Value"],
                f"{name}_low": found[key]["CI95"][0],
                f"{name}_high": found[key]["CI95"][1],
            }
        row |= {
            "correction": default["method"].replace("none", "n/a"),
            "slope": default["slope"],
            "intercept": default["intercept"],
        }
        row |= {"correction_age_min": default["age_min"], "correction_age_max": default["age_max"]}
        row["warnings"] = ",".join(warning["Flag"] for warning in entry["Warnings"])
        rows.append(row)
    columns = list(rows[0]) if rows else []
    return rows, columns
