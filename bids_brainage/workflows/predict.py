"""The last stage: prepared artefacts go through each chosen model, and one table comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.bundle import load
from bids_brainage.core.quality import Measure, judged
from bids_brainage.core.quality import flags as raised
from bids_brainage.core.types import Age, Prediction, Scan
from bids_brainage.workflows.scan_maps import voxelwise

if TYPE_CHECKING:
    from bids_brainage.models.base import Contribution

COLUMNS = {
    "model": "Name of the model bundle",
    "brain_age": "Predicted age in years, not corrected for bias and never clipped",
    "brain_age_low": "Lower bound of the 90 % prediction interval, in years; n/a where the model gives none",
    "brain_age_high": "Upper bound of the 90 % prediction interval, in years; n/a where the model gives none",
    "age": "Chronological age at the scan in years; n/a where it is missing or censored",
    "gap": "brain_age minus age in years (brain-PAD), not corrected for bias; n/a where age is",
    "sex": "F or M as given by the dataset; n/a where it is missing",
    "flags": "What limits trust in this row, joined by commas; n/a where there is nothing",
    "note": "Why age, or of `brainage predict` the brain age, is n/a",
    "training_data": "Whether the model was fitted on real or on simulated people",
}


EXPLAINED = {
    "model": "Name of the model bundle",
    "index": "Number of the region in the MUSE atlas; 0 for what is no region",
    "name": "Name of the region; _R and _L are the person's right and left",
    "volume_mm3": "Volume on the scale of the volumes that the model was trained on, in mm^3",
    "centile": "Share of healthy people of this age and sex, in percent, whose region is smaller in mm^3 (published "
    "curves, 40-92 years, not relative to head size); n/a without age or sex, or where there is no curve",
    "years": "Years by which this region moved the brain age from that of the mean of training: a weight in a sum, "
    "no effect of the region",
}


QUALITY = {
    "measure": "What was measured",
    "value": "Measured value; n/a where it is no number",
    "low": "Lowest value that raises no flag; n/a where there is none",
    "high": "Highest value that raises no flag; n/a where there is none",
    "unit": "Unit; n/a for ratios and counts",
    "flag": "Flag that the value raises; n/a within the bounds",
}


class Predicted(NamedTuple):
    """Tables: brain ages, a row a model; what moved them, a row a model and region; the scan's quality measures.

    ``voxelwise`` holds the files of models that give maps, by ``<artefact>:<model>``.
    """

    brainage: Path
    contributions: Path
    quality: Path
    voxelwise: Mapping[str, Path]


def row(prediction: Prediction, age: Age, sex: str | None, flags: tuple[str, ...]) -> dict[str, Any]:
    """One line of the table; ages to two decimals."""
    years = age.years
    raised_flags = tuple(dict.fromkeys((*flags, *prediction.flags)))
    return {
        "model": prediction.model,
        "brain_age": f"{prediction.brain_age:.2f}",
        "brain_age_low": shown(prediction.brain_age_low, 2),
        "brain_age_high": shown(prediction.brain_age_high, 2),
        "age": "n/a" if years is None else f"{years:g}",
        "gap": "n/a" if years is None else f"{prediction.brain_age - years:.2f}",
        "sex": sex or "n/a",
        "flags": ",".join(raised_flags) or "n/a",
        "note": (age.note or "n/a") if years is None else "n/a",
        "training_data": prediction.training_data,
    }


def predict(
    bundles: tuple[Path, ...],
    scan: Scan,
    normative: Path,
    *,
    out: Path,
    atlas: Path | None = None,
    template: str = "",
    device: str = "cpu",
    **artefacts: Any,
) -> Predicted:
    """Ask each model for the brain age of one scan.

    Parameters
    ----------
    bundles : tuple of Path
        Folders of the chosen model bundles.
    scan : Scan
        For its age, sex and flags; the age is never shown to a model.
    normative : Path
        Folder of the bundle of normative curves.
    atlas : Path, optional
        Folder of the bundle of the MUSE atlas, for models that give maps.
    template : str
        Name of the template space that such maps are in.
    device : str
        Where networks compute: ``cpu``, ``cuda`` or ``cuda:N``.
    artefacts
        Files by artefact name, and ``<stage>_flags`` and ``<stage>_measures`` of the stages before.
    """
    from bids_brainage.models.base import age_flags, load_model

    flags = tuple(dict.fromkeys(f for k, v in sorted(artefacts.items()) if k.endswith("_flags") for f in v))
    values = {name: x for k, v in artefacts.items() if k.endswith("_measures") for name, x in v.items()}
    given = {k: v for k, v in artefacts.items() if isinstance(v, Path)} | {"sex": scan.sex}
    explained, beyond, predicted = [], [], []
    files: dict[str, Path] = {}
    for folder in bundles:
        model = load_model(load(folder)).to(device)
        inputs = model.prepare({name: given[name] for name in model.needs})
        prediction = model.predict([inputs])[0]
        mapped = voxelwise(model, prediction, scan.age, atlas=atlas, template=template, out=out)
        predicted.append((prediction, (*age_flags(model, scan.age), *mapped.flags)))
        files |= mapped.files
        beyond += model.measures([inputs])[0]
        explained += contribution_rows(model.name, model.explain([inputs])[0], scan, normative)
    values |= reference_share(explained)
    quality = [*judged(values), *beyond]
    common = (*scan.flags, *flags, *raised(quality))
    rows = [row(prediction, scan.age, scan.sex, (*common, *own)) for prediction, own in predicted]
    return Predicted(
        write_tsv(out / "brainage.tsv", rows, list(COLUMNS)),
        write_tsv(out / "contributions.tsv", explained, list(EXPLAINED)),
        write_tsv(out / "quality.tsv", [quality_row(one) for one in quality], list(QUALITY)),
        files,
    )


def reference_share(explained: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Per cent of the regions outside centiles 0.5 to 99.5, where there are centiles: a measure of the quality gates.

    The table has whole centiles: 0 and 100 are those beyond.
    """
    centiles = {one["index"]: float(one["centile"]) for one in explained if one["centile"] != "n/a"}
    if not centiles:
        return {}
    return {"regions_beyond": 100 * sum(c in (0, 100) for c in centiles.values()) / len(centiles)}


def quality_row(one: Measure) -> dict[str, str]:
    """One line of the table of quality measures."""
    numbers = {name: f"{v:.4g}" if math.isfinite(v) else "n/a" for name, v in zip(BOUNDS, one[1:4], strict=True)}
    return {"measure": one.name, **numbers, "unit": one.unit or "n/a", "flag": one.flag if one.raised else "n/a"}


BOUNDS = ("value", "low", "high")


def contribution_rows(model: str, parts: list[Contribution], scan: Scan, curves: Path) -> list[dict[str, Any]]:
    """Lines of the table of contributions: each region with its normative centile, and what else moved the age."""
    from bids_brainage.stats import normative

    if not parts:
        return []
    years = math.nan if scan.age.years is None else scan.age.years
    known = normative.arranged(normative.read(curves), [one.number for one in parts])
    found = normative.centiles(known, [[one.value for one in parts]], [years], [scan.sex])[0]
    return [
        {
            "model": model,
            "index": one.number,
            "name": one.name,
            "volume_mm3": shown(one.value, 1),
            "centile": shown(float(centile), 0),
            "years": f"{one.years:.3f}",
        }
        for one, centile in zip(parts, found, strict=True)
    ]


def shown(value: float, decimals: int) -> str:
    """A number as written in a table; n/a for what is none."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "n/a"
