"""All group statistics of local brain age: find the maps of each model, then voxels, then regions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bids_brainage.core.errors import ScanError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from bids_brainage.image.labels import LabelAtlas
    from bids_brainage.workflows.maps import Loaded

NOTHING: dict[str, Any] = {
    "People": 0,
    "Groups": {},
    "Contrasts": [],
    "Reliability": None,
    "Regions": {},
    "Notes": [],
    "DamagedMaps": [],
}


class AtlasChoice(NamedTuple):
    """A further atlas: its label image, its template space, and the folder of transforms between templates."""

    path: Path
    space: str
    cache: Path


def local_statistics(
    out_dir: Path,
    scans: pd.DataFrame,
    people: pd.DataFrame,
    row: NDArray[np.int64],
    grouping: str | None,
    seed: int,
    atlas: AtlasChoice | None = None,
) -> dict[str, dict[str, Any]]:
    """Write maps and tables of each model that has maps of local brain age; returns what they are, by model, as JSON.

    Parameters
    ----------
    out_dir : Path
        Derivatives.
    scans, people, row
        As :func:`bids_brainage.workflows.people.per_person` takes and gives; ``people`` joined with the dataset's.
    grouping : str, optional
        Column of ``people`` with diagnostic groups.
    seed : int
        Of the permutations.

    Raises
    ------
    UsageError
        Where the atlas cannot be used.
    """
    from bids_brainage.workflows.maps import NobodyError, find_maps, load
    from bids_brainage.workflows.regions import from_maps, from_tables, regional
    from bids_brainage.workflows.voxelwise import Writer, cohort_of, voxelwise

    found = find_maps(out_dir, scans)
    if atlas is not None and not found:
        raise UsageError(f"--atlas {atlas.path}: no scan has a map of local brain age; run its model on them first")
    earlier = {path: _written(path) for path in out_dir.glob("group_desc-*")}
    entries: dict[str, dict[str, Any]] = {}
    for model in sorted(set(found) & set(people["model"])):
        cohort = cohort_of(scans, people, row, model, grouping)
        try:
            loaded = load(cohort.units, found[model], out_dir)
        except NobodyError as error:
            entries[model] = NOTHING | {"Space": found[model].space, "Notes": [str(error)]}
            continue
        except ScanError as error:
            entries[model] = NOTHING | {"Space": found[model].space, "DamagedMaps": [str(error)]}
            continue
        further = [_labels(atlas, loaded, found[model].space)] if atlas else []
        muse = from_tables(out_dir, model, cohort.units)
        tables = [muse.regions] if muse.regions else []
        tables += [from_maps(loaded, cohort.rows_of(loaded.units), *choice) for choice in further]
        entry = voxelwise(Writer(out_dir, model, loaded, found[model].space), cohort, found[model], seed)
        entry["Regions"] = {table.atlas: regional(out_dir, model, table, cohort) for table in tables}
        entry["Notes"] += muse.notes
        entry["DamagedMaps"] += muse.damaged
        entries[model] = entry
    for path, written in earlier.items():  # perhaps with other groups; a run that was refused leaves them
        if path.exists() and _written(path) == written:
            path.unlink()
    return entries


def _written(path: Path) -> tuple[int, int]:
    """What tells a file from one that was put in its place."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _labels(choice: AtlasChoice, loaded: Loaded, space: str) -> tuple[LabelAtlas, NDArray[np.int32]]:
    """The atlas, and its labels on the grid of the maps."""
    from bids_brainage.image.labels import labels_on, read_labels
    from bids_brainage.image.register import WORKING_MM
    from bids_brainage.image.template import template

    atlas = read_labels(choice.path)
    theirs, ours = template(choice.space, WORKING_MM), template(space, WORKING_MM)
    return atlas, labels_on(atlas, theirs, ours, loaded.stack.grid, choice.cache)
