"""The training engine: Lightning with checkpoints, resume after a kill, averaged weights, progress, learning curves.

A recipe brings a module and its batches. Everything about a run lies in its work folder: ``last.ckpt`` and
``best.ckpt``, ``curves.csv`` and ``curves.png``. The same call goes on from ``last.ckpt``.
"""

from __future__ import annotations

import csv
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, read_json, write_json
from bids_brainage.image.network import has_bfloat16
from bids_brainage.training.checkpoints import Averaging, Checkpoint, Patience

LOG = logging.getLogger("bids_brainage")
LAST, BEST, CURVES, SETTINGS = "last", "best", "curves.csv", "settings.json"


@dataclass(frozen=True)
class Plan:
    """How to run.

    Attributes
    ----------
    folder : Path
        Work folder; a run that it holds is gone on with.
    steps : int
        Optimiser steps in all, those of earlier calls included.
    every : int
        Steps between validations; each ends with a checkpoint.
    seed : int
    device : str
        ``cpu``, ``cuda`` (all GPUs that are there) or ``cuda:N``.
    hours : float
        Stop, to be gone on with later, after this long.
    averaging : float
        Decay of the exponential moving average of the weights, which is what is validated and kept.
    monitor : str
        What the best checkpoint is chosen by.
    lower_is_better : bool
        Whether ``monitor`` is an error.
    patience : int, optional
        Stop for good after so many validations without a better one.
    """

    folder: Path
    steps: int
    every: int = 500
    seed: int = 0
    device: str = "cpu"
    hours: float = math.inf
    averaging: float = 0.998
    monitor: str = "dice"
    lower_is_better: bool = False
    patience: int | None = None

    @property
    def mode(self) -> str:
        """Lightning's word for what is better."""
        return "min" if self.lower_is_better else "max"


@dataclass(frozen=True)
class Outcome:
    """Where a run stands: weights of the best validation, its figures and step; seconds in all, whether complete."""

    weights: dict[str, torch.Tensor]
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    complete: bool


def warmup_and_decay(optimiser: Optimizer, steps: int, warmup: int = 200, decay: float = 0.4) -> LambdaLR:
    """Learning rate: linear rise, plateau, cosine fall over the last part; a longer run only lengthens the plateau."""

    def factor(step: int) -> float:
        left = (steps - step) / max(1.0, decay * steps)
        return min(1.0, (step + 1) / warmup) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, max(left, 0.01))))

    return LambdaLR(optimiser, factor)


