"""From tables of volumes to people, with what is wrong named by column and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bids_brainage.bids import roi_tables
from bids_brainage.bids.region_names import region_labels, region_names
from bids_brainage.bids.roi_tables import ICV, RoiTable, check_share
from bids_brainage.bids.tables import is_missing
from bids_brainage.cohort.people import People
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, write_json
from bids_brainage.models.roi import MOST_EMPTY

if TYPE_CHECKING:
    import pandas as pd

Names = Literal["muse", "published"]

RACES = {
    **dict.fromkeys(("white", "caucasian"), "White"),
    **dict.fromkeys(("black", "african american", "black or african american"), "Black"),
    "asian": "Asian",
}
SHOWN = 3
MISSING = ("", "n/a")
SUFFIXES = (".tsv", ".csv", ".parquet")
Faults = Iterator[tuple[str, str, NDArray[np.bool_]]]


def people_of(
    table: RoiTable,
    path: Path,
    *,
    by: Sequence[str] = ("sex",),
    indices: Sequence[int] | None = None,
    icv: bool = False,
) -> People:
    """Everybody in a table, who must all be complete.

    Parameters
    ----------
    path : Path
        The table, for messages.
    by : sequence of str
        Columns that divide people; ``race`` is read as White, Black or Asian, others as they are written.
    indices : sequence of int, optional
        MUSE indices of the volumes that are wanted, in order (default: all that the table has).
    icv : bool
        Whether the intracranial volume goes with them.

    Raises
    ------
    UsageError
        For the first column with a fault: it and the first people with it are named.
    """
    people, reasons = complete_people(table, path, by=by, indices=indices, icv=icv)
    if reasons:
        for column, what, rows in _faults(table, by, people.indices, icv):
            if rows.any():
                shown = [table.who[i] for i in np.flatnonzero(rows)[:SHOWN]]
                more = ", ..." if rows.sum() > SHOWN else ""
                raise UsageError(
                    f"{path}: {column} {what} in {int(rows.sum())} rows ({', '.join(shown)}{more}); "
                    "correct them or take them out"
                )
    return people


def read_people(path: Path, *, needs_icv: bool = True) -> People:
    """All people of a table, by sex, with the intracranial volume where it is there.

    Parameters
    ----------
    path : Path
    needs_icv : bool
        Whether a table without intracranial volumes is refused.

    Raises
    ------
    UsageError
        Where it cannot be read, or as of :func:`people_of`.
    """
    table = roi_tables.read(path, icv=needs_icv)
    return people_of(table, path, icv=ICV in table.columns)


def complete_people(
    table: RoiTable,
    path: Path,
    *,
    by: Sequence[str] = ("sex",),
    indices: Sequence[int] | None = None,
    icv: bool = False,
) -> tuple[People, dict[str, str]]:
    """Those in a table who are complete, and why each of the others is not; else as :func:`people_of`.

    Raises
    ------
    UsageError
        Where somebody stands twice, a column is absent, or the units of regions and intracranial volume differ.
    """
    wanted = tuple(indices) if indices is not None else _regions(table)
    _check_columns(table, path, by, wanted, icv)
    volumes, heads = table.select(wanted), table.select([ICV])[:, 0]
    if ICV in table.columns:
        check_share(path, volumes, heads)
    reasons: dict[str, str] = {}
    for column, what, rows in _faults(table, by, wanted, icv):
        for row in np.flatnonzero(rows):
            reasons.setdefault(table.who[row], f"{column} {what}")
    good = np.array([who not in reasons for who in table.who])
    years = np.array([np.nan if age.years is None else age.years for age in table.age])
    categories = {name: np.array(_values(table, name), dtype=str) for name in by}
    everybody = People(table.who, years, categories, wanted, volumes, heads if icv else None)
    return everybody.take(good), reasons


def frame_of(people: People, names: Names = "muse") -> pd.DataFrame:
    """People as a table: participant_id, categories, age, MUSE_702 where known, MUSE_<index>; or as published.

    The published data set has SampleID, Sex, Race, Age and the names of the regions.
    """
    import pandas as pd

    published = names == "published"
    labels = region_labels() if published else {}
    columns: dict[str, Any] = {"SampleID" if published else "participant_id": people.who}
    named = {**people.categories, "age": people.age}
    columns |= {name.capitalize() if published else name: values for name, values in named.items()}
    if people.icv is not None:
        columns["ICV" if published else f"MUSE_{ICV}"] = people.icv
    regions = [labels.get(index, f"MUSE_{index}") for index in people.indices]
    return pd.concat([pd.DataFrame(columns), pd.DataFrame(people.volumes, columns=regions)], axis=1)


def write(path: Path, people: People, *, names: Names = "muse", about: Mapping[str, Any]) -> Path:
    """Write people as TSV, CSV or parquet, by the suffix, and ``about`` them as JSON beside it; volumes to 0.001 mm^3.

    Raises
    ------
    UsageError
        Where the suffix is another one, or parquet cannot be written here.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: has no suffix of {', '.join(SUFFIXES)}; name the file with one")
    frame = frame_of(people, names).round(3)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            try:
                frame.to_parquet(temporary)
            except ImportError:
                raise UsageError(
                    f"{path}: parquet needs pyarrow (pip install pyarrow); or write .tsv or .csv"
                ) from None
        else:
            frame.to_csv(temporary, sep="," if path.suffix == ".csv" else "\t", index=False, na_rep="n/a")
    write_json(path.with_suffix(".json"), {"Units": {"age": "years", "volumes": "mm^3"}, **about})
    return path


