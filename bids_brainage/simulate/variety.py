"""People whose brains age unevenly: what a model of local brain age is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bids_brainage.simulate import aging
from bids_brainage.simulate.lobes import LOBES
from bids_brainage.simulate.local import GROUPS
from bids_brainage.simulate.person import Person

GAP_SD = 4.0
FIELD_SD, FIELD_MM = (3.0, 8.0), (15.0, 40.0)
OFFSET_SHARE, OFFSET_SD, MOST_PLACES = 0.5, 8.0, 3
"""Share of people with offsets, their SD in years, and in how many places at most."""
PLACES = (*LOBES, *GROUPS, "thalamus", "caudate", "putamen", "hippocampus")
SIDES = ("", "", "left_", "right_")


def varied(people: Sequence[Person], seed: int) -> list[Person]:
    """The people with a gap, a random field and, in a share of them, offsets in places; each drawn for the person.

    Gaps and offsets have no mean, so that nobody's group is older. Volumes vary between people as in
    `aging.RELATED`. What is drawn here is the prior of a model that learns from it: the less people differ from place
    to place, the less of a real difference it will show.

    Parameters
    ----------
    people : sequence of Person
    seed : int

    Returns
    -------
    list of Person
        ``gap`` of SD 4 years; a field of SD 3 to 8 years over 15 to 40 mm; in half of the people one to three places,
        on one side or both, by offsets of SD 8 years.
    """
    found = []
    for number, person in enumerate(people):
        rng = np.random.default_rng((seed, 3, number))
        found.append(
            replace(
                person,
                gap=round(float(rng.normal(0, GAP_SD)), 2),
                field_sd=round(float(rng.uniform(*FIELD_SD)), 2),
                field_mm=round(float(rng.uniform(*FIELD_MM)), 1),
                offsets=_offsets(rng) if rng.random() < OFFSET_SHARE else {},
                variation=aging.RELATED,
            )
        )
    return found


def _offsets(rng: np.random.Generator) -> Mapping[str, float]:
    places = rng.choice(PLACES, rng.integers(1, MOST_PLACES + 1), replace=False)
    return {f"{rng.choice(SIDES)}{place}": round(float(rng.normal(0, OFFSET_SD)), 2) for place in places}
