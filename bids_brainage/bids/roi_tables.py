"""Tables of MUSE volumes that somebody already has, in the forms in which they are found.

A row a person: columns ``MUSE_47``, ``DL_MUSE_Volume_47`` (DLMUSE), bare ``47``, or the regions' names; people under
``participant_id``, ``MRID`` or the like. Or the app's own ``*_desc-muse_volumes.tsv``, one scan.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.bids.ages import parse_age, parse_sex
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Age, Sex

NUMBERED = re.compile(r"(?:MUSE_(?:Volume_)?|DL_MUSE_Volume_|DLMUSE_|H_MUSE_Volume_|ROI_)?(\d+)", re.IGNORECASE)
IDS = ("participant_id", "MRID", "subject_id", "subject", "PTID", "id")
ICV = 702
ICV_NAMES = ("icv", "dlicv", "dl_icv", "702")
PLAUSIBLE_ICV = (4e5, 3.5e6)
LONG = ("index", "name", "volume_mm3")


@dataclass(frozen=True)
class RoiTable:
    """People with volumes as written.

    Attributes
    ----------
    who : tuple of str
    age : tuple of Age
    sex : tuple of {"F", "M"} or None
    columns : dict
        Name of the column by MUSE index.
    volumes : array, (n, columns)
        mm^3; ``nan`` where a cell is empty or no number.
    """

    who: tuple[str, ...]
    age: tuple[Age, ...]
    sex: tuple[Sex | None, ...]
    columns: dict[int, str]
    volumes: NDArray[np.float64]

    def select(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Volumes of some indices, ``(n, indices)``, mm^3; ``nan`` throughout where there is no such column."""
        place = {index: position for position, index in enumerate(self.columns)}
        found = np.full((len(self.who), len(indices)), np.nan)
        for column, index in enumerate(indices):
            if index in place:
                found[:, column] = self.volumes[:, place[index]]
        return found


def read(path: Path, *, with_icv: bool = True) -> RoiTable:
    """Read a table (TSV, CSV or parquet, by its suffix) in any of these forms; ``with_icv`` refuses one without ICV.

    Raises
    ------
    UsageError
        Where it cannot be read, has no MUSE volumes or no ICV that is wanted, names a region twice, or its volumes are
        not in mm^3.
    """
    frame = load(path)
    if set(LONG[::2]) <= set(frame.columns):
        frame = _wide(path, frame)
    columns = _volume_columns(path, frame, with_icv)
    who = _people(path, frame)
    volumes = frame[list(columns.values())].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    if ICV in columns:
        _check_units(path, volumes[:, list(columns).index(ICV)], columns[ICV])
    named = {name.lower(): name for name in frame.columns}
    age = frame[named["age"]] if "age" in named else [""] * len(frame)
    sex = frame[named["sex"]] if "sex" in named else [""] * len(frame)
    return RoiTable(
        who,
        tuple(parse_age(str(text), None, path.name) for text in age),
        tuple(parse_sex(str(text), None, path.name)[0] for text in sex),
        columns,
        volumes,
    )


def load(path: Path) -> pd.DataFrame:
    """The table as text.

    Raises
    ------
    UsageError
        Where it cannot be read or has no row.
    """
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path).astype(str)
        else:
            separator = "," if path.suffix == ".csv" else "\t"
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: cannot be read ({reason}); give a TSV, CSV or parquet table") from None
    if frame.empty:
        raise UsageError(f"{path}: has no row; give a table with a row a person")
    return frame


def _wide(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The app's own table of one scan as one row."""
    stem = path.name.removesuffix("_desc-muse_volumes.tsv")
    row = {f"MUSE_{index}": value for index, value in zip(frame["index"], frame["volume_mm3"], strict=True)}
    return pd.DataFrame([{"participant_id": stem, **row}])


def region_names() -> dict[str, int]:
    """MUSE index of each region by its name in lower case."""
    text = (files("bids_brainage") / "data" / "muse_rois.tsv").read_text("utf-8")
    table = pd.read_csv(StringIO(text), sep="\t")
    return {str(name).lower(): int(index) for name, index in zip(table["name"], table["index"], strict=True)}


def _volume_columns(path: Path, frame: pd.DataFrame, with_icv: bool = True) -> dict[int, str]:
    """Name of the column of each MUSE index."""
    names, found = region_names(), dict[int, str]()
    for column in map(str, frame.columns):
        numbered = NUMBERED.fullmatch(column)
        index = int(numbered[1]) if numbered else names.get(column.lower())
        if index is None and column.lower() in ICV_NAMES:
            index = ICV
        if index is None:
            continue
        if index in found:
            raise UsageError(f"{path}: columns {found[index]!r} and {column!r} are the same region; keep one")
        found[index] = column
    if not set(found) & set(names.values()):
        raise UsageError(f"{path}: has no column of MUSE volumes (MUSE_47, DL_MUSE_Volume_47, 47 or names); add them")
    if with_icv and ICV not in found:
        raise UsageError(f"{path}: has no intracranial volume (MUSE_702, DL_MUSE_Volume_702, 702 or ICV); add it")
    return found


def _people(path: Path, frame: pd.DataFrame) -> tuple[str, ...]:
    named = {name.lower(): name for name in map(str, frame.columns)}
    column = next((named[name.lower()] for name in IDS if name.lower() in named), None)
    if column is None:
        raise UsageError(f"{path}: has no column of people ({', '.join(IDS)}); add one")
    return tuple(frame[column])


def _check_units(path: Path, icv: NDArray[np.float64], column: str) -> None:
    """Volumes must be mm^3: the ICV of a head says whether they are.

    Raises
    ------
    UsageError
        Where the median ICV is that of another unit.
    """
    known = icv[np.isfinite(icv) & (icv > 0)]
    if not known.size:
        raise UsageError(f"{path}: column {column!r} has no positive number; give intracranial volumes in mm^3")
    middle = float(np.median(known))
    if PLAUSIBLE_ICV[0] <= middle <= PLAUSIBLE_ICV[1]:
        return
    guess = next((word for factor, word in UNITS if PLAUSIBLE_ICV[0] <= middle * factor <= PLAUSIBLE_ICV[1]), None)
    told = f"looks like {guess}" if guess else "is no intracranial volume, or volumes were normalised"
    raise UsageError(f"{path}: column {column!r} has median {middle:g}, which {told}; give volumes in mm^3")


UNITS = ((1e3, "cm^3"), (1e6, "litres"))
