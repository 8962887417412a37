"""Atomic writes and content hashes: nothing half-written ever stands under a final name."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import BrainAgeError

DIGITS = 12


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with the same extensions; rename it to ``path`` on success.

    Missing folders are made. On any error the temporary file is removed and ``path`` is left as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrainAgeError(
            f"{path.parent}: cannot create this folder ({error.strerror}); check its permissions"
        ) from None
    temporary = path.with_name(f".{uuid.uuid4().hex[:DIGITS]}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise BrainAgeError(f"cannot write {path} ({error.strerror}); check space and permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def refresh(path: Path, text: str) -> bool:
    """Write UTF-8 text atomically, unless the file holds just that; returns whether it was written."""
    try:
        if Path(path).read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass  # not there, or damaged: written below
    write_text(path, text)
    return True


def sweep(folder: Path, *starts: str) -> None:
    """Remove what killed writers of files whose names begin with any of ``starts`` left in a folder, listed once."""
    for path in Path(folder).glob(f".{'[0-9a-f]' * DIGITS}.*"):
        if path.name[DIGITS + 2 :].startswith(starts):
            path.unlink(missing_ok=True)


def named(text: str) -> tuple[str, Path]:
    """``NAME=PATH``, or a path alone, which is named after its folder: name and absolute path.

    Examples
    --------
    >>> named("/data/fmriprep-20.2")
    ('fmriprep-202', PosixPath('/data/fmriprep-20.2'))
    """
    name, equals, place = text.partition("=")
    path = Path(place if equals else text).expanduser().absolute()
    return (name if equals else re.sub(r"[^a-zA-Z0-9_-]", "", path.name)), path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON atomically: two spaces of indent, keys in the given order, no NaN."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a one-line :class:`BrainAgeError` where it is not valid."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BrainAgeError(f"{path}: not a readable JSON file ({error}); correct or remove it") from None


def copy(source: Path, target: Path) -> Path:
    """Copy a file atomically."""
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
    return Path(target)


def make_writable(folder: Path) -> None:
    """Make a folder and try a file in it that is gone at once; ``OSError`` where either is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def alone(path: Path, waits: Callable[[], object], patience: float = 0.0) -> AbstractContextManager[Any]:
    """The lock of a file, held: one process has it at a time, and the system takes it from one that dies.

    ``waits`` is called once where another has it for ``patience`` seconds more; then it is waited for.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        return lock.acquire(timeout=patience)
    except Timeout:
        waits()
        return lock.acquire()


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes; for a folder, of the names and contents of all files below it."""
    path = Path(path)
    if path.is_dir():
        total = hashlib.sha256()
        for member in sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            total.update(f"{member.relative_to(path)}\0{sha256(member)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(content: Any) -> str:
    """Hexadecimal sha256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def shortened(value: Any) -> str:
    """A value with its hashes cut, to be read by people."""
    return " ".join(word[:8] if len(word) >= 40 else word for word in str(value).split(" "))


def contents_of(paths: Iterable[Path]) -> str:
    """One sha256 of what several files hold, whatever their names and order."""
    return sha256_of(sorted(sha256(path) for path in paths))


def git_blob(path: Path) -> str:
    """Name that git gives to a file's bytes: SHA-1 of ``blob <size>``, a zero byte, and the content."""
    path = Path(path)
    total = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()
