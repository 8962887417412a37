"""Changes of a scan that must not change its results: pure functions from a volume to a changed one.

Each also says how a point of the clean scan's world (mm) moves: only turns and shifts of the head move it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_brainage.image import io, masks
from bids_brainage.image.io import Grid, Volume
from bids_brainage.training.coarse import resized, sample
from bids_brainage.training.stripped import strip

Matrix = NDArray[np.float64]
OBLIQUE = (1.0, 1.0, 1.0)
FACE = (0.0, 1.0, -1.0)
"""Where the face looks from the brain: to the front and down."""


class Changed(NamedTuple):
    """A changed scan, and the 4 x 4 matrix that carries points of the clean world (mm) to the changed one."""

    volume: Volume
    move: Matrix


@dataclass(frozen=True)
class Change:
    """One change by name.

    Attributes
    ----------
    name : str
        As in ``--changes``, e.g. ``rotate-10``.
    call : callable
        From a clean scan and its brain mask (same grid) to the changed scan.
    threads : int, optional
        Threads of ITK that the app is to use, where that is the change.
    published : bool
        Whether the mask is to be the one that the app writes, where there is one, instead of the network's own.
    """

    name: str
    call: Callable[[Volume, masks.Mask], Changed]
    threads: int | None = None
    published: bool = False


# Where points go


def rotation(degrees: float, axis: ArrayLike, centre: ArrayLike) -> Matrix:
    """World transform that turns by an angle about an axis through a point, right-handed."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    move = np.eye(4)
    move[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    move[:3, 3] = np.asarray(centre, float) - move[:3, :3] @ np.asarray(centre, float)
    return move


def translation(millimetres: ArrayLike) -> Matrix:
    """World transform that shifts by three distances."""
    move = np.eye(4)
    move[:3, 3] = millimetres
    return move


def carry(mask: masks.Mask, affine: Matrix, move: Matrix, grid: Grid) -> masks.Mask:
    """A mask of the clean scan on the changed scan's grid, the nearest voxel's value; cut where the grid ends."""
    return io.resample(Volume(mask, move @ affine), grid, nearest=True).astype(bool)


# Sampling and fields of view


def head_mask(scan: Volume) -> masks.Mask:
    """The head without air around it: what exceeds a tenth of the bright tissue's level, holes filled."""
    level = scan.data.min() + 0.1 * (np.percentile(scan.data, 99) - scan.data.min())
    return masks.solid(ndimage.binary_opening(scan.data > level))


def grown(scan: Volume, move: Matrix, margin: float = 4.0) -> Grid:
    """The scan's grid, longer at the sides where the moved head would leave it."""
    voxels = np.argwhere(head_mask(scan))
    to_voxels = np.linalg.inv(scan.affine) @ move @ scan.affine
    moved = voxels @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    edge = margin / scan.grid.zooms
    low = np.minimum(0, np.floor(moved.min(axis=0) - edge)).astype(int)
    high = np.maximum(np.asarray(scan.data.shape) - 1, np.ceil(moved.max(axis=0) + edge)).astype(int)
    x, y, z = (high - low + 1).tolist()
    return Grid((x, y, z), scan.affine @ translation(low))


def turn(scan: Volume, degrees: float, axis: ArrayLike = OBLIQUE) -> Changed:
    """The head turned in the scanner about the middle of the field of view; the grid grows where the head needs it."""
    move = rotation(degrees, axis, scan.grid.centre())
    return Changed(sample(scan, grown(scan, move), move), move)


def shift(scan: Volume, millimetres: ArrayLike) -> Changed:
    """The head moved in the scanner; the grid grows where the head needs it."""
    move = translation(millimetres)
    return Changed(sample(scan, grown(scan, move), move), move)


def place(scan: Volume, move: Matrix) -> Changed:
    """The same voxels at another place in the world: the header alone changes."""
    return Changed(Volume(scan.data, move @ scan.affine), move)


def reorder(scan: Volume, codes: str) -> Volume:
    """The same values at the same world points, stored in another order of axes such as ``PIR``."""
    ornt = nib.orientations
    by = ornt.ornt_transform(ornt.io_orientation(scan.affine), ornt.axcodes2ornt(tuple(codes)))
    data = np.ascontiguousarray(ornt.apply_orientation(scan.data, by))
    return Volume(data, scan.affine @ ornt.inv_ornt_aff(by, scan.data.shape))


def cut(scan: Volume, brain: masks.Mask, below: float, around: float | None = None) -> Volume:
    """The field of view ends ``below`` mm under the brain and, where given, ``around`` mm from its other sides."""
    low, high = np.zeros(3, int), np.asarray(scan.data.shape)
    box = masks.bounding_box(brain)
    for axis, (side, zoom) in enumerate(zip(box, scan.grid.zooms, strict=True)):
        under = below if axis == 2 else around
        if under is not None:
            low[axis] = max(0, side.start - int(np.ceil(under / zoom)))
        if around is not None:
            high[axis] = min(high[axis], side.stop + int(np.ceil(around / zoom)))
    return io.window(scan, low, tuple((high - low).tolist()))


def padded(scan: Volume, millimetres: float) -> Volume:
    """More air on every side, of the background's value."""
    extra = np.ceil(millimetres / scan.grid.zooms).astype(int)
    data = np.pad(scan.data, [(n, n) for n in extra], constant_values=io.background(scan.data))
    return Volume(data, scan.affine @ translation(-extra))


# Intensities


def inverted(scan: Volume, *, bright_background: bool = False) -> Volume:
    """Dark for bright within the head; air stays 0, or with ``bright_background`` becomes the brightest."""
    top = np.float32(np.percentile(scan.data[scan.data > 0], 99.9))
    data = np.maximum(top - scan.data.astype(np.float32), 0)
    return Volume(data if bright_background else np.where(head_mask(scan), data, np.float32(0)), scan.affine)


def scaled(scan: Volume, factor: float, offset: float = 0.0) -> Volume:
    """Intensities times a factor, plus an offset."""
    return Volume((scan.data.astype(np.float64) * factor + offset).astype(np.float32), scan.affine)


def standardised(scan: Volume) -> Volume:
    """Intensities of mean 0 and standard deviation 1 over the whole field of view."""
    mean, spread = float(scan.data.mean(dtype=np.float64)), float(scan.data.std(dtype=np.float64))
    return scaled(scan, 1 / spread, -mean / spread)


def white_matter_level(scan: Volume, brain: masks.Mask) -> float:
    """Intensity of white matter in a T1w scan: the tallest peak of the brain's histogram above its median."""
    values = scan.data[brain]
    upper = values[values >= np.median(values)]
    counts, edges = np.histogram(upper, bins=64, range=(float(upper.min()), float(np.percentile(upper, 99.5))))
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 3, mode="nearest")))
    return float(edges[peak : peak + 2].mean())


