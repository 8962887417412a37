"""GenMIND: reference people drawn from one kernel density of volumes and age in each category of people.

The categories are sex by race, or sex alone, or whatever columns divide the people. A draw is conditional on the age
exactly, and on the intracranial volume where that is asked for, so that synthetic controls match a person and need no
search. See :mod:`bids_brainage.cohort.density` for the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.cohort import density
from bids_brainage.cohort.density import BANDWIDTHS, Density, Kernel
from bids_brainage.cohort.people import People
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError, UsageError

Array = NDArray[np.float64]
Key = tuple[str, ...]

ARCHITECTURE = "genmind"
ARRAYS = "densities.npz"
FEWEST = 30
FEWEST_FOLD = 3
PARTS = ("centres", "mean", "scale", "least", "shape")


@dataclass(frozen=True)
class GenMIND:
    """Densities of people by category; a :class:`bids_brainage.cohort.people.Generator`.

    Attributes
    ----------
    by : tuple of str
        Columns of the categories, ``sex`` among them.
    indices : tuple of int
        MUSE indices of the volumes.
    densities : mapping of tuple of str to Density
        By one value for each column. Features: volumes, the intracranial volume where ``has_icv``, the age last.
    has_icv : bool
    """

    by: tuple[str, ...]
    indices: tuple[int, ...]
    densities: Mapping[Key, Density]
    has_icv: bool = False

    def support(self, key: Key) -> tuple[float, float]:
        """Youngest and oldest person of a category, years."""
        return self._range(key, -1)

    def _heads(self, key: Key) -> tuple[float, float]:
        """Smallest and largest intracranial volume that can be asked for, mm^3: one SD of the kernel beyond anybody's.

        Further out one person of the reference would make all controls, which then vary too little.
        """
        (low, high), made = self._range(key, -2), self.densities[key]
        reach = math.sqrt(made.variance) * made.scale[-2]
        return low - reach, high + reach

    def _range(self, key: Key, feature: int) -> tuple[float, float]:
        """Least and largest value of a feature among the people of a category, rounded outwards."""
        made = self.densities[key]
        values = made.centres[:, feature] * made.scale[feature] + made.mean[feature]
        return math.floor(values.min() * 1e6) / 1e6, math.ceil(values.max() * 1e6) / 1e6

    def why_not(self, ages: ArrayLike, categories: Mapping[str, Any], icv: ArrayLike | None = None) -> list[str]:
        """Why there can be nobody like these people, or empty: a reason for each."""
        years = np.asarray(ages, dtype=float)
        codes = self._codes(len(years), categories)
        reasons = np.full(len(years), "", dtype=object)
        for i, key in enumerate(self.densities):
            low, high = self.support(key)
            for row in np.flatnonzero((codes == i) & ~((years >= low) & (years <= high))):
                reasons[row] = f"age {years[row]:g} is outside {low:g}-{high:g}, the ages of {', '.join(key)}"
        for row in np.flatnonzero(codes < 0):
            named = (_named(name, np.broadcast_to(categories[name], len(years))[row]) for name in self.by)
            reasons[row] = f"there are no reference people of {', '.join(named)}"
        if icv is not None:
            size = np.asarray(icv, dtype=float)
            for i, key in enumerate(self.densities if self.has_icv else ()):
                low, high = self._heads(key)
                for row in np.flatnonzero((codes == i) & ~((size >= low) & (size <= high)) & (reasons == "")):
                    reasons[row] = (
                        f"the intracranial volume, {size[row] / 1000:.0f} mL, is outside {low / 1000:.0f}-"
                        f"{high / 1000:.0f} mL, those of {', '.join(key)}"
                    )
            reasons[~(size > 0)] = "the intracranial volume is missing or not positive"
        return list(map(str, reasons))

    def at(
        self, ages: ArrayLike, categories: Mapping[str, Any], rng: np.random.Generator, *, icv: ArrayLike | None = None
    ) -> People:
        """People of exactly these ages and categories, and of these intracranial volumes where they are given.

        Parameters
        ----------
        ages : array, shape (n,)
            Years.
        categories : mapping of str to str, or to str array, shape (n,)
            Each of ``by``.
        rng : numpy.random.Generator
        icv : array, shape (n,), optional
            mm^3.

        Raises
        ------
        UsageError
            Where an age lies outside what the category's people support, a category is unknown, or the model knows no
            intracranial volume.
        """
        years = np.asarray(ages, dtype=float)
        if icv is not None and not self.has_icv:
            raise UsageError("this model knows no intracranial volume; fit one with --icv, or match without it")
        reason = next(filter(None, self.why_not(years, categories, icv)), None)
        if reason:
            raise UsageError(f"cannot draw: {reason}; ask for people that the model knows")
        given = np.column_stack([years] if icv is None else [np.asarray(icv, dtype=float), years])
        values = np.empty((len(years), len(self.indices) + 1 + self.has_icv))
        codes = self._codes(len(years), categories)
        for i, made in enumerate(self.densities.values()):
            rows = np.flatnonzero(codes == i)
            values[rows] = density.draw(made, given[rows], rng)
        k, keys = len(self.indices), np.array(list(self.densities), dtype=str)
        found = {name: keys[codes, j] for j, name in enumerate(self.by)}
        who = tuple(f"synthetic-{i:06d}" for i in range(1, len(years) + 1))
        return People(who, years, found, self.indices, values[:, :k], values[:, k] if self.has_icv else None)

    def ages(self, key: Key, n: int, rng: np.random.Generator) -> Array:
        """Ages as the density of a category has them, years; those outside its people's ages are drawn again."""
        made, (low, high) = self.densities[key], self.support(key)
        kept = np.empty(0)
        while len(kept) < n:
            z = made.shrink * made.centres[rng.integers(0, len(made.centres), 2 * n), -1]
            drawn = (z + np.sqrt(made.variance) * rng.standard_normal(2 * n)) * made.scale[-1] + made.mean[-1]
            kept = np.append(kept, drawn[(drawn >= low) & (drawn <= high)])
        return kept[:n]

    def _codes(self, n: int, categories: Mapping[str, Any]) -> NDArray[np.intp]:
        """Which density each of ``n`` people has, -1 for none, shape (n,)."""
        absent = [name for name in self.by if name not in categories]
        if absent:
            raise UsageError(f"this model tells people apart by {absent[0]}, which is not given; add {absent[0]}")
        columns = [np.broadcast_to(np.asarray(categories[name], dtype=str), n) for name in self.by]
        codes = np.full(n, -1)
        for i, key in enumerate(self.densities):
            same = [column == value for column, value in zip(columns, key, strict=True)]
            codes[np.logical_and.reduce(same)] = i
        return codes


