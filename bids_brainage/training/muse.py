"""Tables of regional volumes for training, and the effect of resolution on them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.core.errors import UsageError
from bids_brainage.models.roi import ICV, SEX_CODE, VENTRICLES, features

FloatArray = NDArray[np.float64]

LOG_OFFSET = 2e-5
VOXEL_2MM = 8.0
FEWEST_PEOPLE = 100
FEWEST_SAME_HEADS = 10
MOST_EMPTY = 5
COLUMNS = ("who", "age", "sex", "site", "icv", "volumes")


@dataclass(frozen=True)
class Table:
    """People with regional volumes.

    Attributes
    ----------
    who, sex, site : array of str, shape (n,)
        ``site`` is empty where the table has none.
    age : array, shape (n,)
        Years.
    icv : array, shape (n,)
        mm^3.
    volumes : array, shape (n, k)
        mm^3, in the order of ``indices``.
    indices : tuple of int
        MUSE indices, ICV apart.
    """

    who: NDArray[np.str_]
    age: FloatArray
    sex: NDArray[np.str_]
    site: NDArray[np.str_]
    icv: FloatArray
    volumes: FloatArray
    indices: tuple[int, ...]

    @property
    def logged(self) -> NDArray[np.bool_]:
        """Regions that enter as logarithms."""
        return np.isin(self.indices, list(VENTRICLES))

    def design(self) -> FloatArray:
        """Features with the sex code as the last column, shape (n, k + 1)."""
        code = np.array([SEX_CODE[s] for s in self.sex.tolist()])
        return np.hstack([features(self.volumes, self.icv, self.logged, LOG_OFFSET), code.reshape(-1, 1)])

    def rows(self, chosen: NDArray[Any]) -> Table:
        """Some of the people, by number or by a mask."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in COLUMNS})


def read_table(path: Path, *, fewest: int = FEWEST_PEOPLE) -> Table:
    """Read a TSV with ``participant_id``, ``age``, ``sex`` (F, M), ``MUSE_702`` and regional volumes ``MUSE_<index>``.

    Raises
    ------
    UsageError
        Where a column or value is missing, a person stands twice, there are too few, or a segmentation failed.
    """
    try:
        frame = pd.read_csv(path, sep="\t", dtype={"participant_id": str, "sex": str})
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TSV ({error}); give a table of MUSE volumes") from None
    absent = [name for name in ("participant_id", "age", "sex", f"MUSE_{ICV}") if name not in frame]
    rois = [str(name) for name in frame if re.fullmatch(r"MUSE_\d+", str(name)) and name != f"MUSE_{ICV}"]
    if absent or not rois:
        raise UsageError(f"{path}: lacks column {', '.join(absent) or 'MUSE_<index>'}; give a table of MUSE volumes")
    values = frame[["age", f"MUSE_{ICV}", *rois]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    _check(path, frame, values, fewest)
    return Table(
        who=frame["participant_id"].to_numpy(dtype=str),
        age=values[:, 0],
        sex=frame["sex"].to_numpy(dtype=str),
        site=frame["site"].to_numpy(dtype=str) if "site" in frame else np.full(len(frame), ""),
        icv=values[:, 1],
        volumes=values[:, 2:],
        indices=tuple(int(name.removeprefix("MUSE_")) for name in rois),
    )


def _check(path: Path, frame: pd.DataFrame, values: FloatArray, fewest: int) -> None:
    """Refuse what would silently spoil a model; ``values`` are age, ICV and regions."""
    finite = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & (values[:, 1] > 0)
    faults = {
        "stands twice; keep one row a person": frame["participant_id"].duplicated().to_numpy(),
        "has a missing or negative value; complete the row or take it out": ~finite,
        "has a sex other than F and M; correct it or take the row out": ~frame["sex"].isin(["F", "M"]).to_numpy(),
        "has many empty regions, a failed segmentation; take the row out": (values[:, 2:] == 0).sum(axis=1)
        > MOST_EMPTY,
    }
    for what, where in faults.items():
        if where.any():
            raise UsageError(f"{path}: {frame['participant_id'][int(np.argmax(where))]} {what}")
    if len(frame) < fewest:
        raise UsageError(f"{path}: {len(frame)} people are too few; give at least {fewest}")


def log_ratios(fine: FloatArray, coarse: FloatArray) -> FloatArray:
    """Shrunken mean log ratio of volumes of the same heads at 1 mm and at 2 mm; ages take no part.

    Each region's mean log((fine + v) / (coarse + v)), v one 2 mm voxel, is drawn to the mean of all regions as far as
    its standard error asks (normal-normal empirical Bayes, DerSimonian & Laird's moment estimate of the spread).

    Parameters
    ----------
    fine, coarse : array, shape (n, k)
        mm^3; the same people and regions, at least two people.

    Returns
    -------
    array, shape (k,)
        ``log(1 mm volume / 2 mm volume)``.
    """
    logs = np.log((fine + VOXEL_2MM) / (coarse + VOXEL_2MM))
    ratio, variance = logs.mean(axis=0), logs.var(axis=0, ddof=1) / len(logs)
    spread = max(float(ratio.var(ddof=1) - variance.mean()), 0.0) if len(ratio) > 1 else 0.0
    total = spread + variance
    weight = np.divide(spread, total, out=np.ones_like(total), where=total > 0)
    return weight * ratio + (1 - weight) * ratio.mean()


def pair(table: Table, same_heads: Path) -> tuple[Table, Table]:
    """The same people in both tables: of ``table``, and of the one at 2 mm, in one order."""
    other = read_table(same_heads, fewest=FEWEST_SAME_HEADS)
    row = {who: i for i, who in enumerate(table.who)}
    common = [i for i, who in enumerate(other.who) if who in row]
    if len(common) < FEWEST_SAME_HEADS or other.indices != table.indices:
        raise UsageError(
            f"{same_heads}: shares {len(common)} people with the table; give the same heads and regions at 2 mm"
        )
    chosen = other.rows(np.array(common))
    return table.rows(np.array([row[who] for who in chosen.who])), chosen


def conversion(fine: Table, coarse: Table) -> tuple[FloatArray, float]:
    """Log ratios (1 mm over 2 mm) of the regions, shrunken, and of ICV, from the same people in one order."""
    return log_ratios(fine.volumes, coarse.volumes), float(np.log(fine.icv / coarse.icv).mean())


def convert(table: Table, regions: FloatArray, icv: float) -> Table:
    """Volumes at 2 mm brought to the scale of 1 mm by such log ratios."""
    return replace(table, volumes=table.volumes * np.exp(regions), icv=table.icv * np.exp(icv))
