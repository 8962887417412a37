"""Which code made something: a changed line must make it anew, also where the version is the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bids_brainage.core.files import sha256, sha256_of


@cache
def package_source(part: str = "") -> str:
    """sha256 of all Python source of this package, or of one of its packages, e.g. ``image``."""
    root = Path(__file__).parents[1]
    return sha256_of({str(p.relative_to(root)): sha256(p) for p in sorted((root / part).rglob("*.py"))})
