"""Which T1w files a dataset holds: pybids' index, told to look at nothing else, and a saved copy, never stale."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bids_brainage.core.errors import UsageError

if TYPE_CHECKING:
    from bids import BIDSLayout

SUFFIX = "T1w"
EXTENSIONS = (".nii.gz", ".nii")
DATABASE = "layout_index.sqlite"
FOLDER = "bids-brainage"
NOWHERE = "is a link to nowhere; get its content"
ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")


class Name(NamedTuple):
    """A BIDS file name in its parts; entity values as written."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> Name | None:
    """Take a file name apart, or ``None`` where it is not made of entities, suffix and extension.

    Examples
    --------
    >>> parse_name("sub-01_run-02_T1w.nii.gz")
    Name(entities={'sub': '01', 'run': '02'}, suffix='T1w', extension='.nii.gz')
    >>> parse_name("sub-01_copy_T1w.nii.gz") is None
    True
    """
    stem, dot, extension = name.partition(".")
    *parts, suffix = stem.split("_")
    pairs = [ENTITY.fullmatch(part) for part in parts]
    if not pairs or None in pairs or not suffix.isalnum():
        return None
    found = [(match[1], match[2]) for match in pairs if match]
    entities = dict(found)
    if len(entities) != len(found) or found[0][0] != "sub":
        return None
    return Name(entities, suffix, dot + extension)


class Folders(NamedTuple):
    """Participants by the folders that are there.

    Attributes
    ----------
    subjects : list of str
        Labels of participants, sorted.
    dangling : list of Path
        Participant folders that are links to nowhere.
    """

    subjects: list[str]
    dangling: list[Path]


def folders(root: Path) -> Folders:
    """List the participants; their own folders are not looked into.

    Raises
    ------
    UsageError
        Where the dataset cannot be listed.
    """
    subjects, dangling = [], []
    try:
        entries = sorted(_entries(root), key=lambda e: e.name)
    except OSError as error:
        raise UsageError(f"{root}: cannot be listed ({error.strerror}); check its permissions") from None
    for entry in entries:
        if not entry.name.startswith("sub-"):
            continue
        if entry.is_dir():
            subjects.append(entry.name.removeprefix("sub-"))
        elif entry.is_symlink():
            dangling.append(Path(entry.path))
    return Folders(subjects, dangling)


class Sessions(NamedTuple):
    """Session labels of a participant, sorted; and folders of sessions and images that are links to nowhere."""

    labels: tuple[str, ...]
    lost: tuple[Path, ...]

    def lost_of(self, chosen: Collection[str]) -> list[Path]:
        """Links to nowhere of the chosen sessions; of all where none is chosen."""
        folders = {f"ses-{session}" for session in chosen}
        return [path for path in self.lost if not folders or folders & set(path.parts)]


def sessions_in(folder: Path) -> Sessions:
    """Sessions of a participant; none where its folder cannot be listed (:func:`unlistable` tells)."""
    try:
        entries = sorted(_entries(folder), key=lambda e: e.name)
    except OSError:
        return Sessions((), ())
    sessions = [e for e in entries if e.name.startswith("ses-")]
    there = [e for e in sessions if e.is_dir()]
    links = [Path(e) for e in entries if (e in sessions or e.name == "anat") and e.is_symlink()]
    links += [Path(e) / "anat" for e in there]
    lost = tuple(path for path in links if os.path.islink(path) and not os.path.exists(path))  # noqa: PTH110, PTH114
    return Sessions(tuple(e.name.removeprefix("ses-") for e in there), lost)


def unlistable(folder: Path) -> str:
    """Why a participant's folder, or one with images in it, cannot be listed; empty where all can."""
    try:
        for _ in _listed(
            folder, tuple(e.name.removeprefix("ses-") for e in _entries(folder) if e.name.startswith("ses-"))
        ):
            pass
    except OSError as error:
        return f"{error.filename} cannot be listed ({error.strerror}); check its permissions"
    return ""


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def listed(root: Path, sessions: dict[str, tuple[str, ...]]) -> list[Path]:
    """Every T1w file by plain listing of the ``anat`` folders; sorted, without people of whom one cannot be listed."""
    found: list[Path] = []
    for subject, of_one in sessions.items():
        with suppress(OSError):
            found += list(_listed(root / f"sub-{subject}", of_one))
    return sorted(found)


