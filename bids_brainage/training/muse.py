"""Tables of regional volumes for training, and the effect of resolution on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.core.errors import UsageError
from bids_brainage.models.base import SEX_CODE
from bids_brainage.models.roi import ICV, MOST_EMPTY, VENTRICLES, Conversion, features
from bids_brainage.training.measurement import MeasurementError

FloatArray = NDArray[np.float64]

LOG_OFFSET = 2e-5
VOXEL_2MM = 8.0
FEWEST_PEOPLE = 100
FEWEST_SAME_HEADS = 10
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

    def and_also(self, other: Table) -> Table:
        """These people, then those of a table with the same regions."""
        return replace(self, **{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in COLUMNS})

    def converted(self, conversion: Conversion) -> Table:
        """Volumes at 2 mm brought to the scale of 1 mm."""
        volumes, icv = conversion(self.volumes, self.icv)
        return replace(self, volumes=volumes, icv=icv)

    def with_error(self, error: MeasurementError | None, seed: int) -> Table:
        """The same people measured once more, with errors of this kind."""
        if error is None:
            return self
        drawn = error.draw(np.random.default_rng(seed), len(self.volumes))
        return replace(self, volumes=self.volumes * np.exp(drawn))


def read_table(path: Path, *, fewest: int = FEWEST_PEOPLE, leave_out: Sequence[str] = ()) -> Table:
    """Read a TSV with ``participant_id``, ``age``, ``sex`` (F, M), ``MUSE_702`` and regional volumes ``MUSE_<index>``.

    ``leave_out`` names rows that are not looked at, failed ones for instance.

    Raises
    ------
    UsageError
        Where a column or value is missing, a person stands twice, there are too few, or a segmentation failed.
    """
    frame = _read(path)
    absent = [name for name in ("participant_id", "age", "sex", f"MUSE_{ICV}") if name not in frame]
    rois = [str(name) for name in frame if re.fullmatch(r"MUSE_\d+", str(name)) and name != f"MUSE_{ICV}"]
    if absent or not rois:
        raise UsageError(f"{path}: lacks column {', '.join(absent) or 'MUSE_<index>'}; give a table of MUSE volumes")
    frame = frame[~frame["participant_id"].isin(list(leave_out))].reset_index(drop=True)
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


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", dtype={"participant_id": str, "sex": str})
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TSV ({error}); give a table of MUSE volumes") from None


def failed(path: Path) -> list[str]:
    """Who of a table has so many empty regions that the segmentation failed."""
    frame = _read(path)
    volumes = frame.filter(regex=r"^MUSE_\d+$").drop(columns=f"MUSE_{ICV}", errors="ignore")
    who = frame.get("participant_id", pd.Series(dtype=str))
    return [str(name) for name in who[(volumes == 0).sum(axis=1) > MOST_EMPTY]]


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


def slope(fine: Table, coarse: Table) -> float:
    """How much larger the differences between people are at 1 mm than at 2 mm, in log(volume / ICV); one number.

    The geometric mean over regions of the ratio of SDs, which is the slope of the reduced major axis (Warton et al.
    2006, Biological Reviews 81:259-291, section 4): a regression of one resolution on the other would be attenuated
    by the errors of the other. Ages take no part.
    """
    spread = [np.log((t.volumes + VOXEL_2MM) / t.icv[:, None]).std(axis=0) for t in (fine, coarse)]
    varies = (spread[0] > 0) & (spread[1] > 0)
    return float(np.exp(np.mean(np.log(spread[0][varies] / spread[1][varies])))) if varies.any() else 1.0


def conversion(fine: Table, coarse: Table) -> Conversion:
    """What takes volumes at 2 mm to the scale of 1 mm, from the same people in one order."""
    return Conversion(
        regions=log_ratios(fine.volumes, coarse.volumes),
        icv=float(np.log(fine.icv / coarse.icv).mean()),
        centre=np.log((fine.volumes + VOXEL_2MM) / fine.icv[:, None]).mean(axis=0),
        slope=slope(fine, coarse),
    )


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


@dataclass(frozen=True)
class Cohort:
    """Everyone who trains: people at 1 mm, others at 2 mm, and the heads that are known at both.

    Attributes
    ----------
    fine : Table
        At 1 mm.
    coarse : Table, optional
        Other people at 2 mm, as segmented; wants ``heads``.
    heads : pair of Table, optional
        Of :func:`pair`.
    """

    fine: Table
    coarse: Table | None = None
    heads: tuple[Table, Table] | None = None

    @property
    def is_coarse(self) -> NDArray[np.bool_]:
        """Who was segmented at 2 mm, shape (n,)."""
        return np.arange(len(self.people().age)) >= len(self.fine.age)

    def conversion(self, judged: Sequence[str] | NDArray[np.str_] = ()) -> Conversion | None:
        """The conversion by heads that are not ``judged``; ``None`` where no head is known at both resolutions."""
        if self.heads is None:
            return None
        blind = ~np.isin(self.heads[0].who, list(judged))
        return conversion(self.heads[0].rows(blind), self.heads[1].rows(blind))

    def people(self, judged: Sequence[str] | NDArray[np.str_] = ()) -> Table:
        """All on the scale of 1 mm, by a conversion that is blind to those ``judged``; in the same order always."""
        by = self.conversion(judged)
        return self.fine if self.coarse is None or by is None else self.fine.and_also(self.coarse.converted(by))


def read_cohort(
    table: Path, coarse_table: Path | None, same_heads: Path | None, leave_out: Sequence[str] = ()
) -> Cohort:
    """Read what :class:`Cohort` holds; ``leave_out`` are people of ``coarse_table`` who do not train.

    Raises
    ------
    UsageError
        Where a table cannot be used, or people at 2 mm come without heads that are known at both resolutions.
    """
    fine = read_table(table)
    heads = pair(fine, same_heads) if same_heads else None
    if coarse_table is None:
        return Cohort(fine, None, heads)
    if heads is None:
        raise UsageError(f"{coarse_table}: volumes at 2 mm need --same-heads, which takes out the effect of resolution")
    coarse = read_table(coarse_table, fewest=1, leave_out=leave_out)
    twice = sorted(set(coarse.who) & set(fine.who))
    if twice or coarse.indices != fine.indices:
        what = f"{twice[0]} stands in the other table too" if twice else "has other regions than the other table"
        raise UsageError(f"{coarse_table}: {what}; give other people with the same regions")
    return Cohort(fine, coarse, heads)
