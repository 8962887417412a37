"""What the card of a local model says beside its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import copy
from bids_brainage.image.template import DEFAULT
from bids_brainage.models.local import TISSUES
from bids_brainage.training.card import DATA, UNSTATED, copy_texts
from bids_brainage.training.engine import Outcome
from bids_brainage.training.local.data import first_scans
from bids_brainage.training.local.judge import BANDWIDTH, COVERAGE
from bids_brainage.training.local.recipe import Data, Recipe

LIBRARIES = ("torch", "lightning", "numpy")
FEWEST_BEYOND = 10
MEMORY_GB = 3.0
LICENCE = "CC BY-SA 3.0; the terms of SBIA Agreement 1.1, Part B, go with it"
"""Of what is trained on simulated people: they rest on the atlas and the normative curves of this package."""
TEXTS = ("CC-BY-SA-3.0.txt", "SBIA-1.1.txt")


def describe(
    recipe: Recipe,
    data: Data,
    outcome: Outcome,
    started: Mapping[str, Any] | None,
    metrics: Mapping[str, Any],
    corrects: bool,
) -> dict[str, Any]:
    """The card, without its files."""
    config, simulated = recipe.config, data.found.simulated
    gives = {"age": True, "sd": config.samples > 1, "gap_corrected": corrects}
    return {
        "name": recipe.out.name,
        "architecture": "local",
        "role": "brain_age",
        "version": "1.0.0",
        "description": "Local brain age: U-Net over modulated grey and white matter, one age a voxel"
        + ("; trained on simulated people alone" if simulated else ""),
        "needs": [*TISSUES, *(["sex"] if config.sex else [])],
        "template": DEFAULT,
        "resolution_mm": config.resolution,
        "age_range": list(age_range(np.array([person.scan.age for person in data.parts["train"]]))),
        "arguments": config.arguments,
        "standardised": config.standardise,
        "context": config.context,
        "maps": [name for name, is_given in gives.items() if is_given],
        "memory_gb": MEMORY_GB,
        "prediction": {
            "mean_age": data.blocks.mean_age,
            "coverage": COVERAGE,
            "bandwidth": BANDWIDTH,
            "samples": config.samples,
            "dropped_from": config.dropped_from,
        },
        "licence": LICENCE if simulated else UNSTATED,
        "training": training(recipe, data, outcome, started),
        "metrics": dict(metrics),
        "notes": notes(recipe, data),
        "not_meant_for": not_meant_for(simulated),
    }


def write_licence(folder: Path) -> list[str]:
    """Put the texts of :data:`LICENCE` into a bundle; returns their names."""
    copy_texts(folder, TEXTS)
    copy(DATA / "licences" / "local-bundle.txt", folder / "LICENSE.txt")
    return [*TEXTS, "LICENSE.txt"]


def age_range(age: NDArray[np.float64]) -> tuple[float, float]:
    """Between the tenth youngest and the tenth oldest, or as many of fewer people as make a tenth."""
    beyond = max(1, min(FEWEST_BEYOND, len(age) // 10))
    ordered = np.sort(age)
    return float(ordered[beyond - 1]), float(ordered[-beyond])


def training(recipe: Recipe, data: Data, outcome: Outcome, started: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who and what made the weights."""
    people = first_scans(person.scan for person in data.parts["train"])
    age = np.array([scan.age for scan in people])
    return {
        "kind": "simulated" if data.found.simulated else "real",
        "data": [{"title": name} for name in data.found.datasets],
        "n": len(people),
        "parts": {part: len(first_scans(p.scan for p in of)) for part, of in data.parts.items()},
        "split": "by person; each ten neighbours in study, site and age are shared out 6:1:2:1 to train, validation, "
        "correction (voxel bins of controls, residuals of all) and test",
        "ages": {
            "min": round(float(age.min()), 2),
            "max": round(float(age.max()), 2),
            "mean": round(float(age.mean()), 2),
            "sd": round(float(age.std(ddof=1)), 2),
        },
        "sexes": dict(sorted(Counter(scan.sex or "unknown" for scan in people).items())),
        "sites": dict(sorted(Counter(scan.site or "unknown" for scan in people).items())),
        "left_out": len(data.found.left_out),
        "label": {"age": "the person's age at every voxel", "truth": "the simulated local age"}[recipe.label],
        "loss": "mean absolute error over voxels and of two coarser ages, whose weight falls to 0",
        "settings": asdict(recipe.config),
        "steps": outcome.steps,
        "complete": outcome.complete,
        "validation": {name: round(value, 4) for name, value in outcome.metrics.items() if name.endswith("mae")},
        "seconds": round(outcome.seconds),
        "device": recipe.device,
        "seed": recipe.seed,
        "fold": recipe.fold,
        "command": recipe.command,
        "started_from": started,
        "software": {name: version(name) for name in LIBRARIES},
    }


def notes(recipe: Recipe, data: Data) -> list[str]:
    """What a reader of the maps must know."""
    corrected = len([scan for scan in first_scans(p.scan for p in data.parts["correction"]) if scan.is_control])
    told = [
        "Ages regress to the mean age of training: age belongs into every test of the gap.",
        f"The corrected gap rests on {corrected} controls in bins of {recipe.config.bin_years} years.",
        "interval_90 is of the chronological age, from the residuals of people who trained nothing.",
    ]
    if recipe.label == "age":
        told.append("The label is the same age at every voxel: nothing taught the network that places differ.")
    return told


def not_meant_for(simulated: bool) -> list[str]:
    """Uses that nothing here supports."""
    return [
        *(["any statement about a real person: nobody of the training people was scanned"] if simulated else []),
        "clinical use or diagnosis",
        "people outside the ages of training (flagged)",
        "maps of other tissue segmentations or templates than the app's own",
        "scans after surgery or with large lesions",
    ]
