"""A T1w scan of a simulated head: pose, contrast, partial volume, blur, bias field, Rician noise, gain, storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy import ndimage as ndi

from bids_brainage.simulate.anatomy import REGIONS
from bids_brainage.simulate.deform import Array, nearest, noise, sample
from bids_brainage.simulate.head import TISSUES

FIELD_OF_VIEW = (184.0, 232.0, 228.0)
"""Extent of a scan along each axis, mm."""
CENTRE = (0.0, -5.0, -12.0)
"""Head position (mm) at the centre of the field of view."""
_BRAIN_SPREAD = 5.0
_MOVES = 4
"""How often a restless head moves during a scan."""
ORIENTATIONS = ("RAS", "LAS", "PSR", "LPS")
"""Storage orders in which scans are written."""


@dataclass(frozen=True)
class Protocol:
    """How a scanner takes its images; intensities are in units in which white matter is about 160.

    Attributes
    ----------
    resolution : float
        Isotropic voxel size, mm.
    noise : float
        Standard deviation of the noise in each channel of the complex signal.
    bias : float
        Standard deviation of the logarithm of the receive field.
    blur : float
        Standard deviation of the point spread beyond the voxel's own, in voxels.
    contrast : float
        Relative standard deviation of the tissues' intensities from scan to scan.
    tilt, shift : float
        Standard deviation of the head's rotation (degrees) and translation (mm).
    orientation : str
        Storage order, e.g. ``RAS``.
    slices : int
        Voxels along z that one slice is thick.
    motion : float
        Standard deviation of the head's place among the phase-encoding lines, mm (`moved`).
    cut : float
        Length that the field of view lacks at the top, mm.
    gain : float
        Factor on the stored intensities.
    """

    resolution: float = 2.0
    noise: float = 3.5
    bias: float = 0.10
    blur: float = 0.35
    contrast: float = 0.03
    tilt: float = 3.0
    shift: float = 2.5
    orientation: str = "RAS"
    slices: int = 1
    motion: float = 0.0
    cut: float = 0.0
    gain: float = 1.0


class Acquisition(NamedTuple):
    """A scan and its truth on the same grid.

    Attributes
    ----------
    data : int16 array, RAS+
    labels : uint8 array, RAS+
        The region that fills most of each voxel, 0 outside the skull's inside.
    volumes : float array
        mm^3 of each region in the head, in the order of `REGIONS`, from 8 samples a voxel, what a cut took included.
    affine : 4 x 4 array
    position : float32 array, 3 x X x Y x Z
        Where the centre of each voxel lies in the base anatomy, mm.
    """

    data: NDArray[np.int16]
    labels: NDArray[np.uint8]
    volumes: NDArray[np.float64]
    affine: NDArray[np.float64]
    position: Array


class Head(NamedTuple):
    """A person's head as the scanner sees it.

    Attributes
    ----------
    to_base : callable
        Positions in the head (3 x ..., mm) to positions in the base anatomy.
    labels, origin, step
        The base anatomy's label map.
    texture : float32 array
        Unit-variance noise that belongs to the tissue, on a grid of ``texture_step`` mm in the base anatomy.
    """

    to_base: Callable[[Array], Array]
    labels: NDArray[np.uint8]
    origin: NDArray[np.float64]
    step: int
    texture: Array
    texture_step: float


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of angles about x, y and z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array(((1, 0, 0), (0, c[0], -s[0]), (0, s[0], c[0])))
    about_y = np.array(((c[1], 0, s[1]), (0, 1, 0), (-s[1], 0, c[1])))
    about_z = np.array(((c[2], -s[2], 0), (s[2], c[2], 0), (0, 0, 1)))
    return np.asarray(about_x @ about_y @ about_z, np.float64)


def grid(resolution: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine (RAS+) of a scan."""
    shape = tuple(round(extent / resolution) for extent in FIELD_OF_VIEW)
    affine = np.diag([resolution, resolution, resolution, 1.0])
    affine[:3, 3] = np.array(CENTRE) - resolution * (np.array(shape) - 1) / 2
    return (shape[0], shape[1], shape[2]), affine


def _twice(field: Array) -> Array:
    """Values of a field (C x X x Y x Z) at the centres of the eight parts of each voxel."""
    import torch

    tensor = torch.from_numpy(field)[None]
    scaled = torch.nn.functional.interpolate(tensor, scale_factor=2, mode="trilinear", align_corners=False)
    return np.asarray(scaled[0].numpy(), np.float32)


