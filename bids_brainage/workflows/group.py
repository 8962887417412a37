"""THE MAP of the group level: tables of all scans -> people -> bias correction -> statistics -> tables and report."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bids_brainage import __version__
from bids_brainage.core.files import write_json
from bids_brainage.workflows.collect import Collected, collect
from bids_brainage.workflows.makers import mixed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from bids_brainage.workflows.local import AtlasChoice
    from bids_brainage.workflows.matched import GenmindChoice
    from bids_brainage.workflows.people import Fits

LOG = logging.getLogger("bids_brainage")
SHOWN_DAMAGED = 20
REMEDY = "run the participant level again, so that all are of one"
SCANS_TSV, PARTICIPANTS_TSV, SUMMARY_JSON = "group_scans.tsv", "group_participants.tsv", "group_summary.json"


class GroupResult(NamedTuple):
    """What the group level wrote; ``exit_code`` is 1 where a table or map was ``damaged`` and left out, else 0."""

    exit_code: int
    scans: Path
    participants: Path
    summary: Path
    report: Path
    damaged: tuple[str, ...]


def run_group(
    out_dir: Path,
    bids_dir: Path,
    *,
    phenotype: Path | None = None,
    controls: str | None = None,
    seed: int = 0,
    participant_label: Collection[str] = (),
    session_label: Collection[str] = (),
    atlas: AtlasChoice | None = None,
    genmind: GenmindChoice | None = None,
) -> GroupResult:
    """Group level, from the derivatives alone; the only images read are maps. The same input gives the same bytes.

    Parameters
    ----------
    out_dir : Path
        Derivatives of the participant level; the group tables go to its root.
    bids_dir : Path
        The dataset, for ``participants.tsv``, ``sessions.tsv`` and their dictionaries.
    phenotype : Path, optional
        TSV of further columns by ``participant_id`` (and ``session_id``).
    controls : str, optional
        Query that chooses the people on whom the corrections are fitted; default everyone.
    seed : int
        Of the folds and the bootstrap.
    participant_label : collection of str
        Only these participants.
    session_label : collection of str
        Only these sessions.
    atlas : AtlasChoice, optional
        Further regions for the maps of local brain age.
    genmind : GenmindChoice, optional
        The model of which synthetic controls are drawn, matched to each person.

    Raises
    ------
    UsageError
        Where there is no table of brain ages, the atlas cannot be used,
        a table of the dataset is malformed, the query cannot be used, or nobody can be matched.
    BundleError
        Where the model of the controls is not there or damaged.
    """
    from bids_brainage.reports.group import write_report
    from bids_brainage.workflows.known import joined
    from bids_brainage.workflows.local import local_statistics
    from bids_brainage.workflows.matched import match
    from bids_brainage.workflows.matched_tables import write as write_matched
    from bids_brainage.workflows.people import correct, per_person
    from bids_brainage.workflows.tables import PEOPLE, described

    out_dir, bids_dir = Path(out_dir), Path(bids_dir)
    collected = collect(out_dir, participant_label, session_label)
    _report_damaged(collected)
    scans = collected.scans
    people, row = per_person(scans)
    people = joined(people, bids_dir, phenotype, everybody=not (participant_label or session_label))
    given = [name for name in people.columns if name not in PEOPLE]
    people["correction_control"] = _controls(people, controls)
    fits = correct(scans, people, row, people["correction_control"].to_numpy(dtype=bool), seed)
    people = people[[*PEOPLE, *given]]
    content = _content(collected, people, fits, controls, seed)
    matched = match(out_dir, scans, people, row, content["GroupingColumn"], genmind, seed) if genmind else None
    local = local_statistics(out_dir, scans, people, row, content["GroupingColumn"], seed, atlas)
    content["LocalBrainAge"] = local
    if matched:
        content["SyntheticControls"] = write_matched(out_dir, matched)
    _write_tables(out_dir, scans, people, content, described(given, bids_dir, phenotype))
    report = write_report(out_dir / "group.html", people, content)
    _say(content)
    scans_tsv, participants_tsv, summary_json = (out_dir / name for name in (SCANS_TSV, PARTICIPANTS_TSV, SUMMARY_JSON))
    damaged = (*collected.damaged, *(line for entry in local.values() for line in entry["DamagedMaps"]))
    damaged += matched.damaged if matched else ()
    return GroupResult(1 if damaged else 0, scans_tsv, participants_tsv, summary_json, report, damaged)


def _content(collected: Collected, people: pd.DataFrame, fits: Fits, query: str | None, seed: int) -> dict[str, Any]:
    """The content of ``group_summary.json``."""
    from bids_brainage.workflows.people import FOLDS
    from bids_brainage.workflows.summary import grouping_column, summarise
    from bids_brainage.workflows.tables import PEOPLE

    control = people["correction_control"].to_numpy(dtype=bool)
    grouping = grouping_column(people, [name for name in people.columns if name not in PEOPLE])
    models = summarise(collected.scans, people, control, fits, grouping, seed)
    return {
        "GeneratedBy": {"Name": "bids-brainage", "Version": __version__},
        "RandomSeed": seed,
        "Folds": FOLDS,
        "Tables": collected.n_tables,
        "DamagedTables": list(collected.damaged),
        "MadeBy": {key: dict(values) for key, values in collected.makers.items()},
        "Mixed": mixed(collected.makers),
        "Scans": int(collected.scans["scan"].nunique()),
        "Participants": int(people["participant_id"].nunique()),
        "Controls": _control_entry(people, control, query),
        "GroupingColumn": grouping,
        "SimulatedTrainingData": any("simulated" in entry["TrainingData"] for entry in models.values()),
        "Models": models,
    }


def _controls(people: pd.DataFrame, query: str | None) -> NDArray[np.bool_]:
    """Controls by the query over what is known of a person before any correction."""
    from bids_brainage.workflows.controls import choose_controls
    from bids_brainage.workflows.tables import CORRECTED

    return choose_controls(people.drop(columns=[*CORRECTED, "correction_control"]), query)


def _control_entry(people: pd.DataFrame, control: NDArray[np.bool_], query: str | None) -> dict[str, Any]:
    n = int(people["participant_id"][control].nunique())
    text = f"the {n:,} people chosen by {query}"
    if query is None or not query.strip():
        text = f"everyone ({n:,} people), because no --controls was given; patients among them weaken the correction"
    return {"Query": query, "People": n, "Description": f"The corrections were fitted on {text}."}


def _report_damaged(collected: Collected) -> None:
    damaged, n_tables = collected.damaged, collected.n_tables
    for line in damaged[:SHOWN_DAMAGED]:
        LOG.error("left out: %s; run the participant level again for this scan", line)
    if len(damaged) > SHOWN_DAMAGED:
        LOG.error("left out: %d further tables; group_summary.json lists them all", len(damaged) - SHOWN_DAMAGED)
    n_bad = sum("/" in line.partition(":")[0] for line in damaged)
    LOG.info("%d of %d tables of brain ages read", n_tables - n_bad, n_tables)


def _write_tables(
    out_dir: Path, scans: pd.DataFrame, people: pd.DataFrame, content: dict[str, Any], given: dict[str, Any]
) -> None:
    from bids_brainage.bids.tables import write_tsv
    from bids_brainage.workflows import summary, tables

    scans["gap"] = scans["brain_age"] - scans["age"]
    tables.write_table(out_dir / SCANS_TSV, scans[[*tables.SCANS]])
    tables.write_dictionary(out_dir / "group_scans.json", tables.SCANS)
    tables.write_table(out_dir / PARTICIPANTS_TSV, people)
    tables.write_dictionary(out_dir / "group_participants.json", tables.PEOPLE, given)
    rows, columns = summary.summary_rows(content["Models"])
    write_tsv(out_dir / "group_summary.tsv", rows, columns)
    write_json(out_dir / SUMMARY_JSON, content)


def _say(content: dict[str, Any]) -> None:
    """The outcome in a few lines."""
    LOG.info("%s", content["Controls"]["Description"])
    if content["Mixed"]:
        LOG.warning("results of several makers stand side by side: %s; %s", content["Mixed"], REMEDY)
    if content["SimulatedTrainingData"]:
        LOG.warning(
            "a model was trained on simulated people: its ages show that the app works, and nothing about anybody"
        )
    for model, entry in content["Models"].items():
        found = entry["RawAccuracyOnControls"]
        mae, r = found["MAE"]["Value"], found["PearsonR"]["Value"]
        shown = (
            "no control has an age"
            if mae is None
            else f"raw MAE {mae:.2f} years" + ("" if r is None else f", r {r:.2f}")
        )
        LOG.info(
            "%s: %d scans of %d people; %s on %d controls",
            model,
            entry["Scans"],
            entry["People"],
            shown,
            found["People"],
        )
        for warning in entry["Warnings"]:
            LOG.warning("%s: %s", model, warning["Text"])
    for model, entry in content["LocalBrainAge"].items():
        _say_local(model, entry)
    if "SyntheticControls" in content:
        _say_matched(content["SyntheticControls"])


def _say_matched(entry: dict[str, Any]) -> None:
    """Who was matched, and who was not."""
    on, n, lost = ", ".join(entry["MatchedOn"]), entry["People"], entry["Unmatched"]
    LOG.info("%s: %d synthetic controls each of %d people, on %s", entry["Model"], entry["ControlsPerPerson"], n, on)
    for line in entry["DamagedTables"][:SHOWN_DAMAGED]:
        LOG.error("left out: %s", line)
    for who, why in list(lost.items())[:SHOWN_DAMAGED]:
        LOG.warning("%s is not matched: %s", who, why)
    if len(lost) > SHOWN_DAMAGED:
        LOG.warning("%d further people are not matched; see %s", len(lost) - SHOWN_DAMAGED, entry["Files"]["unmatched"])


def _say_local(model: str, entry: dict[str, Any]) -> None:
    """What became of the maps of a model, in a few lines."""
    for line in entry["DamagedMaps"][:SHOWN_DAMAGED]:
        LOG.error("left out: %s", line)
    for note in entry["Notes"][:SHOWN_DAMAGED]:
        LOG.warning("%s: %s", model, note)
    for contrast in entry["Contrasts"]:
        n = contrast["SignificantVoxels"]["Permutation"]
        LOG.info("%s: %s: %d of %d voxels at corrected p < 0.05", model, contrast["Contrast"], n, entry["Voxels"])