def _listed(folder: Path, sessions: tuple[str, ...]) -> Iterator[Path]:
    for place in (folder, *(folder / f"ses-{session}" for session in sessions)):
        if (place / "anat").is_dir():
            for entry in _entries(place / "anat"):
                if entry.name.startswith("sub-") and entry.name.endswith(tuple(f"_{SUFFIX}{e}" for e in EXTENSIONS)):
                    yield Path(entry.path)


def t1w_files(
    root: Path, sessions: dict[str, tuple[str, ...]], database_dir: Path | None = None, *, chosen: bool = False
) -> list[Path]:
    """Every T1w file of a dataset, through pybids, or of chosen participants, by listing their folders; sorted.

    pybids asks the file system about every entry at the root, and a saved index must be held against a listing anyway:
    for chosen participants neither is worth its calls.

    With ``database_dir`` pybids' index is kept in its subfolder ``bids-brainage`` (apart from other tools' indexes,
    which hold other files). It is used when it names exactly the files that a plain listing of the ``anat`` folders
    finds, and made anew otherwise, so that a file that came or went since is never missed.

    Parameters
    ----------
    root : Path
        Absolute path of the dataset.
    sessions
        Session labels by participant label, of all participants that are wanted (:func:`sessions_in`).
    chosen
        Whether these are not all of the dataset: then a saved index is neither used nor made.

    Raises
    ------
    UsageError
        Where ``database_dir`` cannot be written.
    """
    if chosen:
        return listed(root, sessions)
    if database_dir is None:
        return _index(root, sessions, None)
    return _saved(root, Path(database_dir).absolute() / FOLDER, sessions)


def _pattern(only: Collection[str]) -> re.Pattern[str]:
    """What pybids is to leave out: all but ``sub-*/[ses-*/]anat/*_T1w.nii[.gz]`` and the folders on the way."""
    who = "|".join(map(re.escape, sorted(only))) or "[^/]+"
    wanted = rf"sub-(?:{who})(?:/ses-[^/]+)?(?:/anat(?:/sub-[^/]*_T1w\.nii(?:\.gz)?)?)?"
    return re.compile(rf"\A/(?!{wanted}\Z)")


def _layout(root: Path, database: Path | None, only: Collection[str] = (), *, anew: bool = True) -> BIDSLayout:
    from bids import BIDSLayout, BIDSLayoutIndexer

    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[_pattern(only)])
    return BIDSLayout(root, validate=False, database_path=database, reset_database=anew, indexer=indexer)


def _index(root: Path, sessions: Iterable[str], database: Path | None) -> list[Path]:
    """Index the dataset; pybids ends at a folder that it may not read, so such participants are left out then."""
    try:
        return _query(_layout(root, database))
    except PermissionError:
        able = [subject for subject in sessions if not unlistable(root / f"sub-{subject}")]
        return _query(_layout(root, database, able)) if able else []


def _query(layout: BIDSLayout) -> list[Path]:
    """All T1w files of an index; its connection is closed."""
    found = layout.get(suffix=SUFFIX, extension=list(EXTENSIONS), return_type="filename")
    layout.session.close()
    layout.connection_manager.engine.dispose()
    return sorted(map(Path, found))


def _saved(root: Path, folder: Path, sessions: dict[str, tuple[str, ...]]) -> list[Path]:
    """The files of the saved index if they are those that are listed; else index again and save."""
    from sqlalchemy.exc import SQLAlchemyError

    here = listed(root, sessions)
    if (folder / DATABASE).is_file():
        try:
            if _query(_layout(root, folder, anew=False)) == here:
                return here
        except (SQLAlchemyError, OSError, ValueError, AttributeError, TypeError):
            pass  # damaged, of another version of pybids, or of a dataset that is gone: made anew below
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            found = _index(root, sessions, Path(fresh))
            (Path(fresh) / DATABASE).replace(folder / DATABASE)
    except (OSError, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or getattr(error, "strerror", error))
        raise UsageError(
            f"{folder}: cannot save the dataset index ({reason}); give another --bids-database-dir"
        ) from None
    return found
