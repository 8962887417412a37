"""Local brain age: years by which places of a brain are older or younger than the whole, and what they do to it.

The local age of a place of the base anatomy is the age, the gap, the offsets of all names that the place bears, and a
smooth random field: A(x) = age + gap + offsets(x) + field(x). Each place takes the volume factor of the published
curve of its region at A(x). The parcels are the regions, cerebral cortex and white matter divided into lobes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Sex
from bids_brainage.simulate.aging import Fractions, changes, log_expected
from bids_brainage.simulate.anatomy import CSF, EXTENT, ORIGIN, REGIONS, Anatomy
from bids_brainage.simulate.deform import Array, nodes, noise, sample
from bids_brainage.simulate.lobes import LOBES, lobe_of

GROUPS: Mapping[str, tuple[str, ...]] = {
    "medial_temporal": ("hippocampus", "amygdala"),
    "cerebellum": ("cerebellar_cortex", "cerebellar_white_matter"),
}
"""Names for several kinds of region."""
FIELD_MM = (8.0, 60.0)
"""Correlation lengths that the grid of the random field can hold, mm."""
_FIELD_SPACING = 4.0
_DIVIDED = ("cerebral_cortex", "cerebral_white_matter")
_FLUID = ("lateral_ventricle", "third_ventricle", "fourth_ventricle")


class Parcel(NamedTuple):
    """A region or a lobe's part of one: index into `REGIONS`, index into `LOBES` or None."""

    region: int
    lobe: int | None

    @property
    def names(self) -> set[str]:
        """All names that an offset may use for it: region, kind, lobe, group, with its side and without."""
        region = REGIONS[self.region]
        side = region.name.removesuffix(region.kind)
        found = {region.kind} | {group for group, kinds in GROUPS.items() if region.kind in kinds}
        if self.lobe is not None:
            found |= {LOBES[self.lobe], f"{LOBES[self.lobe]}_{region.kind}"}
        return found | {side + name for name in found}


PARCELS: tuple[Parcel, ...] = tuple(
    Parcel(i, lobe)
    for i, region in enumerate(REGIONS)
    for lobe in (range(len(LOBES)) if region.kind in _DIVIDED else (None,))
)
"""In the order of `REGIONS`, the lobes of one region in the order of `LOBES`."""


class Field(NamedTuple):
    """A scalar on a grid of the base anatomy: 1 x X x Y x Z, position of its first node and spacing in mm."""

    values: Array
    origin: NDArray[np.float64]
    spacing: float


class Spot(NamedTuple):
    """A Gaussian of local age: its middle in the base anatomy (mm), its height (years) and its SD (mm, 5 at least)."""

    middle: tuple[float, float, float]
    years: float
    sd: float


class LocalAge(NamedTuple):
    """Local age of one person at one visit.

    Attributes
    ----------
    age : float
        Age and gap, years.
    offsets : array
        Years, in the order of `PARCELS`.
    field : Field or None
        Years.
    """

    age: float
    offsets: NDArray[np.float64]
    field: Field | None


class Targets(NamedTuple):
    """What `aging.grow` is asked for: factors (``nan``: the fluid), and log deviations of the cells within parcels."""

    factors: NDArray[np.float64]
    within: Array | None


def names() -> frozenset[str]:
    """All names that offsets may bear."""
    return frozenset().union(*(p.names for p in PARCELS if REGIONS[p.region].number != CSF))


def offsets_by_parcel(offsets: Mapping[str, float]) -> NDArray[np.float64]:
    """Sum of the offsets (years) of all names that a parcel bears, in the order of `PARCELS`.

    Raises
    ------
    UsageError
        Where a name is no region, kind, lobe or group, or its offset is no finite number of at most 60 years.
    """
    for name, years in offsets.items():
        if name not in names():
            raise UsageError(f"{name}: no such region; give a lobe, a structure or one of them with left_ or right_")
        if not abs(years) <= 60:
            raise UsageError(f"{name}: an offset of {years} years; give a number from -60 to 60")
    return np.array(
        [
            0.0 if REGIONS[p.region].number == CSF else sum(y for n, y in offsets.items() if n in p.names)
            for p in PARCELS
        ],
        np.float64,
    )


def check_field(sd: float, length: float) -> None:
    """Refuse a random field of a senseless SD (years) or correlation length (mm)."""
    if not 0 <= sd <= 20 or not FIELD_MM[0] <= length <= FIELD_MM[1]:
        low, high = FIELD_MM
        raise UsageError(
            f"field of {sd} years and {length} mm: give an SD of 0 to 20 years, a length of {low:g} to {high:g} mm"
        )


