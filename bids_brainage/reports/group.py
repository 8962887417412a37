"""``group.html``: the group level on one page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import write_text
from bids_brainage.reports.local import sections as local_sections
from bids_brainage.reports.plots import model_plots
from bids_brainage.reports.style import Banner, Section, environment, page
from bids_brainage.reports.synthetic import sections as synthetic_sections

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 500
TABLE = "group_participants.tsv"
UNKNOWN = "unknown"
SOFTWARE = ("numpy", "scipy", "pandas", "statsmodels", "pingouin")


class Column(NamedTuple):
    """A column of the table: its name, its heading, whether it holds text, and its decimals."""

    name: str
    title: str
    text: bool = False
    digits: int = 1


COLUMNS = (
    Column("participant_id", "participant", True),
    Column("session_id", "session", True),
    Column("model", "model", True),
    Column("n_scans", "scans", digits=0),
    Column("age", "age"),
    Column("brain_age", "brain age"),
    Column("brain_age_low", "low"),
    Column("brain_age_high", "high"),
    Column("gap", "gap"),
    Column("gap_corrected", "gap, corrected"),
    Column("sex", "sex", True),
    Column("flags", "flags", True),
)


def write_report(path: Path, people: pd.DataFrame, summary: Mapping[str, Any]) -> Path:
    """Write the report, one self-contained HTML file.

    Parameters
    ----------
    path : Path
        Where to.
    people : pandas.DataFrame
        The rows of ``group_participants.tsv``.
    summary : mapping
        The content of ``group_summary.json``.
    """
    return write_text(path, render(people, summary, path.parent))


def render(people: pd.DataFrame, summary: Mapping[str, Any], out_dir: Path) -> str:
    """The report as HTML; its size does not grow with the number of people. Maps are read from ``out_dir``."""
    parts: Any = environment().get_template("group.html.j2").module
    sections = []
    for index, (model, entry) in enumerate(summary["Models"].items()):
        rows = people[(people["model"] == model).to_numpy()]
        plots = model_plots(rows, groups(rows, summary), entry["Corrections"]["delange"])
        sections.append(Section(f"model-{index}", f"Model {model}", parts.model(entry, plots)))
    sections += local_sections(out_dir, summary["LocalBrainAge"])
    sections += synthetic_sections(out_dir, summary.get("SyntheticControls"))
    columns, rows_shown = _table(people, summary)
    sections += [
        Section("people", "People", parts.table(rows_shown, columns, len(people), TABLE)),
        Section("methods", "Methods", parts.methods(summary, _versions())),
        Section("cite", "How to cite", parts.cite(summary)),
    ]
    lead = f"{summary['Participants']:,} people, {summary['Scans']:,} scans. {summary['Controls']['Description']}"
    footer = f"Made by bids-brainage {summary['GeneratedBy']['Version']} from the tables of the participant level."
    return page("Brain age of the group", sections, lead=lead, banners=banners(summary), footer=footer)


def banners(summary: Mapping[str, Any]) -> list[Banner]:
    """What a reader must know before anything else."""
    made = []
    if summary["SimulatedTrainingData"]:
        text = "A model on this page was trained on simulated people. Its ages show that the app works; "
        made.append(Banner(text + "they say nothing about anybody.", bad=True))
    if summary["Mixed"]:
        text = f"Results of several versions, models or templates stand side by side here: {summary['Mixed']}. "
        made.append(Banner(text + "Their ages are not to be compared; run the participant level again.", bad=True))
    damaged = summary["DamagedTables"]
    if damaged:
        made.append(
            Banner(
                f"Left out, because they could not be read: {len(damaged):,} tables or folders, e.g. {damaged[0]}.",
                bad=True,
            )
        )
    if summary["Controls"]["Query"] is None:
        text = "No controls were chosen: the bias correction was fitted on everyone, patients included. "
        made.append(Banner(text + "Choose them with --controls."))
    return made


def groups(rows: pd.DataFrame, summary: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """Who is drawn in which colour: the dataset's groups, the controls' first; else controls and others; else all."""
    column, control = summary["GroupingColumn"], rows["correction_control"].to_numpy(dtype=bool)
    if column is not None and column in rows:
        labels = rows[column].map(_label).to_numpy(dtype=object)
        share = {name: control[labels == name].mean() for name in set(labels)}
        order = sorted(share, key=lambda name: (name == UNKNOWN, -share[name], name))
        return {str(name): labels == name for name in order}
    if control.all() or not control.any():
        return {"everyone": np.ones(len(rows), dtype=bool)}
    return {"controls": control, "others": ~control}


def _label(value: Any) -> str:
    if value is None or value != value:
        return UNKNOWN
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table(people: pd.DataFrame, summary: Mapping[str, Any]) -> tuple[list[Column], list[list[Any]]]:
    """The columns that hold anything, and the first rows."""
    group = summary["GroupingColumn"]
    chosen = [column for column in COLUMNS if column.name != "session_id" or (people["session_id"] != "").any()]
    if group is not None:
        chosen.insert(len(chosen) - 1, Column(group, group, True))
    rows = []
    for record in people.head(MOST_ROWS).to_dict("records"):
        rows.append([_shown(record[column.name], column, group) for column in chosen])
    return chosen, rows


def _shown(value: Any, column: Column, group: str | None) -> Any:
    if column.name == "flags":
        return value.split(",") if value else []
    if column.name == group:
        return _label(value)
    return (value or "n/a") if column.text else value


def _versions() -> dict[str, str]:
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
