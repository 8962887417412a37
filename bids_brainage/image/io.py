"""Volumes in and out, and resampling between grids; every array is in RAS order.

A :class:`Grid` says where voxels lie in the world (mm), a :class:`Volume` adds their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy import ndimage

from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import atomic

FloatArray = NDArray[np.floating]
FAINT = 0.05


class Grid(NamedTuple):
    """Voxel counts along the three axes and the 4 x 4 affine from voxel indices to mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def zooms(self) -> NDArray[np.float64]:
        """Voxel size along each axis, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel, mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def centre(self) -> NDArray[np.float64]:
        """World coordinates of the middle of the field of view, mm."""
        middle = (np.asarray(self.shape) - 1) / 2
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])


class Volume(NamedTuple):
    """A 3D (or 4D, classes last) array in RAS order and its affine."""

    data: NDArray
    affine: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        x, y, z = self.data.shape[:3]
        return Grid((x, y, z), self.affine)


def read(path: Path, dtype: DTypeLike = np.float32) -> Volume:
    """Read an image as an array in RAS order, header scaling applied.

    Parameters
    ----------
    path : Path
        NIfTI file; 3D, or 4D with classes last. A 4D file with one volume comes back 3D.
    dtype
        Type of the array: a floating type, or an integer type for label maps (values are rounded).

    Raises
    ------
    ScanError
        Where the file cannot be read.
    """
    try:
        image = nib.as_closest_canonical(nib.load(path))
        integer = np.issubdtype(np.dtype(dtype), np.integer) or np.dtype(dtype) == np.bool_
        data = np.asarray(image.dataobj) if integer else image.get_fdata(dtype=dtype, caching="unchanged")
    except Exception as error:  # nibabel, gzip, zlib and the system each raise their own kind
        reason = " ".join(str(error).split())[:160]
        raise ScanError(f"{path}: cannot be read ({reason}); check the file or make it again") from error
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if integer and not np.issubdtype(data.dtype, np.integer):
        data = np.rint(data)
    return Volume(np.ascontiguousarray(data, dtype=dtype), np.asarray(image.affine, dtype=np.float64))


def read_grid(path: Path) -> Grid:
    """The grid of an image in RAS order; reads its header alone."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
    except Exception as error:
        raise ScanError(f"{path}: cannot be read ({error}); check the file or make it again") from error
    x, y, z = image.shape[:3]
    return Grid((x, y, z), np.asarray(image.affine, dtype=np.float64))


def save(path: Path, data: NDArray, affine: NDArray, dtype: DTypeLike | None = None) -> Path:
    """Write an array as NIfTI, atomically: units mm, qform and sform both set (code 1, scanner).

    ``dtype`` is the type on disk (default: the array's own, ``bool`` as ``uint8``); values are stored unscaled.
    """
    kind = np.dtype(dtype) if dtype is not None else data.dtype
    kind = np.dtype(np.uint8) if kind == np.bool_ else kind
    return _write(path, data.astype(kind, copy=False), affine, None)


def save_probability(path: Path, data: NDArray, affine: NDArray) -> Path:
    """Write probabilities (0 to 1) as ``uint8`` with a slope of 1/255; a reader gets floats back."""
    if data.dtype != np.uint8:
        data = np.rint(np.clip(data, 0, 1) * np.float32(255)).astype(np.uint8)
    return _write(path, data, affine, 1 / 255)


def _write(path: Path, data: NDArray, affine: NDArray, slope: float | None) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    with atomic(path) as temporary:
        image.to_filename(temporary)
    return Path(path)


def resample(
    source: Volume, grid: Grid, *, nearest: bool = False, cubic: bool = False, antialias: bool = True
) -> NDArray:
    """Values of a volume on another grid of the same world space; 0 outside its field of view.

    Parameters
    ----------
    source : Volume
        3D. ``float32`` for interpolation; any type for ``nearest``.
    grid : Grid
        The voxels to fill.
    nearest : bool
        Nearest neighbour (labels) in place of linear interpolation.
    cubic : bool
        Cubic in place of linear interpolation: keeps the sharpness of intensities, within their range.
    antialias : bool
        Where the new voxels are larger, average over their extent (the kernel is widened to the new spacing).

    Notes
    -----
    Where the axes of both grids are parallel (the same head resampled to another spacing), interpolation is three
    small matrix products, one an axis.
    """
    if same_grid(source.grid, grid):
        return source.data.copy()
    to_source = np.linalg.inv(source.affine) @ grid.affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    if nearest:
        return _nearest(source.data, matrix, offset, grid.shape)
    scale = np.linalg.norm(matrix, axis=1)
    if parallel(source.grid, grid):
        weights = [
            axis_weights(size, new, float(matrix[axis, axis]), float(offset[axis]), cubic=cubic, antialias=antialias)
            for axis, (size, new) in enumerate(zip(source.data.shape, grid.shape, strict=True))
        ]
        found = separable(source.data.astype(np.float32, copy=False), weights)
    else:
        data = source.data.astype(np.float32, copy=False)
        if antialias and (scale > 1).any():
            data = ndimage.gaussian_filter(data, np.where(scale > 1, 0.4 * np.sqrt(np.maximum(scale**2 - 1, 0)), 0))
        order = 3 if cubic else 1
        found = np.asarray(ndimage.affine_transform(data, matrix, offset, grid.shape, order=order, mode="constant"))
    return np.clip(found, min(0, source.data.min()), source.data.max(), out=found) if cubic else found


