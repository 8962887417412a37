"""The error with which regional volumes are measured, and its table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.core.errors import UsageError

FloatArray = NDArray[np.float64]

PRIOR_HEADS = 5


@dataclass(frozen=True)
class MeasurementError:
    """Normal errors of log volumes relative to ICV: each region's own, and some that many regions share.

    What moves the border between grey and white matter, the sharpness of a scan for instance, moves it everywhere: such
    errors add up in a sum over regions, where independent ones average out.

    Attributes
    ----------
    own : array, shape (k,)
        SD of each region's own error.
    shared : array, shape (m, k)
        Loadings of m independent standard normal errors on the regions.
    """

    own: FloatArray
    shared: FloatArray

    def covariance(self) -> FloatArray:
        """Of the errors of log volume, shape (k, k)."""
        return np.asarray(np.diag(self.own**2) + self.shared.T @ self.shared)

    def times(self, factor: float) -> MeasurementError:
        """Errors so many times as large."""
        return MeasurementError(self.own * factor, self.shared * factor)

    def draw(self, rng: np.random.Generator, people: int) -> FloatArray:
        """Errors of so many people, shape (people, k)."""
        own = rng.normal(size=(people, len(self.own))) * self.own
        return np.asarray(own + rng.normal(size=(people, len(self.shared))) @ self.shared)


def read_error(path: Path, indices: Sequence[int]) -> MeasurementError:
    """Measurement error from a TSV with ``index``, ``relative_sd`` and any ``shared_1``, ``shared_2``, ...

    Other indices (ICV, composites) are not used: the error of ICV is common to all regions.

    Parameters
    ----------
    path : Path
        One row a region.
    indices : sequence of int
        The regions wanted, in order.

    Raises
    ------
    UsageError
        Where it cannot be read, or a region has no finite ``relative_sd`` of at least 0, no finite share, or two rows.
    """
    try:
        frame = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TSV ({error}); give a table of measurement errors") from None
    if not {"index", "relative_sd"} <= set(frame):
        raise UsageError(f"{path}: lacks column index or relative_sd; give a table of measurement errors")
    known = frame.apply(pd.to_numeric, errors="coerce")[frame["index"].isin(list(indices))].set_index("index")
    if known.index.has_duplicates:
        raise UsageError(f"{path}: MUSE index {known.index[known.index.duplicated()][0]:g} stands twice; keep one row")
    known = known.reindex(list(indices))
    shared = known[[name for name in known if re.fullmatch(r"shared_\d+", str(name))]]
    usable = (known["relative_sd"] >= 0) & np.isfinite(known["relative_sd"]) & np.isfinite(shared).all(axis=1)
    if not usable.all():
        raise UsageError(
            f"{path}: no usable value for MUSE index {known.index[~usable][0]}; "
            "give relative_sd and shares of each region, 0 for none"
        )
    return MeasurementError(known["relative_sd"].to_numpy(dtype=float), shared.to_numpy(dtype=float).T)


def against_reference(ratio: FloatArray, kinds: NDArray[np.int_], mirror: NDArray[np.int_]) -> MeasurementError:
    """Errors of heads against a reference: what all regions of a kind share in a head, and what is left of each region.

    What is shared is kept head by head: the means over cortex, over white matter, and so on, which go together as they
    do in these heads. Whatever moves the border of the cortex, or the ICV that all is relative to, moves a hundred
    regions at once and does not average out. Both sides have one SD, drawn to that of the median region as if
    :data:`PRIOR_HEADS` more heads had shown it.

    Parameters
    ----------
    ratio : array, shape (n, k)
        log(measured / reference) of volume relative to ICV, a row a head.
    kinds : array, shape (k,)
        Number of the structure that each region is a part of.
    mirror : array, shape (k,)
        Each region's fellow on the other side.
    """
    heads = len(ratio)
    common = np.empty_like(ratio)
    for kind in np.unique(kinds):
        common[:, kinds == kind] = ratio[:, kinds == kind].mean(axis=1, keepdims=True)
    variance = ((ratio - common) ** 2).mean(axis=0)
    variance = (variance + variance[mirror]) / 2
    own = (heads * variance + PRIOR_HEADS * np.median(variance)) / (heads + PRIOR_HEADS)
    return MeasurementError(np.sqrt(own), common / np.sqrt(heads))


def with_repeats(error: MeasurementError, repeats: FloatArray, most: int, mirror: NDArray[np.int_]) -> MeasurementError:
    """Add what repeated measurements show: their strongest common patterns are shared too.

    Parameters
    ----------
    error : MeasurementError
        Against the reference. Each region's own error stays at least that.
    repeats : array, shape (n, k)
        Differences of log volume relative to ICV between measurements of the same head.
    most : int
        How many patterns to keep.
    mirror : array, shape (k,)
        Each region's fellow on the other side: differences count once more with the sides exchanged.
    """
    both = np.concatenate([repeats, repeats[:, mirror]]) / np.sqrt(2 * len(repeats))
    _, size, pattern = np.linalg.svd(both, full_matrices=False)
    shared = size[:most, None] * pattern[:most]
    rest = np.maximum((both**2).sum(axis=0) - (shared**2).sum(axis=0), error.own**2)
    return MeasurementError(np.sqrt(rest), np.concatenate([error.shared, shared]))
