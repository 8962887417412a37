"""Recipe of the ``segment`` network: trained on synthetic scans made from label maps, on no real scan."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from bids_brainage.core import bundle as bundles
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, contents_of, copy, sha256
from bids_brainage.image.classes import CLASSES
from bids_brainage.image.locate import SHAPE, SPACING
from bids_brainage.image.network import WEIGHTS, SegmentationNet, build
from bids_brainage.training import engine
from bids_brainage.training.engine import CURVES, Outcome, Plan
from bids_brainage.training.labelmaps import find_maps, read_maps
from bids_brainage.training.segmenter import (
    CHANNELS,
    HEAD,
    VALIDATION,
    Segmenter,
    steps_from,
    validation_scans,
    warm_start,
)

LOG = logging.getLogger("bids_brainage")
HELD_BACK = 4
FIGURE = "curves.png"
NETWORK = {"classes": len(CLASSES), "channels": list(CHANNELS), "head": HEAD}
TINY = {**NETWORK, "channels": [4, 4, 8, 8, 8], "head": 4}


@dataclass(frozen=True)
class Recipe:
    """What ``brainage train segment`` is asked for.

    Attributes
    ----------
    labels : Path
        Folder of label maps of whole heads at 1 mm (FreeSurfer's numbers); the last ones by name are held back.
    out : Path
        Folder of the bundle.
    plan : Plan
        Its folder keeps the checkpoints.
    start : Path, optional
        A ``segment`` bundle whose weights to begin with.
    judge : Path, optional
        BIDS dataset with DLMUSE segmentations: the card then says how well real scans are segmented. They choose
        nothing.
    held_back : int
        Label maps that validate and train nothing.
    batch : int
        Scans a step.
    tiny : bool
        A network of a few thousand weights, to try the command.
    """

    labels: Path
    out: Path
    plan: Plan
    start: Path | None = None
    judge: Path | None = None
    held_back: int = HELD_BACK
    batch: int = 1
    tiny: bool = False


def fit(recipe: Recipe) -> Bundle:
    """Train, or go on training, and write the best weights so far as a bundle.

    Raises
    ------
    UsageError
        Where there are too few label maps, or the weights to start from are of another network.
    """
    maps = find_maps(recipe.labels)
    if len(maps) <= recipe.held_back:
        raise UsageError(f"{recipe.labels}: {len(maps)} label maps, {recipe.held_back} of them held back; add maps")
    if recipe.held_back < 1:
        raise UsageError("--hold-back: at least one label map must validate")
    torch.manual_seed(recipe.plan.seed)
    network = build(TINY if recipe.tiny else NETWORK)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    started = _begin(network, recipe.start)
    train, held_back = maps[: -recipe.held_back], maps[-recipe.held_back :]
    names = [path.name for path in held_back]
    if started and (saw := sorted(trained_on(started["training"]) & set(names))):
        started = {**started, "saw_held_back": saw}
        LOG.warning("%s: was trained on %s, which validate here; the card says so", recipe.start, ", ".join(saw))
    engine.same_run(
        recipe.plan.folder,
        {
            "label_maps": {path.name: sha256(path) for path in maps},
            "held_back": names,
            "seed": recipe.plan.seed,
            "batch": recipe.batch,
            "tiny": recipe.tiny,
            "started_from": started["bundle"] if started else None,
        },
        "label maps, seed, batch or --start",
    )
    module = Segmenter(network, read_maps(train), read_maps(held_back), recipe.plan, batch=recipe.batch)
    outcome = engine.run(module, lambda first: steps_from(recipe.plan, first), validation_scans(), recipe.plan)
    return write(recipe, outcome, [path.name for path in train], names, started)


def trained_on(training: Mapping[str, Any]) -> set[str]:
    """Names of the label maps that weights were trained on, those that they were started from included."""
    before = training.get("started_from") or {}
    return {*training.get("label_maps", ()), *(trained_on(before["training"]) if before else ())}


def _begin(network: SegmentationNet, start: Path | None) -> Mapping[str, Any] | None:
    """Load the weights to start from; what their card says of their own training."""
    if start is None:
        return None
    bundle = bundles.load(start)
    try:
        warm_start(network, load_file(bundle.file(WEIGHTS)))
    except (KeyError, RuntimeError, IndexError):
        raise UsageError(f"{start}: its weights are of another network; start from a bundle of this one") from None
    return {"bundle": bundle.digest, "training": bundle.card["training"]}


def write(
    recipe: Recipe,
    outcome: Outcome,
    train: Sequence[str],
    held_back: Sequence[str],
    started: Mapping[str, Any] | None,
) -> Bundle:
    """Write weights (float16), learning curves and card."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    with atomic(recipe.out / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: value.half().contiguous() for name, value in outcome.weights.items()}))
    for name in (CURVES, FIGURE):
        copy(recipe.plan.folder / name, recipe.out / name)
    card = describe(recipe, outcome, train, held_back, started)
    bundle = bundles.save(recipe.out, card)
    if recipe.judge is None:
        return bundle
    from bids_brainage.training.judge import judge

    return bundles.save(recipe.out, {**card, "metrics": {**card["metrics"], "real": judge(recipe.out, recipe.judge)}})


def describe(
    recipe: Recipe,
    outcome: Outcome,
    train: Sequence[str],
    held_back: Sequence[str],
    started: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The card, without its files."""
    plan = recipe.plan
    network, source = TINY if recipe.tiny else NETWORK, _source(recipe.labels)
    return {
        "name": recipe.out.name,
        "architecture": "segment",
        "role": "segmentation",
        "version": "1.9.0",
        "description": "U-Net that segments a head into 18 classes and two hemispheres at 2 mm; "
        "trained on synthetic images alone",
        "needs": ["t1w_native"],
        "gives": ["brain_mask", "icv_mask", "posteriors", "aseg_dseg"],
        "classes": list(CLASSES),
        "resolution_mm": SPACING,
        "window": list(SHAPE),
        "network": {**network, "parameters": sum(value.numel() for value in outcome.weights.values())},
        "normalisation": "resampled to 2 mm along the scan's own axes (RAS, anti-aliased), divided by the 99th "
        "percentile of the foreground, cut to 0-1.5",
        "licence": source.get("licence", "that of the label maps; state it before you share"),
        "training": {
            "kind": "simulated",
            "n": len(train),
            "data": [source],
            "label_maps": list(train),
            "held_back": list(held_back),
            "method": "domain randomisation: see bids_brainage/training/synthetic.py",
            "steps": outcome.steps,
            "steps_asked_for": plan.steps,
            "batch": recipe.batch,
            "seconds": round(outcome.seconds),
            "device": plan.device,
            "optimiser": f"AdamW, warm-up, plateau, cosine decay; weights averaged (EMA {plan.averaging})",
            "loss": "soft Dice + cross-entropy of 18 classes, cross-entropy of the hemisphere",
            "seed": plan.seed,
            "command": command(recipe),
            "complete": outcome.complete,
            "started_from": started,
            "software": {name: version(name) for name in ("torch", "lightning", "numpy")},
        },
        "metrics": {
            "synthetic": {
                "how": f"mean Dice over classes of {len(VALIDATION)} synthetic scans of the label maps held back, at "
                "the validation that chose the weights; dice: all contrasts, dice_t1: T1w, dice_other: random and "
                "inverted",
                **{name: round(value, 4) for name, value in outcome.metrics.items() if name.startswith("dice")},
            }
        },
        "not_meant_for": [
            "clinical use or diagnosis",
            "large lesions, tumours or resections (none was simulated)",
            "infants",
            "volumes of small deep structures as they stand: the atlas bundle calibrates them",
        ],
    }


KNOWN = {
    "title": "20 whole-head label maps at 1 mm, with T1 intensity priors by class",
    "source": "SynthSeg, https://github.com/BBillot/SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789)",
    "licence": "Apache-2.0",
}
KNOWN_MAPS = "030d8e1f815fc68183cd36823a84ba085a78e501297a0139650e2991a3dcab2f"


def _source(labels: Path) -> dict[str, Any]:
    """Where label maps come from, if they are those of the shipped network; else what they hold, as a digest."""
    found = contents_of(find_maps(labels))
    return KNOWN if found == KNOWN_MAPS else {"title": "label maps of the user", "sha256": found}


def command(recipe: Recipe) -> str:
    """The command that trains the same network."""
    plan = recipe.plan
    words = ["brainage train segment --labels", recipe.labels.name, "--out", recipe.out.name]
    words += [f"--steps {plan.steps} --every {plan.every} --seed {plan.seed} --batch {recipe.batch}"]
    words += [f"--hold-back {recipe.held_back}"] if recipe.held_back != HELD_BACK else []
    words += ["--start", recipe.start.name] if recipe.start else []
    words += ["--tiny"] if recipe.tiny else []
    words += [f"--hours {plan.hours:g}"] if math.isfinite(plan.hours) else []
    return " ".join(words)