def _nearest(data: NDArray, matrix: NDArray, offset: NDArray, shape: tuple[int, int, int]) -> NDArray:
    kind = data.dtype
    stored = data.astype(np.uint8) if kind == np.bool_ else data
    # a voxel ends half a voxel beyond its centre; "constant" has 0 beyond the outermost centres
    found = ndimage.affine_transform(stored, matrix, offset, shape, order=0, mode="grid-constant")
    return np.asarray(found).astype(kind, copy=False)


def parallel(one: Grid, other: Grid) -> bool:
    """Whether the axes of two grids are parallel, in order, to a hundredth of a voxel over the extent of ``other``."""
    matrix = (np.linalg.inv(one.affine) @ other.affine)[:3, :3]
    return bool(np.abs(matrix - np.diag(np.diag(matrix))).max() * max(other.shape) < 1e-2)


def same_grid(one: Grid, other: Grid, tolerance: float = 1e-3) -> bool:
    """Whether two grids have the same shape and affines that agree within ``tolerance`` mm."""
    return one.shape == other.shape and bool(np.allclose(one.affine, other.affine, rtol=0, atol=tolerance))


def refines(fine: Grid, coarse: Grid) -> bool:
    """Whether ``fine`` is ``coarse`` or divides each of its voxels into as many along each axis."""
    parts = round(float(coarse.zooms[0] / fine.zooms[0]))
    if parts < 1:
        return False
    affine = coarse.affine @ np.diag([1 / parts, 1 / parts, 1 / parts, 1.0])
    affine[:3, 3] = (coarse.affine @ np.append(np.full(3, (1 / parts - 1) / 2), 1.0))[:3]
    x, y, z = (size * parts for size in coarse.shape)
    return same_grid(fine, Grid((x, y, z), affine))


def axis_weights(
    size: int, new: int, step: float, start: float, *, cubic: bool = False, antialias: bool = True
) -> NDArray[np.float32]:
    """Interpolation weights along one axis, shape ``(new, size)``: new voxel ``j`` lies at ``start + step * j``.

    The kernel (linear: a triangle; cubic: that of Keys 1981, doi:10.1109/TASSP.1981.1163711) is scaled to the old
    spacing, or to the new one where that is larger and ``antialias`` is set; where it lies inside, its centre of mass
    is put exactly on the new voxel. Rows sum to 1 inside the field of view (to half a voxel beyond the outer centres),
    to 0 outside.
    """
    centre = start + step * np.arange(new)
    width = max(1.0, abs(step)) if antialias else 1.0
    away = np.arange(size) - centre[:, None]
    weights = (_keys if cubic else _triangle)(np.abs(away) / width)
    inside = (centre > -0.5 - 1e-6) & (centre < size - 0.5 + 1e-6)
    weights = np.where(inside[:, None], weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12), 0)
    mean = (weights * away).sum(axis=1)
    mass = np.abs(weights)
    apart = away - ((mass * away).sum(axis=1) / np.maximum(mass.sum(axis=1), 1e-12))[:, None]
    spread = (mass * apart**2).sum(axis=1)
    reach = (2 if cubic else 1) * width
    whole = (centre >= reach) & (centre <= size - 1 - reach) & (spread > 1e-9)
    pull = np.where(whole, mean / np.where(whole, spread, 1), 0)
    return (weights - mass * apart * pull[:, None]).astype(np.float32)


def _triangle(distance: FloatArray) -> FloatArray:
    return np.clip(1 - distance, 0, None)


