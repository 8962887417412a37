"""Validation of local models on simulated people: person by person, every model on the same scans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.models.local import LocalModel
from bids_brainage.simulate.maps import Site
from bids_brainage.training.validate import counterfactuals, measures
from bids_brainage.training.validate.people import SCHEMES, Plan, Subject, age_range, by_base, subjects
from bids_brainage.training.validate.retest import Pairs
from bids_brainage.training.validate.scenes import Scene, Stage, spacing_of, stage
from bids_brainage.training.validate.table import Key, Row, Sample, global_age, means, resolution

LOG = logging.getLogger("bids_brainage")
OTHER_SITE = Site()
"""How the scan at another site is segmented."""
RETESTS = ("same_site", "other_site")
NEAR = 2
"""Bins of a profile that tell how high a point offset stands: 3 mm."""
PLANTED = "planted"
"""Stands for a bundle where the figure is of the simulation itself."""


class Example(NamedTuple):
    """One counterfactual to be drawn: what was planted, and each model's change, years; ``nan`` outside the brain."""

    title: str
    planted: NDArray[np.float32]
    changes: dict[str, NDArray[np.float32]]


class Result(NamedTuple):
    """Figures, and the example if anything was planted."""

    rows: list[Row]
    example: Example | None


class Collected:
    """What was measured under one generator of people."""

    def __init__(self, generator: str, names: Sequence[str], scratch: Path) -> None:
        self.generator, self.names = generator, names
        self.samples: list[Sample] = []
        self.profiles: dict[Key, list[NDArray[np.float64]]] = {}
        self.ages: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        self.pairs = {
            (name, kind): Pairs(scratch / generator / f"{number}-{kind}")
            for number, name in enumerate(names)
            for kind in RETESTS
        }

    def add(self, name: str, quantity: str, region: str, value: float) -> None:
        """Keep one person's value."""
        self.samples.append(Sample(Key(name, self.generator, quantity, region), value))

    def rows(self, seed: int) -> list[Row]:
        """All figures."""
        found = []
        for name in self.names:
            truth, predicted = np.array(self.ages[name]).T
            found += global_age(name, self.generator, truth, predicted, seed)
        found += means(self.samples, seed)
        found += [resolution(key, several, seed) for key, several in self.profiles.items()]
        for (name, kind), pairs in self.pairs.items():
            found += pairs.rows(name, self.generator, kind, seed)
        return found


def validate(models: Sequence[LocalModel], names: Sequence[str], plan: Plan) -> Result:
    """Measure models on the same simulated people, under each generator.

    Parameters
    ----------
    models : sequence of LocalModel
        Of one brain and voxel size (`scenes.check`).
    names : sequence of str
        What they are called in the figures.
    plan : Plan
        Checked.

    Returns
    -------
    Result
    """
    people = subjects(plan, age_range(models))
    example: Example | None = None
    with TemporaryDirectory() as scratch:
        collected = [Collected(generator, names, Path(scratch)) for generator in SCHEMES]
        done = 0
        for base, own in by_base(plan, people):
            ready = stage(base, models)
            for subject in own:
                for found in collected:
                    seen = _person(ready, subject, plan, found)
                    example = example or seen
                done += 1
                LOG.info("simulated person %d of %d", done, len(people))
        return Result([row for found in collected for row in found.rows(plan.seed)], example)


def _person(ready: Stage, subject: Subject, plan: Plan, found: Collected) -> Example | None:
    """All that is measured of one person."""
    how = SCHEMES[found.generator], plan.segmentation
    reference = ready.scene(subject.person, subject.age, subject.scans[0], *how)
    _accuracy(ready, subject, reference, found)
    _retests(ready, subject, reference, plan, found)
    if subject.number >= plan.planted:
        return None
    for spot in plan.spots:
        _spot(ready, subject, reference, plan, (spot, found))
    shown = None
    for region in plan.regions:
        arms = [counterfactuals.arm(ready, subject, reference, (region, years), how) for years in plan.offsets]
        for measure in counterfactuals.measured(arms, spacing_of(ready.models)):
            found.add(found.names[measure.model], measure.quantity, region, measure.value)
        shown = shown or _example(arms, subject, region, found.names)
    return shown


def _accuracy(ready: Stage, subject: Subject, reference: Scene, found: Collected) -> None:
    """Error and pattern of the maps, and of a map that says the person's age everywhere."""
    known = ready.models[0].brain.data & (reference.truth > 0)
    truth = reference.truth[known]
    mean = float(truth.mean(dtype=np.float64))
    for name, ages in zip(found.names, reference.ages, strict=True):
        own = ages[known]
        found.ages[name].append((mean, float(own.mean(dtype=np.float64))))
        found.add(name, "voxel_mae", "brain", float(np.abs(own - truth).mean(dtype=np.float64)))
        found.add(name, "within_person_r", "brain", measures.within_person_r(own, truth))
    error = np.abs(truth - np.float32(subject.age)).mean(dtype=np.float64)
    found.add(PLANTED, "voxel_mae_of_the_age", "brain", float(error))


def _retests(ready: Stage, subject: Subject, reference: Scene, plan: Plan, found: Collected) -> None:
    """Another scan at the same site, and one at another."""
    brain = ready.models[0].brain.data
    for kind, site in zip(RETESTS, (plan.segmentation, OTHER_SITE), strict=True):
        again = ready.scene(subject.person, subject.age, subject.scans[1], SCHEMES[found.generator], site)
        for name, first, second in zip(found.names, reference.ages, again.ages, strict=True):
            gaps = (ages[brain] - np.float32(subject.age) for ages in (first, second))
            found.pairs[name, kind].add(*gaps)


def _spot(ready: Stage, subject: Subject, reference: Scene, plan: Plan, what: tuple[str, Collected]) -> None:
    """The fall of the change around a point offset."""
    spot, found = what
    how = SCHEMES[found.generator], plan.segmentation
    seen = counterfactuals.profiles(ready, subject, reference, spot, how)
    if seen is None:
        return
    planted, changes = seen
    for name, profile in zip((PLANTED, *found.names), (planted, *changes), strict=True):
        key = Key(name, found.generator, "half_width_mm", f"{spot} point")
        found.profiles.setdefault(key, []).append(profile)
        height = float(np.nanmean(profile[:NEAR])) / counterfactuals.SPOT_YEARS
        found.add(name, "point_height", f"{spot} point", height)


def _example(
    arms: Sequence[counterfactuals.Arm], subject: Subject, region: str, names: Sequence[str]
) -> Example | None:
    """The arm with the most years."""
    arm = max(arms, key=lambda a: a.years)
    if not arm.region.any():
        return None
    planted, *changes = (np.where(arm.brain, values, np.float32("nan")) for values in (arm.planted, *arm.changes))
    title = f"{arm.years:+g} years in {region}, a simulated person aged {subject.age:g}"
    return Example(title, planted, dict(zip(names, changes, strict=True)))
