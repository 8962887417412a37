"""Recipe of the ``roi`` model: ridge on ICV-normalised MUSE volumes with sex, from one table.

Everything that the card says of accuracy comes from nested cross-validation: the person judged takes part neither in
the fit, nor in the choice of the penalty, nor in the interval, nor in the conversion between resolutions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_text
from bids_brainage.models.base import conformal_half_width
from bids_brainage.models.roi import FEATURE_COLUMNS, FEATURES, ICV, RESIDUALS, SCALE_1MM
from bids_brainage.training import card, evaluate
from bids_brainage.training.muse import FEWEST_PEOPLE, LOG_OFFSET, Table, conversion, convert, pair, read_table

FloatArray = NDArray[np.float64]

PENALTIES = np.logspace(1, 4, 13)
FOLDS = 10
COVERAGE = 0.9
ORDINARY = 0.99

one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


class Fold(NamedTuple):
    """One round of the outer cross-validation: ``test`` took no part in ``model`` and ``half_width``."""

    train: NDArray[np.int_]
    test: NDArray[np.int_]
    model: Pipeline
    half_width: float


class HeldOut(NamedTuple):
    """What models that did not see them say of each person, shape (n,) each; years, and SD for ``largest_z``."""

    predicted: FloatArray
    half_width: FloatArray
    largest_z: FloatArray


@one_thread
def search(design: FloatArray, age: FloatArray, seed: int) -> GridSearchCV:
    """Ridge regression whose penalty 10-fold cross-validation chooses by mean squared error."""
    pipeline = make_pipeline(StandardScaler(), Ridge())
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    grid = {"ridge__alpha": PENALTIES}
    return GridSearchCV(pipeline, grid, scoring="neg_mean_squared_error", cv=folds).fit(design, age)


@one_thread
def cross_fit(design: FloatArray, age: FloatArray, seed: int) -> list[Fold]:
    """Nested cross-validation: penalty and interval of each fold come from its own training people.

    Parameters
    ----------
    design : array, shape (n, k)
        As of :meth:`Table.design`.
    age : array, shape (n,)
        Years.
    seed : int
        Of both levels of folds.
    """
    folds = []
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(design):
        model = search(design[train], age[train], seed).best_estimator_
        inner = cross_val_predict(model, design[train], age[train], cv=KFold(FOLDS, shuffle=True, random_state=seed))
        folds.append(Fold(train, test, model, conformal_half_width(inner - age[train], COVERAGE)))
    return folds


def held_out(folds: list[Fold], table: Table) -> HeldOut:
    """Gather what each fold says of its own test people."""
    design = table.design()
    found = HeldOut(*(np.empty(len(table.age)) for _ in HeldOut._fields))
    for train, test, model, half_width in folds:
        found.predicted[test] = model.predict(design[test])
        found.half_width[test] = half_width
        z = model[0].transform(design[test])[:, :-1]
        icv = (table.icv[test] - table.icv[train].mean()) / table.icv[train].std()
        found.largest_z[test] = np.maximum(np.abs(z).max(axis=1), np.abs(icv))
    return found


def site_left_out(table: Table, seed: int) -> FloatArray:
    """Predictions of each site by a model of the other sites, years, shape (n,); ``nan`` where too few remain."""
    design, predicted = table.design(), np.full(len(table.age), np.nan)
    for site in np.unique(table.site):
        test = table.site == site
        if (~test).sum() >= FEWEST_PEOPLE // 2:
            predicted[test] = search(design[~test], table.age[~test], seed).predict(design[test])
    return predicted


def resolution_agreement(folds: list[Fold], table: Table, fine: Table, coarse: Table) -> dict[str, Any]:
    """Age from 2 mm volumes minus age from 1 mm volumes of the same heads, in years.

    Model and conversion are blind to the head that is judged.
    """
    difference, untouched = np.empty(len(fine.who)), np.empty(len(fine.who))
    for _, test, model, _ in folds:
        judged = np.isin(fine.who, table.who[test])
        if not judged.any():
            continue
        regions, icv = conversion(fine.rows(~judged), coarse.rows(~judged))
        reference = model.predict(fine.rows(judged).design())
        difference[judged] = model.predict(convert(coarse.rows(judged), regions, icv).design()) - reference
        untouched[judged] = model.predict(coarse.rows(judged).design()) - reference
    size = np.abs(difference)
    return {
        "n": len(difference),
        "mean_difference": evaluate.figure(difference.mean()),
        "median_absolute_difference": evaluate.figure(float(np.median(size))),
        "largest_absolute_difference": evaluate.figure(size.max()),
        "mean_difference_without_conversion": evaluate.figure(untouched.mean()),
    }


def figures(table: Table, folds: list[Fold], seed: int) -> dict[str, Any]:
    """All figures of accuracy for the card, by people who were left out."""
    found, age = held_out(folds, table), table.age
    thirds = evaluate.age_thirds(age)
    intervals = evaluate.coverage(age, found.predicted, found.half_width)
    intervals["by_age_third"] = {
        name: evaluate.coverage(age[thirds == name], found.predicted[thirds == name], found.half_width[thirds == name])
        for name in sorted(set(thirds))
    }
    sited = len(set(table.site)) > 1
    return {
        "how": f"nested {FOLDS}-fold cross-validation over people; errors are predicted minus true age, in years",
        "out_of_fold": evaluate.whole(age, found.predicted, seed),
        "by_sex": evaluate.by_group(age, found.predicted, table.sex),
        "by_age_third": evaluate.by_group(age, found.predicted, thirds),
        "by_site": evaluate.by_group(age, found.predicted, table.site) if sited else {},
        "leave_one_site_out": evaluate.by_group(age, site_left_out(table, seed), table.site) if sited else {},
        "interval_90": intervals,
    }


@one_thread
def fit(table: Path, *, same_heads: Path | None = None, out: Path, seed: int = 0) -> Bundle:
    """Train the model, judge it, and write its bundle.

    Parameters
    ----------
    table : Path
        Volumes at 1 mm with age and sex, a row a person; see :func:`bids_brainage.training.muse.read_table`.
    same_heads : Path, optional
        Some of these people segmented at 2 mm; without it the bundle refuses volumes on that scale.
    out : Path
        A new or empty folder; its name becomes the model's.
    seed : int
        Of folds and bootstrap. The same table, seed and versions give the same bytes.

    Raises
    ------
    UsageError
        Where a table cannot be used or ``out`` is taken.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is there already; remove it or give another folder")
    people = read_table(table)
    paired = pair(people, same_heads) if same_heads else None
    folds = cross_fit(people.design(), people.age, seed)
    found = held_out(folds, people)
    best = search(people.design(), people.age, seed).best_estimator_
    metrics = figures(people, folds, seed)
    if paired:
        metrics["resolution_2mm"] = resolution_agreement(folds, people, *paired)
    given = [path for path in (table, same_heads) if path]
    text = card.roi_card(out.name, people, card.Made(given, seed, float(best[-1].alpha)), metrics)
    text["arguments"] = _arguments(best, found, bool(paired))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".training-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        write_text(folder / FEATURES, _feature_table(best, people, paired))
        write_text(folder / RESIDUALS, _residual_table(found.predicted, people.age))
        card.write_licence(folder, given)
        save(folder, text)
        folder.replace(out)
    return load(out)


