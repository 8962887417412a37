"""Grey and white matter in template space, scaled so that they keep the volumes of the scan."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bids_brainage.image.io import read, save
from bids_brainage.image.register import affine_of, displacement, volume_change, warp
from bids_brainage.image.template import template as load_template

RESOLUTION = 1.5
FWHM = 4.0


class Modulated(NamedTuple):
    """Smoothed maps on the template's 1.5 mm grid, float32."""

    gm_modulated: Path
    wm_modulated: Path


def modulate(probseg_gm: Path, probseg_wm: Path, xfm_forward: Path, *, template: str, out: Path) -> Modulated:
    r"""Warp tissue probabilities to the template and multiply by the nonlinear warp's volume change.

    .. math:: m(y) = p(T(y))\, \frac{\det \nabla T(y)}{\det A}

    where :math:`T` carries template points to the scan and :math:`A` is its affine part: sum over voxels x voxel
    volume x :math:`\det A` is the tissue's volume in the scan (mm^3). The affine is left out, so brains of
    different size but one shape look alike (Good et al. 2001, doi 10.1006/nimg.2001.0786). Then a Gaussian, 4 mm FWHM.

    Parameters
    ----------
    probseg_gm, probseg_wm : Path
        Probabilities, native grid.
    xfm_forward : Path
        T1w to template.
    template : str
        Name of the template space.
    """
    grid = load_template(template, RESOLUTION).grid
    change = volume_change(displacement(xfm_forward, grid), grid) / np.linalg.det(affine_of(xfm_forward)[:3, :3])
    written = []
    for source, name in ((probseg_gm, "gm_modulated"), (probseg_wm, "wm_modulated")):
        moved = warp(read(source), xfm_forward, grid) * change
        smooth = ndimage.gaussian_filter(moved, FWHM / np.sqrt(8 * np.log(2)) / grid.zooms, mode="constant")
        written.append(save(out / f"{name}.nii.gz", smooth.astype(np.float32), grid.affine))
    return Modulated(*written)
