"""Grey matter, white matter and CSF at the scan's own resolution: network and atlas sharpened by intensity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import ScanError
from bids_brainage.image.classes import FLUID, GREY, WHITE
from bids_brainage.image.io import Volume, empty, read, resample, save, save_probability

ROUNDS = 8
FLOOR = 1e-3
TISSUES = (GREY, WHITE, FLUID)


class Tissues(NamedTuple):
    """Probabilities (native grid, uint8 x 1/255, sum 1 within the skull) and the likeliest tissue.

    ``dseg`` has the labels of BIDS: 1 grey matter, 2 white matter, 3 CSF, 0 outside the skull; ``measures`` are of
    :mod:`bids_brainage.core.quality`.
    """

    probseg_gm: Path
    probseg_wm: Path
    probseg_csf: Path
    dseg: Path
    measures: Mapping[str, float]


def tissues(t1w_preproc: Path, icv_mask: Path, structure_prior: Path, *, out: Path) -> Tissues:
    """Three tissues within the skull, native grid.

    Grey matter is cortex, deep grey and cerebellar cortex; white matter counts brainstem and ventral
    diencephalon; CSF counts the ventricles. ``structure_prior`` holds the classes by network and atlas.

    Raises
    ------
    ScanError
        Where the intracranial mask is empty.
    """
    scan, inside = read(t1w_preproc), read(icv_mask, np.uint8).data > 0
    if not inside.any():
        raise ScanError(f"{icv_mask}: the intracranial mask is empty; check the scan")
    inside &= ~empty(scan, inside)
    classes = read(structure_prior)
    groups = (Volume(classes.data[..., list(numbers)].sum(axis=-1), classes.affine) for numbers in TISSUES)
    prior = np.stack([np.clip(resample(group, scan.grid)[inside], 0, 1) for group in groups])
    share = classify(scan.data[inside], prior + FLOOR)
    paths = []
    for name, values in zip(("gm", "wm", "csf"), share, strict=True):
        image = np.zeros(inside.shape, dtype=np.float32)
        image[inside] = values
        paths.append(save_probability(out / f"probseg_{name}.nii.gz", image, scan.affine))
    label = np.zeros(inside.shape, dtype=np.uint8)
    label[inside] = 1 + share.argmax(axis=0)
    dseg = save(out / "dseg.nii.gz", label, scan.affine)
    return Tissues(paths[0], paths[1], paths[2], dseg, contrast(scan.data[inside], share))


def contrast(intensity: NDArray[np.floating], share: NDArray[np.floating]) -> dict[str, float]:
    """How white and grey matter differ: measures of :mod:`bids_brainage.core.quality`.

    Parameters
    ----------
    intensity : array, (n,)
    share : array, (3, n)
        Grey matter, white matter, CSF.
    """
    grey, white = (intensity[share.argmax(axis=0) == number] for number in (0, 1))
    if not len(grey) or not len(white) or grey.mean() <= 0:
        return {"white_over_grey": float("nan"), "tissue_contrast": 0.0}
    spread = float(np.sqrt((grey.var() + white.var()) / 2))
    return {
        "white_over_grey": float(white.mean() / grey.mean()),
        "tissue_contrast": float(abs(white.mean() - grey.mean()) / max(spread, 1e-6)),
    }


def classify(intensity: NDArray[np.floating], prior: NDArray[np.floating]) -> NDArray[np.float32]:
    r"""Posterior of each class from spatial priors and a Gaussian mixture of intensity, by expectation maximisation.

    .. math:: p_k(v) \propto \pi_k(v) \exp\left(-\frac{(I(v) - \mu_k)^2}{2 \sigma^2}\right)

    with one variance for all classes, as partial volume makes each class's own unstable (after Ashburner and Friston
    2005, doi 10.1016/j.neuroimage.2005.02.018, with a network's posteriors in the place of a tissue atlas).

    Parameters
    ----------
    intensity : array, (n,)
        Of a bias-corrected image, any scale.
    prior : array, (k, n)
        Not negative, not all 0 at a voxel; any scale.

    Returns
    -------
    array, (k, n)
        Columns sum to 1.
    """
    weight = prior / prior.sum(axis=0)
    share = weight
    for _ in range(ROUNDS):
        total = share.sum(axis=1) + 1e-6
        mean = (share @ intensity) / total
        squared = (intensity - mean[:, None]) ** 2
        variance = max(float((share * squared).sum() / total.sum()), 1e-8)
        squared *= -0.5 / variance
        share = weight * np.exp(squared - squared.max(axis=0))
        share /= np.maximum(share.sum(axis=0), 1e-30)
    return np.asarray(share, dtype=np.float32)
