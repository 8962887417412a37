"""What every part of this layer works on: people with an age, categories and regional volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class People:
    """Ages, categories and volumes, a row a person.

    Attributes
    ----------
    who : tuple of str
        Names; made-up ones of synthetic people.
    age : float64 array, (n,)
        Years.
    categories : mapping of str to str array, (n,)
        ``sex`` (F, M) and whatever else divides people, e.g. ``race``.
    indices : tuple of int
        MUSE indices of the volumes, in order.
    volumes : float64 array, (n, len(indices))
        mm^3.
    icv : float64 array, (n,), or None
        Intracranial volume, mm^3, where it is known; never the sum of the regions.
    """

    who: tuple[str, ...]
    age: NDArray[np.float64]
    categories: Mapping[str, NDArray[np.str_]]
    indices: tuple[int, ...]
    volumes: NDArray[np.float64]
    icv: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.who)

    def take(self, rows: ArrayLike) -> People:
        """Some of the people: a boolean or an integer array."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        return People(
            tuple(self.who[i] for i in chosen),
            self.age[chosen],
            {name: values[chosen] for name, values in self.categories.items()},
            self.indices,
            self.volumes[chosen],
            None if self.icv is None else self.icv[chosen],
        )

    @property
    def features(self) -> NDArray[np.float64]:
        """Volumes, the intracranial volume where it is known, and the age last: (n, regions + 1 or 2)."""
        icv = [] if self.icv is None else [self.icv[:, None]]
        return np.hstack([self.volumes, *icv, self.age[:, None]])


class Generator(Protocol):
    """Something fitted to people that makes others."""

    def at(self, ages: NDArray[np.float64], categories: Mapping[str, Any], rng: np.random.Generator) -> People:
        """People of exactly these ages and categories (one value, or one a person)."""
        ...
