"""Recipe of the ``normative`` bundle: LMS curves of each region, fitted to published centiles by age and sex.

Nothing here sees a person: the tables give five centiles a year of age, and the curves are what reproduces them. How
far other people lie from these curves is measured on a table of volumes that takes no part in the fit
(:mod:`bids_brainage.training.normative_judge`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import ndtr, ndtri

from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_text
from bids_brainage.image.muse import regions
from bids_brainage.stats.normative import (
    ARCHITECTURE,
    PARTS,
    SEXES,
    TABLE,
    Curves,
    scaled,
    shape_at,
    z_of_shape,
)
from bids_brainage.training import card, evaluate, muse
from bids_brainage.training.normative_judge import judge, resolution
from bids_brainage.training.regressors import one_thread

FloatArray = NDArray[np.float64]

NOMINAL = np.array([0.05, 0.25, 0.50, 0.75, 0.95])
COLUMNS = ("centile_5", "centile_25", "centile_50", "centile_75", "centile_95")
DEGREES = {"m": 5, "s": 3, "power": 2}
DIGITS = 7


class Published(NamedTuple):
    """Published centiles of one sex: ``volumes`` in mm^3, shape (k, n_ages, 5), by MUSE index and age in years."""

    indices: tuple[int, ...]
    ages: FloatArray
    volumes: FloatArray


class Coefficients(NamedTuple):
    """Of one region and sex, as :class:`Curves` has them: log M, log S and L, in rising powers of the scaled age."""

    m: FloatArray
    s: FloatArray
    power: FloatArray


def read_published(path: Path) -> Published:
    """Read a TSV with ``VarName``, ``Age`` and ``centile_5`` to ``centile_95`` in mm^3; composites are left out.

    A composite may share the name of the only region that it has; then both rows say the same, and one is kept.

    Raises
    ------
    UsageError
        Where a column, an age or a value is missing, rows of one name differ, centiles do not rise, or a median is
        not positive.
    """
    try:
        frame = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TSV ({error}); give a table of centiles") from None
    absent = [name for name in ("VarName", "Age", *COLUMNS) if name not in frame]
    if absent:
        raise UsageError(f"{path}: lacks column {', '.join(absent)}; give a table of centiles")
    number = {region.name: region.number for region in regions()}
    frame = frame[frame["VarName"].isin(list(number))][["VarName", "Age", *COLUMNS]].drop_duplicates()
    twice = frame[frame.duplicated(["VarName", "Age"])]["VarName"]
    if len(twice) or frame.empty:
        what = f"{twice.iloc[0]} stands twice, with other values" if len(twice) else "has no MUSE region"
        raise UsageError(f"{path}: {what}; keep the rows of the single region")
    names = sorted(set(frame["VarName"]), key=number.__getitem__)
    ages = np.sort(frame["Age"].unique()).astype(float)
    grid = pd.MultiIndex.from_product([names, ages], names=["VarName", "Age"])
    values = frame.set_index(["VarName", "Age"]).reindex(grid).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = ~((np.diff(values, axis=1) > 0).all(axis=1) & np.isfinite(values).all(axis=1) & (values[:, 2] > 0))
    if bad.any():
        name, age = grid[int(np.argmax(bad))]
        raise UsageError(f"{path}: {name} at {age:g} years has no rising centiles with a positive median; correct it")
    return Published(tuple(number[name] for name in names), ages, values.reshape(len(names), len(ages), len(COLUMNS)))


def fit_region(published: FloatArray, ages: FloatArray) -> Coefficients:
    """Least squares of the scores of published volumes on the scores of their nominal centiles.

    Parameters
    ----------
    published : array, shape (n_ages, 5)
        mm^3. Points that are not positive are no volumes and take no part (some 5th centiles of ventricles, where
        the publisher's curves are of another form).
    ages : array, shape (n_ages,)
        Years; the first and last are the limits of the curves.
    """
    x = scaled(ages, ages.min(), ages.max())
    used, nominal = published > 0, ndtri(NOMINAL)
    cuts = np.cumsum([degree + 1 for degree in DEGREES.values()])[:-1]

    def residuals(theta: FloatArray) -> FloatArray:
        shape = shape_at(x, *(part[None] for part in np.split(theta, cuts)))
        return (z_of_shape(published, shape) - nominal)[used]

    median, quartile = np.log(published[:, 2]), np.log(published[:, 3])
    spread = (quartile - median) / nominal[3]
    start = [
        np.polynomial.polynomial.polyfit(x, median, DEGREES["m"]),
        np.polynomial.polynomial.polyfit(x, np.log(spread), DEGREES["s"]),
        0.5 * np.eye(DEGREES["power"] + 1)[0],
    ]
    best = least_squares(residuals, np.concatenate(start), method="lm", xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return Coefficients(*(_short(part) for part in np.split(best.x, cuts)))


def in_common(published: Mapping[str, Published]) -> dict[str, Published]:
    """The regions and ages that both sexes have.

    Raises
    ------
    UsageError
        Where they are too few for curves.
    """
    women, men = (published[sex] for sex in SEXES)
    indices = tuple(index for index in women.indices if index in men.indices)
    ages = np.intersect1d(women.ages, men.ages)
    if not indices or len(ages) <= max(DEGREES.values()):
        raise UsageError("the two tables share too few regions or ages; give the tables of women and men of one source")
    return {
        sex: Published(indices, ages, part.volumes[np.ix_(np.isin(part.indices, indices), np.isin(part.ages, ages))])
        for sex, part in published.items()
    }


@one_thread
def fit_curves(published: Mapping[str, Published]) -> tuple[Curves, FloatArray, dict[str, FloatArray]]:
    """Curves of every region that both sexes have, over the ages that both have, and what they were fitted to.

    Returns
    -------
    curves : Curves
    ages : array, shape (n_ages,)
        Years.
    volumes : dict
        Published volumes of each sex in mm^3, shape (k, n_ages, 5), of these regions and ages.
    """
    alike = in_common(published)
    indices, ages, _ = alike["F"]
    volumes = {sex: part.volumes for sex, part in alike.items()}
    found = [[fit_region(region, ages) for region in volumes[sex]] for sex in SEXES]
    m, s, power = (np.array([[getattr(region, name) for region in sex] for sex in found]) for name in PARTS)
    return Curves(indices, m, s, power, float(ages[0]), float(ages[-1])), ages, volumes


def goodness(curves: Curves, ages: FloatArray, volumes: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Difference between the centile that the curves give to each published volume and the nominal one, in points."""
    x = scaled(ages, curves.low, curves.high)
    difference = np.empty((len(SEXES), *volumes[SEXES[0]].shape))
    for i, sex in enumerate(SEXES):
        shape = shape_at(x, curves.m[i], curves.s[i], curves.power[i])
        for c, nominal in enumerate(NOMINAL):
            z = z_of_shape(volumes[sex][:, :, c].T, shape)
            difference[i, :, :, c] = 100 * (ndtr(z).T - nominal)
    used = np.stack([volumes[sex] > 0 for sex in SEXES])
    size = np.where(used, np.abs(difference), np.nan)
    largest = np.nanmax(size, axis=(2, 3))
    which, region = divmod(int(np.argmax(largest)), largest.shape[1])
    return {
        "points": int(used.sum()),
        "points_not_used": int((~used).sum()),
        "mean_absolute": evaluate.figure(np.nanmean(size)),
        "within_1": round(float((size[used] <= 1).mean()), 5),
        "within_3": round(float((size[used] <= 3).mean()), 5),
        "largest": evaluate.figure(largest.max()),
        "largest_where": f"MUSE {curves.indices[region]}, {SEXES[which]}",
        "curves_beyond_3": int((largest > 3).sum()),
        "curves": largest.size,
        "mean_absolute_by_centile": {
            name: evaluate.figure(v) for name, v in zip(COLUMNS, np.nanmean(size, axis=(0, 1, 2)), strict=True)
        },
    }


def fit(
    female: Path,
    male: Path,
    *,
    judged: Path | None = None,
    same_heads: Path | None = None,
    out: Path,
) -> Bundle:
    """Fit the curves, judge them, and write their bundle.

    Parameters
    ----------
    female, male : Path
        Published centiles; see :func:`read_published`.
    judged : Path, optional
        Volumes of healthy people at 1 mm, who judge the curves; see :func:`bids_brainage.training.muse.read_table`.
    same_heads : Path, optional
        Some of ``judged`` segmented at 2 mm.
    out : Path
        A new or empty folder; its name becomes the bundle's.

    Raises
    ------
    UsageError
        Where a table cannot be used or ``out`` is taken.
    """
    out = card.free(out)
    if same_heads and not judged:
        raise UsageError(f"{same_heads}: the same heads at 1 mm are missing; give them with --judge")
    options = {"--female": female, "--male": male, "--judge": judged, "--same-heads": same_heads}
    curves, ages, volumes = fit_curves({"F": read_published(female), "M": read_published(male)})
    metrics: dict[str, Any] = {"fit": goodness(curves, ages, volumes)}
    if judged:
        table = muse.read_table(judged)
        metrics["judged"] = judge(table, curves)
        if same_heads:
            metrics["resolution_2mm"] = resolution(*muse.pair(table, same_heads), curves)
    with card.writing(out) as folder:
        write_text(folder / TABLE, _table(curves))
        card.write_licence(folder, [female, male], "normative-bundle.txt")
        save(folder, _card(out.name, curves, options, metrics))
    return load(out)


def _card(name: str, curves: Curves, options: Mapping[str, Path | None], metrics: dict[str, Any]) -> dict[str, Any]:
    """The card, without the sha256 of the files."""
    words = [word for option, path in options.items() if path for word in (option, path.name)]
    data = {option: card.provenance(path) for option, path in options.items() if path}
    fitted = [data.pop("--female"), data.pop("--male")]
    return {
        "name": name,
        "architecture": ARCHITECTURE,
        "role": "reference",
        "version": "1.0.0",
        "description": f"Centiles of {len(curves.indices)} MUSE volumes by age and sex: LMS curves (Cole & Green 1992, "
        "doi:10.1002/sim.4780111005) fitted to published centiles of cognitively normal people",
        "needs": [],
        "age_range": [curves.low, curves.high],
        "volumes": "raw, mm^3, DLMUSE at 1 mm; not relative to intracranial volume",
        "licence": fitted[0].get("derivative_licence", card.UNSTATED),
        "training": {
            "kind": "real",
            "what": "published centiles, no people; how many people they rest on the tables do not say",
            "data": fitted,
            "judged_by": list(data.values()),
            "command": shlex.join(["brainage", "train", "normative", *words, "--out", name]),
            "software": {library: version(library) for library in ("numpy", "scipy")},
        },
        "metrics": metrics,
        "notes": NOTES,
        "not_meant_for": [
            f"people younger than {curves.low:g} or older than {curves.high:g} years, or of unknown sex (no answer)",
            "volumes at 2 mm that were not converted to the scale of 1 mm",
            "volumes of other segmentations than DLMUSE, or those that say that they are on its scale",
            "clinical decisions about a person",
            "a test of many regions of one person as if one in twenty beyond 1.96 were a finding",
        ],
    }


NOTES = [
    "Volumes are raw: a large head has high centiles of nearly all regions, a small head low ones.",
    "Where L < 0 no score exceeds -1 / (L S), where L > 0 none falls below it (that of an empty region): a large or "
    "small volume of such a region reads less extreme than it is.",
    "The centiles beyond the 5th and the 95th are extrapolated: nothing published stands behind them.",
    "fit is how well the curves reproduce the published ones, in centile points; it says nothing about whether those "
    "suit your scanner. judged does, for one source: a shift of its mean is one of scanner, sequence, segmentation "
    "and people together.",
]


def _table(curves: Curves) -> str:
    """The bundle's table: a row a region and sex."""
    names = [f"{start}{d}" for part, start in PARTS.items() for d in range(DEGREES[part] + 1)]
    lines = ["\t".join(["index", "sex", *names])]
    for k, index in enumerate(curves.indices):
        for i, sex in enumerate(SEXES):
            values = np.concatenate([getattr(curves, part)[i, k] for part in PARTS])
            lines.append("\t".join([str(index), sex, *(f"{value:.{DIGITS}g}" for value in values)]))
    return "\n".join(lines) + "\n"


def _short(values: FloatArray) -> FloatArray:
    """As many digits as the bundle keeps, so that what is judged is what ships."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])
