"""How far healthy people who took no part in it lie from normative curves, and what resolution does to their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bids_brainage.image.muse import regions
from bids_brainage.stats.normative import Curves, arranged, z_scores
from bids_brainage.training import evaluate, muse
from bids_brainage.training.regressors import folds

FloatArray = NDArray[np.float64]

OLDEST_JUDGED = 75.0
WORST = 10
UNUSUAL = 1.96


def judge(table: muse.Table, curves: Curves, seed: int = 0) -> dict[str, Any]:
    """Scores of healthy people who took no part in the fit, whose volumes are on the scale of 1 mm.

    Scores of a standard normal distribution have mean 0, SD 1, and 0.05 of them beyond 1.96. ``r_with_icv`` says how
    much of them is head size: of each person's mean score, and the median over regions, within each sex.
    """
    table = table.rows((table.age >= curves.low) & (table.age <= min(curves.high, OLDEST_JUDGED)))
    known = np.isin(table.indices, curves.indices)
    indices = np.array(table.indices)[known]
    z = z_scores(arranged(curves, indices.tolist()), table.volumes[:, known], table.age, table.sex.tolist())
    means, sds = _moments(z)
    code = table.sex == "M"
    icv, mean_z = _within(table.icv[:, None], code)[:, 0], _within(np.nanmean(z, axis=1)[:, None], code)[:, 0]
    by_region = [np.corrcoef(icv, np.nan_to_num(column))[0, 1] for column in _within(z, code).T]
    third = np.digitize(icv, np.quantile(icv, [1 / 3, 2 / 3]))
    names = {region.number: region.name for region in regions()}
    worst = np.argsort(-np.abs(means))[:WORST]
    return {
        "regions": len(indices),
        "ages": [evaluate.figure(table.age.min()), evaluate.figure(table.age.max())],
        "not_finite": int((~np.isfinite(z)).sum()),
        "all": pooled(z, seed),
        "by_age_third": _by(z, evaluate.age_thirds(table.age), seed),
        "by_sex": _by(z, table.sex, seed),
        "by_site": _by(z, table.site, seed),
        "by_icv_third_within_sex": _by(z, np.array(["smallest", "middle", "largest"])[third], seed),
        "region_means": {"sd": evaluate.figure(means.std(ddof=1)), "beyond_0.5": int((np.abs(means) > 0.5).sum())},
        "median_sd_within_region": evaluate.figure(float(np.median(sds))),
        "r_with_icv": {
            "person_mean": evaluate.figure(np.corrcoef(icv, mean_z)[0, 1]),
            "median_of_regions": evaluate.figure(np.median(by_region)),
        },
        "worst_regions": {
            names[indices[k]]: {"mean_z": evaluate.figure(means[k]), "sd_z": evaluate.figure(sds[k])} for k in worst
        },
    }


def pooled(z: FloatArray, seed: int) -> dict[str, Any]:
    """Mean, SD and share beyond 1.96 over people and regions, shape (n, k); interval of the mean over people."""
    finite = z[np.isfinite(z)]
    person = np.nanmean(np.where(np.isfinite(z), z, np.nan), axis=1)
    return {
        "n": len(z),
        "mean_z": evaluate.mean_difference(person, np.zeros(len(person)), seed),
        "sd_z": evaluate.figure(finite.std(ddof=1)),
        "beyond_1.96": evaluate.figure((np.abs(z) > UNUSUAL)[~np.isnan(z)].mean()),
    }


def resolution(fine: muse.Table, coarse: muse.Table, curves: Curves, seed: int = 0) -> dict[str, Any]:
    """What becomes of the scores of the same heads at 2 mm, as they are and converted to the scale of 1 mm.

    The conversion of each fold of ten comes from the other heads.
    """
    known = np.isin(fine.indices, curves.indices)
    chosen = arranged(curves, np.array(fine.indices)[known].tolist())
    converted = np.empty_like(coarse.volumes)
    for train, test in folds(seed).split(fine.who, fine.age):
        by = muse.conversion(fine.rows(train), coarse.rows(train))
        converted[test] = by(coarse.volumes[test], coarse.icv[test])[0]
    sexes = fine.sex.tolist()
    z = {
        name: z_scores(chosen, volumes[:, known], fine.age, sexes)
        for name, volumes in (("fine", fine.volumes), ("raw", coarse.volumes), ("converted", converted))
    }
    return {"n": len(fine.age)} | {name: _agreement(z[name], z["fine"]) for name in ("raw", "converted")}


def _moments(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and SD of each column, of what is finite."""
    finite = np.where(np.isfinite(z), z, np.nan)
    return np.nanmean(finite, axis=0), np.nanstd(finite, axis=0, ddof=1)


def _within(values: FloatArray, group: NDArray[np.bool_]) -> FloatArray:
    """Columns of ``values``, shape (n, k), less the mean of each of the two groups."""
    found = np.where(np.isfinite(values), values, np.nan)
    for one in (group, ~group):
        if one.any():
            found[one] -= np.nanmean(found[one], axis=0)
    return found


def _by(z: FloatArray, group: NDArray[np.str_], seed: int) -> dict[str, Any]:
    """:func:`pooled` of each group of at least ten people, and the number of the others."""
    found = {}
    for name in sorted(set(group.tolist())):
        chosen = z[group == name]
        found[name] = pooled(chosen, seed) if len(chosen) >= evaluate.FEWEST else {"n": len(chosen)}
    return found


def _agreement(z: FloatArray, reference: FloatArray) -> dict[str, Any]:
    """Of the same people and regions, shape (n, k); centiles in points."""
    finite = np.isfinite(z) & np.isfinite(reference)
    difference, points = (z - reference)[finite], 100 * (ndtr(z) - ndtr(reference))[finite]
    by_region = np.nanmean(np.where(finite, z - reference, np.nan), axis=0)
    return {
        "mean_difference_z": evaluate.figure(difference.mean()),
        "mean_absolute_difference_z": evaluate.figure(np.abs(difference).mean()),
        "mean_absolute_difference_points": evaluate.figure(np.abs(points).mean()),
        "largest_mean_difference_z_of_a_region": evaluate.figure(by_region[np.argmax(np.abs(by_region))]),
        "beyond_1.96": evaluate.figure((np.abs(z) > UNUSUAL)[finite].mean()),
        "beyond_1.96_at_1mm": evaluate.figure((np.abs(reference) > UNUSUAL)[finite].mean()),
    }
