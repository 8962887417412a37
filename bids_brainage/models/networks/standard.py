"""Tissue maps as deviations from those of the people who trained a model, place by place.

A convolution does not know where it is; the deviation from what is usual there tells it what matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import atomic

LEAST_SD = 0.05
"""Added to the SD, in units of the maps: where people hardly differ, small differences stay small."""
MOST = 4.0


class Reference(NamedTuple):
    """Mean and SD over people of grey and white matter, float32, (2, x, y, z) each."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]


def reference_of(people: Iterable[NDArray[np.floating]]) -> Reference:
    """Mean and SD of the maps (2, x, y, z) of people, one at a time; rounded to what is stored."""
    count = 0
    total, squares = np.zeros((), np.float64), np.zeros((), np.float64)
    for maps in people:
        values = maps.astype(np.float64)
        count, total, squares = count + 1, total + values, squares + values**2
    mean = total / count
    sd = np.sqrt(np.maximum(squares / count - mean**2, 0))
    rounded = [np.asarray(part, np.float16).astype(np.float32) for part in (mean, sd)]
    return Reference(rounded[0], rounded[1])


def standardised(maps: NDArray[np.float32], reference: Reference) -> NDArray[np.float32]:
    """Deviations in SDs, at most 4 either way, of maps (2, x, y, z)."""
    away = (maps - reference.mean) / (reference.sd + np.float32(LEAST_SD))
    return np.clip(away, -MOST, MOST).astype(np.float32, copy=False)


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