def _keys(distance: FloatArray) -> FloatArray:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def separable(data: NDArray, weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Apply one ``(new, old)`` matrix along each of the three axes, the strongest reduction first."""
    order = sorted(range(3), key=lambda axis: weights[axis].shape[0] / weights[axis].shape[1])
    result = data
    for axis in order:
        x, y, z = result.shape
        if axis == 0:
            result = (weights[0] @ result.reshape(x, y * z)).reshape(-1, y, z)
        elif axis == 1:
            result = np.matmul(weights[1], result)
        else:
            result = (result.reshape(x * y, z) @ weights[2].T).reshape(x, y, -1)
    return np.ascontiguousarray(result, dtype=np.float32)


def mean_on(grid: Grid, volumes: Sequence[Volume]) -> NDArray[np.float32]:
    """Mean of volumes, each interpolated to ``grid``."""
    return np.asarray(sum(resample(volume, grid) for volume in volumes) / np.float32(len(volumes)), np.float32)


def spaced(grid: Grid, spacing: float) -> Grid:
    """A grid of isotropic voxels of ``spacing`` mm over the same field of view and along the same axes."""
    extent = np.asarray(grid.shape) * grid.zooms
    x, y, z = np.maximum(1, np.ceil(extent / spacing - 1e-3)).astype(int).tolist()
    return centred(grid, grid.centre(), spacing, (x, y, z))


def centred(grid: Grid, centre: NDArray, spacing: float, shape: tuple[int, int, int]) -> Grid:
    """A grid of ``shape`` isotropic voxels along the axes of ``grid``, its middle at ``centre`` (mm)."""
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / grid.zooms * spacing
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, affine)


def window(source: Volume, start: ArrayLike, shape: tuple[int, ...]) -> Volume:
    """Voxels from ``start`` on, in number ``shape``; 0 where that lies beyond the array. The world space is kept."""
    begin = np.asarray(start, dtype=int)
    low, high = np.maximum(begin, 0), np.minimum(begin + shape, source.data.shape)
    data = np.zeros(shape, source.data.dtype)
    if (high > low).all():
        target = tuple(slice(a, b) for a, b in zip(low - begin, high - begin, strict=True))
        data[target] = source.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return Volume(data, shifted(source.affine, begin))


def shifted(affine: NDArray, start: ArrayLike) -> NDArray[np.float64]:
    """The affine of an array that begins at voxel ``start`` of another."""
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = (affine @ np.append(np.asarray(start), 1))[:3]
    return moved


def background(data: NDArray) -> float:
    """The value of air: the median of the eight corners."""
    return float(np.median(data[:: data.shape[0] - 1, :: data.shape[1] - 1, :: data.shape[2] - 1]))


def empty(scan: Volume, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a mask reaches into parts of the scan that hold nothing: taken away, or beyond the field of view.

    Voxels of exactly 0 or the air's value, in pieces that an opening by one voxel leaves and that reach the mask's
    outside: what lies within, as ventricles that somebody's rescaling made 0, is tissue. Nothing where they are under a
    hundredth of the mask, as single dark voxels are.
    """
    nothing = inside & ((scan.data == 0) | (scan.data == background(scan.data)))
    if nothing.sum() < 0.01 * inside.sum():
        return np.zeros_like(inside)
    opened = ndimage.binary_opening(nothing)
    pieces, _ = ndimage.label(opened)
    reaching = np.unique(pieces[ndimage.binary_dilation(~inside, border_value=1)])
    kept = np.isin(pieces, reaching[reaching > 0])
    within = opened & ~kept
    if within.any():
        within = ndimage.binary_dilation(within, iterations=2, mask=nothing)
    return np.asarray(ndimage.binary_propagation(kept, mask=nothing & ~within))


def occupied(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a stripped scan holds something: by over 5 % of what is bright away from the air's value.

    Interpolation by splines leaves traces of the brain far out in the air, and dips beside its edge; they count as
    nothing.
    """
    away = data - background(data)
    least = FAINT * np.percentile(np.abs(away[::3, ::3, ::3]), 99)
    is_lowest = (away < -least).mean() < 0.01
    return np.asarray((away if is_lowest else np.abs(away)) > least)


def nonnegative(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intensities with 0 as the darkest; returned as they are where under 1 % of the voxels are negative.

    Traces of interpolation in the air, under 5 % of what is bright, are not counted.
    A scan that somebody standardised holds values about 0: it is shifted by the first percentile of its foreground,
    and voxels that hold exactly the background's value become 0.
    """
    if (data < 0).mean() < 0.01 or (data < -FAINT * np.percentile(np.abs(data[::3, ::3, ::3]), 99)).mean() < 0.01:
        return np.maximum(data, 0)
    empty = data == background(data)
    shifted = data - np.percentile(data[~empty], 1)
    shifted[empty] = 0
    return np.maximum(shifted, 0)
