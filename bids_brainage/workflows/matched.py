"""Synthetic controls matched to the people of a dataset: who can be matched, and how far each person is from theirs.

One session a person. The controls are draws from a model: no test counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from bids_brainage.bids.roi_tables import ICV, RoiTable
from bids_brainage.cohort.matching import Balance, Scores, balance_of, score
from bids_brainage.cohort.reference import reference
from bids_brainage.cohort.scales import on_scale, scale_of_bundle
from bids_brainage.cohort.tables import complete_people
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Age
from bids_brainage.models.roi import SCALE_2MM
from bids_brainage.workflows.maps import Unit
from bids_brainage.workflows.people import numbered, used_scans
from bids_brainage.workflows.regions import VOLUMES_TSV, volumes_of
from bids_brainage.workflows.summary import group_label

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bids_brainage.cohort.genmind import GenMIND
    from bids_brainage.cohort.people import People
    from bids_brainage.core.bundle import Bundle

NO_SCAN = "has no usable scan with a brain age"
SHOWN = 3


class GenmindChoice(NamedTuple):
    """Who draws the controls (name or folder of a bundle, or ``auto``), where bundles lie, and controls a person."""

    bundle: str
    dirs: Sequence[Path]
    controls: int


class Measured(NamedTuple):
    """Sessions with volumes, mm^3 by MUSE index; names of the regions; why the others have none; damaged tables."""

    units: dict[str, Unit]
    volumes: dict[str, dict[int, float]]
    names: dict[int, str]
    lost: dict[str, str]
    damaged: tuple[str, ...]


class Matched(NamedTuple):
    """People with their scores against their own synthetic controls.

    Attributes
    ----------
    people : People
        Those that were matched, n, with the regions of the model; their intracranial volumes where it knows them.
    units : list of Unit
        The session of each, in the same order.
    groups : object array, (n,)
        Diagnostic group of each; empty where it is unknown or there are no groups.
    regions : list of str
        Names of the regions.
    unmatched : dict
        Why each of the others was not matched.
    damaged : tuple of str
        Tables of volumes that could not be read, a line each.
    on_icv : bool
        Whether the controls have the person's intracranial volume too.
    k, seed : int
        Controls a person, and what the draws begin with.
    """

    bundle: Bundle
    model: GenMIND
    people: People
    units: list[Unit]
    groups: NDArray[np.object_]
    regions: list[str]
    scores: Scores
    balance: list[Balance]
    unmatched: dict[str, str]
    damaged: tuple[str, ...]
    on_icv: bool
    k: int
    seed: int


def match(
    out_dir: Path,
    scans: pd.DataFrame,
    people: pd.DataFrame,
    row: NDArray[np.int64],
    grouping: str | None,
    choice: GenmindChoice,
    seed: int,
) -> Matched:
    """Draw the controls of everybody whom the model knows, and score each person against their own; nothing is written.

    A person counts once, with the first session that has volumes; sessions with an age and, where there are groups, a
    group come first. Controls have the person's age exactly, the same categories, and the same intracranial volume
    where the model knows it.

    Parameters
    ----------
    out_dir : Path
        Derivatives.
    scans, people, row
        As :func:`bids_brainage.workflows.people.per_person` takes and gives; ``people`` joined with the dataset's.
    grouping : str, optional
        Column of ``people`` with diagnostic groups.

    Raises
    ------
    BundleError
        Where there is no such bundle, or it cannot be used.
    UsageError
        Where the bundle has other regions or categories than the dataset, or nobody can be matched.
    """
    bundle, model = reference(choice.bundle, choice.dirs)
    measured = _measure(out_dir, _sessions(scans, people, row, grouping))
    table = _table(measured, people)
    if not table.who:
        _nobody(bundle, measured.lost)
    table = on_scale(table, SCALE_2MM, scale_of_bundle(bundle.card), out_dir)  # the participant level writes no other
    _check_fits(bundle, model, table, out_dir)
    icv = model.has_icv and ICV in table.columns
    found, incomplete = complete_people(table, out_dir, by=model.by, indices=model.indices, icv=icv)
    reasons = model.why_not(found.age, found.categories, found.icv)
    lost = measured.lost | incomplete | {who: why for who, why in zip(found.who, reasons, strict=True) if why}
    found = found.take([not why for why in reasons])
    if not len(found):
        _nobody(bundle, lost)
    scores = score(model, found, choice.controls, seed, on_icv=icv)
    units = [measured.units[who] for who in found.who]
    return Matched(
        bundle=bundle,
        model=model,
        people=found,
        units=units,
        groups=_groups(people, units, grouping),
        regions=[measured.names[index] for index in model.indices],
        scores=scores,
        balance=balance_of(model, found, scores, choice.controls, seed),
        unmatched=dict(sorted(lost.items())),
        damaged=measured.damaged,
        on_icv=icv,
        k=choice.controls,
        seed=seed,
    )


def _sessions(
    scans: pd.DataFrame, people: pd.DataFrame, row: NDArray[np.int64], grouping: str | None
) -> Iterator[tuple[str, list[Unit]]]:
    """Each participant and their sessions that have a usable scan: first those with an age, then those with a group."""
    of_row: dict[int, list[str]] = {}
    for place in np.flatnonzero(used_scans(scans, row)):
        of_row.setdefault(int(row[place]), []).append(str(scans["scan"].iloc[place]))
    n = len(people)
    grouped = people[grouping].notna().to_numpy() if grouping else np.ones(n, dtype=bool)
    age = people["age"].to_numpy(dtype=float)
    who, session = (people[name].to_numpy(dtype=object) for name in ("participant_id", "session_id"))
    found: dict[str, dict[str, Unit]] = {name: {} for name in who}
    named = np.array([numbered(str(name)) for name in session])
    for index in np.lexsort((np.arange(n), named, age, ~grouped, np.isnan(age))).tolist():
        if index in of_row:
            unit = Unit(index, who[index], session[index], float(age[index]), tuple(of_row[index]))
            found[unit.participant].setdefault(unit.session, unit)
    return ((name, list(units.values())) for name, units in found.items())


def _measure(out_dir: Path, sessions: Iterator[tuple[str, list[Unit]]]) -> Measured:
    """The first session of each person that has volumes."""
    found, damaged = Measured({}, {}, {}, {}, ()), list[str]()
    for who, units in sessions:
        problems = [] if units else [NO_SCAN]
        for unit in units:
            try:
                values = volumes_of(out_dir, unit, found.names)
            except UsageError as error:
                problems.append(str(error).removeprefix(f"{out_dir}/"))
                damaged.append(problems[-1])
                continue
            if values:
                found.units[who], found.volumes[who] = unit, values
                break
            problems.append(f"has no table of volumes ({VOLUMES_TSV})")
        if who not in found.units:
            found.lost[who] = problems[0]
    return found._replace(damaged=tuple(damaged))


def _table(measured: Measured, people: pd.DataFrame) -> RoiTable:
    """The people with volumes as a table of volumes, with all that the dataset says of them."""
    units = list(measured.units.values())
    rows = people.iloc[[unit.row for unit in units]]
    columns = {index: f"MUSE_{index}" for index in sorted(measured.names)}
    values = [[volumes.get(index, np.nan) for index in columns] for volumes in measured.volumes.values()]
    others = {
        str(name).lower(): tuple("" if value != value or value is None else group_label(value) for value in rows[name])
        for name in rows
    }
    return RoiTable(
        tuple(measured.units),
        tuple(Age(unit.age) if np.isfinite(unit.age) else Age() for unit in units),
        tuple(sex if sex in ("F", "M") else None for sex in rows["sex"]),
        columns,
        np.array(values, dtype=float).reshape(len(units), len(columns)),
        others,
    )


def _check_fits(bundle: Bundle, model: GenMIND, table: RoiTable, out_dir: Path) -> None:
    """The model's regions must be measured, and its categories known of the dataset."""
    absent = [f"MUSE_{index}" for index in model.indices if index not in table.columns]
    if absent:
        raise UsageError(
            f"--genmind {bundle.name}: {len(absent)} of its {len(model.indices)} regions are not among the volumes of "
            f"{out_dir} ({', '.join(absent[:SHOWN])}{', ...' if len(absent) > SHOWN else ''}); "
            "use a model of regions that the app measures"
        )
    unknown = [name for name in model.by if name not in table.others]
    if unknown:
        raise UsageError(
            f"--genmind {bundle.name}: tells people apart by {unknown[0]}, which the dataset does not give; add this "
            "column to participants.tsv or to --phenotype, or use another model"
        )


def _groups(people: pd.DataFrame, units: Sequence[Unit], grouping: str | None) -> NDArray[np.object_]:
    values = [people[grouping].iloc[unit.row] if grouping else None for unit in units]
    return np.array(["" if value is None or value != value else group_label(value) for value in values], dtype=object)


def _nobody(bundle: Bundle, lost: Mapping[str, str]) -> NoReturn:
    who, why = next(iter(sorted(lost.items())))
    raise UsageError(f"--genmind {bundle.name}: nobody can be matched (e.g. {who}: {why}); use a model of such people")
