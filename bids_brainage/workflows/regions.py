"""Regional statistics of local gaps: a region's gap between groups, and beside its volume. One value a person."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bids_brainage.bids.outputs import entity, group_file, sidecar_of
from bids_brainage.bids.tables import is_missing, read_tsv, write_tsv
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json
from bids_brainage.image.labels import LabelAtlas
from bids_brainage.image.regions import roi_means
from bids_brainage.stats.groups import adjust, age_adjusted, welch_t
from bids_brainage.stats.regional import partial_pearson
from bids_brainage.workflows.maps import Loaded, Unit
from bids_brainage.workflows.summary import SMALLEST_GROUP, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bids_brainage.workflows.voxelwise import Cohort

MUSE, ICV = "MUSE", 702
STRONGEST = 10
VOLUMES_TSV = "desc-muse_volumes.tsv"
VOLUMES = {
    "index": "Number of the region in the atlas",
    "name": "Name of the region",
    "n": "People with gap, volume, age, sex and intracranial volume",
    "r": "Pearson correlation of the region's gap and volume",
    "r_low": "Lower bound of its 95 % confidence interval (Fisher)",
    "r_high": "Upper bound of its 95 % confidence interval (Fisher)",
    "p": "Two-sided p of r",
    "p_holm": "p corrected for the number of regions by Holm",
    "r_partial": "Partial correlation given age, sex and intracranial volume",
    "r_partial_low": "Lower bound of its 95 % confidence interval (Fisher)",
    "r_partial_high": "Upper bound of its 95 % confidence interval (Fisher)",
    "p_partial": "Two-sided p of r_partial",
    "p_partial_holm": "p_partial corrected for the number of regions by Holm",
}


def contrast_columns(of: str, unit: str) -> dict[str, str]:
    """Columns of :func:`contrasts`, for regional means of ``of``."""
    return {
        "contrast": "Groups compared, first minus second",
        "index": "Number of the region in the atlas",
        "name": "Name of the region",
        "n_first": "People of the first group",
        "n_second": "People of the second group",
        "difference": f"Difference of the mean {of}, in {unit}",
        "difference_low": "Lower bound of its 95 % confidence interval",
        "difference_high": "Upper bound of its 95 % confidence interval",
        "d": "Cohen's d with the pooled SD",
        "d_low": "Lower bound of its 95 % confidence interval",
        "d_high": "Upper bound of its 95 % confidence interval",
        "t": "Welch's t",
        "dof": "Degrees of freedom of Welch's t",
        "p": "Two-sided p of Welch's t",
        "p_holm": "p corrected for the number of regions by Holm",
        "adjusted": f"Difference with age as a covariate, in {unit}",
        "adjusted_low": "Lower bound of its 95 % confidence interval",
        "adjusted_high": "Upper bound of its 95 % confidence interval",
        "adjusted_p": "Two-sided p of the difference with age as a covariate",
        "adjusted_p_holm": "adjusted_p corrected for the number of regions by Holm",
    }


class Regions(NamedTuple):
    """Gaps of the regions of an atlas, (people, regions), years; volumes likewise and ICV, (people,), mm^3, if known.

    ``people`` are rows of the cohort.
    """

    atlas: str
    indices: list[int]
    names: list[str]
    people: NDArray[np.int64]
    gaps: NDArray[np.float64]
    volumes: NDArray[np.float64] | None = None
    icv: NDArray[np.float64] | None = None


class Tables(NamedTuple):
    """Regions as the participant level's tables have them, who has none, and tables that cannot be read."""

    regions: Regions | None
    notes: list[str]
    damaged: list[str]


