"""Age and sex of a scan: ``sub-XX_sessions.tsv`` first, then ``participants.tsv``; never a silent guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bids_brainage.bids.tables import NUMBER, dictionary, is_missing, is_there, read_tsv, with_prefix
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Age, Sex

AGE_COLUMNS = ("age", "participant_age", "age_at_scan", "age_at_session", "session_age")
SEX_COLUMNS = ("sex", "participant_sex", "gender")
YEARS_PER = {"year": 1.0, "month": 1 / 12, "week": 7 / 365.25, "day": 1 / 365.25}
UNITS = {
    **dict.fromkeys(("", "year", "years", "yr", "yrs", "y", "a"), "year"),
    **dict.fromkeys(("month", "months", "mo", "mos"), "month"),
    **dict.fromkeys(("week", "weeks", "wk", "wks"), "week"),
    **dict.fromkeys(("day", "days", "d"), "day"),
}
OLDEST = 125.0
WORDS: dict[str, Sex] = {
    **dict.fromkeys(("f", "female", "females", "woman", "women", "girl", "girls"), "F"),
    **dict.fromkeys(("m", "male", "males", "man", "men", "boy", "boys"), "M"),
}
CENSORED = re.compile(r"([<>≤≥]=?|over|above|under|below).*\d.*|.*\d.*(\+|or (older|above|more|over))", re.IGNORECASE)
NOT_BY_SESSION = "age_not_by_session"


class Person(NamedTuple):
    """What is known of the person at one scan.

    Attributes
    ----------
    age : Age
    sex : {"F", "M"} or None
    sex_note : str
        Why a sex that is written could not be read, or empty.
    flags : tuple of str
        ``age_not_by_session`` where one age stands for several sessions.
    """

    age: Age
    sex: Sex | None
    sex_note: str
    flags: tuple[str, ...] = ()


class _Source(NamedTuple):
    """One table with its data dictionary; rows and their line numbers by participant (``""`` in ``sessions.tsv``)."""

    name: str
    level: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[tuple[int, Mapping[str, str]]]]
    dictionary: Mapping[str, Any]


class _Cell(NamedTuple):
    """What a table says of a person: ``written`` in ``column``, or ``note`` where it says nothing or two things."""

    written: str = ""
    column: str = ""
    note: str = ""
    contradictory: bool = False


def parse_age(written: str, units: Any = None, where: str = "participants.tsv") -> Age:
    """One written age as years.

    Parameters
    ----------
    written : str
        The cell.
    units
        ``Units`` of the column's data dictionary: years (also where there is none), months, weeks or days.
    where : str
        The file, for the note.

    Returns
    -------
    Age
        ``years`` is ``None``, and ``note`` says why, where the age is missing, censored ("89+"), not a number,
        negative, above 125 years, or in unknown units.
    """
    text = written.strip()
    if is_missing(text):
        return Age(None, f"age is missing in {where}")
    if CENSORED.fullmatch(text):
        return Age(None, f"age {text!r} in {where} is censored")
    if NUMBER.fullmatch(text) is None:
        return Age(None, f"age {text!r} in {where} is not a number")
    word = "" if units is None else str(units).strip().lower().rstrip(".")
    unit = UNITS.get("" if is_missing(word) else word)
    if unit is None:
        return Age(
            None,
            f"age {text!r} in {where} is in units {str(units)!r}, not years, months, weeks or days",
        )
    years = float(text) * YEARS_PER[unit]
    if years < 0:
        return Age(None, f"age {text!r} in {where} is negative")
    if years > OLDEST:
        return Age(
            None, f"age {text!r} in {where} is {years:g} years by its units ({unit}); check Units in its JSON file"
        )
    return Age(years, "")


def parse_sex(written: str, levels: Any = None, where: str = "participants.tsv") -> tuple[Sex | None, str]:
    """One written sex as ``F`` or ``M``, or ``None`` and why.

    Parameters
    ----------
    levels
        ``Levels`` of the column's data dictionary (code -> description); what it says of a code comes first.
    """
    text = written.strip()
    if is_missing(text):
        return None, f"sex is missing in {where}"
    named = _level(text, levels)
    meant = {
        WORDS[word]
        for word in re.findall(r"[a-z]+", named.lower())
        if word in WORDS and (len(word) > 1 or len(named) == 1)
    }
    if len(meant) == 1:
        return meant.pop(), ""
    if text.lower() in WORDS:
        return WORDS[text.lower()], ""
    return None, f"sex {text!r} in {where} is not female or male; explain the code by Levels in its JSON file"


def _level(text: str, levels: Any) -> str:
    """Description of a code, or empty."""
    if not isinstance(levels, Mapping):
        return ""
    folded = {str(key).strip().lower(): value for key, value in levels.items()}
    value = levels.get(text, folded.get(text.lower(), ""))
    if isinstance(value, Mapping):
        value = value.get("Description", "")
    return str(value).strip()


class Register:
    """Age and sex of everybody in a dataset. Tables are read once, those of a participant when first asked for.

    Parameters
    ----------
    bids_dir : Path

    Raises
    ------
    UsageError
        Where ``participants.tsv`` or a data dictionary cannot be read.
    """

    def __init__(self, bids_dir: Path) -> None:
        self._root = Path(bids_dir)
        self._participants = self._read(self._root / "participants.tsv", {}, "sub")
        self._sessions_json = dictionary(self._root / "sessions.json")
        self._sessions: dict[str, _Source | None] = {}

    def of(self, subject: str, session: str | None = None, n_sessions: int = 1) -> Person:
        """What is known of a participant at a session.

        Parameters
        ----------
        subject, session : str
            Labels without prefix.
        n_sessions : int
            How many sessions the participant has: an age of ``participants.tsv`` is flagged where there are several.

        Raises
        ------
        UsageError
            Where the participant's ``sessions.tsv`` cannot be read.
        """
        sources = [s for s in (self._sessions_of(subject) if session else None, self._participants) if s is not None]
        age, flags = _age(sources, subject, session, n_sessions)
        sex, note = _sex(sources, subject, session)
        return Person(age, sex, note, flags)

    def _sessions_of(self, subject: str) -> _Source | None:
        if subject not in self._sessions:
            path = self._root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
            self._sessions[subject] = self._read(path, self._sessions_json, "ses")
        return self._sessions[subject]

    def _read(self, path: Path, inherited: Mapping[str, Any], level: str) -> _Source | None:
        """A table with its dictionary, or ``None`` where there is no such file."""
        if not is_there(path):
            return None
        rows = read_tsv(path)
        columns = tuple(rows[0]) if rows else ()
        key = "participant_id" if level == "sub" else "session_id"
        if rows and key not in columns:
            raise UsageError(f"{path}: has no column {key} (it has {', '.join(columns)}); add it, and separate by tabs")
        people: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
        for number, row in enumerate(rows, start=2):
            people.setdefault(with_prefix(row["participant_id"], "sub") if level == "sub" else "", []).append(
                (number, row)
            )
        return _Source(path.name, level, columns, people, {**inherited, **dictionary(path.with_suffix(".json"))})


def _age(sources: Sequence[_Source], subject: str, session: str | None, n_sessions: int) -> tuple[Age, tuple[str, ...]]:
    """The first table that speaks of the person's age decides.

    A session that is listed without an age does not take the participant's one where there are several sessions: to
    which of them that belongs is not known.
    """
    notes = []
    for source in sources:
        cell = _find(source, AGE_COLUMNS, subject, session)
        if cell.contradictory:
            return Age(None, cell.note), ()
        if not cell.column:
            notes.append(cell.note)
            continue
        age = parse_age(cell.written, _entry(source, cell.column, "Units"), source.name)
        if is_missing(cell.written) and source.level == "ses" and n_sessions == 1:
            notes.append(age.note)
            continue
        by_session = "session_id" in source.columns
        return age, (NOT_BY_SESSION,) if age.years is not None and n_sessions > 1 and not by_session else ()
    note = next(filter(None, notes), "")
    return (Age(None, note) if note else Age()), ()


def _sex(sources: Sequence[_Source], subject: str, session: str | None) -> tuple[Sex | None, str]:
    """The first table that gives a sex decides; there is no note where none does."""
    for source in sources:
        cell = _find(source, SEX_COLUMNS, subject, session)
        if cell.contradictory:
            return None, cell.note
        if not is_missing(cell.written):
            return parse_sex(cell.written, _entry(source, cell.column, "Levels"), source.name)
    return None, ""


def _entry(source: _Source, column: str, key: str) -> Any:
    """What the data dictionary says of a column, whose name it may write in other case, as a table may."""
    described = source.dictionary.get(column)
    if described is None:
        described = next((v for k, v in source.dictionary.items() if k.casefold() == column.casefold()), None)
    return described.get(key) if isinstance(described, Mapping) else None


def _find(source: _Source, names: Sequence[str], subject: str, session: str | None) -> _Cell:
    """The cell of a person in the first of the columns that the table has."""
    column = next((c for name in names for c in source.columns if c.lower() == name), "")
    if not column:
        return _Cell()
    rows = _rows_of(source, subject, session)
    if not rows:
        return _Cell(note=_absent(source, subject))
    written: dict[str, int] = {}
    for number, row in rows:
        written.setdefault(row[column], number)
    stated = {value: number for value, number in written.items() if not is_missing(value)}
    if len(stated) > 1:
        said = " and ".join(f"{value!r} (line {number})" for value, number in stated.items())
        return _Cell(note=f"{column} of sub-{subject} in {source.name} is both {said}", contradictory=True)
    return _Cell(next(iter(stated or written)), column)


def _rows_of(source: _Source, subject: str, session: str | None) -> list[tuple[int, Mapping[str, str]]]:
    """Rows of a person, with their line numbers; only those of the session where the table tells sessions apart."""
    rows = list(source.rows.get(f"sub-{subject}" if source.level == "sub" else "", ()))
    if "session_id" not in source.columns:
        return rows
    wanted = with_prefix(session or "", "ses")
    of_session = [(number, row) for number, row in rows if with_prefix(row["session_id"], "ses") == wanted]
    return of_session or [(number, row) for number, row in rows if is_missing(row["session_id"])]


def _absent(source: _Source, subject: str) -> str:
    """Why a person has no row, with what looks like a lost zero."""
    if source.level == "ses":
        return ""
    if f"sub-{subject}" in source.rows:
        return f"no row of this session of sub-{subject} in {source.name}"
    bare = subject.lstrip("0")
    alike = next((name for name in source.rows if name.removeprefix("sub-").lstrip("0") == bare), "") if bare else ""
    hint = f" (there is {alike.removeprefix('sub-')!r}: was a zero lost?)" if alike else ""
    return f"no row of sub-{subject} in {source.name}{hint}"