def rician(scan: Volume, deviation: float, seed: int = 0) -> Volume:
    """Magnitude of the signal with Gaussian noise of a standard deviation in both channels."""
    rng = np.random.default_rng(seed)
    shape = scan.data.shape
    real = scan.data + deviation * rng.standard_normal(shape, np.float32)
    return Volume(np.hypot(real, deviation * rng.standard_normal(shape, np.float32)).astype(np.float32), scan.affine)


def biased(scan: Volume, strength: float, seed: int = 0) -> Volume:
    """Times a smooth field of values from ``1 - strength`` to ``1 + strength`` over the field of view."""
    rng = np.random.default_rng(seed)
    nodes = ndimage.gaussian_filter(rng.standard_normal((5, 5, 5)), 0.8)
    steps = (np.asarray(nodes.shape) - 1) / np.maximum(np.asarray(scan.data.shape) - 1, 1)
    field = ndimage.affine_transform(nodes.astype(np.float32), np.diag(steps), output_shape=scan.data.shape, order=3)
    low, high = float(field.min()), float(field.max())
    factor = 1 - strength + 2 * strength * (field - low) / (high - low)
    return Volume((scan.data * factor).astype(np.float32), scan.affine)


# Parts taken away


def defaced(scan: Volume, brain: masks.Mask, margin: float = 5.0) -> Volume:
    """0 in front of and below a plane that passes ``margin`` mm from the brain, tilted by 45 degrees."""
    normal = np.asarray(FACE) / np.linalg.norm(FACE)
    along = normal @ scan.affine[:3, :3]
    i, j, k = np.ogrid[tuple(slice(n) for n in scan.data.shape)]
    height = along[0] * i + along[1] * j + along[2] * k
    return Volume(np.where(height > height[brain].max() + margin, scan.data.dtype.type(0), scan.data), scan.affine)


