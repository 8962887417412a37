"""Tables of people with all their columns; several of them with what all have."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.bids.region_names import region_names
from bids_brainage.bids.roi_tables import ICV, RoiTable, load, parsed
from bids_brainage.cohort.people import People
from bids_brainage.cohort.tables import people_of
from bids_brainage.core.errors import UsageError

RACE = "race"
DIAGNOSIS = "diagnosis"


class Read(NamedTuple):
    """A table: its file, its people in full, and all its columns as text."""

    path: Path
    table: RoiTable
    frame: pd.DataFrame

    def column(self, name: str) -> NDArray[np.str_] | None:
        """Cells of a column as text, its name in any case, or ``None``."""
        named = {str(column).lower(): column for column in self.frame.columns}
        return self.frame[named[name.lower()]].to_numpy(dtype=str) if name.lower() in named else None

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, ``nan`` for what is none.

        Raises
        ------
        UsageError
            Where there is no such column.
        """
        written = self.column(name)
        if written is None:
            raise UsageError(f"{self.path}: has no column {name!r}; name one of the table's columns")
        return np.asarray(pd.to_numeric(pd.Series(written), errors="coerce"), dtype=float)


def read_once(path: Path) -> Read:
    """A table, with intracranial volumes or without.

    Raises
    ------
    UsageError
        Where it cannot be used.
    """
    frame = load(path)
    return Read(path, parsed(path, frame, icv=False), frame)


def read_alike(*paths: Path) -> tuple[list[Read], list[People]]:
    """Tables, and their people with the regions that all tables have, ICV and race where all have them.

    Raises
    ------
    UsageError
        Where a table cannot be used, somebody in it is not complete, or the tables share no region.
    """
    tables = [read_once(path) for path in paths]
    regions = set(region_names().values()).intersection(*(t.table.columns for t in tables))
    if not regions:
        raise UsageError(f"{paths[0]}: shares no region with {paths[-1]}; give tables of the same regions")
    icv = all(ICV in t.table.columns for t in tables)
    by = ("sex", RACE) if all(RACE in t.table.others for t in tables) else ("sex",)
    return tables, [people_of(t.table, t.path, by=by, indices=sorted(regions), icv=icv) for t in tables]
