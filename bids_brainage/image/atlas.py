"""The probabilistic MUSE atlas: read it, and look it up at the points of a head."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.core.bundle import load as load_bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.image.calibration import Lines
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.register import WORKING_MM, align, displacement, template_brain
from bids_brainage.image.stripped import Shifts
from bids_brainage.image.template import DEFAULT
from bids_brainage.image.template import template as load_template


class Atlas(NamedTuple):
    """Region probabilities in template space, the likeliest few a voxel, and the calibration of what is measured.

    Attributes
    ----------
    grid : Grid
        Template grid.
    rows : array of int32, grid.shape
        Row of each voxel in the two tables below; -1 outside the atlas.
    labels : array of uint8, (n, k)
        Columns of :func:`bids_brainage.image.muse.columns`.
    probabilities : array of float32, (n, k)
        They sum to 1.
    lines : Lines
        From measured volumes to those of the reference.
    shifts : Shifts
        What stripping adds to the log volumes.
    """

    grid: Grid
    rows: NDArray[np.int32]
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    lines: Lines
    shifts: Shifts


def read_atlas(folder: Path) -> Atlas:
    """Read and check the atlas of a bundle.

    Raises
    ------
    BundleError
        Where the bundle is damaged, is no atlas, lies in another space than the default template, or is of a version
        that knew less of stripped scans and of large voxels.
    """
    bundle = load_bundle(folder)
    if bundle.card["architecture"] != "atlas" or bundle.card.get("template") != DEFAULT:
        raise BundleError(f"{folder}: is no MUSE atlas in {DEFAULT}; give the bundle that `brainage train atlas` wrote")
    with np.load(bundle.file("atlas.npz"), allow_pickle=False) as stored:
        if not {*Lines._fields, *Shifts._fields} <= set(stored):
            raise BundleError(f"{folder}: was made by an older version; run `brainage train atlas` again")
        shape = tuple(int(size) for size in stored["shape"])
        covered = np.unpackbits(stored["covered"], count=int(np.prod(shape))).astype(bool)
        rows = np.where(covered, np.cumsum(covered) - 1, -1).astype(np.int32).reshape(shape)
        share = stored["probabilities"].astype(np.float32)
        return Atlas(
            Grid((shape[0], shape[1], shape[2]), stored["affine"]),
            rows,
            stored["labels"],
            share / share.sum(axis=1, keepdims=True),
            Lines(*(stored[name] for name in Lines._fields)),
            Shifts(*(stored[name] for name in Shifts._fields)),
        )


def template_points(xfm_inverse: Path, masks: Sequence[Volume], template: str = DEFAULT) -> NDArray[np.float32]:
    """Where the true voxels of masks, one after the other, lie in the atlas's template: ``(n, 3)``, mm, RAS."""
    here = [np.argwhere(mask.data) @ mask.affine[:3, :3].T + mask.affine[:3, 3] for mask in masks]
    moved = [displacement(xfm_inverse, mask.grid)[mask.data] for mask in masks]
    there = np.concatenate(here) + np.concatenate(moved)
    return np.asarray(there if template == DEFAULT else _to_default(there, template), dtype=np.float32)


def _to_default(points: NDArray[np.float64], template: str) -> NDArray[np.float64]:
    """Carry points of another template to the default one, by registering the two."""
    other, default = load_template(template, WORKING_MM), load_template(DEFAULT, WORKING_MM)
    with tempfile.TemporaryDirectory() as scratch:
        field = displacement(align(default, template_brain(other), Path(scratch))[1], other.grid)
    to_voxel = np.linalg.inv(other.grid.affine)
    where = (points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).T
    moved = [ndimage.map_coordinates(field[..., axis], where, order=1, mode="nearest") for axis in range(3)]
    return points + np.stack(moved, axis=1)


def look_up(atlas: Atlas, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of the 147 columns at points of the template (mm), linear between its voxels; rows sum to 1."""
    to_voxel = np.linalg.inv(atlas.grid.affine)
    where = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    where = np.clip(where, 0, np.array(atlas.grid.shape) - 1.001)
    corner = np.floor(where).astype(np.int32)
    part = (where - corner).astype(np.float32)
    result = np.zeros((len(points), 147), dtype=np.float32)
    for step in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(step, part, 1 - part), axis=1)
        row = atlas.rows[tuple((corner + step).T)]
        outside = row < 0
        result[outside, 146] += weight[outside]
        known = np.flatnonzero(~outside)
        for rank in range(atlas.labels.shape[1]):
            label = atlas.labels[row[known], rank]
            result[known, label] += weight[known] * atlas.probabilities[row[known], rank]
    return result
