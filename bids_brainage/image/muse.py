"""The 145 regions of the MUSE atlas (Doshi et al. 2016): numbers, names, classes, sides, mirrors, composites."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image.classes import NUMBER

ICV = 702
"""Composite: everything inside the skull. It is measured from the intracranial mask, not summed."""
CORTICAL_CSF = 600
"""Composite: CSF around the brain, what the ICV holds beside the brain (MUSE label 1 and 46)."""
TOTAL_BRAIN = 701
OUTSIDE_BRAIN = (1, 46, 69)
"""Labels of a MUSE segmentation that are CSF outside the brain."""


class Region(NamedTuple):
    """One of the 145 single regions."""

    number: int
    name: str
    class_name: str
    side: str
    mirror: int


class Composite(NamedTuple):
    """A union of single regions."""

    number: int
    name: str
    members: tuple[int, ...]


def data_rows(name: str) -> list[dict[str, str]]:
    """Rows of a table of the package."""
    text = files("bids_brainage.data").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


@cache
def regions() -> tuple[Region, ...]:
    """The 145 regions in the order of their numbers."""
    rows = data_rows("muse_rois.tsv")
    return tuple(Region(int(r["index"]), r["name"], r["class"], r["side"], int(r["mirror"])) for r in rows)


@cache
def composites() -> tuple[Composite, ...]:
    """The composites that are sums of single regions (all but the ICV and the CSF around the brain)."""
    rows = data_rows("muse_composites.tsv")
    return tuple(Composite(int(r["index"]), r["name"], tuple(map(int, r["members"].split()))) for r in rows)


def columns(labels: NDArray[np.integer]) -> NDArray[np.int16]:
    """Columns of an atlas for MUSE labels: 0 to 144 regions, 145 CSF outside the brain, 146 the rest."""
    table = np.full(256, len(regions()) + 1, dtype=np.int16)
    table[[region.number for region in regions()]] = np.arange(len(regions()))
    table[list(OUTSIDE_BRAIN)] = len(regions())
    return np.asarray(table[labels])


def mirrored() -> NDArray[np.int16]:
    """For each of the 147 columns, the column of the same region on the other side."""
    column = {region.number: position for position, region in enumerate(regions())}
    return np.array([*(column[region.mirror] for region in regions()), 145, 146], dtype=np.int16)


def classes() -> NDArray[np.int16]:
    """For each of the 147 columns, the network's class: CSF for column 145, background for 146."""
    return np.array([*(NUMBER[region.class_name] for region in regions()), NUMBER["csf"], 0], dtype=np.int16)
