"""Names of MUSE regions, and which region a column of a table is, by whatever of its names it bears."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from io import StringIO

import pandas as pd

NUMBERED = re.compile(r"(?:MUSE_(?:Volume_)?|DL_MUSE_Volume_|DLMUSE_|H_MUSE_Volume_|ROI_)?(\d+)", re.IGNORECASE)

HARMONISED = re.compile(r"^H_", re.IGNORECASE)
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


def region_names() -> dict[str, int]:
    """MUSE index of each region by its name."""
    return {name: index for index, name in _named("muse_rois.tsv", "name").items()}


def region_labels() -> dict[int, str]:
    """Name of each region in released tables, by MUSE index, in the order of the indices."""
    return _named("muse_labels.tsv", "label")


def _named(table: str, column: str) -> dict[int, str]:
    text = (files("bids_brainage") / "data" / table).read_text("utf-8")
    frame = pd.read_csv(StringIO(text), sep="\t")
    return {int(index): str(name) for index, name in zip(frame["index"], frame[column], strict=True)}


def index_of(name: str, other_names: Mapping[str, str] | None = None) -> int | None:
    """MUSE index of a region; ``None`` where no region is called so.

    Parameters
    ----------
    name : str
        ``H_MUSE_Volume_47``, ``MUSE_47``, ``47``, ``Hippocampus_R``, ``Right Hippocampus``, ``Right AIns anterior
        insula``, ``frontal lobe WM right`` or the like, in any case, with or without ``H_`` before it.
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
    """Index of each region by its side and its words run together, of its name and of its label."""
    labelled = [(label, index) for index, label in region_labels().items()]
    parts = [(_parts(name), index) for name, index in (*labelled, *region_names().items())]
    return {side + _key(words): index for (side, words), index in parts}


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
