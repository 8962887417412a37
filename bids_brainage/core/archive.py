"""The files of a folder, a zip or a tar, copied flat: nothing lands elsewhere, nothing but plain files is taken."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from io import BytesIO
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_ISREG
from typing import IO, NamedTuple, TypeVar

from bids_brainage.core.errors import BundleError

LARGEST = 2 << 30
MOST = 1000
UNREADABLE = (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, LZMAError, RuntimeError)
T = TypeVar("T")


class Member(NamedTuple):
    """One entry: its path within, bytes (its reader gives no more), whether it is a plain file, and how to read it."""

    path: str
    size: int
    plain: bool
    open: Callable[[], IO[bytes] | None]


def unpack(source: Path, target: Path, beside: str, *, largest: int = LARGEST) -> None:
    """Copy ``beside`` and the files beside it, from wherever in ``source`` it lies, into the new folder ``target``.

    Parameters
    ----------
    source : Path
        A folder, ``.zip``, or ``.tar`` with or without compression.
    target : Path
        Made here; its parent exists.
    beside : str
        A file name that must occur once.
    largest : int
        Bytes of the largest file that is taken.

    Raises
    ------
    BundleError
        Where the source cannot be read, lacks ``beside``, or holds a link, a path that leaves it, a name twice, too
        many files or one that is too large.
    OSError
        Where the target cannot be written.
    """
    with _members(source) as members:
        chosen = _beside(source, members, beside, largest)
        target.mkdir()
        for member in chosen:
            _copy(source, member, target / PurePosixPath(member.path).name)


def read_member(source: Path, name: str, *, largest: int = LARGEST) -> bytes:
    """The bytes of the one file called ``name`` in a folder, zip (``.npz``) or tar; looked at as by :func:`unpack`.

    Raises
    ------
    BundleError
        As :func:`unpack`.
    """
    with _members(source) as members:
        (chosen,) = (m for m in _beside(source, members, name, largest) if PurePosixPath(m.path).name == name)
        with BytesIO() as content:
            _copy_to(source, chosen, content)
            return content.getvalue()


def _beside(source: Path, members: Sequence[Member], beside: str, largest: int) -> list[Member]:
    """The members in the folder of ``beside``, all members having been looked at."""
    for member in members:
        path = PurePosixPath(member.path)
        if path.is_absolute() or ".." in path.parts or "\\" in member.path:
            raise BundleError(f"{source}: {member.path!r} leaves the bundle; it is refused")
        if not member.plain:
            raise BundleError(f"{source}: {member.path!r} is a link or no plain file; it is refused")
        if member.size > largest:
            raise BundleError(f"{source}: {member.path!r} is too large ({member.size} bytes); it is refused")
    paths = [PurePosixPath(member.path) for member in members]
    if len(paths) > MOST or len(set(paths)) < len(paths):
        raise BundleError(f"{source}: holds over {MOST} files, or one name twice; it is refused")
    homes = [path.parent for path in paths if path.name == beside]
    if len(homes) != 1:
        raise BundleError(f"{source}: holds {len(homes)} {beside} where one is wanted; give one bundle")
    return [member for member, path in zip(members, paths, strict=True) if path.parent == homes[0]]


def _copy(source: Path, member: Member, target: Path) -> None:
    with target.open("xb") as copy:
        _copy_to(source, member, copy)


def _copy_to(source: Path, member: Member, copy: IO[bytes]) -> None:
    stream = _reading(source, member.open)
    if stream is None:
        raise BundleError(f"{source}: {member.path!r} cannot be read; it is refused")
    with stream:
        while chunk := _reading(source, lambda: stream.read(1 << 20)):
            copy.write(chunk)


def _reading(source: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"{source}: cannot be read ({reason}); get it again") from None


@contextmanager
def _members(source: Path) -> Iterator[list[Member]]:
    """All entries that are no folders, while the source is open."""
    if source.is_dir():
        yield _reading(source, lambda: _of_folder(source))
    elif _reading(source, lambda: zipfile.is_zipfile(source)):
        with _reading(source, lambda: zipfile.ZipFile(source)) as packed:
            yield _of_zip(packed)
    else:
        with closing(_reading(source, lambda: tarfile.open(source))) as packed_tar:
            yield _reading(source, lambda: _of_tar(packed_tar))


def _of_folder(source: Path) -> list[Member]:
    paths = [path for path in sorted(source.iterdir()) if path.is_symlink() or not path.is_dir()]
    stats = [path.lstat() for path in paths]
    return [Member(p.name, s.st_size, S_ISREG(s.st_mode), _opener(p)) for p, s in zip(paths, stats, strict=True)]


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _of_zip(packed: zipfile.ZipFile) -> list[Member]:
    """Entries of a zip; one whose system stored no mode is a plain file."""
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    modes = [entry.external_attr >> 16 for entry in entries]
    plain = [S_IFMT(mode) == 0 or S_ISREG(mode) for mode in modes]
    return [
        Member(e.filename, e.file_size, is_plain, partial(packed.open, e))
        for e, is_plain in zip(entries, plain, strict=True)
    ]


def _of_tar(packed: tarfile.TarFile) -> list[Member]:
    entries = [entry for entry in packed if not entry.isdir()]
    return [Member(e.name, e.size, e.isreg(), partial(packed.extractfile, e)) for e in entries]
