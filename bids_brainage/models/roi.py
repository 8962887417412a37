"""Brain age from regional volumes: ridge regression on ICV-normalised MUSE volumes and sex.

age = intercept + sum_k b_k (f_k - m_k) / s_k + c s, with f_k = v_k / ICV, or log(v_k / ICV + offset) for ventricles,
m_k and s_k their mean and SD in training, and s = -1/2 for women, +1/2 for men. Volumes enter relative to ICV alone,
so the answer does not depend on head size as such nor on a global error of scale. How the coefficients are penalised
is the recipe's affair (:mod:`bids_brainage.training.roi`); the model itself is a sum.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BrainAgeError, BundleError, ScanError
from bids_brainage.core.files import read_json
from bids_brainage.core.quality import GATES, Measure
from bids_brainage.core.types import Prediction, Sex
from bids_brainage.image import muse
from bids_brainage.models.base import (
    BRAIN_AGE_OUTSIDE_TRAINING_RANGE,
    SEX_CODE,
    SEX_MISSING,
    Contribution,
    LocalConformal,
    Model,
)

FloatArray = NDArray[np.float64]

ICV = 702
MOST_EMPTY = int(GATES["regions_empty"].high)
VENTRICLES = frozenset({4, 11, 49, 50, 51, 52})
VOLUMES_OUT_OF_DISTRIBUTION = "volumes_out_of_distribution"

SCALE_KEY = "VolumeScale"
SCALE_1MM, SCALE_2MM = "dlmuse-1mm", "dlmuse-2mm"
SCALES = (SCALE_1MM, SCALE_2MM)

FEATURES, RESIDUALS = "features.tsv", "residuals.tsv"
FEATURE_COLUMNS = ("index", "transform", "mean", "sd", "coefficient", "log_ratio_2mm", "centre_2mm")


@dataclass(frozen=True)
class Conversion:
    """From volumes at 2 mm to the scale of 1 mm; see :meth:`__call__`.

    Attributes
    ----------
    regions : array, shape (k,)
        Log ratio of each region, 1 mm over 2 mm.
    icv : float
        Log ratio of ICV.
    centre : array, shape (k,)
        Mean log(volume / ICV) at 1 mm of the heads that gave the conversion.
    slope : float
        How much larger the differences between people are at 1 mm, on the scale of logarithms.
    """

    regions: FloatArray
    icv: float
    centre: FloatArray
    slope: float

    def __call__(self, volumes: FloatArray, icv: Any) -> tuple[FloatArray, Any]:
        """Volumes, shape (..., k), and ICV, shape (...), in mm^3, on the scale of 1 mm.

        With x = v e^regions / (ICV e^icv), the volume relative to ICV becomes c (x / c)^slope, c = e^centre. An empty
        region stays empty, and scaling volumes and ICV alike scales the answer.
        """
        scaled = np.asarray(icv) * np.exp(self.icv)
        centre = np.exp(self.centre) * scaled[..., None]
        return centre * (volumes * np.exp(self.regions) / centre) ** self.slope, scaled


@dataclass(frozen=True)
class RoiInputs:
    """Regional volumes of one scan, on the scale of the model.

    Attributes
    ----------
    volumes : array, shape (n_rois,)
        In mm^3, in the order of the model's features.
    icv : float
        Intracranial volume in mm^3.
    sex : {"F", "M"} or None
        ``None`` where it is not known.
    """

    volumes: FloatArray
    icv: float
    sex: Sex | None


def features(volumes: FloatArray, icv: FloatArray, logged: NDArray[np.bool_], offset: float) -> FloatArray:
    """Volumes relative to ICV, as logarithms where asked.

    Parameters
    ----------
    volumes : array, shape (n, k)
        In mm^3.
    icv : array, shape (n,)
        In mm^3.
    logged : array of bool, shape (k,)
        Regions that enter as ``log(volume / ICV + offset)``: ventricles, whose volumes are skewed.
    offset : float
        Relative to ICV; keeps an empty region finite.

    Returns
    -------
    array, shape (n, k)
        Without unit.
    """
    relative = np.asarray(volumes, dtype=float) / np.asarray(icv, dtype=float)[:, None]
    relative[:, logged] = np.log(relative[:, logged] + offset)
    return relative


def read_volumes(path: Path) -> tuple[dict[int, float], str]:
    """Read a table of MUSE volumes and the scale that the JSON file beside it states.

    Returns
    -------
    volumes : dict
        mm^3 by MUSE index.
    scale : str
        ``dlmuse-1mm`` or ``dlmuse-2mm``: the resolution at which DLMUSE would give these volumes.

    Raises
    ------
    ScanError
        Where the table cannot be read, or its scale is unknown.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            volumes = {int(row["index"]): float(row["volume_mm3"]) for row in csv.DictReader(stream, delimiter="\t")}
        scale = read_json(path.with_suffix(".json")).get(SCALE_KEY)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ScanError(f"{path}: not a table of MUSE volumes ({error!r}); make it again") from None
    except BrainAgeError as error:
        raise ScanError(str(error)) from None
    if scale not in SCALES:
        raise ScanError(
            f"{path.with_suffix('.json')}: {SCALE_KEY} is {scale!r}, "
            f"the model knows {' and '.join(SCALES)}; make the table again"
        )
    return volumes, scale


