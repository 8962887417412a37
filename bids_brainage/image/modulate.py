"""Modulated tissue maps: how much tissue of the person lies at each place of the template."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.image.io import Grid, read, save
from bids_brainage.image.register import affine_of, displacement, warp
from bids_brainage.image.template import template as load_template

RESOLUTION_MM = 1.5
FWHM_MM = 4.0
FWHM_PER_SD = 2 * float(np.sqrt(2 * np.log(2)))


class Modulated(NamedTuple):
    """Grey and white matter in template space at 1.5 mm, ``float32``; values may exceed 1."""

    gm_modulated: Path
    wm_modulated: Path


def modulate(probseg_gm: Path, probseg_wm: Path, xfm_forward: Path, *, template: str, out: Path) -> Modulated:
    """Carry tissue probabilities to the template, times the Jacobian determinant of the nonlinear warp, smoothed.

    The affine part is left out of the determinant, so that head size is normalised (as SPM's "modulated, non-linear
    only"; Good et al. 2001, doi 10.1006/nimg.2001.0786). The sum of a map times the voxel volume times the determinant
    of the affine is the tissue's native volume.

    Parameters
    ----------
    probseg_gm, probseg_wm : Path
        Native probabilities.
    xfm_forward : Path
        T1w to template.
    """
    grid = load_template(template, RESOLUTION_MM).grid
    determinant = nonlinear_determinant(xfm_forward, grid)
    paths = []
    for name, path in (("gm", probseg_gm), ("wm", probseg_wm)):
        carried = warp(read(path), xfm_forward, grid) * determinant
        smooth = ndimage.gaussian_filter(carried, FWHM_MM / FWHM_PER_SD / RESOLUTION_MM, mode="constant")
        paths.append(save(out / f"{name}_modulated.nii.gz", smooth.astype(np.float32), grid.affine))
    return Modulated(*paths)


def nonlinear_determinant(transform: Path, grid: Grid) -> NDArray[np.float32]:
    """Jacobian determinant of a composite template-to-scan map over that of its affine part; shape of the grid.

    Central differences of the mapped points, so that the sum over the grid is the volume that the map covers.
    """
    field = displacement(transform, grid)
    zooms = grid.zooms
    axes = grid.affine[:3, :3] / zooms
    gradient = np.stack([np.stack(np.gradient(field[..., i], *zooms), axis=-1) for i in range(3)], axis=-2)
    jacobian = gradient @ axes.T.astype(np.float32) + np.eye(3, dtype=np.float32)
    whole = np.linalg.det(jacobian)
    return np.clip(whole / np.linalg.det(affine_of(transform)[:3, :3]), 0, None).astype(np.float32)
