"""From what is measured to the volumes of DLMUSE on 2 mm scans: a line for each region, by the size of the voxels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MINIMUM = 8.0
"""One voxel of 2 mm, mm^3: the least that is measured."""


def logarithm(volumes: FloatArray) -> FloatArray:
    """Natural logarithm of volumes in mm^3, none taken for less than :data:`MINIMUM`."""
    return np.asarray(np.log(np.maximum(volumes, MINIMUM)))


def between(at: float, knots: NDArray[np.float32], rows: NDArray[np.floating]) -> FloatArray:
    """Rows ``(k, n)`` that hold at growing knots ``(k,)``, interpolated linearly, level beyond the last: ``(n,)``."""
    share = np.array([np.interp(at, knots, one) for one in np.eye(len(knots))])
    return np.asarray(share @ rows, dtype=np.float64)


class Lines(NamedTuple):
    r"""Lines :math:`\log V = a + b \log M` of the 145 regions and the ICV, for some sizes of voxel.

    In larger voxels cortex seems thinner, and the ventricles of a young brain wider, than they are.

    Attributes
    ----------
    edges : array of float32, (sizes,)
        Edge of the voxels in which heads were measured, mm, growing. Smaller voxels than the first change nothing.
    intercept, slope : arrays of float32, (sizes, 146)
        :math:`a`, :math:`b`; volumes in mm^3.
    """

    edges: NDArray[np.float32]
    intercept: NDArray[np.float32]
    slope: NDArray[np.float32]

    def at(self, edge: float) -> FloatArray:
        """Intercepts and slopes for voxels of an edge in mm, ``(2, 146)``: linear between two sizes, level beyond."""
        return np.stack([between(edge, self.edges, rows) for rows in (self.intercept, self.slope)])

    def volumes(self, log_measured: FloatArray, edge: float) -> FloatArray:
        """Calibrated volumes, ``(146,)``, mm^3, from logarithms of measured ones."""
        intercept, slope = self.at(edge)
        return np.asarray(np.exp(intercept + slope * log_measured))


def no_lines() -> Lines:
    """Of an atlas that calibrates nothing."""
    none = np.zeros((1, 146), np.float32)
    return Lines(np.full(1, 2, np.float32), none, none + 1)