class RoiModel(Model[RoiInputs]):
    """Ridge regression on ICV-normalised regional volumes and sex."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        try:
            self._read()
        except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
            raise BundleError(
                f"{bundle.folder}: not a bundle of the roi architecture ({error!r}); train it again"
            ) from None

    def _read(self) -> None:
        arguments: Mapping[str, Any] = self.bundle.card["arguments"]
        if arguments["regressor"] != "ridge" or arguments["scale"] != SCALE_1MM:
            raise ValueError(f"regressor {arguments['regressor']!r} on {arguments['scale']!r}")
        table = _columns(self.bundle.file(FEATURES))
        row = table["index"].index(str(ICV))
        self.icv_mean, self.icv_sd = float(table["mean"][row]), float(table["sd"][row])
        icv_log_ratio = self._number(table["log_ratio_2mm"][row])
        rois = [i for i, index in enumerate(table["index"]) if int(index) != ICV]
        column = {name: [values[i] for i in rois] for name, values in table.items()}
        self.indices = tuple(int(index) for index in column["index"])
        self.logged = np.array([transform == "log" for transform in column["transform"]])
        self.mean, self.sd, self.coefficients, log_ratio, centre = (
            np.array([self._number(v) for v in column[name]]) for name in FEATURE_COLUMNS[2:]
        )
        self.conversion = Conversion(log_ratio, icv_log_ratio, centre, float(arguments["slope_2mm"]))
        self.intercept, self.sex_coefficient = float(arguments["intercept"]), float(arguments["sex_coefficient"])
        self.offset, self.largest_z = float(arguments["log_offset"]), float(arguments["largest_abs_z"])
        self.converts_2mm = bool(arguments["converts_2mm"])
        left_out = {name: list(map(float, v)) for name, v in _columns(self.bundle.file(RESIDUALS)).items()}
        self.interval = LocalConformal(
            left_out["predicted"], left_out["residual"], float(arguments["coverage"]), float(arguments["bandwidth"])
        )
        if self.age_range is None:
            raise KeyError("age_range")

    @staticmethod
    def _number(text: str) -> float:
        return float("nan") if text == "n/a" else float(text)

    def prepare(self, artefacts: Mapping[str, Any]) -> RoiInputs:
        """Read ``muse_volumes``, bring it to the scale of the training volumes, and keep ``sex``."""
        path = Path(artefacts["muse_volumes"])
        volumes, scale = read_volumes(path)
        missing = [
            index for index in (ICV, *self.indices) if not volumes.get(index, -1) >= 0 or volumes[index] == np.inf
        ]
        if missing or volumes[ICV] == 0:
            named = ", ".join(map(str, missing[:5] or [ICV]))
            raise ScanError(
                f"{path}: no usable volume for MUSE index {named}; the segmentation of this scan failed, look at it"
            )
        return self.inputs([volumes[i] for i in self.indices], volumes[ICV], artefacts["sex"], scale)

    def inputs(self, volumes: Sequence[float], icv: float, sex: Sex | None, scale: str = SCALE_1MM) -> RoiInputs:
        """Inputs from numbers: volumes in mm^3 in the order of ``indices``, ICV in mm^3.

        Raises
        ------
        ScanError
            For volumes at 2 mm where the model has no conversion.
        """
        values = np.asarray(volumes, dtype=float)
        if scale == SCALE_2MM:
            if not self.converts_2mm:
                raise ScanError(
                    f"volumes are {SCALE_2MM}, and bundle {self.name} has no conversion; train it with --same-heads"
                )
            values, icv = self.conversion(values, icv)
        return RoiInputs(values, float(icv), sex)

    def standardised(self, inputs: Sequence[RoiInputs]) -> FloatArray:
        """Features as SD from their mean in training, shape (n, n_rois)."""
        volumes = np.array([person.volumes for person in inputs])
        icv = np.array([person.icv for person in inputs])
        return (features(volumes, icv, self.logged, self.offset) - self.mean) / self.sd

    def explain(self, inputs: Sequence[RoiInputs]) -> list[list[Contribution]]:
        """Years by which each region and the sex moved each brain age from the intercept, exact: the model is a sum."""
        if not inputs:
            return []
        names = {region.number: region.name for region in muse.regions()}
        years = self.standardised(inputs) * self.coefficients
        found = []
        for person, row in zip(inputs, years, strict=True):
            regions = zip(self.indices, person.volumes, row, strict=True)
            parts = [Contribution(n, names.get(n, f"MUSE_{n}"), float(v), float(y)) for n, v, y in regions]
            sex = self.sex_coefficient * SEX_CODE[person.sex]
            found.append([*parts, Contribution(0, "sex", math.nan, sex)])
        return found

    def largest_deviation(self, inputs: Sequence[RoiInputs]) -> FloatArray:
        """Largest deviation of any feature, or of ICV itself, from its mean in training; in SD, shape (n,)."""
        icv = (np.array([person.icv for person in inputs]) - self.icv_mean) / self.icv_sd
        return np.maximum(np.abs(self.standardised(inputs)).max(axis=1), np.abs(icv))

    def measures(self, inputs: Sequence[RoiInputs]) -> list[list[Measure]]:
        """The largest deviation beside what 99 % of the people of training have when they are left out."""
        found = self.largest_deviation(inputs).tolist() if inputs else []
        name = f"{self.name}_deviation"
        return [[Measure(name, z, 0.0, self.largest_z, "SD", VOLUMES_OUT_OF_DISTRIBUTION)] for z in found]

    def predict(self, inputs: Sequence[RoiInputs]) -> list[Prediction]:
        """Brain ages with 90 % prediction intervals, in years.

        Without sex the estimate is the mean of what a woman and a man with these volumes get, and the interval spans
        both of theirs.
        """
        if not inputs:
            return []
        z = self.standardised(inputs)
        code = np.array([SEX_CODE[person.sex] for person in inputs])
        ages = self.intercept + z @ self.coefficients + self.sex_coefficient * code
        unusual = self.largest_deviation(inputs) > self.largest_z
        return [self._prediction(*values) for values in zip(ages, inputs, unusual, strict=True)]

    def _prediction(self, age: float, person: RoiInputs, unusual: bool) -> Prediction:
        assert self.age_range is not None  # noqa: S101 - checked when the bundle was read
        low, high = self.age_range
        raised = {
            SEX_MISSING: person.sex is None,
            VOLUMES_OUT_OF_DISTRIBUTION: unusual,
            BRAIN_AGE_OUTSIDE_TRAINING_RANGE: not low <= age <= high,
        }
        shift = abs(self.sex_coefficient) / 2 if person.sex is None else 0.0
        either = np.array([age - shift, age + shift])
        width = self.interval.half_width(either)
        flags = tuple(flag for flag, is_raised in raised.items() if is_raised)
        span = float((either - width).min()), float((either + width).max())
        return Prediction(self.name, float(age), *span, flags, self.training_data)


def _columns(path: Path) -> dict[str, list[str]]:
    """Columns of a TSV by name."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", strict=True))
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


MODEL = RoiModel