def from_tables(out_dir: Path, model: str, units: Sequence[Unit]) -> Tables:
    """MUSE regions from the tables of the participant level, averaged over the scans of a session."""
    gaps, volumes, people, names, damaged = [], [], list[int](), dict[int, str](), list[str]()
    for place, unit in enumerate(units):
        folder = out_dir / unit.participant / unit.session / "anat"
        try:
            own = _mean(folder, unit.scans, f"desc-{model}_regions.tsv", "gap", names)
            volumes.append(volumes_of(out_dir, unit, {}))
        except UsageError as error:
            damaged.append(str(error))
            continue
        gaps.append(own)
        people.append(place)
    if not any(gaps):
        return Tables(None, [], damaged)
    missing = [units[place].participant for place, own in zip(people, gaps, strict=True) if not own]
    notes = [f"{person}: has no table of regions; left out of the regional statistics" for person in missing]
    kept = [i for i, own in enumerate(gaps) if own]
    indices = sorted(names)
    table = np.array([[gaps[i].get(index, np.nan) for index in indices] for i in kept])
    sizes = np.array([[volumes[i].get(index, np.nan) for index in [*indices, ICV]] for i in kept])
    rows = np.array([people[i] for i in kept])
    found = Regions(MUSE, indices, [names[i] for i in indices], rows, table, sizes[:, :-1], sizes[:, -1])
    return Tables(found, notes, damaged)


def volumes_of(out_dir: Path, unit: Unit, names: dict[int, str]) -> dict[int, float]:
    """Volumes of a session in mm^3 by MUSE index, averaged over its scans; empty where none has a table.

    Adds the names of the regions to ``names``.

    Raises
    ------
    UsageError
        Where a table is damaged.
    """
    return _mean(out_dir / unit.participant / unit.session / "anat", unit.scans, VOLUMES_TSV, "volume_mm3", names)


def _mean(folder: Path, stems: Sequence[str], suffix: str, column: str, names: dict[int, str]) -> dict[int, float]:
    """Mean over scans of a column by ``index``; empty where no scan has the table. Adds to ``names``."""
    found: dict[int, list[float]] = {}
    for path in [folder / f"{stem}_{suffix}" for stem in stems]:
        try:
            for row in read_tsv(path) if path.is_file() else []:
                names.setdefault(int(row["index"]), row["name"])
                found.setdefault(int(row["index"]), []).append(
                    np.nan if is_missing(row[column]) else float(row[column])
                )
        except (KeyError, ValueError):
            raise UsageError(
                f"{path}: lacks index, name or {column}, or a number is none; run the participant level again"
            ) from None
    return {index: float(np.mean(values)) for index, values in found.items()}


def from_maps(loaded: Loaded, kept: Sequence[int], atlas: LabelAtlas, labels: NDArray[np.int32]) -> Regions:
    """Regions of any atlas, from the maps: ``labels`` on their grid, ``kept`` the cohort's rows of the stack."""
    inside = labels[loaded.stack.mask]
    indices = [int(index) for index in np.unique(inside) if index]
    name = entity(atlas.name)
    if not indices or name == MUSE:
        problem = f"is named {MUSE}, as ours is; rename it" if indices else "lies beside the maps; check --atlas-space"
        raise UsageError(f"--atlas {atlas.name}: {problem}")
    rows = loaded.stack.rows(range(len(kept)))
    gaps = np.array([roi_means(values, inside).means for values in rows])
    return Regions(name, indices, _distinct(indices, [atlas.names[index] for index in indices]), np.asarray(kept), gaps)


def _distinct(indices: list[int], names: list[str]) -> list[str]:
    """Names, with the number behind those that several regions have."""
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in zip(indices, names, strict=True)]


def regional(out_dir: Path, model: str, regions: Regions, cohort: Cohort) -> dict[str, Any]:
    """Write the tables of an atlas (gaps of people, contrasts, relation to volume), and the strongest as JSON."""
    units = [cohort.units[i] for i in regions.people]
    age, labels, sex = np.array([unit.age for unit in units]), cohort.groups[regions.people], cohort.sex[regions.people]
    rows = [
        {"participant_id": unit.participant, "session_id": unit.session} | dict(zip(regions.names, gaps, strict=True))
        for unit, gaps in zip(units, np.round(regions.gaps, 4), strict=True)
    ]
    described = {"participant_id": "Participant", "session_id": "Session; n/a where the dataset has none"}
    described |= {name: f"Mean local gap of {name}, in years" for name in regions.names}
    files = [_write(out_dir, "region_gaps", model, regions.atlas, rows, described)]
    compared = contrasts(regions, labels, age)
    relations = _relations(regions, age, sex)
    if compared:
        files.append(
            _write(out_dir, "region_contrasts", model, regions.atlas, compared, contrast_columns("gaps", "years"))
        )
    if relations:
        files.append(_write(out_dir, "region_volumes", model, regions.atlas, relations, VOLUMES))
    return {
        "Regions": len(regions.indices),
        "People": len(units),
        "Strongest": strongest(compared, "adjusted_p"),
        "StrongestWithVolume": strongest(relations, "p_partial"),
        "Files": files,
    }


