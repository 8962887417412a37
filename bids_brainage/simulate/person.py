"""Who is simulated, how the person ages, and the person's head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.types import Sex
from bids_brainage.simulate import aging, anatomy, local
from bids_brainage.simulate.anatomy import CSF, ORIGIN, REGIONS, Anatomy
from bids_brainage.simulate.deform import Array, Warp, apply, noise, random_warp
from bids_brainage.simulate.scanner import Head

_BRAIN_ML = {"F": 1217.0, "M": 1369.0}
"""Median brain volume at 40 years (iSTAGING normative centiles, TotalBrain)."""
_WARP_SCALES = ((30.0, 3.0), (14.0, 1.3))
_WARP_SPACING = 5.0
_TEXTURE_STEP = 3.0


@dataclass(frozen=True)
class Person:
    """Who is simulated; the same seed is the same anatomy at every age.

    Attributes
    ----------
    label : str
        Participant label without ``sub-``.
    sex : {"F", "M"}
    seed : int
        Draws the anatomy.
    gap : float
        Years by which the brain is older than the person.
    planted : mapping of str to float
        Further volume factors by region (``left_lateral_ventricle``) or kind, both sides (``hippocampus``).
    offsets : mapping of str to float
        Years by which places are older still: region, kind, lobe or group, with its side or without (`local.names`).
    field_sd, field_mm : float
        SD (years) and correlation length (mm) of a smooth random field of local age; none at 0 years.
    spots : tuple of local.Spot
        Gaussians of local age.
    variation : aging.Variation
        How regional volumes vary between people.
    group : str
        E.g. the name of a disease; empty where there are no groups.
    """

    label: str
    sex: Sex
    seed: int
    gap: float = 0.0
    planted: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    field_sd: float = 0.0
    field_mm: float = 20.0
    spots: tuple[local.Spot, ...] = ()
    variation: aging.Variation = aging.PLAIN
    group: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the local age differs from place to place."""
        return bool(self.offsets or self.field_sd or self.spots)


@dataclass(frozen=True)
class Visit:
    """One scan of a person: age in years, BIDS entities after ``sub``, the seed of the scanner, and the site if any."""

    person: Person
    age: float
    seed: int
    session: str | None = None
    run: str | None = None
    site: str = ""

    @property
    def folder(self) -> Path:
        """``sub-01/ses-1/anat``."""
        return Path(f"sub-{self.person.label}", *([f"ses-{self.session}"] if self.session else []), "anat")

    @property
    def stem(self) -> str:
        """``sub-01_ses-1_run-1``."""
        parts = [f"sub-{self.person.label}"]
        parts += [f"ses-{self.session}"] if self.session else []
        return "_".join(parts + ([f"run-{self.run}"] if self.run else []))


def linear_of(person: Person, shares: aging.Fractions, rng: np.random.Generator) -> NDArray[np.float64]:
    """Linear map (3 x 3) from the base anatomy, whose shares these are, to the head: its size and proportions."""
    volumes = shares.values.sum((1, 2, 3), dtype=np.float64) * shares.spacing**3 / 1000
    brain = float(sum(v for v, r in zip(volumes, REGIONS, strict=True) if r.number != CSF))
    size = _BRAIN_ML[person.sex] * np.exp(0.07 * rng.standard_normal())
    scale = (size / brain) ** (1 / 3) * np.exp(0.02 * rng.standard_normal(3))
    matrix = np.diag(scale) @ (np.eye(3) + 0.015 * rng.standard_normal((3, 3)) * (1 - np.eye(3)))
    return np.asarray(matrix * (size / brain / np.linalg.det(matrix)) ** (1 / 3), np.float64)


def shape_of(person: Person, shares: aging.Fractions) -> tuple[NDArray[np.float64], Warp]:
    """Linear map from the head to the base anatomy (3 x 3), and the random warp of the person after it.

    ``shares`` are those of the base anatomy.
    """
    rng = np.random.default_rng((person.seed, 1))
    matrix = linear_of(person, shares, rng)
    shape = tuple(int(extent // _WARP_SPACING) + 2 for extent in anatomy.EXTENT)
    box = Warp(np.zeros((3, *shape), np.float32), ORIGIN, _WARP_SPACING)
    return np.asarray(np.linalg.inv(matrix), np.float64), random_warp(rng, box, _WARP_SCALES)


class Grown(NamedTuple):
    """Aging of a person at an age.

    Attributes
    ----------
    warp : Warp
        From the person's aged anatomy to the base anatomy, the random shape of the person apart.
    local : local.LocalAge
    planted : array
        Volume of each region relative to 40 years, differences between people apart; ``nan`` for the fluid.
    """

    warp: Warp
    local: local.LocalAge
    planted: NDArray[np.float64]


def grown(
    person: Person,
    age: float,
    base: Anatomy,
    shares: aging.Fractions,
    *,
    divided: bool = False,
    growth: aging.Growth = aging.EVEN,
) -> Grown:
    """Age the base anatomy as a person of this age asks for.

    Parameters
    ----------
    person : Person
    age : float
        Years.
    base : Anatomy
    shares : aging.Fractions
        Of ``base``.
    divided : bool
        Whether each lobe follows its own target, which offsets and fields need. People who are compared with such
        ones ask for it as well: else the lobes of a region share its growth unevenly, by up to 3 %.
    growth : aging.Growth

    Returns
    -------
    Grown

    Raises
    ------
    UsageError
        Where the person's offsets or field make no sense.
    """
    own = aging.individual(np.random.default_rng((person.seed, 2)), person.variation)
    if base.standard is not None:
        own = own * base.standard
    field = None
    if person.field_sd:
        field = local.random_field(np.random.default_rng((person.seed, 5)), person.field_sd, person.field_mm)
    if person.spots:
        field = local.with_spots(field, person.spots)
    ages = local.LocalAge(age + person.gap, local.offsets_by_parcel(person.offsets), field)
    if not divided and not person.is_local:
        planted = aging.planted(ages.age, person.sex, person.planted)
        return Grown(aging.grow(shares, planted * own, growth=growth), ages, planted)
    parcels = local.split(shares, base)
    asked = local.targets(ages, parcels, person.sex, person.planted)
    factors = asked.factors * own[[p.region for p in local.PARCELS]]
    return Grown(aging.grow(parcels, factors, asked.within, growth), ages, local.by_region(asked.factors, parcels))


def head_of(person: Person, age: float, base: Anatomy, shares: aging.Fractions, aged: Grown | None = None) -> Head:
    """The head of a person at an age.

    Parameters
    ----------
    person : Person
    age : float
        Years; the atrophy is that of ``age + person.gap``.
    base : Anatomy
    shares : aging.Fractions
        Of ``base``.
    aged : Grown, optional
        What `grown` gives for the same, where it is at hand.

    Returns
    -------
    Head
    """
    pull = (aged or grown(person, age, base, shares)).warp
    inverse, warp = shape_of(person, shares)

    def to_base(points: Array) -> Array:
        straight = np.einsum("ab,bxyz->axyz", inverse.astype(np.float32), points)
        return apply(pull, apply(warp, straight))

    shape = tuple(int(extent // _TEXTURE_STEP) + 2 for extent in anatomy.EXTENT)
    texture = noise(np.random.default_rng((person.seed, 3)), shape, 0.8)
    return Head(to_base, base.labels, ORIGIN, base.step, texture, _TEXTURE_STEP)
