"""The columns of the group tables, in order, what each means, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_brainage.bids.tables import cell
from bids_brainage.core.files import read_json, write_json, write_text
from bids_brainage.workflows.predict import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

DECIMALS = 4
YEARS = "year"
IN_YEARS = ("brain_age", "brain_age_low", "brain_age_high", "age", "gap", "gap_corrected")
CROSS = "fitted on controls (each corrected by a fit without that person)"
NAMES = {
    "participant_id": "Participant",
    "session_id": "Session; n/a where the dataset has none",
    "scan": "Name of the T1w image with all its entities, without suffix",
    "run": "Run as written in the file name; n/a where it has none",
}
CORRECTED = {
    "gap_corrected": f"Gap after the correction of de Lange & Cole, {CROSS}; no measure of accuracy",
    "correction": "Correction of gap_corrected: delange (a line), median_offset (too few controls for a line), or n/a",
}
FORMS = {
    "gap_delange": f"Brain age minus the line brain age = a age + b (de Lange & Cole 2020), {CROSS}",
    "gap_beheshti": f"Gap minus the line gap = a age + b (Beheshti et al. 2019), {CROSS}; the same as gap_delange",
    "gap_cole": f"(brain age - b) / a - age with the line brain age = a age + b (Cole et al. 2018), {CROSS}",
    "gap_popescu": f"Gap minus the line gap = a brain age + b (Popescu et al. 2021), {CROSS}; still depends on age",
    "gap_extremes": "As gap_delange, on the youngest and oldest 5 %, at least 10 a tail, else on all (Kim et al. 2025)",
    "gap_agelevel_z": f"(gap - mean) / SD by age level, not in years (Zhang et al. 2023), {CROSS}",
}
PREDICTED = dict(COLUMNS)
SCANS = {**NAMES, **PREDICTED, **CORRECTED, **FORMS}
PEOPLE = {
    **{name: NAMES[name] for name in ("participant_id", "session_id")},
    "model": PREDICTED["model"],
    "n_scans": "Scans averaged (reconstructions of one acquisition count once; scans without a brain age do not count)",
    "brain_age": "Mean over the scans of the session: " + PREDICTED["brain_age"],
    "brain_age_low": "Mean of the lower bounds of the scans' 90 % prediction intervals, in years",
    "brain_age_high": "Mean of the upper bounds of the scans' 90 % prediction intervals, in years",
    "age": PREDICTED["age"],
    "sex": PREDICTED["sex"],
    "gap": PREDICTED["gap"],
    **CORRECTED,
    "flags": "Flags of the scans that were averaged, joined by commas; n/a where there is nothing",
    "correction_control": "Whether the corrections were fitted on this person (true or false)",
}


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a frame as TSV, column by column: ``n/a`` for what is missing, the app's own numbers rounded to 0.0001."""
    columns = [_cells(table[name], name in PEOPLE or name in SCANS) for name in table.columns]
    lines = ["\t".join(map(str, table.columns)), *map("\t".join, zip(*columns, strict=True))]
    return write_text(path, "\n".join(lines) + "\n")


def _cells(column: pd.Series, rounded: bool) -> list[str]:
    """Cells as text; of numbers without a trailing ``.0`` or a negative zero."""
    if column.dtype.kind == "f":
        given = column.to_numpy(dtype=float)
        numbers = (np.round(given, DECIMALS) if rounded else given) + 0.0
        return ["n/a" if number != number else repr(number).removesuffix(".0") for number in numbers.tolist()]
    values = column.astype(object).where(column.notna(), None).tolist()
    shown = {value: cell(value) for value in set(values)}
    return [shown[value] for value in values]


def write_dictionary(path: Path, columns: Mapping[str, str], further: Mapping[str, Any] | None = None) -> Path:
    """Write the JSON dictionary of a group table; ``further`` holds entries that the dataset gives."""
    entries: dict[str, Any] = {}
    for name, text in columns.items():
        in_years = name in IN_YEARS or (name in FORMS and name != "gap_agelevel_z")
        entries[name] = {"Description": text} | ({"Units": YEARS} if in_years else {})
    return write_json(path, entries | dict(further or {}))


def described(columns: list[str], bids_dir: Path, phenotype: Path | None) -> dict[str, Any]:
    """What the dataset's own JSON dictionaries say of its columns; a plain word where they say nothing."""
    known: dict[str, Any] = {}
    for path in (
        bids_dir / "participants.json",
        bids_dir / "sessions.json",
        phenotype and phenotype.with_suffix(".json"),
    ):
        if path and path.is_file():
            content = read_json(path)
            known |= content if isinstance(content, dict) else {}
    source = "participants.tsv, sessions.tsv" + (f" or {phenotype.name}" if phenotype else "")
    return {name: known.get(name) or {"Description": f"As given by the dataset ({source})"} for name in columns}