def _arguments(best: Pipeline, found: HeldOut, converts_2mm: bool) -> dict[str, Any]:
    """What the architecture wants besides its tables."""
    scaler, ridge = best
    sex = ridge.coef_[-1] / scaler.scale_[-1]
    return {
        "regressor": "ridge",
        "penalty": _short(ridge.alpha),
        "scale": SCALE_1MM,
        "converts_2mm": converts_2mm,
        "log_offset": LOG_OFFSET,
        "intercept": _short(ridge.intercept_ - sex * scaler.mean_[-1]),
        "sex_coefficient": _short(sex),
        "coverage": COVERAGE,
        "largest_abs_z": _short(conformal_half_width(found.largest_z, ORDINARY)),
    }


def _short(value: float) -> float:
    """Eight digits: more than the data hold, fewer than differ between machines."""
    return float(f"{value:.8g}")


def _feature_table(best: Pipeline, people: Table, paired: tuple[Table, Table] | None) -> str:
    """The bundle's table of regions, ICV first."""
    scaler, ridge = best
    regions, icv = conversion(*paired) if paired else (np.full(len(people.indices), np.nan), np.nan)
    rows = [(ICV, "none", people.icv.mean(), people.icv.std(), 0.0, icv)]
    for k, index in enumerate(people.indices):
        transform = "log" if people.logged[k] else "linear"
        rows.append((index, transform, scaler.mean_[k], scaler.scale_[k], ridge.coef_[k], regions[k]))
    lines = ["\t".join(FEATURE_COLUMNS)]
    lines += ["\t".join([str(i), t, *("n/a" if np.isnan(v) else f"{v:.8g}" for v in v3)]) for i, t, *v3 in rows]
    return "\n".join(lines) + "\n"


def _residual_table(predicted: FloatArray, age: FloatArray) -> str:
    """Out-of-fold predictions and residuals in years, by predicted age."""
    order = np.argsort(predicted, kind="stable")
    lines = [f"{predicted[i]:.4f}\t{predicted[i] - age[i]:.4f}" for i in order]
    return "\n".join(["predicted\tresidual", *lines]) + "\n"
