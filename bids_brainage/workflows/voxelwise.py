"""Voxelwise statistics of local gaps: groups and their differences, and reliability. One value a person and voxel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bids_brainage.bids.outputs import entity, group_file, sidecar_of
from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import write_json
from bids_brainage.image.io import save
from bids_brainage.stats import two_groups
from bids_brainage.stats import voxelwise as stats
from bids_brainage.stats.groups import adjust
from bids_brainage.workflows.maps import Loaded, Maps, Unit, gap_of, units_of
from bids_brainage.workflows.summary import SMALLEST_GROUP, group_label, number

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

PERMUTATIONS = 1000
ALPHA = 0.05
FEWEST_RELIABLE = 5


class Cohort(NamedTuple):
    """What is known of the people of a model, a row each: unit of the first session, group and sex (empty if unknown).

    ``sessions`` has all sessions of all people; ``notes`` who was left out, and why.
    """

    units: list[Unit]
    groups: NDArray[np.object_]
    sex: NDArray[np.object_]
    sessions: list[Unit]

    def rows_of(self, units: Sequence[Unit]) -> list[int]:
        """Rows of some of its units."""
        place = {unit.row: i for i, unit in enumerate(self.units)}
        return [place[unit.row] for unit in units]


class Writer(NamedTuple):
    """Writes maps of one model, each with its sidecar, and keeps their names."""

    out_dir: Path
    model: str
    loaded: Loaded
    space: str

    def write(self, kind: str, values: NDArray, metadata: dict[str, Any], **names: str) -> str:
        """Write the values of the voxels, (voxels,), as a map; returns its name."""
        path, content = group_file(kind, self.out_dir, model=self.model, **names)
        save(path, self.loaded.stack.volume(values), self.loaded.stack.grid.affine)
        common = {"SpatialReference": self.space, "Voxels": self.loaded.stack.n_voxels, "Outside": "NaN"}
        write_json(sidecar_of(path), content | common | metadata)
        return path.name


def cohort_of(
    scans: pd.DataFrame, people: pd.DataFrame, row: NDArray[np.int64], model: str, grouping: str | None
) -> Cohort:
    """People of a model with a gap and, where there are groups, a group: each with the first such session."""
    sessions = units_of(scans, people, row, model)
    first: dict[str, Unit] = {}
    known = np.ones(len(people), dtype=bool) if grouping is None else people[grouping].notna().to_numpy()
    for unit in sessions:
        if known[unit.row]:
            first.setdefault(unit.participant, unit)
    units = list(first.values())
    rows = [unit.row for unit in units]
    labels = [group_label(value) for value in people[grouping].iloc[rows]] if grouping else ["everyone"] * len(rows)
    return Cohort(units, np.array(labels, dtype=object), people["sex"].to_numpy(dtype=object)[rows], sessions)


def voxelwise(write: Writer, cohort: Cohort, maps: Maps, seed: int) -> dict[str, Any]:
    """Write the maps of the group level for one model, and say in JSON what they are."""
    loaded = write.loaded
    members, notes = _members(loaded, cohort)
    kept = cohort.rows_of(loaded.units)
    age, sex = np.array([unit.age for unit in loaded.units]), cohort.sex[kept]
    entities = _entities(members)
    moments = {name: stats.moments(loaded.stack.rows(who.tolist())) for name, who in members.items()}
    entry: dict[str, Any] = {"Space": maps.space, "Of": "local brain age minus age", "People": len(loaded.units)}
    entry["Voxels"] = loaded.stack.n_voxels
    entry["Groups"] = {name: _group(write, name, entities[name], moments[name]) for name in members}
    entry["Contrasts"] = []
    for pair in combinations(members, 2):
        task = _task(pair, members, entities, age, sex)
        if task is None:
            notes.append(f"{pair[0]} and {pair[1]}: cannot be told apart from their covariates; not compared")
            continue
        entry["Contrasts"].append(_contrast(write, task, [moments[name] for name in pair], seed))
    entry["Reliability"], more = _reliability(write, cohort.sessions, maps)
    return entry | {"Notes": notes + more, "DamagedMaps": list(loaded.damaged)}


def _members(loaded: Loaded, cohort: Cohort) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Rows of the stack by group, of groups that are large enough; and notes on all others."""
    labels = cohort.groups[cohort.rows_of(loaded.units)]
    members = {str(name): np.flatnonzero(labels == name) for name in sorted(set(cohort.groups))}
    notes = list(loaded.notes)
    for name, who in list(members.items()):
        if len(who) < SMALLEST_GROUP:
            notes.append(f"group {name}: {len(who)} people with maps, at least {SMALLEST_GROUP} are needed")
            del members[name]
    return members, notes


