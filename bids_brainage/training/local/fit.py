"""Recipe of the ``local`` architecture: a U-Net over modulated maps, judged on people who took no part.

Popescu et al. (2021), Frontiers in Aging Neuroscience 13:761954. People are split once: they train, choose the best
weights, fit the correction by voxel and the intervals, or are judged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from bids_brainage.bids.tables import write_tsv
from bids_brainage.core import bundle as bundles
from bids_brainage.core.bundle import CARD, Bundle
from bids_brainage.core.errors import BundleError, UsageError
from bids_brainage.core.files import atomic, copy, read_json, sha256_of
from bids_brainage.image.network import WEIGHTS, fill
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.models.local import BINS, BRAIN, REFERENCE, RESIDUALS, brain_of, write_brain
from bids_brainage.models.networks.inference import window_around
from bids_brainage.models.networks.local_unet import LocalUNet
from bids_brainage.models.networks.standard import reference_of, write_reference
from bids_brainage.stats.voxel_bins import EDGES, fit_voxel_bins, write_voxel_bins
from bids_brainage.training import engine
from bids_brainage.training.engine import CURVES, Outcome
from bids_brainage.training.local import card as cards
from bids_brainage.training.local import judge
from bids_brainage.training.local.data import find_scans, first_scans, split
from bids_brainage.training.local.judge import Measured
from bids_brainage.training.local.net import LocalLearner, steps_from, whole_brains
from bids_brainage.training.local.recipe import Data, Recipe
from bids_brainage.training.local.store import Blocks, Stored, Wholes, store

LOG = logging.getLogger("bids_brainage")
FIGURE = "curves.png"
ROUNDED = 4
"""People on whom the rounding of the weights is measured."""
WIDE = (EDGES[0], *EDGES[2::2])


def fit(recipe: Recipe) -> Bundle:
    """Train, or go on training, and write the best weights so far as a bundle.

    Raises
    ------
    UsageError
        Where the data cannot be used, ``out`` is taken, or ``work`` holds another run.
    """
    _check_out(recipe.out)
    data = gather(recipe)
    _same_run(recipe, data)
    torch.manual_seed(recipe.seed)
    network = LocalUNet(**recipe.config.arguments)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    config, blocks = recipe.config, data.blocks
    if recipe.start is None:
        network.scale_to(blocks[0].maps)
    started = _begin(network, recipe.start)
    people = _spread(_first(data.parts["validation"]), config.validate)
    outcome = engine.run(
        LocalLearner(network, config),
        lambda first: steps_from(blocks, first, config.every),
        whole_brains(Wholes(blocks, people)),
        recipe.plan,
    )
    return write(recipe, data, outcome, started)


def gather(recipe: Recipe) -> Data:
    """Find the people, bring their maps into the model's window, and split them."""
    config = recipe.config
    brain = brain_of(template(DEFAULT, config.resolution))
    seen = window_around(brain.data)
    found = find_scans(recipe.data, template=DEFAULT, resolution=config.resolution, truth=recipe.label == "truth")
    for name, why in found.left_out.items():
        LOG.warning("left out: %s (%s)", name, why)
    kept, refused = store(found.scans, recipe.work / "maps", brain, seen, DEFAULT)
    found.left_out.update(refused)
    stored = {person.scan: person for person in kept}
    parts = {part: [stored[s] for s in scans] for part, scans in split(list(stored), recipe.seed, recipe.fold).items()}
    LOG.info("people: %s", ", ".join(f"{len(_first(of))} {part}" for part, of in parts.items()))
    inner = tuple(slice(a, a + n) for a, n in zip(seen.inner.start, seen.inner.shape, strict=True))
    grown = np.pad(brain.data, [(0, max(0, part.stop - n)) for part, n in zip(inner, brain.data.shape, strict=True)])
    trained = parts["train"]
    known = ((np.load(person.maps), person.scan.age) for person in _first(trained))
    reference = reference_of(known) if config.standardise else None
    truth = recipe.label == "truth"
    return Data(found, parts, Blocks(trained, grown[inner], config, seed=recipe.seed, truth=truth, reference=reference))


def _first(people: Sequence[Stored]) -> list[Stored]:
    """One scan of each person."""
    chosen = set(first_scans(person.scan for person in people))
    return [person for person in people if person.scan in chosen]