class Progress(Callback):
    """Counted log lines with the time left, the table of learning curves, its figure, and the stop after some hours."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.before = 0.0
        self.started = time.monotonic()
        self.from_step = 0
        self.loss = 0.0
        self.counted = 0

    @property
    def seconds(self) -> float:
        """Spent on this run, by earlier calls too."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting."""
        self.before = float(state_dict["seconds"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started, self.from_step = time.monotonic(), trainer.global_step
        LOG.info("training from step %d to %d on %s", self.from_step, self.plan.steps, pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say where the run stands, ten times a validation."""
        self.loss, self.counted = self.loss + float(outputs["loss"]), self.counted + 1
        step, plan = trainer.global_step, self.plan
        if time.monotonic() - self.started > plan.hours * 3600:
            trainer.should_stop = True
        if step % max(1, plan.every // 10) == 0 or step == plan.steps:
            pace = (time.monotonic() - self.started) / max(1, step - self.from_step)
            LOG.info(
                "step %d of %d, loss %.3f, %.2f s a step, %.0f min left",
                *(step, plan.steps, self.loss / self.counted, pace, pace * (plan.steps - step) / 60),
            )
            self.loss, self.counted = 0.0, 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row to the learning curves and draw them anew."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"step": trainer.global_step, "seconds": round(self.seconds), **found}
        LOG.info("validation: %s", ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        rows = [*read_curves(self.plan.folder / CURVES), row]
        write_curves(self.plan.folder, rows)


def read_curves(path: Path) -> list[dict[str, float]]:
    """Rows of the table of learning curves; none where there is no table."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def write_curves(folder: Path, rows: list[dict[str, float]]) -> None:
    """Write the table of learning curves and its figure; rows of steps that a resumed run repeats are replaced."""
    kept = list({row["step"]: row for row in rows if row["step"] <= rows[-1]["step"]}.values())
    names = list(dict.fromkeys(name for row in kept for name in row))
    with atomic(folder / CURVES) as path, path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(kept)
    draw_curves(kept, [name for name in names if name not in ("step", "seconds")], folder / "curves.png")


def draw_curves(rows: list[dict[str, float]], names: Iterable[str], path: Path) -> Path:
    """One panel a measure against the step."""
    from matplotlib.figure import Figure

    names = list(names)
    figure = Figure(figsize=(3.4 * len(names), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        shown = [row for row in rows if name in row]
        axes.plot([row["step"] for row in shown], [row[name] for row in shown], ".-", color="#1f5f8b")
        axes.set(title=name, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def run(
    module: LightningModule,
    batches: Callable[[int], DataLoader[Any]],
    validation: DataLoader[Any],
    plan: Plan,
) -> Outcome:
    """Train, or go on training, and return the best weights.

    Parameters
    ----------
    module : LightningModule
        Its ``network`` is what is kept; logs ``plan.monitor`` when validated; ``training_step`` returns a loss.
    batches : callable
        Batches of the ``every`` steps that begin at a step.
    validation : DataLoader
    plan : Plan
    """
    accelerator, devices = _devices(plan.device)
    plan.folder.mkdir(parents=True, exist_ok=True)
    _quiet()
    seed_everything(plan.seed, workers=True, verbose=False)
    progress = Progress(plan)
    best = Checkpoint(plan.folder, BEST, plan.monitor, plan.mode)
    last = Checkpoint(plan.folder, LAST, "step", "max")
    # without patience it never stops a run
    patience = Patience(
        plan.monitor, patience=plan.patience or plan.steps, mode=plan.mode, check_on_train_epoch_end=False
    )
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        precision="bf16-mixed" if has_bfloat16(plan.device) else "32-true",
        max_steps=plan.steps,
        limit_train_batches=plan.every,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,  # each device has its own seeds and sees each step and validation
        callbacks=[Averaging(plan.averaging), progress, patience, best, last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=plan.folder,
    )
    module.train_dataloader = lambda: batches(trainer.global_step)  # type: ignore[method-assign]
    resumed = plan.folder / f"{LAST}.ckpt"
    trainer.fit(module, val_dataloaders=validation, ckpt_path=resumed if resumed.is_file() else None, weights_only=True)
    _validate_the_end(trainer, module, validation, plan, best)
    kept = torch.load(plan.folder / f"{BEST}.ckpt", map_location="cpu", weights_only=True)
    prefix = "network."
    return Outcome(
        {name.removeprefix(prefix): value for name, value in kept["state_dict"].items() if name.startswith(prefix)},
        next(row for row in read_curves(plan.folder / CURVES) if row["step"] == kept["global_step"]),
        int(kept["global_step"]),
        progress.seconds,
        trainer.global_step >= plan.steps or patience.stopped,
    )


def same_run(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    """Refuse to go on with the checkpoints of a run of other settings; note those of a new one.

    Raises
    ------
    UsageError
        Where the work folder holds such a run; ``what`` names what may differ.
    """
    path = folder / SETTINGS
    if (folder / f"{LAST}.ckpt").is_file() and path.is_file() and read_json(path) != settings:
        raise UsageError(
            f"{folder}: holds a run with other {what}; give another --work, or remove its last.ckpt, best.ckpt and "
            "curves.csv"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(settings))


def _validate_the_end(
    trainer: Trainer, module: LightningModule, validation: DataLoader[Any], plan: Plan, best: Checkpoint
) -> None:
    """Validate and keep also what the steps after the last whole round brought; the module has the averaged weights."""
    rows = read_curves(plan.folder / CURVES)
    if rows and rows[-1]["step"] >= trainer.global_step:
        return
    found = trainer.validate(module, validation, verbose=False)[0]
    sign = -1 if plan.lower_is_better else 1
    if best.best_model_score is None or sign * found[plan.monitor] > sign * float(best.best_model_score):
        best.hold(trainer, torch.tensor(found[plan.monitor]))
    trainer.save_checkpoint(plan.folder / f"{LAST}.ckpt")


def _devices(device: str) -> tuple[str, Any]:
    if not device.startswith("cuda"):
        return "cpu", 1
    if not torch.cuda.is_available():
        raise UsageError(f"--device {device}: no usable GPU was found; use --device cpu")
    return "gpu", [int(device.partition(":")[2])] if ":" in device else -1


def _quiet() -> None:
    """Keep Lightning's advice on loaders and logging off the user's screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
