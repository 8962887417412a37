"""What a model card says beside figures: where the data come from, under which licence, and what it is not for."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bids_brainage.bids.tables import dictionary
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import copy, read_json, sha256
from bids_brainage.training.muse import Cohort, failed
from bids_brainage.training.regressors import CAUTION

DATA = Path(__file__).resolve().parents[1] / "data"
LIBRARIES = ("numpy", "scipy", "scikit-learn")
UNSTATED = "not stated here: that of the table; state it before you share this bundle"


class Made(NamedTuple):
    """How a bundle was made: its name, the options given (training tables by option, the 1 mm one first), the seed."""

    name: str
    tables: Mapping[str, Path | None]
    noise: Path | None
    judged: Path | None
    compared: bool
    seed: int
    left_out: Mapping[str, str]


def provenance(path: Path) -> dict[str, Any]:
    """Title, source and licence of a table that is known by its sha256; else its file name alone."""
    digest = sha256(path)
    known = (entry for entry in read_json(DATA / "sources.json").values() if entry["sha256"] == digest)
    return {"file": path.name, **next(known, {"sha256": digest, "title": path.stem, "licence": UNSTATED})}


def left_out(coarse_table: Path | None) -> dict[str, str]:
    """Who of a table at 2 mm does not train, and why."""
    if coarse_table is None:
        return {}
    judging = provenance(coarse_table).get("judging_heads", [])
    return dict.fromkeys(judging, "judges the app") | dict.fromkeys(
        failed(coarse_table), "many empty regions: the segmentation failed"
    )


def kind_of(tables: Iterable[Path]) -> Literal["real", "synthetic"]:
    """``synthetic`` where the JSON beside one of the tables says so: ``brainage genmind`` drew its people."""
    said = [dictionary(path.with_suffix(".json")).get("Synthetic") for path in tables]
    return "synthetic" if True in said else "real"


def free(out: Path) -> Path:
    """The folder of a new bundle, absolute; :class:`UsageError` where something is there."""
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is there already; remove it or give another folder")
    return out


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder to write a bundle into, which becomes ``out`` when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".training-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        yield folder
        folder.replace(out)


def write_licence(folder: Path, tables: Sequence[Path], notice: str = "roi-bundle.txt") -> None:
    """Put the licence texts that the training data ask for into a bundle, where they are known.

    ``notice`` says of whose work the bundle is an adaptation; it becomes its ``LICENSE.txt``.
    """
    known = [provenance(path) for path in tables]
    copy_texts(folder, {name for entry in known for name in entry.get("licence_files", ())})
    if all("derivative_licence" in entry for entry in known):
        copy(DATA / "licences" / notice, folder / "LICENSE.txt")


def copy_texts(folder: Path, texts: Iterable[str]) -> None:
    """Put licence texts of the package beside what they are about, under their names."""
    for text in sorted(texts):
        copy(DATA / "licences" / text, folder / text)


def roi_card(made: Made, cohort: Cohort, metrics: dict[str, Any], age_range: tuple[float, float]) -> dict[str, Any]:
    """The card of a ``roi`` bundle, without its architecture's arguments."""
    people = cohort.people()
    data = [provenance(path) for path in made.tables.values() if path]
    error = {"measurement_error": provenance(made.noise) | {"times": CAUTION}} if made.noise else {}
    return {
        "name": made.name,
        "architecture": "roi",
        "role": "brain_age",
        "version": "2.10.0",
        "description": f"Ridge regression of age on {len(people.indices)} regional volumes relative to ICV, and sex"
        + (", that reckons with their measurement error" if made.noise else ""),
        "needs": ["muse_volumes", "sex"],
        "age_range": list(age_range),
        "licence": data[0].get("derivative_licence", UNSTATED),
        "training": {
            "kind": kind_of(path for path in made.tables.values() if path),
            "n": len(people.age),
            "n_1mm": len(cohort.fine.age),
            "ages": {
                "min": float(people.age.min()),
                "max": float(people.age.max()),
                "mean": round(float(people.age.mean()), 2),
                "sd": round(float(people.age.std(ddof=1)), 2),
                "outside_age_range": int(((people.age < age_range[0]) | (people.age > age_range[1])).sum()),
            },
            "sexes": {sex: int((people.sex == sex).sum()) for sex in ("F", "M")},
            "sites": {site: int((people.site == site).sum()) for site in sorted(set(people.site.tolist())) if site},
            "data": data,
            "left_out": made.left_out,
            **error,
            "seed": made.seed,
            "command": command(made),
            "software": {library: version(library) for library in LIBRARIES},
        },
        "metrics": metrics,
        "notes": notes(metrics),
        "not_meant_for": not_meant_for(*age_range),
    }


def command(made: Made) -> str:
    """The command that makes the same bundle again."""
    paths = {**made.tables, "--noise": made.noise, "--judge": made.judged}
    words = [word for option, path in paths.items() if path for word in (option, path.name)]
    words += ["--compare"] if made.compared else []
    return shlex.join(["brainage", "train", "roi", *words, "--out", made.name, "--seed", str(made.seed)])


def notes(metrics: dict[str, Any]) -> list[str]:
    """What a reader of the ages must know."""
    slope = metrics["out_of_fold"]["slope_of_predicted_on_age"]
    return [
        f"Predictions regress to the mean age of training: predicted age rises by {slope} years a year of age "
        "(out of fold), so that young people look older and old people younger than they are.",
        "No bias correction is included: the group level fits one on controls; age belongs into every test of the gap.",
        "Prediction intervals widen where residuals at that predicted age are larger; interval_90 has their coverage "
        "by age third."
        + (
            " They are those of volumes with the measurement error that was given, and too wide for better ones."
            if "interval_90_with_measurement_error" in metrics
            else ""
        ),
        "Without sex, the age is the mean of those for a woman and a man, the interval spans both, "
        "and sex_missing is flagged.",
    ]


def not_meant_for(youngest: float, oldest: float) -> list[str]:
    """Uses that nothing here supports."""
    return [
        f"people younger than {youngest:.0f} or older than {oldest:.0f} years (flagged; fewer than ten people trained "
        "the model beyond either age)",
        "children and adolescents",
        "clinical decisions about a person: the interval of one person spans decades",
        "volumes of other segmentations than DLMUSE at 1 mm, or those that say that they are on its scale",
        "scans after surgery or with large lesions",
        "comparison of scanners, sites or resolutions as if their volumes were alike",
    ]