def _eighths(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The eight parts of each voxel along a new first axis."""
    x, y, z = (n // 2 for n in values.shape)
    return values.reshape(x, 2, y, 2, z, 2).transpose(1, 3, 5, 0, 2, 4).reshape(8, x, y, z)


def _contrast(rng: np.random.Generator, protocol: Protocol) -> tuple[Array, Array]:
    """Mean intensity and spread of each label for one scan; the two sides alike."""
    mean, spread = np.zeros(256, np.float32), np.zeros(256, np.float32)
    by_kind = {kind: 1 + protocol.contrast * rng.standard_normal() for kind in sorted({r.kind for r in REGIONS})}
    for region in REGIONS:
        mean[region.number], spread[region.number] = region.t1 * by_kind[region.kind], _BRAIN_SPREAD
    for tissue in TISSUES:
        mean[tissue.number] = tissue.t1 * (1 + 2 * protocol.contrast * rng.standard_normal())
        spread[tissue.number] = tissue.spread
    return mean, spread


def _majority(parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The commonest of the eight labels of each voxel, the lowest of those equally common."""
    ordered = np.sort(parts, axis=0)
    run, best, winner = np.ones(parts.shape[1:], np.uint8), np.ones(parts.shape[1:], np.uint8), ordered[0].copy()
    for i in range(1, len(ordered)):
        run = np.where(ordered[i] == ordered[i - 1], run + 1, 1).astype(np.uint8)
        longer = np.asarray(run > best)
        winner[longer], best[longer] = ordered[i][longer], run[longer]
    return winner


def _degrade(signal: Array, protocol: Protocol, rng: np.random.Generator) -> NDArray[np.int16]:
    """Blur, bias field, Rician noise, gain."""
    if protocol.motion:
        signal = moved(signal, protocol.motion / protocol.resolution, rng)
    signal = ndi.gaussian_filter(signal, protocol.blur, truncate=3)
    coarse = tuple(max(3, int(n * protocol.resolution / 12)) for n in signal.shape)
    field = noise(rng, coarse, 3.0)
    factors = [n / c for n, c in zip(signal.shape, coarse, strict=True)]
    signal = signal * np.exp(protocol.bias * ndi.zoom(field, factors, order=1, grid_mode=True, mode="nearest"))
    real = signal + protocol.noise * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = protocol.noise * rng.standard_normal(signal.shape, dtype=np.float32)
    gain = protocol.gain * rng.uniform(2.0, 6.0)
    return np.asarray(np.clip(np.rint(gain * np.hypot(real, imaginary)), 0, 32767), np.int16)


def moved(signal: Array, size: float, rng: np.random.Generator) -> Array:
    """A scan during which the head moves: ghosts and blur along y.

    A few times during the scan the head goes to another place, and it stays there for the lines of k-space that
    follow; a shift is a linear phase. The places are counted from that at the centre of k-space, which shows most, so
    the head stays where the truth has it.

    Parameters
    ----------
    signal : float32 array, X x Y x Z
        y is the phase-encoding direction.
    size : float
        Standard deviation of the shift along each axis, voxels.
    rng : Generator
        Draws times and places.

    Returns
    -------
    float32 array
        Magnitude.
    """
    lines = signal.shape[1]
    starts = np.sort(rng.integers(0, lines, _MOVES))
    place = size * rng.standard_normal((_MOVES + 1, 3))[np.searchsorted(starts, np.arange(lines), side="right")]
    place -= place[lines // 2]
    ky = fft.fftfreq(lines)
    place = place[np.rint(lines * (ky + 0.5)).astype(int) % lines]  # lines are taken from -ky to +ky
    kx, kz = (fft.fftfreq(signal.shape[a]) for a in (0, 2))
    phase = kx[:, None, None] * place[:, 0, None] + (ky * place[:, 1])[:, None] + kz * place[:, 2, None]
    found = fft.ifftn(fft.fftn(signal) * np.exp(-2j * np.pi * phase).astype(np.complex64))
    return np.abs(found).astype(np.float32)


_T = TypeVar("_T", bound=np.generic)


def _thick(values: NDArray[_T], slices: int) -> NDArray[_T]:
    """Values (C x X x Y x Z) of the voxels that each thick slice takes in, along a longer first axis."""
    c, x, y, z = values.shape
    whole = values[..., : z // slices * slices].reshape(c, x, y, -1, slices)
    return np.ascontiguousarray(np.moveaxis(whole, 4, 1)).reshape(c * slices, x, y, -1)


def _cut(found: Acquisition, length: float) -> Acquisition:
    """A scan without what lies in the uppermost ``length`` mm of its field of view."""
    keep = max(1, found.data.shape[2] - round(length / found.affine[2, 2]))
    return found._replace(
        data=found.data[..., :keep], labels=found.labels[..., :keep], position=found.position[..., :keep]
    )


def acquire(head: Head, protocol: Protocol, rng: np.random.Generator) -> Acquisition:
    """Scan a head.

    Parameters
    ----------
    head : Head
    protocol : Protocol
    rng : Generator
        Draws the pose, the contrast, the bias field, the noise and the gain.

    Returns
    -------
    Acquisition
    """
    shape, affine = grid(protocol.resolution)
    back = _rotation(protocol.tilt * rng.standard_normal(3)).T
    shift = protocol.shift * rng.standard_normal(3)
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    matrix = (back * protocol.resolution).astype(np.float32)
    offset = (back @ (affine[:3, 3] - shift)).astype(np.float32)
    position = np.einsum("ab,bxyz->axyz", matrix, index) + offset[:, None, None, None]
    base = head.to_base(position)
    texture = sample(head.texture[None], head.origin, head.texture_step, base)[0]
    parts = _eighths(nearest(head.labels, head.origin, head.step, _twice(base)))
    if protocol.slices > 1:
        n = protocol.slices
        parts, texture = _thick(parts, n), _thick(texture[None], n).mean(0)
        base = np.stack([_thick(axis[None], n).mean(0) for axis in base])
        affine = affine @ np.diag([1.0, 1.0, n, 1.0])
        affine[2, 3] += protocol.resolution * (n - 1) / 2
    mean, spread = _contrast(rng, protocol)
    signal = mean[parts].mean(0, dtype=np.float32) + spread[parts].mean(0, dtype=np.float32) * texture
    data = _degrade(np.maximum(signal, 0), protocol, rng)
    inside = np.zeros(256, np.uint8)
    numbers = [r.number for r in REGIONS]
    inside[numbers] = numbers
    count = np.bincount(parts.ravel(), minlength=256)[numbers]
    found = Acquisition(data, inside[_majority(parts)], count * protocol.resolution**3 / 8, affine, base)
    return _cut(found, protocol.cut) if protocol.cut else found