def with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of text whose columns that hold nothing but numbers are numbers."""
    import pandas as pd

    found = frame.copy()
    for name in frame:
        values = pd.to_numeric(frame[name], errors="coerce")
        if values[~frame[name].isin(MISSING)].notna().all():
            found[name] = values
    return found


def write_volumes(path: Path, frame: pd.DataFrame, columns: Mapping[int, str], people: People) -> None:
    """A table, its volumes (``columns`` by MUSE index) exchanged for those of its people, who are in its order."""
    if path.suffix not in (".tsv", ".csv"):
        raise UsageError(f"{path}: its suffix must be .tsv or .csv")
    volumes = {
        columns[index]: [f"{value:.3f}" for value in people.volumes[:, column]]
        for column, index in enumerate(people.indices)
    }
    with atomic(path) as temporary:
        frame.assign(**volumes).to_csv(temporary, sep="," if path.suffix == ".csv" else "\t", index=False)


def _regions(table: RoiTable) -> tuple[int, ...]:
    known = set(region_names().values())
    return tuple(sorted(index for index in table.columns if index in known))


def _values(table: RoiTable, name: str) -> list[str]:
    """Values of a column of categories, empty where there is none that is known."""
    if name == "sex":
        return [sex or "" for sex in table.sex]
    cells = ["" if is_missing(cell) else cell.strip() for cell in table.others.get(name, ())]
    return [RACES.get(cell.lower(), "") for cell in cells] if name == "race" else cells


def _faults(table: RoiTable, by: Sequence[str], indices: Sequence[int], icv: bool) -> Faults:
    """Column, what is wrong with it, and in which rows."""
    yield "age", "is missing, censored or no number", np.array([age.years is None for age in table.age])
    for name in by:
        known = {"sex": "F or M", "race": "White, Black or Asian"}.get(name)
        what = f"is not {known}" if known else "is missing"
        yield name, what, np.array([not value for value in _values(table, name)])
    for index in (*indices, *((ICV,) if icv else ())):
        column = table.select([index])[:, 0]
        name = table.columns[index]
        yield name, "is missing or no number", ~np.isfinite(column)
        if index == ICV:
            yield name, "is zero or negative", np.isfinite(column) & (column <= 0)
        else:
            yield name, "is negative", np.isfinite(column) & (column < 0)
    empty = (table.select(indices) == 0).sum(axis=1)
    yield "the table", f"has more than {MOST_EMPTY} empty regions, so that segmentation failed,", empty > MOST_EMPTY


def _check_columns(table: RoiTable, path: Path, by: Sequence[str], indices: Sequence[int], icv: bool) -> None:
    absent = [f"MUSE_{index}" for index in (*indices, *((ICV,) if icv else ())) if index not in table.columns]
    absent += [name for name in by if name != "sex" and name not in table.others]
    if absent:
        more = ", ..." if len(absent) > SHOWN else ""
        raise UsageError(f"{path}: lacks {len(absent)} columns ({', '.join(absent[:SHOWN])}{more}); add them")
    once: set[str] = set()
    for who in table.who:
        if who in once:
            raise UsageError(f"{path}: {who} stands in several rows; keep one row a person")
        once.add(who)
