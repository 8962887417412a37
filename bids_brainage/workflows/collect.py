"""All brain ages of a derivative dataset, from its ``*_brainage.tsv`` tables alone."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bids_brainage.core.errors import UsageError
from bids_brainage.workflows.makers import Maker, Makers, counted, maker

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("bids_brainage")
SUFFIX = "_brainage.tsv"
MISSING = frozenset({"n/a", "nan", "NaN", ""})
NUMBERS = ("brain_age", "brain_age_low", "brain_age_high", "age")
TEXTS = ("model", "sex", "flags", "note", "training_data")
NAMES = ("participant_id", "session_id", "scan", "run", "acquisition")
READERS = 4
CHUNK = 500
SECONDS_BETWEEN_LINES = 3.0

Row = tuple[str | float, ...]


class Collected(NamedTuple):
    """All rows of all readable tables, and what could not be read.

    ``scans`` has the columns :data:`NAMES`, :data:`TEXTS` (missing text is ``""``) and :data:`NUMBERS` (years,
    ``nan``), in the order of the names; ``damaged`` one line a table; ``n_tables`` all tables found; ``makers`` how
    many of them are of which version, models and template.
    """

    scans: pd.DataFrame
    damaged: tuple[str, ...]
    n_tables: int
    makers: Makers


def collect(out_dir: Path, participants: Collection[str] = (), sessions: Collection[str] = ()) -> Collected:
    """Read every ``sub-*/[ses-*/]anat/*_brainage.tsv``.

    Parameters
    ----------
    out_dir : Path
        The derivative dataset.
    participants : collection of str
        Labels, with or without ``sub-``; default all.
    sessions : collection of str
        Labels, with or without ``ses-``; default all.

    Raises
    ------
    UsageError
        Where there is no table, or none that can be read, or none for a participant or session that is asked for.
    """
    import pandas as pd

    asked = frozenset(f"sub-{label.removeprefix('sub-')}" for label in participants)
    wanted = set(asked)
    subjects = _subjects(out_dir, wanted)
    rows: list[Row] = []
    damaged: list[str] = []
    makers: Counter[tuple[str, Maker]] = Counter()
    n_tables = 0
    for found in _read_all(out_dir, subjects):
        rows.extend(found.rows)
        makers.update(found.makers)
        damaged.extend(found.damaged)
        wanted.difference_update(found.people)
        n_tables += found.n_tables
    if wanted or not n_tables:
        of = f"brain age of {', '.join(sorted(wanted))}" if wanted else f"sub-*/anat/*{SUFFIX}"
        raise UsageError(f"{out_dir}: holds no {of}; run the participant level first")
    if not rows:
        what = f"none of its {n_tables} tables of brain ages can be read, e.g. {damaged[0]}"
        raise UsageError(f"{out_dir}: {what}; run the participant level again")
    scans = pd.DataFrame.from_records(rows, columns=[*NAMES, *TEXTS, *NUMBERS])
    if sessions:
        named = {f"ses-{label.removeprefix('ses-')}" for label in sessions}
        absent = named - set(scans["session_id"])
        if absent:
            raise UsageError(f"{out_dir}: holds no brain age of {', '.join(sorted(absent))}; correct --session-label")
        scans = scans[scans["session_id"].isin(named)].reset_index(drop=True)
        if lost := asked - set(scans["participant_id"]):
            of = f"{', '.join(sorted(lost))} in {', '.join(sorted(named))}"
            raise UsageError(f"{out_dir}: holds no brain age of {of}; correct --participant-label or --session-label")
        damaged = [line for line in damaged if "/ses-" not in line or any(f"/{name}/" in line for name in named)]
    scans = scans.astype(dict.fromkeys((*TEXTS, "run"), "category"))
    kept = set(scans["session_id"])
    of_kept: Counter[Maker] = Counter()
    for (session, made_by), count in makers.items():
        of_kept[made_by] += count if session in kept else 0
    return Collected(scans.astype(dict.fromkeys(NUMBERS, float)), tuple(damaged), n_tables, counted(+of_kept))


def _subjects(out_dir: Path, wanted: Collection[str]) -> list[str]:
    try:
        with os.scandir(out_dir) as entries:
            names = sorted(e.name for e in entries if e.name.startswith("sub-") and not e.name.endswith(".html"))
    except OSError as error:
        raise UsageError(
            f"{out_dir}: cannot be read ({error.strerror}); give the folder of the participant level"
        ) from None
    return [name for name in names if not wanted or name in wanted]


def find_tables(root: str, subject: str) -> list[str]:
    """Paths of a participant's tables relative to ``root`` (which ends in ``/``), sorted."""
    found = _tables_in(root, f"{subject}/anat")
    for name in _listed(root + subject):
        if name.startswith("ses-"):
            found += _tables_in(root, f"{subject}/{name}/anat")
    return sorted(found)


def _tables_in(root: str, folder: str) -> list[str]:
    names = _listed(root + folder)
    return [f"{folder}/{name}" for name in names if name.endswith(SUFFIX) and not name.startswith(".")]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - half the time of Path.iterdir
    except (FileNotFoundError, NotADirectoryError):
        return []


class _Chunk(NamedTuple):
    rows: list[Row]
    damaged: list[str]
    people: set[str]
    n_tables: int
    makers: Counter[tuple[str, Maker]]


def _read_all(out_dir: Path, subjects: list[str]) -> Iterator[_Chunk]:
    """Chunks in order, a few threads reading ahead; says how far it is every few seconds."""
    root, last, done = f"{out_dir}/", time.monotonic(), 0
    iterator = iter(subjects)
    chunks = iter(lambda: list(islice(iterator, CHUNK)), [])
    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(_read_chunk, root, chunk) for chunk in islice(chunks, 2 * READERS)]
        while waiting:
            found = waiting.pop(0).result()
            waiting.extend(pool.submit(_read_chunk, root, chunk) for chunk in islice(chunks, 1))
            done = min(done + CHUNK, len(subjects))
            if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                LOG.info("brain ages of %d of %d participants read", done, len(subjects))
            yield found


def _read_chunk(root: str, subjects: list[str]) -> _Chunk:
    rows: list[Row] = []
    damaged: list[str] = []
    people: set[str] = set()
    makers: Counter[tuple[str, Maker]] = Counter()
    n_tables = 0
    for subject in subjects:
        try:
            paths = find_tables(root, subject)
        except OSError as error:
            damaged.append(f"{subject}: cannot be read ({error.strerror})")
            continue
        n_tables += len(paths)
        people.update([subject] if paths else [])
        for path in paths:
            try:
                rows.extend(read_table(root, path))
                makers[str(rows[-1][1]), maker(Path(root + path).with_suffix(".json"))] += 1
            except OSError as error:
                damaged.append(f"{path}: cannot be read ({error.strerror})")
            except ValueError as error:
                damaged.append(f"{path}: {error}")
    return _Chunk(rows, damaged, people, n_tables, makers)


def read_table(root: str, path: str) -> list[Row]:
    """Rows of one table, as tuples of :data:`NAMES`, :data:`TEXTS` and :data:`NUMBERS`.

    Parameters
    ----------
    root : str
        What stands before ``path``, with its ``/``.
    path : str
        ``sub-01/[ses-pre/]anat/sub-01_..._brainage.tsv``.

    Raises
    ------
    ValueError
        With what is wrong, where the table is damaged.
    """
    with open(root + path, "rb") as stream:  # noqa: PTH123
        lines = stream.read().decode("utf-8").split("\n")
    header = lines[0].rstrip("\r").split("\t")
    position = {name: index for index, name in enumerate(header)}
    if "model" not in position or "brain_age" not in position:
        raise ValueError("lacks the column model or brain_age")
    texts = [position.get(name, -1) for name in TEXTS]
    numbers = [position.get(name, -1) for name in NUMBERS]
    names = _names(path)
    rows: list[Row] = []
    for line in lines[1:]:
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(header):
            if line in ("", "\r"):
                continue
            raise ValueError(f"a row has {len(cells)} cells for {len(header)} columns")
        rows.append((*names, *(_text(cells, i) for i in texts), *(_number(cells, i, header) for i in numbers)))
    models = {row[len(NAMES)] for row in rows}
    if not rows or "" in models or len(models) < len(rows):
        raise ValueError("holds no row" if not rows else "a model is not named, or stands there twice")
    return rows


def _names(path: str) -> tuple[str, ...]:
    """Participant, session, scan, run and acquisition (the scan without ``rec-``) from the path."""
    stem = path.rpartition("/")[2].removesuffix(SUFFIX)
    parts = stem.split("_")
    session = next((part for part in parts if part.startswith("ses-")), "")
    run = next((part[4:] for part in parts if part.startswith("run-")), "")
    acquisition = "_".join(part for part in parts if not part.startswith("rec-"))
    if not path.startswith(f"{parts[0]}/{session}/" if session else f"{parts[0]}/anat/"):
        raise ValueError("its name does not begin with the names of its folders")
    return parts[0], session, stem, run, acquisition


def _text(cells: list[str], index: int) -> str:
    return "" if index < 0 or cells[index] in MISSING else cells[index]


def _number(cells: list[str], index: int, header: list[str]) -> float:
    if index < 0 or cells[index] in MISSING:
        return math.nan
    try:
        number = float(cells[index])
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{header[index]} {cells[index]!r} is not a number")
    return number
