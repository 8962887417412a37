"""Recipe of the ``roi`` model: ridge on ICV-normalised MUSE volumes with sex, from tables at 1 mm and at 2 mm.

Everything that the card says of accuracy comes from nested cross-validation: the person judged takes part neither in
the fit, nor in the choice of the penalty, nor in the interval, nor in the conversion between resolutions. Where the
measurement error of the volumes is known, the fit reckons with it (:class:`NoisyRidge`), and the intervals are those of
volumes that have it: of people who were left out, with errors drawn once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.files import write_text
from bids_brainage.models.base import LocalConformal, conformal_half_width
from bids_brainage.models.roi import FEATURE_COLUMNS, FEATURES, ICV, RESIDUALS, SCALE_1MM, Conversion
from bids_brainage.training import card, evidence
from bids_brainage.training.measurement import MeasurementError, read_error
from bids_brainage.training.muse import LOG_OFFSET, Cohort, Table, read_cohort
from bids_brainage.training.regressors import NoisyRidge, folds, one_thread, search

FloatArray = NDArray[np.float64]

COVERAGE = 0.9
BANDWIDTH = 8.0
ORDINARY = 0.99
FEWEST_BEYOND = 10


class Fold(NamedTuple):
    """One round of the outer cross-validation: ``test`` took no part in ``model``, ``interval`` and ``people``."""

    train: NDArray[np.int_]
    test: NDArray[np.int_]
    model: NoisyRidge
    interval: LocalConformal
    people: Table


class HeldOut(NamedTuple):
    """What models that did not see them say of each person, shape (n,) each; years, and SD for ``largest_z``.

    ``measured`` and ``measured_half_width`` are of volumes with the measurement error; the plain ones without.
    """

    predicted: FloatArray
    half_width: FloatArray
    measured: FloatArray
    measured_half_width: FloatArray
    largest_z: FloatArray


@one_thread
def cross_fit(cohort: Cohort, seed: int, error: MeasurementError | None = None) -> list[Fold]:
    """Nested cross-validation: penalty, interval and conversion of each fold come from its own training people.

    Parameters
    ----------
    cohort : Cohort
        All people.
    seed : int
        Of both levels of folds, and of the errors drawn.
    error : MeasurementError, optional
        Measurement error of the volumes.
    """
    rounds = []
    who = cohort.people().who
    for train, test in folds(seed).split(who, cohort.people().age):
        people = cohort.people(judged=who[test])
        design, age = people.design(), people.age
        noisy = people.with_error(error, seed).design()
        model = search(design[train], age[train], seed, error, people.logged)
        inner = np.empty(len(train))
        for a, b in folds(seed).split(train, age[train]):
            inner[b] = clone(model).fit(design[train[a]], age[train[a]]).predict(noisy[train[b]])
        interval = LocalConformal(inner, inner - age[train], COVERAGE, BANDWIDTH)
        rounds.append(Fold(train, test, model, interval, people))
    return rounds


def held_out(rounds: list[Fold], seed: int, error: MeasurementError | None = None) -> HeldOut:
    """Gather what each fold says of its own test people; ``seed`` is that of :func:`cross_fit`."""
    found = HeldOut(*(np.empty(len(rounds[0].people.age)) for _ in HeldOut._fields))
    for train, test, model, interval, people in rounds:
        measured = people.with_error(error, seed)
        found.predicted[test] = model.predict(people.design()[test])
        found.measured[test] = model.predict(measured.design()[test])
        found.half_width[test] = interval.half_width(found.predicted[test])
        found.measured_half_width[test] = interval.half_width(found.measured[test])
        z = ((people.design()[test] - model.mean_) / model.scale_)[:, :-1]
        icv = (people.icv[test] - people.icv[train].mean()) / people.icv[train].std()
        found.largest_z[test] = np.maximum(np.abs(z).max(axis=1), np.abs(icv))
    return found


@one_thread
def fit(
    table: Path,
    *,
    coarse_table: Path | None = None,
    same_heads: Path | None = None,
    noise: Path | None = None,
    judged: Path | None = None,
    compare: bool = False,
    out: Path,
    seed: int = 0,
) -> Bundle:
    """Train the model, judge it, and write its bundle.

    Parameters
    ----------
    table : Path
        Volumes at 1 mm with age and sex, a row a person; see :func:`bids_brainage.training.muse.read_table`.
    coarse_table : Path, optional
        Other people at 2 mm; failed segmentations, and heads that the app is judged by, are left out.
    same_heads : Path, optional
        Some of ``table`` segmented at 2 mm; without it the bundle refuses volumes on that scale.
    noise : Path, optional
        Measurement error of each region; see :func:`bids_brainage.training.measurement.read_error`.
    judged : Path, optional
        People with a ``diagnosis`` who never train; see :func:`bids_brainage.training.evidence.patients`.
    compare : bool
        Judge other regressions on the same folds too; minutes.
    out : Path
        A new or empty folder; its name becomes the model's.
    seed : int
        Of folds, errors and bootstrap. The same tables, seed and versions give the same bytes.

    Raises
    ------
    UsageError
        Where a table cannot be used or ``out`` is taken.
    """
    out = card.free(out)
    made = card.Made(
        name=out.name,
        tables={"--table": table, "--coarse-table": coarse_table, "--same-heads": same_heads},
        noise=noise,
        judged=judged,
        compared=compare,
        seed=seed,
        left_out=card.left_out(coarse_table),
    )
    return _make(made, read_cohort(table, coarse_table, same_heads, list(made.left_out)), out)


def _make(made: card.Made, cohort: Cohort, out: Path) -> Bundle:
    """Fit, judge and write."""
    people, seed = cohort.people(), made.seed
    error = read_error(made.noise, people.indices) if made.noise else None
    rounds = cross_fit(cohort, seed, error)
    found = held_out(rounds, seed, error)
    best = search(people.design(), people.age, seed, error, people.logged)
    metrics = evidence.figures(cohort, found, seed, error)
    metrics["resolution_2mm"] = evidence.resolution_agreement(rounds, cohort)
    metrics["candidates"] = evidence.comparison(rounds, seed, error) if made.compared else {}
    metrics["patients"] = evidence.patients(made.judged, best, people.indices) if made.judged else {}
    text = card.roi_card(made, cohort, metrics, age_range(people.age))
    text["arguments"] = _arguments(best, found, cohort.conversion())
    with card.writing(out) as folder:
        write_text(folder / FEATURES, _feature_table(best, people, cohort.conversion()))
        write_text(folder / RESIDUALS, _residual_table(found.measured, people.age))
        card.write_licence(folder, [path for path in made.tables.values() if path])
        save(folder, text)
    return load(out)


def age_range(age: FloatArray) -> tuple[float, float]:
    """Between the tenth youngest and the tenth oldest: further out, fewer than ten people say how ages look."""
    ordered = np.sort(age)
    return float(ordered[FEWEST_BEYOND - 1]), float(ordered[-FEWEST_BEYOND])


def _arguments(best: NoisyRidge, found: HeldOut, conversion: Conversion | None) -> dict[str, Any]:
    """What the architecture wants besides its tables."""
    sex = best.coef_[-1] / best.scale_[-1]
    return {
        "regressor": "ridge",
        "penalty": _short(best.alpha),
        "scale": SCALE_1MM,
        "converts_2mm": conversion is not None,
        "slope_2mm": _short(conversion.slope) if conversion else 1.0,
        "log_offset": LOG_OFFSET,
        "intercept": _short(best.intercept_ - sex * best.mean_[-1]),
        "sex_coefficient": _short(sex),
        "coverage": COVERAGE,
        "bandwidth": BANDWIDTH,
        "largest_abs_z": _short(conformal_half_width(found.largest_z, ORDINARY)),
    }


def _short(value: float) -> float:
    """Eight digits: more than the data hold, fewer than differ between machines."""
    return float(f"{value:.8g}")


def _feature_table(best: NoisyRidge, people: Table, conversion: Conversion | None) -> str:
    """The bundle's table of regions, ICV first."""
    nothing = np.full(len(people.indices), np.nan)
    by = conversion or Conversion(nothing, np.nan, nothing, 1.0)
    rows = [(ICV, "none", people.icv.mean(), people.icv.std(), 0.0, by.icv, np.nan)]
    for k, index in enumerate(people.indices):
        transform = "log" if people.logged[k] else "linear"
        rows.append((index, transform, best.mean_[k], best.scale_[k], best.coef_[k], by.regions[k], by.centre[k]))
    lines = ["\t".join(FEATURE_COLUMNS)]
    lines += ["\t".join([str(i), t, *("n/a" if np.isnan(v) else f"{v:.8g}" for v in rest)]) for i, t, *rest in rows]
    return "\n".join(lines) + "\n"


def _residual_table(predicted: FloatArray, age: FloatArray) -> str:
    """Out-of-fold predictions and residuals in years, by predicted age."""
    order = np.argsort(predicted, kind="stable")
    lines = [f"{predicted[i]:.4f}\t{predicted[i] - age[i]:.4f}" for i in order]
    return "\n".join(["predicted\tresidual", *lines]) + "\n"
