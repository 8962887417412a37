"""What large voxels do to the volumes that are measured: heads in larger voxels, and a calibration for each size."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from bids_brainage.image import io
from bids_brainage.image.atlas import Atlas
from bids_brainage.image.calibration import Lines
from bids_brainage.image.io import Grid, Volume
from bids_brainage.training.agreement import Judged, calibrated_blindly, calibration, raw_volumes
from bids_brainage.training.heads import RESOLUTION, copy_through_stages, seen

LOG = logging.getLogger("bids_brainage")

EDGES = (3.0, 5.0)
"""Of the voxels of the copies, mm."""


def sample(source: Volume, grid: Grid, move: NDArray[np.float64] | None = None) -> Volume:
    """A head on a grid: cubic interpolation, smoothed first along axes where the new voxels are larger.

    Parameters
    ----------
    move : array, (4, 4), optional
        World transform (mm) that moves the head first.
    """
    to_source = np.linalg.inv(source.affine) @ np.linalg.inv(np.eye(4) if move is None else move) @ grid.affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    data = source.data.astype(np.float32)
    low, high, air = data.min(), data.max(), io.background(data)
    scale = np.linalg.norm(np.linalg.inv(matrix), axis=0) ** -1
    if (scale > 1 + 1e-3).any():
        data = ndimage.gaussian_filter(data, 0.4 * np.sqrt(np.maximum(scale**2 - 1, 0)), mode="nearest")
    found = ndimage.affine_transform(data, matrix, offset, grid.shape, order=3, mode="constant", cval=air)
    return Volume(np.clip(found, low, high), grid.affine)


def resized(scan: Volume, zooms: ArrayLike) -> Volume:
    """The same field of view in voxels of another size (mm, one for all axes or three; nan keeps an axis)."""
    old = scan.grid
    wanted = np.broadcast_to(np.asarray(zooms, float), 3)
    new = np.where(np.isnan(wanted), old.zooms, wanted)
    x, y, z = np.maximum(1, np.ceil(np.asarray(old.shape) * old.zooms / new - 1e-3)).astype(int).tolist()
    affine = np.eye(4)
    affine[:3, :3] = old.affine[:3, :3] / old.zooms * new
    affine[:3, 3] = old.centre() - affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    return sample(scan, Grid((x, y, z), affine))


def coarse_volumes(
    heads: Sequence[tuple[str, Path, Path]],
    atlases: Mapping[int, Atlas],
    who: NDArray[np.int_],
    work: Path,
    *,
    segment_bundle: Path,
    threads: int = 1,
) -> NDArray[np.float64]:
    """Volumes of the heads in voxels of each of :data:`EDGES`, through the app's stages.

    Parameters
    ----------
    heads
        Name, T1w and segmentation of each.
    atlases, who
        Of :func:`~bids_brainage.training.agreement.without_each` and :func:`~bids_brainage.training.agreement.people`:
        each head is measured by an atlas without its person.
    work : Path
        Folder that keeps the stages' files.

    Returns
    -------
    array, (heads, sizes, 146)
        Regions and ICV, mm^3, not calibrated.
    """
    found = []
    for number, ((name, t1w, _), w) in enumerate(zip(heads, who, strict=True), start=1):
        LOG.info("head %d of %d, in larger voxels: %s", number, len(heads), name)
        scan, own = io.read(t1w), []
        for edge in EDGES:
            copy, folder = resized(scan, edge), work / f"{name}_voxel-{edge:g}"
            paths = copy_through_stages(copy, folder, segment_bundle=segment_bundle, threads=threads)
            own.append(raw_volumes(atlases[w], seen(paths), paths["xfm_inverse"]))
        found.append(own)
    return np.array(found)


def lines(judged: Judged, coarse: NDArray[np.float64]) -> Lines:
    """The calibration of each size of voxel; ``judged`` the heads as they are, ``coarse`` of :func:`coarse_volumes`."""
    found = [calibration(measured, judged.reference) for measured in (judged.raw, *coarse.swapaxes(0, 1))]
    return Lines(np.array([RESOLUTION, *EDGES], np.float32), *np.stack(found, axis=1))


def judge_coarse(judged: Judged, coarse: NDArray[np.float64], who: NDArray[np.int_]) -> NDArray[np.float64]:
    """Volumes in larger voxels, ``(heads, sizes, 146)``, mm^3, by calibrations that never saw their person."""
    each = [calibrated_blindly(measured, judged.reference, who)[0] for measured in coarse.swapaxes(0, 1)]
    return np.stack(each, axis=1)
