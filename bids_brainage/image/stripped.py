"""Scans that came without skull: how they were cut, and what that does to the volumes that are measured.

Where no skull is, the network sees more cortex and white matter, and less fluid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.image import masks
from bids_brainage.image.calibration import FloatArray, between
from bids_brainage.image.io import Grid, Volume, mean_on, occupied

FURTHEST = 2.0
"""SDs of the heads that taught the shifts: nobody is told what would follow from more or less fluid than that."""


class Cut(NamedTuple):
    """How a scan was stripped.

    Attributes
    ----------
    rim : float
        Log of all that the scan holds on the brain that the network sees. Of a scan that was cut along its brain the
        network leaves a rim, too, and a narrower one where the cut took brain along.
    fluid : float
        Log of the inside of the skull, which the network sees beyond the cut as well, on that brain.
    """

    rim: float
    fluid: float


class Shifts(NamedTuple):
    """What an atlas knows of stripped scans, cut by cut, rims growing.

    Attributes
    ----------
    rims : array of float32, (cuts,)
        Mean :attr:`Cut.rim` of the heads that were cut so.
    stripped : array of float32, (cuts, 146)
        Log of what is measured in such a head (145 regions and the ICV) on what is measured in the whole head.
    fluid : array of float32, (cuts, 2)
        Mean and SD of :attr:`Cut.fluid` of these heads.
    by_fluid : array of float32, (cuts, 146)
        By how much ``stripped`` is higher in a head with an SD more of fluid.
    """

    rims: NDArray[np.float32]
    stripped: NDArray[np.float32]
    fluid: NDArray[np.float32]
    by_fluid: NDArray[np.float32]


def no_shifts() -> Shifts:
    """Of an atlas that knows nothing of stripped scans."""
    none = np.zeros((1, 146), np.float32)
    return Shifts(none[:, 0], none, none[:, :2], none)


def own_brain(probabilities: Sequence[Volume], grid: Grid) -> masks.Mask:
    """The brain that the network sees, on a grid: probabilities of all classes interpolated, averaged, cut at 0.5."""
    tissue = [Volume(1 - one.data[..., :2].sum(axis=-1), one.affine) for one in probabilities]
    return masks.solid(mean_on(grid, tissue) > 0.5)


def how_cut(scan: Volume, skull: float, probabilities: Sequence[Volume]) -> Cut:
    """How a scan was stripped; ``skull``: volume of the inside of the skull, mm^3."""
    brain = max(int(own_brain(probabilities, scan.grid).sum()), 1)
    left = max(int(masks.fill_holes(occupied(scan.data)).sum()), 1)
    return Cut(float(np.log(left / brain)), float(np.log(max(skull / scan.grid.voxel_volume, 1) / brain)))


def added_by(cut: Cut, shifts: Shifts) -> FloatArray:
    """What stripping adds to the log volumes, ``(146,)``: between two known cuts linear in the rim."""
    mean, sd = shifts.fluid.T.astype(np.float64)
    more = np.clip((cut.fluid - mean) / np.maximum(sd, 1e-6), -FURTHEST, FURTHEST)
    each = shifts.stripped + more[:, None] * shifts.by_fluid
    return between(cut.rim, shifts.rims, each)
