"""From scans to people, and the bias correction of both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bids_brainage.stats.bias import Correction, Form

KEYS = ["participant_id", "session_id", "model"]
AVERAGED = ("brain_age", "brain_age_low", "brain_age_high")
UNUSABLE = "unusable"
REC_VARIANT = "rec_variant"
FOLDS = 10
DEFAULT_FORM: Form = "delange"
Fits = dict[str, dict["Form", "Correction"]]


def has_flag(flags: pd.Series, flag: str) -> NDArray[np.bool_]:
    """Whether each cell of comma-joined flags holds a flag, shape (n,)."""
    values, codes = np.unique(flags.astype(str).to_numpy(dtype=object), return_inverse=True)
    return np.array([flag in value.split(",") for value in values], dtype=bool)[codes]


def in_time(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of people's sessions, the earliest of each first: by age, then by name, numbers in it as numbers."""
    keys = rows[["participant_id", "age"]].assign(name=[numbered(str(name)) for name in rows["session_id"]])
    return rows.loc[keys.sort_values(["participant_id", "age", "name"], kind="stable").index]


def numbered(name: str) -> str:
    """A name by which ``ses-2`` comes before ``ses-10``."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(12), name)


def per_person(scans: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Average over the scans of a person, session and model.

    Reconstructions (``rec-``) of one acquisition count once: the one not flagged ``rec_variant``, else the first by
    name. A scan without a brain age, or flagged ``unusable``, is left out; who has no other keeps a row without a
    brain age. Bounds of intervals are averaged like the ages: they hold for one scan and are wide for an average.

    Parameters
    ----------
    scans : pandas.DataFrame
        As :func:`bids_brainage.workflows.collect.collect` returns them.

    Returns
    -------
    people : pandas.DataFrame
        Sorted by person, session, model: :data:`KEYS`, ``n_scans``, ages in years, ``sex``, ``flags`` of the scans that
        were averaged.
    row : array, shape (n_scans,)
        The row of ``people`` that each scan belongs to.
    """
    row = np.asarray(scans.groupby(KEYS, sort=True, observed=True).ngroup(), dtype=np.int64)
    first = np.unique(row, return_index=True)[1]
    people = scans.iloc[first][KEYS].reset_index(drop=True).astype(object)
    used = used_scans(scans, row)
    n = len(people)
    people["n_scans"] = np.bincount(row[used], minlength=n)
    for name in AVERAGED:
        people[name] = _mean(scans[name].to_numpy(), row, used, n)
    age = _mean(scans["age"].to_numpy(), row, used, n)
    people["age"] = np.where(np.isnan(age), _mean(scans["age"].to_numpy(), row, np.ones_like(used), n), age)
    people["gap"] = people["brain_age"] - people["age"]
    people["sex"] = _first_known(scans["sex"].astype(object).to_numpy(), row, n)
    people["flags"] = _joined_flags(
        scans["flags"].astype(object).to_numpy(), row, used | (people["n_scans"].to_numpy()[row] == 0), n
    )
    return people, row


