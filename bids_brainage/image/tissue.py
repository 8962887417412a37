"""Tissue probabilities on the scan's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bids_brainage.image.classes import FLUID, GREY, WHITE
from bids_brainage.image.io import Volume, read, read_grid, resample, save, save_probability


class Tissues(NamedTuple):
    """Probabilities of grey matter, white matter and cerebrospinal fluid, and the most probable of them.

    ``dseg`` has the labels of BIDS: 1 grey matter, 2 white matter, 3 cerebrospinal fluid.
    """

    probseg_gm: Path
    probseg_wm: Path
    probseg_csf: Path
    dseg: Path


def tissues(t1w_preproc: Path, icv_mask: Path, posteriors: Path, *, out: Path) -> Tissues:
    """Sum the network's posteriors to tissues and carry them to the native grid; they sum to 1 within the skull.

    Parameters
    ----------
    t1w_preproc : Path
        Gives the native grid.
    icv_mask : Path
        Everything within the skull, native grid.
    posteriors : Path
        18 classes at 2 mm.
    """
    grid, inside, classes = read_grid(t1w_preproc), read(icv_mask, np.uint8).data > 0, read(posteriors)
    parts = []
    for numbers in (GREY, WHITE, FLUID):
        summed = classes.data[..., list(numbers)].sum(axis=-1)
        parts.append(np.clip(resample(Volume(summed, classes.affine), grid), 0, 1) * inside)
    total = np.sum(parts, axis=0)
    empty = inside & (total < 1e-3)
    parts[2][empty] = 1
    total[empty | ~inside] = 1
    shares = [part / total for part in parts]
    labels = np.where(inside, 1 + np.argmax(shares, axis=0), 0).astype(np.uint8)
    names = ("probseg_gm", "probseg_wm", "probseg_csf")
    paths = [
        save_probability(out / f"{name}.nii.gz", part, grid.affine) for name, part in zip(names, shares, strict=True)
    ]
    return Tissues(*paths, save(out / "dseg.nii.gz", labels, grid.affine))
