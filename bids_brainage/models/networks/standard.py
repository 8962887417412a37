"""Tissue maps as deviations from those of the people who trained a model, place by place, in the direction of age.

A convolution does not know where it is, and the same tissue is lost with age in one place and not in another. What a
deviation there has to do with age is told to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import atomic

LEAST_SD = 0.05
"""Added to the SD, in units of the maps: where people hardly differ, small differences stay small."""
MOST = 4.0
NO_SPREAD = 1e-9


class Reference(NamedTuple):
    """Of grey and white matter over people, float32, (2, x, y, z) each: mean, SD, and correlation with age."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    ageing: NDArray[np.float32]


def reference_of(people: Iterable[tuple[NDArray[np.floating], float]]) -> Reference:
    """Of the maps (2, x, y, z) and ages (years) of people, one at a time; rounded to what is stored."""
    sums = [np.zeros((), np.float64) for _ in range(3)]
    ages = []
    for maps, age in people:
        values = maps.astype(np.float64)
        ages.append(age)
        sums = [total + part for total, part in zip(sums, (values, values**2, values * age), strict=True)]
    mean, square, product = (total / len(ages) for total in sums)
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    spread = sd * np.std(ages)
    ageing = np.divide(product - mean * np.mean(ages), spread, out=np.zeros_like(mean), where=spread > NO_SPREAD)
    rounded = [np.asarray(part, np.float16).astype(np.float32) for part in (mean, sd, np.clip(ageing, -1, 1))]
    return Reference(*rounded)


def standardised(maps: NDArray[np.float32], reference: Reference) -> NDArray[np.float32]:
    """Deviations of maps (2, x, y, z) in SDs, at most 4 either way, times their correlation with age there.

    Positive is what is usual in the old, and large where age tells.
    """
    away = (maps - reference.mean) / (reference.sd + np.float32(LEAST_SD))
    return (np.clip(away, -MOST, MOST) * reference.ageing).astype(np.float32, copy=False)


def means_over(maps: NDArray[np.float32], brain: NDArray[np.bool_]) -> list[float]:
    """What the network is told of the whole brain wherever it looks: the mean of each map (2, x, y, z) over it."""
    return [float(value) for value in maps[:, brain].mean(1, dtype=np.float64)]


def with_constants(maps: NDArray[np.float32], values: Sequence[float]) -> NDArray[np.float32]:
    """Maps (2, x, y, z) and, after them, a channel for each value."""
    channels = [np.full((1, *maps.shape[1:]), value, np.float32) for value in values]
    return np.concatenate([maps, *channels]) if channels else maps


def write_reference(reference: Reference, path: Path) -> Path:
    """Write it as float16."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{name: part.astype(np.float16) for name, part in reference._asdict().items()})
    return Path(path)


def read_reference(path: Path, shape: tuple[int, ...]) -> Reference:
    """Read what :func:`write_reference` wrote.

    Raises
    ------
    ValueError
        Where its maps are not of this shape (x, y, z).
    """
    with np.load(path, allow_pickle=False) as stored:
        found = Reference(*(stored[name].astype(np.float32) for name in Reference._fields))
    if any(part.shape != (2, *shape) for part in found):
        raise ValueError(f"{path.name} is not of the shape {shape}")
    return found
