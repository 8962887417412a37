"""People of a table with volumes, and a table with other volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bids_brainage.bids import roi_tables
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic
from bids_brainage.image.muse import regions

if TYPE_CHECKING:
    import pandas as pd

MISSING = ("", "n/a")


def read_people(path: Path, *, needs_icv: bool = True) -> People:
    """All people of a table with ages, sexes and the 145 regions (see :mod:`bids_brainage.bids.roi_tables`).

    ``needs_icv``: whether a table without intracranial volumes is refused.

    Raises
    ------
    UsageError
        Where it cannot be read, or an age, a sex, a volume or the ICV of somebody is missing.
    """
    table = roi_tables.read(path, needs_icv=needs_icv)
    indices = tuple(region.number for region in regions())
    volumes = table.select(indices)
    icv = table.select((roi_tables.ICV,))[:, 0] if roi_tables.ICV in table.columns else None
    age = np.array([np.nan if age.years is None else age.years for age in table.age], dtype=np.float64)
    whole = np.isfinite(volumes).all(axis=1) & np.isfinite(age) & np.array([sex is not None for sex in table.sex])
    whole &= True if icv is None else np.isfinite(icv)
    if not whole.all():
        who = table.who[int(np.argmin(whole))]
        raise UsageError(f"{path}: {who} lacks an age, a sex, the ICV or a volume; complete the row or take it out")
    return People(table.who, age, {"sex": np.array(table.sex, dtype=str)}, indices, volumes, icv)


def read_columns(path: Path, *, numbers: bool = False) -> pd.DataFrame:
    """All columns of a table, a row a person: as text, or with ``numbers`` those that hold nothing else as numbers."""
    import pandas as pd

    frame = roi_tables.load(path)
    for name in frame if numbers else ():
        values = pd.to_numeric(frame[name], errors="coerce")
        if values[~frame[name].isin(MISSING)].notna().all():
            frame[name] = values
    return frame


def write_volumes(path: Path, source: Path, people: People) -> None:
    """The table ``source`` with the volumes of its people, in its order, exchanged for those of ``people``."""
    if path.suffix not in (".tsv", ".csv"):
        raise UsageError(f"{path}: its suffix must be .tsv or .csv")
    frame, columns = roi_tables.load(source), roi_tables.read(source, needs_icv=False).columns
    for column, index in enumerate(people.indices):
        frame[columns[index]] = [f"{value:.3f}" for value in people.volumes[:, column]]
    with atomic(path) as temporary:
        frame.to_csv(temporary, sep="," if path.suffix == ".csv" else "\t", index=False)