def random_field(rng: np.random.Generator, sd: float, length: float) -> Field:
    """A smooth random field of zero mean over the head's box: white noise under a Gaussian.

    Parameters
    ----------
    rng : Generator
    sd : float
        Standard deviation, years.
    length : float
        Standard deviation of the Gaussian, mm; within `FIELD_MM`.

    Raises
    ------
    UsageError
        Where `check_field` refuses them.
    """
    check_field(sd, length)
    shape = tuple(int(extent // _FIELD_SPACING) + 2 for extent in EXTENT)
    values = np.float32(sd) * noise(rng, shape, length / _FIELD_SPACING)
    return Field(values[None], ORIGIN, _FIELD_SPACING)


def with_spots(field: Field | None, spots: Sequence[Spot]) -> Field:
    """A field of local age with Gaussians added to it."""
    if field is None:
        shape = tuple(int(extent // _FIELD_SPACING) + 2 for extent in EXTENT)
        field = Field(np.zeros((1, *shape), np.float32), ORIGIN, _FIELD_SPACING)
    points, values = nodes(field.values.shape[1:], field.origin, field.spacing), field.values.copy()
    for spot in spots:
        away = points - np.array(spot.middle, np.float32)[:, None, None, None]
        values[0] += np.float32(spot.years) * np.exp(-(away**2).sum(0) / np.float32(2 * spot.sd**2))
    return field._replace(values=values)


def split(shares: Fractions, anatomy: Anatomy) -> Fractions:
    """Shares of `PARCELS` from those of `REGIONS`; a cell belongs to one lobe."""
    lobe = lobe_of(anatomy, nodes(shares.values.shape[1:], shares.origin, shares.spacing))
    values = [
        shares.values[p.region] if p.lobe is None else shares.values[p.region] * (lobe == p.lobe) for p in PARCELS
    ]
    return shares._replace(values=np.stack(values))


def targets(local: LocalAge, shares: Fractions, sex: Sex, extra: Mapping[str, float]) -> Targets:
    """Volume factor of each parcel, and how the cells within a parcel differ from it.

    Parameters
    ----------
    local : LocalAge
    shares : Fractions
        Of `PARCELS`.
    sex : {"F", "M"}
    extra : mapping of str to float
        Further factors, as in `aging.planted`.

    Returns
    -------
    Targets
        A parcel's factor is the mean, over its cells, of the curve at their local ages.
    """
    change, factors = changes(extra), np.full(len(PARCELS), np.nan)
    field, within = np.zeros(shares.values.shape[1:], np.float32), np.zeros(shares.values.shape[1:], np.float32)
    if local.field is not None:
        points = nodes(shares.values.shape[1:], shares.origin, shares.spacing)
        field = sample(*local.field, points)[0]
    for i, (parcel, share) in enumerate(zip(PARCELS, shares.values, strict=True)):
        region = REGIONS[parcel.region]
        if region.number == CSF:
            continue
        here = share > 0
        log = log_expected(region.kind, local.age + local.offsets[i] + field[here].astype(np.float64), sex)
        mean = float(np.average(np.exp(log), weights=share[here])) if here.any() else 1.0
        factors[i] = mean * change[parcel.region]
        within[here] += (share[here] * (log - np.log(mean))).astype(np.float32)
    return Targets(factors, within if local.field is not None else None)


def by_region(factors: NDArray[np.float64], shares: Fractions) -> NDArray[np.float64]:
    """Factors of `REGIONS` from those of `PARCELS`: means weighted by volume; ``nan`` for the fluid."""
    volume = shares.values.sum((1, 2, 3), dtype=np.float64)
    region = np.array([p.region for p in PARCELS])
    total, part = (np.bincount(region, w, len(REGIONS)) for w in (volume, volume * factors))
    return np.asarray(part / np.maximum(total, 1e-9))


def age_at(local: LocalAge, points: Array, labels: NDArray[np.uint8], anatomy: Anatomy) -> Array:
    """Local age at positions of the base anatomy.

    Parameters
    ----------
    local : LocalAge
    points : float32 array, 3 x P x Q x R
        mm.
    labels : uint8 array, P x Q x R
        Their regions' numbers; other numbers and the fluid around the brain get 0.
    anatomy : Anatomy
        Tells the lobes.

    Returns
    -------
    float32 array, P x Q x R
        Years.
    """
    table = np.zeros((256, len(LOBES)), np.float32)
    for parcel, offset in zip(PARCELS, local.offsets, strict=True):
        number = REGIONS[parcel.region].number
        table[number, slice(None) if parcel.lobe is None else parcel.lobe] = 0 if number == CSF else local.age + offset
    age = np.zeros(labels.shape, np.float32)
    brain = is_brain()[labels]
    inside = points[:, brain][:, :, None, None]
    age[brain] = table[labels[brain], lobe_of(anatomy, inside)[:, 0, 0]]
    if local.field is not None:
        age[brain] += sample(*local.field, inside)[0, :, 0, 0]
    return age


def is_brain() -> NDArray[np.bool_]:
    """For each number of a label map, whether it is brain: tissue or ventricle."""
    inside = np.zeros(256, bool)
    inside[[r.number for r in REGIONS if r.number != CSF]] = True
    return inside


def is_tissue() -> NDArray[np.bool_]:
    """For each number of a label map, whether it is grey or white matter."""
    inside = is_brain()
    inside[[r.number for r in REGIONS if r.kind in _FLUID]] = False
    return inside