def _spread(people: list[Stored], count: int) -> list[Stored]:
    """So many people at most, evenly over the ages."""
    ordered = sorted(people, key=lambda person: person.scan.age)
    return [
        ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    ]


def _check_out(out: Path) -> None:
    """Refuse a name that no file of maps could bear, and a folder that holds anything but a local bundle.

    A local bundle is written anew.
    """
    if not out.name.isalnum():
        raise UsageError(f"{out}: the name stands in names of files; give a folder of letters and digits alone")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CARD).is_file() or read_json(out / CARD).get("architecture") != "local":
        raise UsageError(f"{out}: is there already and holds no local model; give another folder")


def _same_run(recipe: Recipe, data: Data) -> None:
    """Refuse to go on with checkpoints of other people or another network."""
    settings = {
        "config": {
            k: v for k, v in asdict(recipe.config).items() if k not in ("steps", "every", "patience", "workers")
        },
        "label": recipe.label,
        "seed": recipe.seed,
        "people": sha256_of({part: [person.maps.name for person in of] for part, of in data.parts.items()}),
    }
    engine.same_run(recipe.work, settings, "people, settings, label, fold or seed")


def _begin(network: LocalUNet, start: Path | None) -> Mapping[str, Any] | None:
    """Load the weights to start from; what their card says of their own training."""
    if start is None:
        return None
    bundle = bundles.load(start)
    try:
        fill(network, bundle)
    except BundleError:
        raise UsageError(f"{start}: its weights are of another network; start from one with these settings") from None
    return {"bundle": bundle.digest, "training": bundle.card["training"]}


def write(recipe: Recipe, data: Data, outcome: Outcome, started: Mapping[str, Any] | None) -> Bundle:
    """Judge the weights as they are kept (float16), fit correction and intervals, and write all as a bundle."""
    full, kept = LocalUNet(**recipe.config.arguments), LocalUNet(**recipe.config.arguments)
    full.load_state_dict(outcome.weights)
    kept.load_state_dict({name: value.half() for name, value in outcome.weights.items()})
    out, blocks, device = recipe.out, data.blocks, recipe.device
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: value.half().contiguous() for name, value in outcome.weights.items()}))
    write_brain(brain_of(template(DEFAULT, recipe.config.resolution)), out / BRAIN)
    if blocks.reference:
        write_reference(blocks.reference, out / REFERENCE)
    for name in (CURVES, FIGURE):
        copy(recipe.work / name, out / name)
    corrects, calibration = _calibrate(recipe, kept, data)
    people = _first(data.parts["test"])
    test = [judge.measured(found) for found in judge.predictions(kept, blocks, people, device)]
    metrics = judge.figures(test, calibration, recipe.seed)
    metrics["float16"] = judge.rounding(full, kept, blocks, people[:ROUNDED], device)
    named = [WEIGHTS, BRAIN, RESIDUALS, CURVES, FIGURE, *([BINS] if corrects else [])]
    named += [REFERENCE] if blocks.reference else []
    named += cards.write_licence(out) if data.found.simulated else []
    card = cards.describe(recipe, data, outcome, started, metrics, corrects)
    return bundles.save(out, card, {name: out / name for name in named})


def _calibrate(recipe: Recipe, network: LocalUNet, data: Data) -> tuple[bool, list[Measured]]:
    """Write residuals and, where there are controls, their mean gaps by voxel; whether there are, and all people."""
    rows: list[Measured] = []

    def gaps() -> Iterator[tuple[float, NDArray[np.float32]]]:
        people = _first(data.parts["correction"])
        for found in judge.predictions(network, data.blocks, people, recipe.device):
            rows.append(judge.measured(found))
            if found.scan.is_control:
                yield found.scan.age, found.ages - np.float32(found.scan.age)

    try:
        write_voxel_bins(fit_voxel_bins(gaps(), EDGES if recipe.config.bin_years == 5 else WIDE), recipe.out / BINS)
    except ValueError as error:
        LOG.warning("the bundle corrects no gap: %s", error)
    residuals = [{"predicted": f"{r.predicted:.3f}", "residual": f"{r.predicted - r.age:.3f}"} for r in rows]
    write_tsv(recipe.out / RESIDUALS, residuals, ["predicted", "residual"])
    return any(row.control and EDGES[0] <= row.age < EDGES[-1] for row in rows), rows
