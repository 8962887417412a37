"""Which MUSE region a column of the published files is, by whatever of its names it bears."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from bids_brainage.bids.roi_tables import NUMBERED
from bids_brainage.image.muse import regions

HARMONISED = re.compile(r"^H_")
BETWEEN = re.compile(r"[^A-Za-z0-9]+")
SHORT = re.compile(r"[A-Z][A-Za-z]{1,4}")
SIDES = {"right": "r", "left": "l", "r": "r", "l": "l"}
IDLE = frozenset({"lobe", "of", "the", "inc", "including", "cerebral", "peduncle"})
SAME = {
    "whitematter": "wm",
    "inferiorlateral": "inflat",
    "inflatventricle": "inflatvent",
    "lobulesviiix": "lobules8to10",
    "lobulesvivii": "lobules6to7",
    "lobulesiv": "lobules1to5",
}


def index_of(name: str, other_names: Mapping[str, str] | None = None) -> int | None:
    """MUSE index of a region; ``None`` where no region is called so.

    Parameters
    ----------
    name : str
        ``H_MUSE_Volume_47``, ``MUSE_47``, ``47``, ``Hippocampus_R``, ``Right Hippocampus``, ``Right AIns anterior
        insula``, ``frontal lobe WM right`` or the like, with or without ``H_`` before it.
    other_names : mapping, optional
        Another name by name, or the other way round, e.g. that of the published ``col_dict``.
    """
    other = dict(other_names or {})
    for candidate in (name, other.get(name), {new: old for old, new in other.items()}.get(name)):
        found = None if candidate is None else _index(candidate)
        if found is not None:
            return found
    return None


def _index(name: str) -> int | None:
    name = HARMONISED.sub("", name, count=1)
    if numbered := NUMBERED.fullmatch(name):
        return int(numbered[1]) if int(numbered[1]) in _by_key().values() else None
    side, words = _parts(name)
    found = _by_key().get(side + _key(words))
    if found is None and words and SHORT.fullmatch(words[0]):
        found = _by_key().get(side + _key(words[1:]))
    return found


@cache
def _by_key() -> dict[str, int]:
    """Index of each region by its side and its words run together."""
    parts = {region.number: _parts(region.name) for region in regions()}
    return {side + _key(words): index for index, (side, words) in parts.items()}


def _parts(name: str) -> tuple[str, list[str]]:
    """Side (``r:``, ``l:`` or nothing) and the other words of a name."""
    words = [word for word in BETWEEN.split(name) if word]
    side = next((SIDES[word.lower()] for word in words if word.lower() in SIDES), "")
    return f"{side}:", [word for word in words if word.lower() not in SIDES]


def _key(words: list[str]) -> str:
    text = "".join(word.lower() for word in words if word.lower() not in IDLE)
    for old, new in SAME.items():
        text = text.replace(old, new)
    return text
