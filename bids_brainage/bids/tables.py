"""Tab-separated tables, read strictly and written atomically, and what a dataset says about its people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import read_json, write_text

if TYPE_CHECKING:
    import pandas as pd

MISSING = frozenset({"", "n/a", "na", "nan", "none", "null", "<na>"})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
KEYS = ("participant_id", "session_id")
LONGEST = 16
ANNEX_POINTER = b"/annex/objects/"
NO_CONTENT = "is a git-annex pointer without content; get it, e.g. by `datalad get`"


def is_missing(value: str) -> bool:
    """Whether a cell says that there is no value (``n/a`` and its misspellings)."""
    return value.strip().lower() in MISSING


def is_there(path: Path) -> bool:
    """Whether something has this name; also a link to nowhere, which is no reason to do without the table."""
    return path.is_symlink() or path.exists()


def dictionary(path: Path) -> Mapping[str, Any]:
    """What the JSON file of a table says of it; empty where there is none.

    Raises
    ------
    UsageError
        Where it cannot be read, or is no JSON object.
    """
    if not is_there(path):
        return {}
    try:
        content = read_json(path)
    except BrainAgeError as error:
        raise UsageError(str(error)) from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: is not a JSON object of columns; correct or remove it")
    return content


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read a TSV file; every cell stays the text that was written.

    Blank lines at the end and empty cells beyond the last column are passed over; Windows line ends and a
    byte-order mark are fine.

    Returns
    -------
    list of dict
        One per row, by column name; row ``i`` stands in line ``i + 2`` of the file.

    Raises
    ------
    UsageError
        Where the file cannot be read, has no content yet (git-annex), is not UTF-8, has a column twice, or a line has
        too few or too many cells.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable") from None
    if content.startswith(ANNEX_POINTER):
        raise UsageError(f"{path}: {NO_CONTENT}")
    lines = _lines(path, content)
    if not lines:
        raise UsageError(f"{path}: is empty; give a table with a header line, or remove the file")
    columns = [name.strip() for name in lines[0].rstrip("\t").split("\t")]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice or "" in columns:
        raise UsageError(
            f"{path}: line 1: column {(twice or [''])[0]!r} stands twice or has no name; name each column once"
        )
    return [_row(path, number, columns, line) for number, line in enumerate(lines[1:], start=2)]


def _lines(path: Path, content: bytes) -> list[str]:
    """Decoded lines without the blank ones at the end."""
    lines = []
    for number, line in enumerate(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), start=1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            raise UsageError(f"{path}: line {number}: is not UTF-8 text; save the table as UTF-8") from None
        if "\0" in lines[-1]:
            raise UsageError(f"{path}: line {number}: is not text; save the table as UTF-8")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _row(path: Path, number: int, columns: Sequence[str], line: str) -> dict[str, str]:
    cells = line.split("\t")
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(columns):
        problem = f"has {len(cells)} cells where the header has {len(columns)}"
        raise UsageError(
            f"{path}: line {number}: {problem}; separate cells by one tab and write n/a for missing values"
        )
    return dict(zip(columns, (cell.strip() for cell in cells), strict=True))


def cell(value: Any) -> str:
    """One value as it stands in a TSV: ``n/a`` for what is missing, no tab or line break.

    Raises
    ------
    ValueError
        For an infinite number.
    """
    if value is None or value is ...:
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float):
            if math.isinf(number):
                raise ValueError("an infinite value does not belong in a table")
            return "n/a" if math.isnan(number) else repr(number)
        value = number
    text = re.sub(r"[\t\r\n]+", " ", str(value)).strip()
    return "n/a" if is_missing(text) else text


def write_tsv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Path:
    """Write a TSV file atomically: UTF-8, ``n/a`` for what is missing or not in a row.

    Parameters
    ----------
    rows
        One mapping per row; keys that are not in ``columns`` are not written.
    columns
        Names and order of the columns.
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(cell(row.get(name)) for name in columns) for row in rows]
    return write_text(path, "\n".join(lines) + "\n")


def with_prefix(label: str, key: str) -> str:
    """``01`` or ``sub-01`` -> ``sub-01``; what is missing stays empty."""
    label = label.strip()
    return "" if is_missing(label) else f"{key}-{label.removeprefix(key + '-')}"


