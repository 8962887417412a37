"""Smooth deformations as displacement fields: sampling, composition, random ones, Jacobians."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

Array = NDArray[np.float32]


class Warp(NamedTuple):
    """A map ``x -> x + displacement(x)``; all in mm, RAS+.

    Attributes
    ----------
    displacement : float32 array, 3 x X x Y x Z
    origin : array of 3
        World position of the first node.
    spacing : float
        Distance between nodes.
    """

    displacement: Array
    origin: NDArray[np.float64]
    spacing: float


def sample(field: Array, origin: NDArray[np.float64], spacing: float, points: Array) -> Array:
    """Values of a field at points, trilinear, the edge's values beyond it.

    Parameters
    ----------
    field : float32 array, C x X x Y x Z
    origin, spacing
        Where its nodes lie, mm.
    points : float32 array, 3 x P x Q x R
        World positions, mm.

    Returns
    -------
    float32 array, C x P x Q x R
    """
    import torch

    shape = field.shape[1:]
    grid = np.empty((*points.shape[1:], 3), np.float32)
    for a in range(3):
        np.multiply(points[a] - np.float32(origin[a]), np.float32(2 / (spacing * (shape[a] - 1))), out=grid[..., 2 - a])
    grid -= 1
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(field))[None],
        torch.from_numpy(grid)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return values[0].numpy()


def nearest(labels: NDArray[np.uint8], origin: NDArray[np.float64], step: float, points: Array) -> NDArray[np.uint8]:
    """Value of the nearest voxel of a label map at each position (3 x ..., mm); 0 outside the map."""
    flat = np.zeros(points.shape[1:], np.int32)
    outside = np.zeros(points.shape[1:], bool)
    for a, size in enumerate(labels.shape):
        index = np.rint((points[a] - np.float32(origin[a])) * np.float32(1 / step)).astype(np.int32)
        outside |= (index < 0) | (index >= size)
        flat = flat * np.int32(size) + np.clip(index, 0, size - 1)
    found: NDArray[np.uint8] = labels.ravel()[flat]
    found[outside] = 0
    return found


def apply(warp: Warp, points: Array) -> Array:
    """Move points (3 x ..., mm) by a warp."""
    return points + sample(warp.displacement, warp.origin, warp.spacing, points)


def nodes(shape: tuple[int, ...], origin: NDArray[np.float64], spacing: float) -> Array:
    """World positions of all nodes of a grid, 3 x X x Y x Z, mm."""
    axes = [origin[a] + spacing * np.arange(shape[a]) for a in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    """Gaussian noise of zero mean and unit variance, smoothed by ``sigma`` voxels."""
    field = ndi.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=3)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def random_warp(
    rng: np.random.Generator, box: Warp, scales: tuple[tuple[float, float], ...], squarings: int = 6
) -> Warp:
    """A random diffeomorphism: the exponential of band-limited velocities by scaling and squaring.

    Parameters
    ----------
    rng : Generator
    box : Warp
        Its grid is used, its displacement is not.
    scales : pairs (mm, mm)
        Correlation length (standard deviation of the smoothing) and standard deviation of each velocity component.
    squarings : int
        The velocity is divided by 2 to this power, then composed with itself as often (Arsigny et al. 2006, MICCAI).

    Returns
    -------
    Warp
    """
    shape = box.displacement.shape[1:]
    velocity = np.zeros((3, *shape), np.float32)
    for length, size in scales:
        velocity += size * np.stack([noise(rng, shape, length / box.spacing) for _ in range(3)])
    displacement: Array = np.asarray(velocity / 2**squarings, np.float32)
    start = nodes(shape, box.origin, box.spacing)
    for _ in range(squarings):
        moved = np.asarray(start + displacement, np.float32)
        displacement = np.asarray(displacement + sample(displacement, box.origin, box.spacing, moved), np.float32)
    return box._replace(displacement=displacement)


def jacobian(warp: Warp) -> Array:
    """Determinant of the map's Jacobian at its nodes, by central differences."""
    g = [[np.gradient(warp.displacement[a], warp.spacing, axis=b) + (a == b) for b in range(3)] for a in range(3)]
    minor = [g[1][(a + 1) % 3] * g[2][(a + 2) % 3] - g[1][(a + 2) % 3] * g[2][(a + 1) % 3] for a in range(3)]
    return np.asarray(sum(g[0][a] * minor[a] for a in range(3)), np.float32)
