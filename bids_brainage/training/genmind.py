"""Recipe of a ``genmind`` bundle: a density of volumes and age in each category of a table of healthy people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from bids_brainage.bids import roi_tables
from bids_brainage.cohort import genmind
from bids_brainage.cohort.density import BANDWIDTHS, Kernel
from bids_brainage.cohort.scales import scale_of
from bids_brainage.cohort.tables import people_of
from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import UsageError
from bids_brainage.training import card
from bids_brainage.training.regressors import one_thread


@one_thread
def fit(
    table: Path,
    *,
    out: Path,
    by: Sequence[str] | None = None,
    icv: bool = False,
    kernel: Kernel = "shrunken",
    bandwidths: Sequence[float] = BANDWIDTHS,
    folds: int = 5,
    fewest: int = genmind.FEWEST,
    small: Literal["refuse", "pool"] = "refuse",
    licence: str | None = None,
    seed: int = 0,
    scale: str | None = None,
) -> Bundle:
    """Fit the densities and write their bundle.

    Parameters
    ----------
    table : Path
        Healthy people: see :mod:`bids_brainage.bids.roi_tables`; the ICV is needed with ``icv`` alone.
    out : Path
        A new or empty folder; its name becomes the bundle's.
    by : sequence of str, optional
        Columns that divide people (default: sex, and race where the table has it).
    licence : str, optional
        What the card says of the table's licence and source, where the app does not know the table.
    scale : {"dlmuse-1mm", "dlmuse-2mm"}, optional
        Of the volumes (default: what the JSON beside the table says, else 1 mm).

    Others as in :func:`bids_brainage.cohort.genmind.fit`.

    Raises
    ------
    UsageError
        Where the table or an option cannot be used or ``out`` is taken.
    """
    out, scale = card.free(out), scale or scale_of(table)
    if folds < 2 or not bandwidths or min(bandwidths) <= 0:
        raise UsageError("--folds must be at least 2, and --bandwidths positive")
    read = roi_tables.read(table, icv=icv)
    columns = tuple(by) if by else ("sex", "race") if "race" in read.others else ("sex",)
    people = people_of(read, table, by=columns, icv=icv)
    fitted = genmind.fit(
        people,
        by=columns,
        kernel=kernel,
        bandwidths=bandwidths,
        folds=folds,
        fewest=fewest,
        small=small,
        seed=seed,
    )
    words = [table.name, "--by", *columns, "--kernel", kernel, "--bandwidths", *map(str, bandwidths)]
    words += ["--folds", str(folds), "--fewest", str(fewest), "--small", small, "--seed", str(seed)]
    words += ["--scale", scale, *(["--icv"] if icv else [])]
    with card.writing(out) as folder:
        folder.mkdir()
        genmind.write_arrays(folder / genmind.ARRAYS, fitted.model)
        card.write_licence(folder, [table], "genmind-bundle.txt")
        command = shlex.join(["brainage", "genmind", "fit", *words, "--out", out.name])
        training = {"n": len(people), **_origin(table, licence), "seed": seed, "command": command}
        save(folder, _card(out.name, fitted, kernel, scale, training))
    return load(out)


def _origin(table: Path, licence: str | None) -> dict[str, Any]:
    """Data, kind and software of the card."""
    stated = {"licence": licence} if licence else {}
    return {
        "kind": card.kind_of([table]),
        "data": [card.provenance(table) | stated],
        "software": {library: version(library) for library in card.LIBRARIES},
    }


def _card(name: str, fitted: genmind.Fitted, kernel: Kernel, scale: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """The card, without the sha256 of the files."""
    model, categories = fitted.model, genmind.entries(fitted)
    ages = [age for entry in categories for age in entry["age_range"]]
    (source,) = training["data"]
    return {
        "name": name,
        "architecture": genmind.ARCHITECTURE,
        "role": "reference",
        "version": "1.0.0",
        "description": f"Kernel densities of {len(model.indices)} MUSE volumes and age by {' and '.join(model.by)}, "
        "to draw synthetic reference people from",
        "needs": [],
        "age_range": [min(ages), max(ages)],
        "licence": source.get("derivative_licence", source["licence"]),
        "by": list(model.by),
        "indices": list(model.indices),
        "has_icv": model.has_icv,
        "volume_scale": scale,
        "kernel": kernel,
        "categories": categories,
        "training": training,
        "metrics": {
            "log_likelihood": {
                " ".join(entry["category"]): entry["log_likelihood"]
                for entry in categories
                if entry["log_likelihood"] is not None
            }
        },
        "notes": [*NOTES[kernel], *NOTES["all"]],
        "not_meant_for": [
            f"people younger than {min(ages):g} or older than {max(ages):g} years, or of another category (refused)",
            "volumes of other segmentations, resolutions or scanners than those of the table, unless harmonised to it",
            "clinical decisions about a person",
            "a test that counts synthetic rows as people",
            "release as anonymous data: the arrays are z-scores of the people themselves",
        ],
    }


NOTES = {
    "published": [
        "The published kernel makes every variance larger by 1 + h^2 and every correlation smaller by as much: people "
        "scored against its draws look less extreme than they are, and age effects are flattened."
    ],
    "shrunken": [
        "The shrunken kernel keeps each category's means and variances, and its covariances but for Ledoit and Wolf's "
        "shrinkage of the kernel's shape. Its log-likelihood often rises to the end of the grid, towards one Gaussian."
    ],
    "all": [
        "log_likelihood is the mean a person left out: per z-score (published), per mm^3 and year (shrunken); the two "
        "are not comparable.",
        "Draws below the smallest volume that anybody has are folded to positive volumes.",
    ],
}