def _write(
    out_dir: Path, kind: str, model: str, atlas: str, rows: list[dict[str, Any]], columns: dict[str, str]
) -> str:
    path, _ = group_file(kind, out_dir, model=model, atlas=atlas)
    write_tsv(path, rows, list(columns))
    write_json(sidecar_of(path), {name: {"Description": text} for name, text in columns.items()})
    return path.name


def strongest(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The rows with the smallest values of a column of p values."""
    known = [row for row in rows if row[by] is not None]
    return sorted(known, key=lambda row: row[by])[:STRONGEST]


def contrasts(regions: Regions, labels: NDArray[np.object_], age: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Each pair of groups in each region, as :func:`contrast_columns` says; Holm over the regions of a pair."""
    rows = []
    groups = [name for name in sorted(set(labels)) if (labels == name).sum() >= SMALLEST_GROUP]
    for first, second in combinations(groups, 2):
        pair = [
            _contrast(gaps, labels, age, first, second) | {"index": index, "name": name}
            for index, name, gaps in zip(regions.indices, regions.names, regions.gaps.T, strict=True)
        ]
        rows += _holm(_holm([row for row in pair if "p" in row], "p"), "adjusted_p")
    return rows


def _contrast(
    gaps: NDArray[np.float64], labels: NDArray[np.object_], age: NDArray[np.float64], first: str, second: str
) -> dict[str, Any]:
    """A region between two groups; without ``p`` where people are too few or nothing varies."""
    known = np.isfinite(gaps)
    a, b = known & (labels == first), known & (labels == second)
    if min(a.sum(), b.sum()) < SMALLEST_GROUP or max(np.ptp(gaps[a]), np.ptp(gaps[b])) == 0:
        return {}
    test, both = welch_t(gaps[a], gaps[b]), a | b
    adjusted, p = age_adjusted(gaps[both], a[both], age[both])
    row: dict[str, Any] = {"contrast": f"{first} - {second}", "n_first": test.n_first, "n_second": test.n_second}
    for name, interval in (("difference", test.difference), ("d", test.d), ("adjusted", adjusted)):
        row |= {
            name: number(interval.value),
            f"{name}_low": number(interval.low),
            f"{name}_high": number(interval.high),
        }
    return row | {"t": number(test.t), "dof": number(test.dof), "p": number(test.p), "adjusted_p": number(p)}


def _relations(regions: Regions, age: NDArray[np.float64], sex: NDArray[np.object_]) -> list[dict[str, Any]]:
    """Gap and volume of each region, plain and given age, sex (where both are there) and ICV; Holm over regions."""
    if regions.volumes is None or regions.icv is None or not np.isfinite(regions.volumes).any():
        return []
    female = np.select([sex == "F", sex == "M"], [1.0, 0.0], np.nan)
    given = [age, regions.icv, *([female] if len(set(female[np.isfinite(female)])) == 2 else [])]
    covariates = np.column_stack(given)
    rows = []
    for place, (index, name) in enumerate(zip(regions.indices, regions.names, strict=True)):
        gaps = np.where(np.isfinite(covariates).all(axis=1), regions.gaps[:, place], np.nan)
        plain = partial_pearson(gaps, regions.volumes[:, place])
        partial = partial_pearson(gaps, regions.volumes[:, place], covariates)
        row: dict[str, Any] = {"index": index, "name": name, "n": plain.n}
        for column, found in (("r", plain.r), ("r_partial", partial.r)):
            row |= {
                column: number(found.value),
                f"{column}_low": number(found.low),
                f"{column}_high": number(found.high),
            }
        rows.append(row | {"p": number(plain.p), "p_partial": number(partial.p)})
    return _holm(_holm(rows, "p"), "p_partial")


def _holm(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Rows with ``<column>_holm`` beside a p value; ``None`` where there is none."""
    known = [row for row in rows if row[column] is not None]
    adjusted = adjust([row[column] for row in known], "holm")
    for row in rows:
        row[f"{column}_holm"] = None
    for row, value in zip(known, adjusted, strict=True):
        row[f"{column}_holm"] = number(float(value))
    return rows
