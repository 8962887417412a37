"""What a model card says beside figures: where the data come from, under which licence, and what it is not for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bids_brainage.core.files import copy, read_json, sha256
from bids_brainage.training.muse import Table

DATA = Path(__file__).resolve().parents[1] / "data"
LIBRARIES = ("numpy", "scipy", "scikit-learn")
UNSTATED = "not stated here: that of the table; state it before you share this bundle"


class Made(NamedTuple):
    """How a bundle was made: the tables given (training data first), the seed, and the penalty that was chosen."""

    tables: Sequence[Path]
    seed: int
    penalty: float


def provenance(path: Path) -> dict[str, Any]:
    """Title, source and licence of a table that is known by its sha256; else its file name alone."""
    digest = sha256(path)
    known = (entry for entry in read_json(DATA / "sources.json").values() if entry["sha256"] == digest)
    return {"file": path.name, **next(known, {"sha256": digest, "title": path.stem, "licence": UNSTATED})}


def write_licence(folder: Path, tables: Sequence[Path]) -> None:
    """Put the licence texts that the training data ask for into a bundle, where they are known."""
    known = [provenance(path) for path in tables]
    for text in sorted({name for entry in known for name in entry.get("licence_files", ())}):
        copy(DATA / "licences" / text, folder / text)
    if all("derivative_licence" in entry for entry in known):
        copy(DATA / "licences" / "roi-bundle.txt", folder / "LICENSE.txt")


def roi_card(name: str, people: Table, made: Made, metrics: dict[str, Any]) -> dict[str, Any]:
    """The card of a ``roi`` bundle, without its architecture's arguments."""
    data = [provenance(path) for path in made.tables]
    youngest, oldest = float(people.age.min()), float(people.age.max())
    return {
        "name": name,
        "architecture": "roi",
        "role": "brain_age",
        "version": "1.0.0",
        "description": f"Ridge regression of age on {len(people.indices)} regional volumes relative to ICV, and sex",
        "needs": ["muse_volumes", "sex"],
        "age_range": [youngest, oldest],
        "licence": data[0].get("derivative_licence", UNSTATED),
        "training": {
            "kind": "real",
            "n": len(people.age),
            "ages": {
                "min": youngest,
                "max": oldest,
                "mean": round(float(people.age.mean()), 2),
                "sd": round(float(people.age.std(ddof=1)), 2),
            },
            "sexes": {sex: int((people.sex == sex).sum()) for sex in ("F", "M")},
            "sites": {site: int((people.site == site).sum()) for site in sorted(set(people.site.tolist())) if site},
            "data": data,
            "seed": made.seed,
            "command": command(name, made),
            "software": {library: version(library) for library in LIBRARIES},
        },
        "metrics": metrics,
        "notes": notes(metrics),
        "not_meant_for": not_meant_for(youngest, oldest),
    }


def command(name: str, made: Made) -> str:
    """The command that makes the same bundle again."""
    options = ("--table", "--same-heads")
    words = [word for option, path in zip(options, made.tables, strict=False) for word in (option, path.name)]
    return shlex.join(["brainage", "train", "roi", *words, "--out", name, "--seed", str(made.seed)])


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a reader of the ages must know."""
    slope = metrics["out_of_fold"]["slope_of_predicted_on_age"]
    return [
        f"Predictions regress to the mean age of training: predicted age rises by {slope} years a year of age "
        "(out of fold), so that young people look older and old people younger than they are.",
        "No bias correction is included: the group level fits one on controls; age belongs into every test of the gap.",
        "Prediction intervals have one width at all ages; see interval_90 for their coverage by age third.",
        "Without sex, the age is the mean of those for a woman and a man, the interval spans both, "
        "and sex_missing is flagged.",
    ]


def not_meant_for(youngest: float, oldest: float) -> list[str]:
    """Uses that nothing here supports."""
    return [
        f"people younger than {youngest:.0f} or older than {oldest:.0f} years (flagged; the model then extrapolates)",
        "children and adolescents",
        "clinical decisions about a person: the interval of one person spans decades",
        "volumes of other segmentations than DLMUSE at 1 mm, or those that say that they are on its scale",
        "scans after surgery or with large lesions",
        "comparison of scanners, sites or resolutions as if their volumes were alike",
    ]
