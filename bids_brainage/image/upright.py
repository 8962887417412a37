"""How far a head is turned from upright, by where the network sees its structures."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image.classes import FREESURFER
from bids_brainage.image.io import Volume
from bids_brainage.image.muse import data_rows

SMALLEST_MM3 = 200.0
FEWEST = 8
FARTHEST_MM = 12.0
Points = NDArray[np.float64]


@cache
def places() -> dict[int, tuple[float, float, float]]:
    """Centroids of structures in an upright head by FreeSurfer's number, mm: of the MUSE atlas in template space."""
    rows = data_rows("upright.tsv")
    return {int(row["label"]): (float(row["x"]), float(row["y"]), float(row["z"])) for row in rows}


def pose(classes: Volume, right: Volume) -> NDArray[np.float64] | None:
    """Rotation from upright axes to those of the scan's world; ``None`` where too little of a brain is seen.

    Parameters
    ----------
    classes, right : Volume
        Probabilities of the classes ``(x, y, z, 18)`` and of the right hemisphere ``(x, y, z)``.

    Returns
    -------
    array, (3, 3)
        Its columns are the head's right, front and top. Least squares over the centroids of structures by hemisphere
        (Kabsch 1976, doi:10.1107/S0567739476001873).
    """
    there, here = [], []
    for number, sides in enumerate(FREESURFER):
        for is_right, label in enumerate(dict.fromkeys(sides)):
            if label not in places():
                continue
            weight = classes.data[..., number]
            if sides[0] != sides[1]:
                weight = weight * (right.data if is_right else 1 - right.data)
            if float(weight.sum()) * classes.grid.voxel_volume >= SMALLEST_MM3:
                there.append(places()[label])
                here.append(_centroid(weight, classes.affine))
    if len(here) < FEWEST:
        return None
    return _rotation(np.array(there), np.array(here))


def _centroid(weight: NDArray[np.float32], affine: NDArray[np.float64]) -> Points:
    """Centre of mass, mm."""
    total = weight.sum(dtype=np.float64)
    axes = [(weight.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)) for axis in range(3)]
    middle = [float(np.arange(len(mass)) @ mass) / total for mass in axes]
    return np.asarray((affine @ np.append(middle, 1))[:3])


def _rotation(there: Points, here: Points) -> NDArray[np.float64] | None:
    """The rotation that carries ``there`` best to ``here``, whatever their size; ``None`` where none does."""
    a, b = there - there.mean(axis=0), here - here.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (u * signs) @ vt
    away = b - (s @ signs) / (a**2).sum() * a @ turn.T
    return turn if np.sqrt((away**2).sum(axis=1).mean()) < FARTHEST_MM else None


def angle(turn: NDArray[np.float64]) -> float:
    """Of a rotation, degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
