"""People from tables of volumes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.bids.roi_tables import ICV, RoiTable, load, read, region_names
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError

Array = NDArray[np.float64]
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

    def people(self, indices: tuple[int, ...], with_icv: bool, with_race: bool) -> People:
        """The people with these regions.

        Raises
        ------
        UsageError
            Where somebody's age, sex or volume is missing.
        """
        table = self.table
        volumes = table.select((*indices, ICV) if with_icv else indices)
        age = np.array([np.nan if a.years is None else a.years for a in table.age])
        faults = {
            "no age in years": ~np.isfinite(age),
            "no sex (F, M)": np.array([sex is None for sex in table.sex]),
            "a missing volume": ~np.isfinite(volumes).all(axis=1),
        }
        for what, where in faults.items():
            if where.any():
                who = table.who[int(np.argmax(where))]
                raise UsageError(f"{self.path}: {who} has {what}; complete the row or take it out")
        categories = {"sex": np.array(table.sex, dtype=str)}
        if with_race:
            categories[RACE] = np.asarray(self.column(RACE))
        k = len(indices)
        return People(table.who, age, categories, indices, volumes[:, :k], volumes[:, k] if with_icv else None)

    def numbers(self, name: str) -> Array:
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


def read_alike(*paths: Path) -> tuple[list[Read], list[People]]:
    """Tables, and their people with the regions that all tables have, ICV and race where all have them.

    Raises
    ------
    UsageError
        Where a table cannot be used, or they share no region.
    """
    tables = [Read(path, read(path, with_icv=False), load(path)) for path in paths]
    regions = set(region_names().values()).intersection(*(t.table.columns for t in tables))
    if not regions:
        raise UsageError(f"{paths[0]}: shares no region with {paths[-1]}; give tables of the same regions")
    with_icv = all(ICV in t.table.columns for t in tables)
    with_race = all(t.column(RACE) is not None for t in tables)
    return tables, [t.people(tuple(sorted(regions)), with_icv, with_race) for t in tables]
