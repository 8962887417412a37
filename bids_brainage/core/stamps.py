"""Checksums that are remembered: whether a file is as it was when it was read, without reading it again.

The rule is that of git's index (Documentation/technical/racy-git.txt): a file whose size, times and inode are those of
then is the same, unless it was written so shortly before it was read that a later write could bear the same time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bids_brainage.core.files import sha256

SETTLED = 10.0
"""Seconds: coarser than the times of any file system, and than most clocks of hosts and file servers differ."""


def stamp(path: Path) -> str:
    """Size in bytes, times of the last write and of the last change in ns since 1970, and inode; empty without a file.

    The time of change is the system's own: a copy that keeps the time of writing (``cp -p``) moves it nevertheless.
    """
    try:
        return _text(path.stat())
    except OSError:
        return ""


def _text(seen: os.stat_result) -> str:
    return f"{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns} {seen.st_ino}"


def checksum(path: Path, settled: float = SETTLED) -> tuple[str, str]:
    """sha256 of a file with its stamp, or why it cannot be read.

    Parameters
    ----------
    settled : float
        Seconds for which the file must have been left alone.

    Returns
    -------
    str, str
        The stamp is empty where another write could leave the same one: such a file is to be read each time.
    """
    try:
        now, before = time.time_ns(), path.stat()
        found = sha256(path)
    except OSError as error:
        return f"unreadable ({error.strerror})", ""
    quiet = max(before.st_mtime_ns, before.st_ctime_ns) + settled * 1e9 < now
    return found, _text(before) if quiet and stamp(path) == _text(before) else ""


def recalled(path: Path, known: str, mark: str) -> str:
    """sha256 of a file: ``known`` where its stamp is still ``mark``, else by reading it."""
    return known if known and mark and stamp(path) == mark else checksum(path)[0]
