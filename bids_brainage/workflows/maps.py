"""Which maps of local brain age stand for whom: one unit a person, all found by their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bids_brainage.core.errors import ScanError
from bids_brainage.image.io import Grid, Volume, same_grid
from bids_brainage.image.stack import Stack, read_map
from bids_brainage.workflows.people import numbered, used_scans

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MAP = re.compile(r"(?P<stem>.+?)_space-(?P<space>[^_]+)(_res-[^_]+)?_desc-(?P<model>[^_]+)_brainagemap\.nii\.gz")


class NobodyError(ScanError):
    """There is no map of a person with an age."""


class Unit(NamedTuple):
    """One session of a person: row in the table of people, age in years, and the stems of the scans averaged."""

    row: int
    participant: str
    session: str
    age: float
    scans: tuple[str, ...]


class Maps(NamedTuple):
    """Maps of one model in one template space, by the stem of the scan."""

    space: str
    paths: dict[str, Path]


class Loaded(NamedTuple):
    """Gaps of people at the voxels that all of them have; ``damaged`` names files that could not be used."""

    units: tuple[Unit, ...]
    stack: Stack
    notes: tuple[str, ...]
    damaged: tuple[str, ...]


def find_maps(out_dir: Path, scans: pd.DataFrame) -> dict[str, Maps]:
    """Maps by model, in the space that most of a model's maps have."""
    folders = {(person, session) for person, session in zip(scans["participant_id"], scans["session_id"], strict=True)}
    found: dict[str, dict[str, dict[str, Path]]] = {}
    for person, session in sorted(folders):
        folder = out_dir / person / session / "anat"
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - half the time of Path.iterdir
            match = MAP.fullmatch(name) if name.endswith("_brainagemap.nii.gz") else None
            if match:
                found.setdefault(match["model"], {}).setdefault(match["space"], {})[match["stem"]] = folder / name
    chosen = {}
    for model, spaces in found.items():
        space = Counter({name: len(paths) for name, paths in spaces.items()}).most_common(1)[0][0]
        chosen[model] = Maps(space, spaces[space])
    return chosen


def units_of(scans: pd.DataFrame, people: pd.DataFrame, row: NDArray[np.int64], model: str) -> list[Unit]:
    """Sessions of a model with a known age and brain age, each person's earliest first."""
    used = used_scans(scans, row)
    stems = scans["scan"].to_numpy(dtype=object)
    own = np.flatnonzero((people["model"] == model).to_numpy() & people["gap"].notna().to_numpy())
    of_row: dict[int, list[str]] = {int(index): [] for index in own}
    for place in np.flatnonzero(used):
        if int(row[place]) in of_row:
            of_row[int(row[place])].append(str(stems[place]))
    columns = [people[name].to_numpy() for name in ("participant_id", "session_id", "age")]
    units = [
        Unit(index, str(columns[0][index]), str(columns[1][index]), float(columns[2][index]), tuple(stems))
        for index, stems in of_row.items()
    ]
    return sorted(units, key=lambda unit: (unit.participant, unit.age, numbered(unit.session)))


def load(units: Sequence[Unit], maps: Maps, folder: Path) -> Loaded:
    """Read the gaps of people, one file at a time; who cannot be used is named, the others go on.

    Parameters
    ----------
    units : sequence of Unit
        One a person.
    folder : Path
        Where the stack's file lies.

    Raises
    ------
    ScanError
        Where no map can be read.
    """
    stack, kept, notes, damaged = None, [], list[str](), list[str]()
    for unit in units:
        if not any(stem in maps.paths for stem in unit.scans):
            notes.append(f"{unit.participant}: has no map in {maps.space}; left out of the voxelwise statistics")
            continue
        try:
            stack = stack or _begin(units, maps, folder)
            stack.append(gap_of(unit, maps, stack.grid), f"map of {unit.participant}")
            kept.append(unit)
        except ScanError as error:
            damaged.append(str(error))
    if stack is None or not kept:
        if damaged:
            raise ScanError(damaged[0])
        who = "a person with an age (and a group, where there are groups)"
        raise NobodyError(f"no map in {maps.space} is of {who}; there are no local statistics")
    return Loaded(tuple(kept), stack, tuple(notes), tuple(damaged))


def _begin(units: Sequence[Unit], maps: Maps, folder: Path) -> Stack:
    """A stack on the grid and mask of the fullest of the first three readable maps."""
    readable = (image for unit in units for stem in unit.scans if (image := _try(maps, stem)) is not None)
    first = list(islice(readable, 3))
    if not first:
        raise ScanError(f"{next(iter(maps.paths.values()))}: cannot be read, nor can any other map")
    grids = [image.grid for image in first]
    common = max(
        range(len(first)), key=lambda i: (sum(same_grid(grids[i], grid) for grid in grids), _covered(first[i]))
    )
    return Stack(folder, grids[common], np.isfinite(first[common].data))


def _covered(image: Volume) -> int:
    return int(np.isfinite(image.data).sum())


def _try(maps: Maps, stem: str) -> Volume | None:
    try:
        return read_map(maps.paths[stem]) if stem in maps.paths else None
    except ScanError:
        return None


def gap_of(unit: Unit, maps: Maps, grid: Grid) -> NDArray[np.float32]:
    """Local brain age less age, averaged over the scans of a session, on the grid; years.

    Raises
    ------
    ScanError
        Where a map cannot be used.
    """
    paths = [maps.paths[stem] for stem in unit.scans if stem in maps.paths]
    total = np.zeros(grid.shape, np.float32)
    for path in paths:
        total += read_map(path, grid).data
    return total / np.float32(len(paths)) - np.float32(unit.age)