def participants_frame(bids_dir: Path, phenotype: Path | None = None) -> pd.DataFrame:
    """What the dataset says about its people: ``participants.tsv``, ``sessions.tsv`` and a further table.

    A row without ``session_id`` holds for all sessions of its participant; a row with one holds for it alone. Where
    two tables have the same column, the later one wins: ``participants.tsv``, ``sub-*_sessions.tsv``, ``phenotype``.

    Columns whose values are all numbers become numbers, unless one is written with a leading zero (a code).

    Parameters
    ----------
    phenotype : Path, optional
        TSV with ``participant_id`` and, if it differs by session, ``session_id``.

    Returns
    -------
    pandas.DataFrame
        ``participant_id`` (``sub-01``) and ``session_id`` (``ses-1`` or empty), and all other columns.

    Raises
    ------
    UsageError
        Where a table is malformed, lacks ``participant_id``, or describes somebody twice in different words.
    """
    import pandas as pd

    bids_dir = Path(bids_dir)
    tables: list[tuple[Path, list[dict[str, str]]]] = []
    if is_there(bids_dir / "participants.tsv"):
        tables.append((bids_dir / "participants.tsv", read_tsv(bids_dir / "participants.tsv")))
    for path in sorted(bids_dir.glob("sub-*/sub-*_sessions.tsv")):
        tables.append((path, [{"participant_id": path.parent.name, **row} for row in read_tsv(path)]))
    if phenotype is not None:
        tables.append((Path(phenotype), read_tsv(Path(phenotype))))
    people: dict[tuple[str, str], dict[str, str]] = {}
    columns: dict[str, None] = {}
    for path, rows in tables:
        for key, row in _by_person(path, rows).items():
            people.setdefault(key, {}).update(row)
            columns.update(dict.fromkeys(row))
    frame = pd.DataFrame([[*key, *map(row.get, columns)] for key, row in people.items()], columns=[*KEYS, *columns])
    for name in columns:
        frame[name] = _typed(frame[name])
    return frame


def _by_person(path: Path, rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """Rows by (participant, session), without missing values."""
    people: dict[tuple[str, str], dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if "participant_id" not in row:
            raise UsageError(
                f"{path}: has no column participant_id (it has {', '.join(row)}); add it, and separate by tabs"
            )
        key = (with_prefix(row["participant_id"], "sub"), with_prefix(row.get("session_id", ""), "ses"))
        values = {name: value for name, value in row.items() if name not in KEYS and not is_missing(value)}
        if people.setdefault(key, values) != values:
            raise UsageError(
                f"{path}: line {number}: {' '.join(key).strip()} stands there twice with different values; keep one"
            )
    return people


def _typed(column: pd.Series) -> pd.Series:
    """Numbers where all that is written are plain numbers."""
    import pandas as pd

    written = column.dropna()
    return pd.to_numeric(column) if len(written) and all(map(_is_number, written)) else column


def _is_number(text: str) -> bool:
    """A plain number, no code: none with zeros in front, no whole one of so many digits that a float rounds it."""
    is_code = re.match(r"[+-]?0\d", text) or (text.lstrip("+-").isdigit() and len(text) >= LONGEST)
    return bool(NUMBER.fullmatch(text)) and not is_code


def meets_nobody(path: Path, table: pd.DataFrame) -> list[str]:
    """Participants (and sessions) of a further table who are not in ``table``, as :func:`join_people` joins them.

    Raises
    ------
    UsageError
        Where nobody of it is.
    """
    subjects = [with_prefix(str(value), "sub") for value in table["participant_id"]]
    sessions = [with_prefix("" if is_missing(str(value)) else str(value), "ses") for value in table["session_id"]]
    known = {*((subject, "") for subject in subjects), *zip(subjects, sessions, strict=True)}
    keys = list(_by_person(path, read_tsv(path)))
    lost = [" ".join(filter(None, key)) for key in keys if key not in known]
    if keys and len(lost) == len(keys):
        found = but_for_zeros(keys[0][0], subjects)
        hint = f"; there is {found}: were zeros, or sessions, lost?" if found else ""
        raise UsageError(f"{path}: nobody of it has a result, e.g. {lost[0]}{hint}; correct its participant_id")
    return lost


def but_for_zeros(who: str, others: Iterable[str]) -> str:
    """The participant whose label differs by leading zeros alone; empty where there is none.

    Examples
    --------
    >>> but_for_zeros("sub-1", ["sub-01", "sub-02"])
    'sub-01'
    """
    bare = {other.removeprefix("sub-").lstrip("0"): other for other in others}
    return bare.get(who.removeprefix("sub-").lstrip("0"), "")


def join_people(table: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of :func:`participants_frame` to a table of results.

    A value of the row's session is taken before one of the participant; columns that ``table`` has stay as they are.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``participant_id`` and, where there are sessions, ``session_id`` (with or without their prefixes).

    Returns
    -------
    pandas.DataFrame
        ``table`` in its order with further columns; ``NaN`` where nothing is known.
    """
    wanted = [name for name in people.columns if name not in table.columns and name not in KEYS]
    subjects = [with_prefix(str(value), "sub") for value in table["participant_id"]]
    sessions = (
        [with_prefix(str(value), "ses") for value in table["session_id"]]
        if "session_id" in table
        else [""] * len(table)
    )
    known = people.set_index(list(KEYS))[wanted]
    of_person = known.reindex([(subject, "") for subject in subjects])
    of_session = known.reindex(list(zip(subjects, sessions, strict=True)))
    joined = table.copy()
    for name in wanted:
        specific, general = of_session[name].reset_index(drop=True), of_person[name].reset_index(drop=True)
        joined[name] = specific.where(specific.notna(), general).to_numpy()
    return joined
