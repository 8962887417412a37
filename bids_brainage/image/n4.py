"""Intensity non-uniformity: N4 on a coarse grid, its smooth field divided out at full resolution."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.core.errors import ScanError
from bids_brainage.image.io import Volume, nonnegative, read, resample, save, spaced
from bids_brainage.image.masks import bounding_box

GRID_MM = 6.0
SPLINE_MM = 200.0
ITERATIONS = (10, 10, 30, 50)
TOLERANCE = 1e-7
BRAIN_LEVEL = 1000.0


class Corrected(NamedTuple):
    """The scan without its bias field, with skull, ``int16``: the median of the brain is 1000."""

    t1w_preproc: Path


def correct_bias(t1w_ordered: Path, brain_mask: Path, *, out: Path) -> Corrected:
    """Correct the bias field of a scan; the median of the brain becomes 1000, negative values 0, stored as ``int16``.

    Parameters
    ----------
    t1w_ordered : Path
        Conformed scan, white matter brighter than grey matter.
    brain_mask : Path
        On the same grid.
    out : Path
        Existing folder to write into.

    Raises
    ------
    ScanError
        Where the brain holds no signal.
    """
    scan, mask = read(t1w_ordered), read(brain_mask, np.uint8).data > 0
    scan = Volume(nonnegative(scan.data), scan.affine)
    if not (scan.data[mask] > 0).mean() > 0.5:
        raise ScanError(f"{t1w_ordered}: more than half of its brain is dark (0); check the scan and the brain mask")
    corrected = scan.data / bias_field(scan, mask)
    corrected *= BRAIN_LEVEL / float(np.median(corrected[mask]))
    stored = np.rint(np.minimum(corrected, np.iinfo(np.int16).max))
    return Corrected(save(out / "t1w_preproc.nii.gz", stored, scan.affine, np.int16))


def bias_field(scan: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Multiplicative field on the grid of the scan, geometric mean 1 in the mask; shape of ``scan.data``.

    N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908) with control points 200, 100, 50 and 25 mm apart, on every
    voxel that lies nearest to a point of a 6 mm grid within the mask: voxels are taken, not averaged, because averages
    across tissues blunt the histogram that N4 sharpens. Outside the mask the field is carried on smoothly.

    Parameters
    ----------
    scan : Volume
        Intensities of any scale, not negative.
    mask
        The brain, same shape.
    """
    import ants

    coarse = spaced(scan.grid, GRID_MM)
    image = resample(scan, coarse, nearest=True)
    inside = (resample(Volume(mask.astype(np.float32), scan.affine), coarse) > 0.5) & (image > 0)
    box = bounding_box(inside, margin=1)
    spacing = (GRID_MM,) * 3
    field = ants.n4_bias_field_correction(
        ants.from_numpy(image[box].astype(np.float32), spacing=spacing),
        mask=ants.from_numpy(inside[box].astype(np.float32), spacing=spacing),
        shrink_factor=1,
        convergence={"iters": list(ITERATIONS), "tol": TOLERANCE},
        spline_param=SPLINE_MM,
        return_bias_field=True,
    ).numpy()
    logarithm = np.zeros(image.shape, np.float32)
    logarithm[box] = np.log(np.clip(field, 1e-3, None))
    logarithm -= logarithm[inside].mean()
    return np.exp(resample(Volume(_spread(logarithm, inside), coarse.affine), scan.grid))


def _spread(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Keep what is known; elsewhere the nearest known value, smoothed."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = values[tuple(nearest)]
    smooth = ndimage.gaussian_filter(filled, 3)
    return np.where(known, filled, smooth)