class Fitted(NamedTuple):
    """A model, and by category the people, the search (``None`` for a given bandwidth) and how it was pooled, if so."""

    model: GenMIND
    searches: Mapping[Key, density.Search | None]
    pooled: Mapping[Key, str]


def fit(
    people: People,
    *,
    by: Sequence[str] = ("sex",),
    kernel: Kernel = "shrunken",
    bandwidths: Sequence[float] = BANDWIDTHS,
    folds: int = 5,
    fewest: int = FEWEST,
    small: Literal["refuse", "pool"] = "refuse",
    seed: int = 0,
) -> Fitted:
    """Fit the density of each category.

    Parameters
    ----------
    people : People
        Complete; with ``icv`` the model has it as a feature.
    by : sequence of str
        Columns of ``categories``, ``sex`` first.
    bandwidths : sequence of float
        One is taken as it is; of several the best is searched for by ``folds`` cross-validation.
    fewest : int
        People that a category needs.
    small : {"refuse", "pool"}
        A smaller category is an error, or is drawn from everybody of its first column's value (``sex``).

    Raises
    ------
    UsageError
        Where a category is too small, or one of its features does not vary.
    """
    keys = list(zip(*(people.categories[name].tolist() for name in by), strict=True))
    densities, searches, pooled = dict[Key, Density](), dict[Key, density.Search | None](), dict[Key, str]()
    for key, rows in _groups(keys):
        if len(rows) < max(fewest, FEWEST_FOLD):
            rows, pooled[key] = _pool(keys, key, len(rows), fewest, small, by)
        table = people.features[rows]
        _check_varies(people, table, key)
        found = _search(table, bandwidths, kernel, folds, seed) if len(bandwidths) > 1 else None
        searches[key] = found
        densities[key] = density.fit(table, found.best if found else bandwidths[0], kernel)
    return Fitted(GenMIND(tuple(by), people.indices, densities, people.icv is not None), searches, pooled)


