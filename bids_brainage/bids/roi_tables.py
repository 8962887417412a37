"""Tables of MUSE volumes that somebody already has, in the forms in which they are found.

A row a person: columns ``MUSE_47``, ``DL_MUSE_Volume_47`` (DLMUSE), bare ``47``, the regions' names, or those of
released GenMIND tables ("Right Hippocampus", "H_..."); people under ``participant_id``, ``MRID`` or the like. Or the
app's own ``*_desc-muse_volumes.tsv``, one scan.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.bids.ages import parse_age, parse_sex
from bids_brainage.bids.region_names import NUMBERED, index_of, region_names
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Age, Sex

IDS = ("participant_id", "MRID", "subject_id", "subject", "PTID", "SampleID", "id")
ICV = 702
ICV_NAMES = ("icv", "dlicv", "dl_icv", "702")
PLAUSIBLE_ICV = (4e5, 3.5e6)
ENOUGH = 100
"""Regions from which their sum says which unit they have."""
SHARE_OF_ICV = (0.3, 1.2)
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
    others : mapping of str to tuple of str
        Cells of the other columns, ``race`` for instance, by their names in lower case.
    """

    who: tuple[str, ...]
    age: tuple[Age, ...]
    sex: tuple[Sex | None, ...]
    columns: dict[int, str]
    volumes: NDArray[np.float64]
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Volumes of some indices, ``(n, indices)``, mm^3; ``nan`` throughout where there is no such column."""
        place = {index: position for position, index in enumerate(self.columns)}
        found = np.full((len(self.who), len(indices)), np.nan)
        for column, index in enumerate(indices):
            if index in place:
                found[:, column] = self.volumes[:, place[index]]
        return found


def read(path: Path, *, icv: bool = True) -> RoiTable:
    """Read a table (TSV, CSV or parquet, by its suffix) in any of these forms; ``icv``: it must have the ICV.

    Raises
    ------
    UsageError
        Where it cannot be read, has no MUSE volumes or no ICV that it must have, names a region twice, or its volumes
        are not in mm^3.
    """
    return parsed(path, load(path), icv=icv)


def parsed(path: Path, frame: pd.DataFrame, *, icv: bool = True) -> RoiTable:
    """The same of what :func:`load` gave; ``path`` for messages."""
    if _is_long(frame.columns):
        frame = _wide(path, frame)
    columns = _volume_columns(path, frame, icv)
    who = _people(path, frame)
    volumes = frame[list(columns.values())].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    if ICV in columns:
        _check_units(path, volumes[:, list(columns).index(ICV)], f"column {columns[ICV]!r}")
    elif len(columns) >= ENOUGH:
        _check_units(path, volumes.sum(axis=1), "the sum of the regions")
    named = {name.lower(): name for name in frame.columns}
    age = frame[named["age"]] if "age" in named else [""] * len(frame)
    sex = frame[named["sex"]] if "sex" in named else [""] * len(frame)
    return RoiTable(
        who,
        tuple(parse_age(str(text), None, path.name) for text in age),
        tuple(parse_sex(str(text), None, path.name)[0] for text in sex),
        columns,
        volumes,
        {name.lower(): tuple(map(str, frame[name])) for name in frame.columns if name not in set(columns.values())},
    )


def check_share(path: Path, regions: NDArray[np.float64], icv: NDArray[np.float64]) -> None:
    """Regions, shape (n, 145), and ICV, shape (n,), must have one unit.

    Raises
    ------
    UsageError
        Where the regions together are, in the median, no plausible share of the ICV.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nansum(regions, axis=1) / icv
    middle = float(np.median(share[np.isfinite(share)])) if np.isfinite(share).any() else np.nan
    if regions.shape[1] >= ENOUGH and not SHARE_OF_ICV[0] <= middle <= SHARE_OF_ICV[1]:
        raise UsageError(
            f"{path}: the regions sum to {middle:.3g} of the intracranial volume, so that their units differ or they "
            "were normalised; give both in mm^3"
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
            frame = _text(path, "," if path.suffix == ".csv" else "\t")
    except (OSError, ValueError, ImportError, pd.errors.ParserWarning) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: cannot be read ({reason}); give a TSV, CSV or parquet table") from None
    if frame.empty:
        raise UsageError(f"{path}: has no row; give a table with a row a person")
    return frame


def _text(path: Path, separator: str) -> pd.DataFrame:
    """Cells as text; rows that have more of them than the header are refused, as they would move to other columns."""
    how: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    header = pd.read_csv(path, header=None, nrows=1, **how).iloc[0].tolist()
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise UsageError(f"{path}: has the column {twice[0]!r} {header.count(twice[0])} times; take one out")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(path, index_col=False, **how)


def is_of_one_scan(path: Path) -> bool:
    """Whether a table has the form of the app's own ``*_desc-muse_volumes.tsv``, whatever it is called."""
    if path.suffix == ".parquet":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return _is_long(stream.readline().strip().replace(",", "\t").split("\t"))


def _is_long(columns: Collection[str]) -> bool:
    return set(LONG[::2]) <= set(columns)


def _wide(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The app's own table of one scan as one row."""
    again = frame["index"][frame["index"].duplicated()]
    if len(again):
        raise UsageError(
            f"{path}: has region {again.iloc[0]} more than once, so it is of several scans; "
            "give a table with a row a person, or each scan's own"
        )
    stem = path.name.removesuffix("_desc-muse_volumes.tsv")
    row = {f"MUSE_{index}": value for index, value in zip(frame["index"], frame["volume_mm3"], strict=True)}
    return pd.DataFrame([{"participant_id": stem, **row}])


def _volume_columns(path: Path, frame: pd.DataFrame, icv: bool = True) -> dict[int, str]:
    """Name of the column of each MUSE index."""
    known, found = set(region_names().values()), dict[int, str]()
    for column in map(str, frame.columns):
        numbered = NUMBERED.fullmatch(column)
        index = int(numbered[1]) if numbered else index_of(column)
        if index is None and column.lower() in ICV_NAMES:
            index = ICV
        if index is None:
            continue
        if index in found:
            raise UsageError(f"{path}: columns {found[index]!r} and {column!r} are the same region; keep one")
        found[index] = column
    if not set(found) & known:
        raise UsageError(f"{path}: has no column of MUSE volumes (MUSE_47, DL_MUSE_Volume_47, 47 or names); add them")
    if icv and ICV not in found:
        raise UsageError(f"{path}: has no intracranial volume (MUSE_702, DL_MUSE_Volume_702, 702 or ICV); add it")
    return found


def _people(path: Path, frame: pd.DataFrame) -> tuple[str, ...]:
    named = {name.lower(): name for name in map(str, frame.columns)}
    column = next((named[name.lower()] for name in IDS if name.lower() in named), None)
    if column is None:
        raise UsageError(f"{path}: has no column of people ({', '.join(IDS)}); add one")
    return tuple(frame[column])


def _check_units(path: Path, whole: NDArray[np.float64], what: str) -> None:
    """Volumes must be mm^3: the ICV of a head, or the sum of its regions, says whether they are.

    Raises
    ------
    UsageError
        Where the median is that of another unit.
    """
    known = whole[np.isfinite(whole) & (whole > 0)]
    if not known.size:
        raise UsageError(f"{path}: {what} has no positive number; give volumes in mm^3")
    middle = float(np.median(known))
    if PLAUSIBLE_ICV[0] <= middle <= PLAUSIBLE_ICV[1]:
        return
    guess = next((word for factor, word in UNITS if PLAUSIBLE_ICV[0] <= middle * factor <= PLAUSIBLE_ICV[1]), None)
    told = f"looks like {guess}" if guess else "is no intracranial volume, or volumes were normalised"
    raise UsageError(f"{path}: {what} has median {middle:g}, which {told}; give volumes in mm^3")


UNITS = ((1e3, "cm^3"), (1e6, "litres"))
