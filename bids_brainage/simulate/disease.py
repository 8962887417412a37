"""Groups of people whose brains are older in places: ``NAME:REGION+YEARS[,REGION+YEARS]:SHARE``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bids_brainage.core.errors import UsageError
from bids_brainage.simulate.local import offsets_by_parcel
from bids_brainage.simulate.person import Person

CONTROL = "control"
"""Group of those whom no disease meets."""
_FORM = "give NAME:REGION+YEARS[,REGION+YEARS]:SHARE, e.g. AD:medial_temporal+15,temporal+6:0.3"
_OFFSET = re.compile(r"([a-z_0-9]+)([+-]\d+(?:\.\d+)?)", re.ASCII)


class Disease(NamedTuple):
    """A group: its name, what is planted (years by region), and the share of people who belong to it."""

    name: str
    offsets: Mapping[str, float]
    share: float


def read(text: str) -> Disease:
    """A disease from its description.

    Raises
    ------
    UsageError
        Where the text has another form, names no region, or the share is not between 0 and 1.
    """
    parts = text.split(":")
    if len(parts) != 3 or not re.fullmatch(r"[A-Za-z0-9]+", parts[0], re.ASCII) or parts[0] == CONTROL:
        raise UsageError(f"--disease {text}: cannot be read; {_FORM}")
    found = [_OFFSET.fullmatch(one.strip()) for one in parts[1].split(",")]
    if not all(found) or len({one[1] for one in found if one}) < len(found):
        raise UsageError(f"--disease {text}: its regions cannot be read, or one stands twice; {_FORM}")
    offsets = {one[1]: float(one[2]) for one in found if one}
    offsets_by_parcel(offsets)
    if not re.fullmatch(r"\d*\.?\d+", parts[2].strip(), re.ASCII) or not 0 < float(parts[2]) <= 1:
        raise UsageError(f"--disease {text}: a share of {parts[2]}; give a number above 0 and up to 1")
    return Disease(parts[0], offsets, float(parts[2]))


def spread(people: Sequence[Person], diseases: Sequence[Disease], seed: int) -> list[Person]:
    """Give each disease to its share of the people, drawn at random; the others are controls.

    Raises
    ------
    UsageError
        Where the shares sum to more than 1, or two diseases bear one name.
    """
    if len({d.name for d in diseases}) < len(diseases):
        raise UsageError("--disease: two bear the same name; give each its own")
    if sum(d.share for d in diseases) > 1 + 1e-9:
        raise UsageError("--disease: the shares sum to more than 1; give smaller ones")
    order = np.random.default_rng((seed, 2)).permutation(len(people)).tolist()
    found = [replace(p, group=CONTROL) for p in people] if diseases else list(people)
    for disease in diseases:
        take, order = order[: round(disease.share * len(people))], order[round(disease.share * len(people)) :]
        for i in take:
            found[i] = replace(found[i], group=disease.name, offsets=disease.offsets)
    return found