def sample(model: GenMIND, n: int, rng: np.random.Generator, ages: tuple[float, float] | None = None) -> People:
    """``n`` people, as many of each category as of any other; ages as the density has them, or uniform in a range."""
    keys = list(model.densities)
    sizes = [n // len(keys) + (i < n % len(keys)) for i in range(len(keys))]
    parts = [
        model.ages(key, size, rng) if ages is None else rng.uniform(*ages, size)
        for key, size in zip(keys, sizes, strict=True)
    ]
    columns = np.repeat(np.array(keys, dtype=str), sizes, axis=0)
    return model.at(np.concatenate(parts), dict(zip(model.by, columns.T, strict=True)), rng)


def sample_like(model: GenMIND, people: People, n: int, rng: np.random.Generator) -> People:
    """``n`` people with ages and categories of people chosen at random, with replacement."""
    rows = rng.integers(0, len(people), n)
    return model.at(people.age[rows], {name: people.categories[name][rows] for name in model.by}, rng)


def write_arrays(path: Path, model: GenMIND) -> None:
    """Write the arrays of a bundle; the card has the rest."""
    arrays = {f"{part}_{i}": getattr(d, part) for i, d in enumerate(model.densities.values()) for part in PARTS}
    np.savez(path, allow_pickle=False, **arrays)


def read(bundle: Bundle) -> GenMIND:
    """The model of a bundle.

    Raises
    ------
    BundleError
        Where the bundle is of another kind, or its arrays do not fit its card.
    """
    card = bundle.card
    if card["architecture"] != ARCHITECTURE:
        raise BundleError(
            f"{bundle.folder}: is no {ARCHITECTURE} bundle; give one that `brainage genmind fit` or `import` wrote"
        )
    try:
        with np.load(bundle.file(ARRAYS), allow_pickle=False) as stored:
            densities = {
                tuple(entry["category"]): Density(
                    **{part: stored[f"{part}_{i}"] for part in PARTS},
                    bandwidth=float(entry["bandwidth"]),
                    kernel=card["kernel"],
                )
                for i, entry in enumerate(card["categories"])
            }
        model = GenMIND(tuple(card["by"]), tuple(card["indices"]), densities, bool(card["has_icv"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{bundle.folder}: not a {ARCHITECTURE} bundle ({error!r}); fit it again") from None
    d = len(model.indices) + 1 + model.has_icv
    if card["kernel"] not in density.KERNELS or any(made.centres.shape[1:] != (d,) for made in densities.values()):
        raise BundleError(f"{bundle.folder}: its arrays do not fit its card; fit it again")
    return model


def entries(fitted: Fitted) -> list[dict[str, Any]]:
    """What the card says of each category, in the order of the arrays."""
    found = []
    for key, made in fitted.model.densities.items():
        searched = fitted.searches[key]
        low, high = fitted.model.support(key)
        found.append(
            {
                "category": list(key),
                "n": len(made.centres),
                "age_range": [low, high],
                "bandwidth": made.bandwidth,
                "log_likelihood": round(max(searched.scores), 4) if searched else None,
                "bandwidth_at_edge_of_grid": bool(searched and searched.at_edge),
                **({"pooled": fitted.pooled[key]} if key in fitted.pooled else {}),
            }
        )
    return found


def _groups(keys: Sequence[Key]) -> Iterator[tuple[Key, NDArray[np.intp]]]:
    """Each key, in order, and its rows."""
    rows: dict[Key, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    for key in sorted(rows):
        yield key, np.array(rows[key])


def _pool(
    keys: Sequence[Key], key: Key, n: int, fewest: int, small: str, by: Sequence[str]
) -> tuple[NDArray[np.intp], str]:
    """Everybody with the first column's value of a category that is too small, and what to say of it."""
    named = f"{n} people of {', '.join(map(_named, by, key))} are too few (at least {fewest})"
    rows = np.array([i for i, other in enumerate(keys) if other[0] == key[0]])
    if small == "refuse" or len(rows) < max(fewest, FEWEST_FOLD):
        raise UsageError(f"{named}; leave them out, divide people by fewer columns, or pool small categories")
    return rows, f"{named}: drawn from all {len(rows)} people of {_named(by[0], key[0])}"


def _search(table: Array, bandwidths: Sequence[float], kernel: Kernel, folds: int, seed: int) -> density.Search:
    parts = density.split(len(table), min(folds, len(table)), seed)
    return density.search(table, bandwidths, kernel=kernel, folds=parts)


def _check_varies(people: People, table: Array, key: Key) -> None:
    """A feature that is the same in everybody has no density."""
    same = np.flatnonzero(np.ptp(table, axis=0) == 0)
    if same.size:
        columns = [*(f"MUSE_{index}" for index in people.indices), *(["ICV"] if people.icv is not None else []), "age"]
        raise UsageError(f"{columns[same[0]]} is the same in all {len(table)} people of {', '.join(key)}; leave it out")


def _named(column: str, value: str) -> str:
    return f"{column} {value}"
