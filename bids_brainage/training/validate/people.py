"""Whom a local model is validated on: simulated people, and a site, that no training saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.models.local import LocalModel
from bids_brainage.simulate import anatomy
from bids_brainage.simulate.anatomy import Anatomy
from bids_brainage.simulate.bases import find
from bids_brainage.simulate.maps import STANDARD, Site
from bids_brainage.simulate.person import Person
from bids_brainage.simulate.second import SECOND
from bids_brainage.simulate.sites import SITES
from bids_brainage.simulate.variety import varied
from bids_brainage.training.bases import registered_bases

UNSEEN = "unseen"
UNSEEN_SITE = Site(inner=0.08, outer=0.06, blur=1.5)
"""A profile that ``brainage simulate`` does not offer."""
SCHEMES = {"standard": STANDARD, "second": SECOND}
"""How people are simulated: as for training, and by other means."""
OFFSETS = (-10.0, -5.0, 5.0, 10.0, 15.0)
REGIONS = ("medial_temporal", "frontal", "left_temporal", "cerebellum", "thalamus")
SPOTS = {
    "left_frontal": (-28.0, 30.0, 22.0),
    "right_parietal": (30.0, -50.0, 40.0),
    "left_temporal": (-50.0, -20.0, -12.0),
    "right_cerebellum": (28.0, -62.0, -38.0),
}
"""Middles of the point offsets, mm."""
AGES = (18.0, 95.0)
_FIRST_SEED = 2**31
"""Seeds of people and scans of ``brainage simulate`` lie below."""


@dataclass(frozen=True)
class Plan:
    """What ``brainage validate local`` is asked for.

    Attributes
    ----------
    n : int
        People.
    planted : int
        The first so many of them get offsets and point offsets.
    seed : int
    site : str
        `UNSEEN`, or a name in ``simulate.sites.SITES`` that no bundle was trained on.
    bases : Path, optional
        Folder of label maps; the anatomy that ships where there is none.
    step : int
        Voxel size of the base anatomies, mm: 1, or 2 for quick tests.
    offsets : tuple of float
        Years.
    regions, spots : tuple of str
        Where offsets, and which point offsets, are planted.
    """

    n: int = 40
    planted: int = 12
    seed: int = 0
    site: str = UNSEEN
    bases: Path | None = None
    step: int = 1
    offsets: tuple[float, ...] = OFFSETS
    regions: tuple[str, ...] = REGIONS
    spots: tuple[str, ...] = tuple(SPOTS)

    def check(self, bundles: Sequence[Bundle]) -> None:
        """Refuse what makes no sense, before any work.

        Raises
        ------
        UsageError
            Where there are too few people, or a bundle was trained on the site.
        """
        if self.n < 5 or self.planted < 0 or self.seed < 0:
            raise UsageError(f"--n {self.n} --planted {self.planted}: give 5 people at least, and no negative numbers")
        if self.site not in (UNSEEN, *SITES):
            raise UsageError(f"--site: no site is called {self.site!r}; give {UNSEEN} or one of {', '.join(SITES)}")
        for bundle in bundles:
            if self.site in trained_on(bundle):
                raise UsageError(f"--site {self.site}: {bundle.name} was trained on it; give another, or {UNSEEN}")

    @property
    def segmentation(self) -> Site:
        """How the site's scans are segmented."""
        return UNSEEN_SITE if self.site == UNSEEN else SITES[self.site].segmentation


class Subject(NamedTuple):
    """A person to be scanned twice: age in years, and the seeds of the errors of each scan."""

    number: int
    person: Person
    age: float
    scans: tuple[int, int]


def trained_on(bundle: Bundle) -> set[str]:
    """Sites that a card names; ``standard`` where it names none (``unknown``), as that is what they are then."""
    named = set(bundle.card["training"].get("sites", {}))
    return named | ({"standard", "cut"} if {"unknown", "standard", "cut"} & named else set())


def age_range(models: Sequence[LocalModel]) -> tuple[float, float]:
    """Ages that all models were trained for and people can be simulated at."""
    ranges = [AGES, *(model.age_range for model in models if model.age_range)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low >= high:
        raise UsageError("the bundles were trained on ages that have nothing in common; validate them one by one")
    return float(low), float(high)


def subjects(plan: Plan, ages: tuple[float, float]) -> list[Subject]:
    """People who age unevenly, women and men in turn, ages evenly over a range in random order; same seed, same people.

    Their seeds are above all that ``brainage simulate`` draws.
    """
    rng = np.random.default_rng((plan.seed, 7))
    seeds = rng.integers(_FIRST_SEED, 2 * _FIRST_SEED, (plan.n, 3))
    years = rng.permutation(np.round(np.linspace(*ages, plan.n), 1))
    plain = [Person(f"{i + 1:03d}", "F" if i % 2 else "M", int(row[0])) for i, row in enumerate(seeds)]
    people = varied(plain, _FIRST_SEED + plan.seed)
    rows = zip(people, years, seeds, strict=True)
    return [Subject(i, p, float(y), (int(s[1]), int(s[2]))) for i, (p, y, s) in enumerate(rows)]


def by_base(plan: Plan, people: Sequence[Subject]) -> Iterator[tuple[Anatomy, list[Subject]]]:
    """The base anatomies, one at a time, with those who have it (`shared_out`)."""
    if plan.bases is None:
        yield anatomy.build(plan.step), list(people)
        return
    groups = shared_out(people, len(find(plan.bases)), plan.seed)
    for own, base in zip(groups, registered_bases(plan.bases, plan.step), strict=False):
        yield base, own


def shared_out(people: Sequence[Subject], count: int, seed: int) -> list[list[Subject]]:
    """Who has which of ``count`` bases, none without people; women and men have each equally often, at any age."""
    drawn = np.random.default_rng((seed, 8)).permutation(len(people))
    turns = sorted(drawn.tolist(), key=lambda number: people[number].person.sex)
    groups = [sorted(turns[first::count]) for first in range(min(count, len(people)))]
    return [[people[number] for number in group] for group in groups]