# The list of changes


def _still(change: Callable[[Volume, masks.Mask], Volume]) -> Callable[[Volume, masks.Mask], Changed]:
    """A change that moves nothing in the world."""
    return lambda scan, brain: Changed(change(scan, brain), np.eye(4))


def _turns() -> list[Change]:
    """Turns about an oblique axis, and to both sides about each of the head's axes."""
    made = [Change(f"rotate-{a}", lambda s, _, a=a: turn(s, a)) for a in (5, 10, 15, 30)]
    axes = {
        "chin-up": (1, 0, 0),
        "chin-down": (-1, 0, 0),
        "lean-right": (0, 1, 0),
        "lean-left": (0, -1, 0),
        "look-left": (0, 0, 1),
        "look-right": (0, 0, -1),
    }
    return made + [Change(f"{name}-30", lambda s, _, axis=axis: turn(s, 30, axis)) for name, axis in axes.items()]


def _places() -> list[Change]:
    """Shifts, and changes of the header that leave the voxels as they are."""
    return [
        Change("shift-8", lambda s, _: shift(s, (8, -8, 8))),
        Change("shift-3.3", lambda s, _: shift(s, (3.3, -1.7, 2.6))),
        Change("origin-60", lambda s, _: place(s, translation((60, -60, 60)))),
        Change("oblique-20", lambda s, _: place(s, rotation(20, OBLIQUE, s.grid.centre()))),
        Change("flip", _still(lambda s, _: reorder(s, "LPI"))),
        Change("swap-axes", _still(lambda s, _: reorder(s, "PIR"))),
    ]


def _grids() -> list[Change]:
    """Other voxels and other fields of view."""
    sizes = [Change(f"voxel-{mm}", _still(lambda s, _, mm=mm: resized(s, mm))) for mm in (0.7, 1.5, 2, 3, 5)]
    return [
        *sizes,
        Change("slices-5", _still(lambda s, _: resized(s, (np.nan, np.nan, 5)))),
        Change("cut-neck", _still(lambda s, b: cut(s, b, 10))),
        Change("cut-close", _still(lambda s, b: cut(s, b, 10, 10))),
        Change("more-air", _still(lambda s, _: padded(s, 40))),
    ]


def _intensities() -> list[Change]:
    """Other contrasts, scales, noise and bias fields."""
    levels = [
        Change(f"noise-{n}", _still(lambda s, b, n=n: rician(s, n / 100 * white_matter_level(s, b)))) for n in (3, 9)
    ]
    return [
        Change("invert", _still(lambda s, _: inverted(s))),
        Change("invert-bright", _still(lambda s, _: inverted(s, bright_background=True))),
        Change("scale-0.01", _still(lambda s, _: scaled(s, 0.01))),
        Change("scale-1000", _still(lambda s, _: scaled(s, 1000))),
        Change("standardise", _still(lambda s, _: standardised(s))),
        *levels,
        Change("bias-30", _still(lambda s, _: biased(s, 0.3))),
        Change("bias-60", _still(lambda s, _: biased(s, 0.6))),
    ]


def _parts() -> list[Change]:
    """Scans from which something was taken away, and other numbers of threads."""
    return [
        Change("strip", _still(strip), published=True),
        Change("strip-tight", _still(strip)),
        Change("strip-3", _still(lambda s, b: strip(s, b, 3))),
        Change("deface", _still(lambda s, b: defaced(s, b))),
        *(Change(f"threads-{n}", _still(lambda s, _: s), threads=n) for n in (1, 2)),
    ]


CHANGES = {change.name: change for change in (*_turns(), *_places(), *_grids(), *_intensities(), *_parts())}
