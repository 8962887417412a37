"""Pairs of scans of one person with the same errors, with and without planted years: what changes, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.simulate.local import Spot
from bids_brainage.simulate.maps import Scheme, Site
from bids_brainage.simulate.person import Person
from bids_brainage.training.validate import measures
from bids_brainage.training.validate.people import SPOTS, Subject
from bids_brainage.training.validate.scenes import Scene, Stage, spacing_of

SPOT_YEARS, SPOT_SD = 15.0, 5.0
"""Height (years) and SD (mm) of a point offset."""
LEAST_KNOWN = 0.05
"""Share of a point offset's height from which a place counts when its middle is sought."""


class Arm(NamedTuple):
    """A scan with planted years beside its reference: years, the mask of the region, and each model's change."""

    years: float
    region: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    planted: NDArray[np.float32]
    changes: list[NDArray[np.float32]]


class Measure(NamedTuple):
    """One figure of one model of one person."""

    model: int
    quantity: str
    value: float


def with_offset(person: Person, region: str, years: float) -> Person:
    """The same person, some years older in a region."""
    return replace(person, offsets={**person.offsets, region: person.offsets.get(region, 0.0) + years})


def arm(stage: Stage, subject: Subject, reference: Scene, planted: tuple[str, float], how: tuple[Scheme, Site]) -> Arm:
    """The scan that differs from ``reference`` by an offset alone; ``planted`` is the region and the years."""
    region, years = planted
    found = stage.scene(with_offset(subject.person, region, years), subject.age, subject.scans[0], *how)
    brain = _brain(stage, reference, found)
    where = measures.inside(reference.truth, found.truth, years) & brain
    return Arm(years, where, brain, found.truth - reference.truth, _changes(reference, found))


def measured(arms: list[Arm], spacing: float) -> Iterator[Measure]:
    """Slopes inside and in shells around a region, change by offset, and localisation, of each model.

    Parameters
    ----------
    arms : list of Arm
        Of one person and region.
    spacing : float
        Voxel size, mm.
    """
    usable = [a for a in arms if a.region.any()]
    if not usable:
        return
    zones = [measures.zones(measures.distance(a.region, spacing), a.brain) for a in usable]
    years = [a.years for a in usable]
    for k in range(len(usable[0].changes)):
        for zone in zones[0]:
            means = [_mean(a.changes[k], z[zone]) for a, z in zip(usable, zones, strict=True)]
            name = "slope_inside" if zone == "inside" else f"leakage {zone}"
            yield Measure(k, name, measures.slope(years, means))
            if zone == "inside":
                yield from (Measure(k, f"change_inside {y:+g}", m) for y, m in zip(years, means, strict=True))
        areas = [measures.localisation(a.changes[k], a.region, a.brain) for a in usable]
        yield Measure(k, "localisation_auc", float(np.mean(areas)))


def profiles(
    stage: Stage, subject: Subject, reference: Scene, spot: str, how: tuple[Scheme, Site]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None:
    """How the change falls off around a point offset: planted, and as each model finds it.

    Returns
    -------
    (array, list of array) or None
        Profiles as of `measures.profile`; None where the place lies outside the person's brain.
    """
    person = replace(subject.person, spots=(Spot(SPOTS[spot], SPOT_YEARS, SPOT_SD),))
    found = stage.scene(person, subject.age, subject.scans[0], *how)
    brain, spacing = _brain(stage, reference, found), spacing_of(stage.models)
    planted = np.where(brain, found.truth - reference.truth, 0)
    core = np.where(planted > LEAST_KNOWN * SPOT_YEARS, planted, 0)
    if core.max() < SPOT_YEARS / 2:
        return None
    middle = measures.centre(core)
    changes = [measures.profile(change, middle, spacing, brain) for change in _changes(reference, found)]
    return measures.profile(planted, middle, spacing, brain), changes


def _brain(stage: Stage, *scenes: Scene) -> NDArray[np.bool_]:
    """Voxels of the models' brain whose true age is known in all scans."""
    known = np.logical_and.reduce([scene.truth > 0 for scene in scenes])
    return np.asarray(stage.models[0].brain.data & known)


def _changes(reference: Scene, found: Scene) -> list[NDArray[np.float32]]:
    return [new - old for new, old in zip(found.ages, reference.ages, strict=True)]


def _mean(change: NDArray[np.float32], zone: NDArray[np.bool_]) -> float:
    return float(change[zone].mean(dtype=np.float64)) if zone.any() else float("nan")
