"""Intensity non-uniformity: N4 on a coarse grid, its smooth field divided out at full resolution."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.image.io import Volume, read, resample, save, spaced

GRID_MM = 6.0
SPLINE_MM = 200.0
ITERATIONS = (40, 30, 20)
MARGIN_MM = 8.0
BRAIN_LEVEL = 1000.0


class Corrected(NamedTuple):
    """The scan without its bias field, with skull."""

    t1w_preproc: Path


def correct_bias(t1w_native: Path, brain_mask: Path, *, out: Path) -> Corrected:
    """Correct the bias field inside the head; the median of the brain becomes 1000, negative values 0, ``int16``.

    The field is estimated by N4 (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908) at 6 mm, where a smooth field
    loses nothing, in the brain and a margin of 8 mm, and carried on smoothly outside.
    """
    scan, mask = read(t1w_native), read(brain_mask, np.uint8).data > 0
    field = bias_field(scan, mask)
    corrected = np.clip(scan.data / field, 0, None)
    corrected *= BRAIN_LEVEL / max(float(np.median(corrected[mask])), 1e-6)
    stored = np.rint(np.clip(corrected, 0, np.iinfo(np.int16).max))
    return Corrected(save(out / "t1w_preproc.nii.gz", stored, scan.affine, np.int16))


def bias_field(scan: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Multiplicative field on the grid of the scan, geometric mean 1 in the mask; shape of ``scan.data``.

    Parameters
    ----------
    scan : Volume
        Intensities of any scale.
    mask
        The brain, same shape.
    """
    import ants

    coarse = spaced(scan.grid, GRID_MM)
    image = np.clip(resample(scan, coarse), 0, None)
    inside = resample(Volume(mask.astype(np.float32), scan.affine), coarse) > 0.5
    near = ndimage.distance_transform_edt(~inside) * GRID_MM <= MARGIN_MM
    near &= image > 0
    spacing = (GRID_MM,) * 3
    field = ants.n4_bias_field_correction(
        ants.from_numpy(image.astype(np.float32), spacing=spacing),
        mask=ants.from_numpy(near.astype(np.float32), spacing=spacing),
        shrink_factor=1,
        convergence={"iters": list(ITERATIONS), "tol": 1e-4},
        spline_param=SPLINE_MM,
        return_bias_field=True,
    ).numpy()
    logarithm = _spread(np.log(np.clip(field, 1e-3, None)), near)
    logarithm -= logarithm[inside].mean()
    return np.exp(resample(Volume(logarithm.astype(np.float32), coarse.affine), scan.grid))


def _spread(values: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Keep what is known; elsewhere the nearest known value, smoothed."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = values[tuple(nearest)]
    smooth = ndimage.gaussian_filter(filled, 3)
    return np.where(known, filled, smooth)
