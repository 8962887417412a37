"""The brain in template space by the affine part of its registration alone: its shape is kept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bids_brainage.image.io import Grid, Volume, read, resample, save
from bids_brainage.image.register import affine_of
from bids_brainage.image.template import template as load_template


class Linear(NamedTuple):
    """The corrected brain on the template's 1 mm grid, moved by the affine alone, float32."""

    t1w_mni_affine: Path


def place(t1w_preproc: Path, brain_mask: Path, xfm_forward: Path, *, template: str, out: Path) -> Linear:
    """Put the brain on the template's 1 mm grid without the nonlinear warp.

    Parameters
    ----------
    t1w_preproc, brain_mask : Path
        Bias-corrected scan and brain, native grid.
    xfm_forward : Path
        T1w to template, whose affine part is used.
    template : str
        Name of the template space.
    """
    scan, mask = read(t1w_preproc), read(brain_mask, np.uint8).data > 0
    grid = load_template(template, 1.0).grid
    brain = moved(Volume(scan.data * mask, scan.affine), affine_of(xfm_forward), grid)
    return Linear(save(out / "t1w_mni_affine.nii.gz", brain.astype(np.float32), grid.affine))


def moved(brain: Volume, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Values of a brain on a template's grid, linear: what was masked stays 0.

    Parameters
    ----------
    brain : Volume
        3D, native.
    affine : array, (4, 4)
        From points of the template to points of the scan, RAS mm.
    grid : Grid
        Of the template.
    """
    return resample(Volume(brain.data, np.linalg.inv(affine) @ brain.affine), grid)