class Contrast(NamedTuple):
    """Two groups to compare: names, entity, rows of the stack, the covariates' names, and the design."""

    pair: tuple[str, str]
    entity: str
    people: NDArray[np.int64]
    covariates: list[str]
    design: two_groups.Design


def _task(
    pair: tuple[str, str],
    members: dict[str, NDArray[np.int64]],
    entities: dict[str, str],
    age: NDArray[np.float64],
    sex: NDArray[np.object_],
) -> Contrast | None:
    """The contrast of a pair; ``None`` where the covariates alone tell the groups apart, or people are too few."""
    both = np.concatenate([members[name] for name in pair])
    names, nuisance = covariates(age[both], sex[both])
    try:
        design = two_groups.design(np.arange(len(both)) < len(members[pair[0]]), nuisance)
    except ValueError:
        return None
    return Contrast(pair, f"{entities[pair[0]]}v{entities[pair[1]]}", both, names, design)


def covariates(age: NDArray[np.float64], sex: NDArray[np.object_]) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the covariates that tell people apart, and the columns with an intercept first, (people, columns).

    Sex counts where it is known for everyone.
    """
    names, columns = [], [np.ones(len(age))]
    known = {"age": age - age.mean()}
    if not (sex == "").any():
        known["sex"] = np.where(sex == "F", 0.5, -0.5)
    for name, column in known.items():
        if np.linalg.matrix_rank(np.column_stack([*columns, column])) > len(columns):
            names.append(name)
            columns.append(column)
    return names, np.column_stack(columns)


def _entities(names: Sequence[str] | dict[str, Any]) -> dict[str, str]:
    """Groups as BIDS can name them: letters and digits, each another."""
    made: dict[str, str] = {}
    for name in names:
        plain = entity(name)
        free = (f"{plain}{number}" for number in count(2))
        made[name] = plain if plain not in made.values() else next(one for one in free if one not in made.values())
    return made


def _group(write: Writer, name: str, entity: str, found: stats.Moments) -> dict[str, Any]:
    said = {"Group": name, "People": found.n}
    files = [write.write("mean", found.mean, said, group=entity)]
    files.append(write.write("sd", np.sqrt(found.variance), said, group=entity))
    return {"People": found.n, "Files": files}


def _contrast(write: Writer, task: Contrast, groups: Sequence[stats.Moments], seed: int) -> dict[str, Any]:
    """Welch's t and Cohen's d, the same test with covariates, and its p corrected for all voxels."""
    stack, people = write.loaded.stack, task.people.tolist()
    parts = [two_groups.compare(chunk, task.design) for chunk in stack.chunks(people)]
    test = two_groups.Comparison(*(np.concatenate(one) for one in zip(*parts, strict=True)))
    score = stats.score(test.t, test.dof)
    largest = stats.max_statistic(stack.chunks(people), task.design, permutations=PERMUTATIONS, seed=seed)
    corrected, simple = stats.corrected_p(score, largest), stats.welch(*groups)
    z = np.sign(test.t) * score
    entry = _described(task, groups, z, test.p, simple.p, corrected, largest) | {"RandomSeed": seed}
    maps = {"z": z, "pfwe": corrected, "welch": simple.t, "dof": simple.dof, "d": stats.cohen_d(*groups)}
    files = {kind: write.write(kind, found, entry, contrast=task.entity) for kind, found in maps.items()}
    return entry | {"Files": files}


def _described(
    task: Contrast,
    groups: Sequence[stats.Moments],
    z: NDArray,
    p: NDArray,
    simple_p: NDArray,
    corrected: NDArray,
    largest: NDArray,
) -> dict[str, Any]:
    """The contrast as JSON: people, model, thresholds, and how many voxels pass each."""
    from scipy.special import ndtri

    known = np.isfinite(z)
    n = int(known.sum())
    return {
        "Contrast": f"{task.pair[0]} minus {task.pair[1]}",
        "People": {name: group.n for name, group in zip(task.pair, groups, strict=True)},
        "Model": " + ".join(["gap ~ group", *task.covariates]),
        "Covariates": task.covariates,
        "Alpha": ALPHA,
        "Permutations": PERMUTATIONS,
        "ThresholdZ": {
            "Bonferroni": number(float(-ndtri(ALPHA / max(n, 1) / 2))),
            "Permutation": number(stats.threshold(largest, ALPHA)),
        },
        "SignificantVoxels": {
            "Bonferroni": int((p[known] * n <= ALPHA).sum()),
            "Permutation": int((corrected[known] <= ALPHA).sum()),
            "FalseDiscoveryRate": int((adjust(p[known]) <= ALPHA).sum()),
            "WelchBonferroni": int((simple_p[known] * n <= ALPHA).sum()),
        },
        "HedgesFactor": number(stats.hedges_factor(groups[0].n + groups[1].n - 2)),
        "LargestZ": number(float(z[known][np.abs(z[known]).argmax()])) if n else None,
    }


def _reliability(write: Writer, sessions: Sequence[Unit], maps: Maps) -> tuple[dict[str, Any] | None, list[str]]:
    """ICC over the sessions of people, or over their scans where nobody has two sessions; and what stood against it."""
    kind, measured = _measurements(sessions, maps)
    if not measured:
        return None, []
    k = min(len(units) for units in measured.values())
    notes: list[str] = []

    def each() -> Iterator[NDArray[np.float64]]:
        mask, grid = write.loaded.stack.mask, write.loaded.stack.grid
        for units in measured.values():
            try:
                yield np.stack([gap_of(unit, maps, grid)[mask].astype(float) for unit in units[:k]])
            except ScanError as error:
                notes.append(f"reliability: {error}")

    needed = f"people with two {kind}s, {FEWEST_RELIABLE} are needed"
    if len(measured) < FEWEST_RELIABLE:
        return None, [f"reliability: {len(measured)} {needed}"]
    try:
        found = stats.icc(each())
    except ValueError as error:
        return None, [*notes, f"reliability: {error}"]
    if found.n_people < FEWEST_RELIABLE:
        return None, [*notes, f"reliability: {found.n_people} {needed}"]
    known = found.agreement[np.isfinite(found.agreement)]
    entry: dict[str, Any] = {"People": found.n_people, "Measurements": found.n_sessions, "Measurement": kind}
    entry["Median"] = number(float(np.median(known))) if len(known) else None
    entry["Quartiles"] = [number(q) for q in np.percentile(known, (25, 75))] if len(known) else [None, None]
    files = [write.write("icc", found.agreement, entry), write.write("icc3", found.consistency, entry)]
    return entry | {"Files": files}, notes


def _measurements(sessions: Sequence[Unit], maps: Maps) -> tuple[str, dict[str, list[Unit]]]:
    """Units of people who were measured twice or more, by person, and what counts as a measurement."""
    there = [unit._replace(scans=tuple(stem for stem in unit.scans if stem in maps.paths)) for unit in sessions]
    by_session = _repeated([unit for unit in there if unit.scans])
    if by_session:
        return "session", by_session
    return "scan", _repeated([unit._replace(scans=(stem,)) for unit in there for stem in unit.scans])


def _repeated(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    of_person: dict[str, list[Unit]] = {}
    for unit in units:
        of_person.setdefault(unit.participant, []).append(unit)
    return {person: several for person, several in of_person.items() if len(several) > 1}