def used_scans(scans: pd.DataFrame, row: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The scans that are averaged, (n_scans,): usable, one an acquisition; ``row`` as from :func:`per_person`."""
    usable = np.isfinite(scans["brain_age"].to_numpy()) & ~has_flag(scans["flags"], UNUSABLE)
    candidates = scans[["acquisition", "scan"]].assign(row=row, variant=has_flag(scans["flags"], REC_VARIANT))
    candidates = candidates.reset_index(drop=True)[usable].sort_values(["variant", "scan"], kind="stable")
    used = np.zeros(len(scans), dtype=bool)
    used[candidates.drop_duplicates(["row", "acquisition"]).index] = True
    return used


def _mean(values: NDArray[np.float64], row: NDArray[np.int64], used: NDArray[np.bool_], n: int) -> NDArray[np.float64]:
    known = used & np.isfinite(values)
    count = np.bincount(row[known], minlength=n)
    return np.bincount(row[known], values[known], n) / np.where(count, count, np.nan)


def _first_known(values: NDArray[np.object_], row: NDArray[np.int64], n: int) -> NDArray[np.object_]:
    known = np.flatnonzero(values != "")[::-1]
    first = np.full(n, "", dtype=object)
    first[row[known]] = values[known]
    return first


def _joined_flags(
    flags: NDArray[np.object_], row: NDArray[np.int64], used: NDArray[np.bool_], n: int
) -> NDArray[np.object_]:
    """Flags of all used scans of each row, each once, in alphabetical order."""
    found: dict[int, set[str]] = {}
    for index in np.flatnonzero(used & (flags != "")):
        found.setdefault(int(row[index]), set()).update(flags[index].split(","))
    joined = np.full(n, "", dtype=object)
    for index, several in found.items():
        joined[index] = ",".join(sorted(several))
    return joined


def correct(
    scans: pd.DataFrame, people: pd.DataFrame, row: NDArray[np.int64], control: NDArray[np.bool_], seed: int
) -> Fits:
    """Fit all corrections, model by model, on people (never scans), and add the corrected gaps to both tables.

    Adds ``gap_corrected`` and ``correction`` to both, a column ``gap_<form>`` each to ``scans``, and the flag of an age
    outside the controls' ages.

    Parameters
    ----------
    scans, people, row
        As in :func:`per_person`.
    control : array of bool, shape (n_people,)
        Rows of ``people`` on which the corrections are fitted, cross-fitted by person.
    seed : int
        Of the deal of people to folds.

    Returns
    -------
    dict
        Fit on all controls by model, then by form.
    """
    from bids_brainage.stats.bias import FORMS, cross_fitted

    fits: Fits = {}
    scan_gaps = {form: np.full(len(scans), np.nan) for form in FORMS}
    gap, named = np.full(len(people), np.nan), np.full(len(people), "", dtype=object)
    outside = np.zeros(len(people), dtype=bool)
    age, predicted = people["age"].to_numpy(), people["brain_age"].to_numpy()
    scan_age, scan_predicted = scans["age"].to_numpy(), scans["brain_age"].to_numpy()
    person = np.unique(people["participant_id"].to_numpy(dtype=object), return_inverse=True)[1]
    models = people["model"].to_numpy(dtype=object)
    for model in dict.fromkeys(scans["model"]):  # as the participant level was asked for them
        own = np.flatnonzero(models == model)
        own_scans = np.flatnonzero((models == model)[row])
        place = np.searchsorted(own, row[own_scans])
        fits[model] = {}
        for form in FORMS:
            made = cross_fitted(age[own], predicted[own], control[own], person[own], form=form, folds=FOLDS, seed=seed)
            fits[model][form] = made.full
            scan_gaps[form][own_scans] = made.apply(scan_age[own_scans], scan_predicted[own_scans], made.fold[place])
            if form == DEFAULT_FORM:
                gap[own], named[own], outside[own] = made.gap, label(made.full), made.outside
    people["gap_corrected"], people["correction"] = gap, named
    people["flags"] = with_flag(people["flags"].to_numpy(dtype=object), outside)
    scans["gap_corrected"], scans["correction"] = scan_gaps[DEFAULT_FORM], named[row]
    scans["flags"] = with_flag(scans["flags"].to_numpy(dtype=object), outside[row])
    for form in FORMS:
        scans[f"gap_{form}"] = scan_gaps[form]
    return fits


def label(correction: Correction) -> str:
    """What stands in the column ``correction``: the form, ``median_offset``, or empty."""
    if correction.method == "none":
        return ""
    return correction.method if correction.method == "median_offset" else correction.form


def with_flag(flags: NDArray[np.object_], where: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Comma-joined flags with ``age_outside_correction_range`` added at the end in the given rows."""
    from bids_brainage.stats.bias import OUTSIDE

    added = flags.copy()
    for index in np.flatnonzero(where):
        added[index] = f"{flags[index]},{OUTSIDE}" if flags[index] else OUTSIDE
    return added
