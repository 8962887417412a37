"""What checkpoints keep beyond what Lightning has them keep: runs that are moved, stopped for good or end unevenly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor


class Checkpoint(ModelCheckpoint):
    """One file, ``<name>.ckpt`` in a folder, that is known again where the folder was moved."""

    def __init__(self, folder: Path, name: str, monitor: str, mode: str) -> None:
        super().__init__(
            folder,
            filename=name,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self.path = str(Path(str(self.dirpath)) / f"{name}.ckpt")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what an earlier call knew; its file lies in today's folder."""
        there = {"dirpath": self.dirpath, "best_model_path": self.path, "kth_best_model_path": self.path}
        best = {self.path: state_dict["kth_value"]} if state_dict["best_k_models"] else {}
        super().load_state_dict({**state_dict, **there, "best_k_models": best, "last_model_path": ""})

    def hold(self, trainer: Trainer, score: Tensor) -> None:
        """Save the file, which later ones are held against."""
        self.best_model_path = self.kth_best_model_path = self.path
        self.best_model_score = self.kth_value = score
        self.best_k_models = {self.path: score}
        trainer.save_checkpoint(self.path)


class Averaging(EMAWeightAveraging):
    """Averaged weights; a checkpoint after the end keeps the ones that were stepped, too, for a longer run."""

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
        self._stepped: dict[str, Tensor] | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module gets the averaged weights here."""
        self._stepped = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Both kinds of weights."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._stepped is not None:
            checkpoint["current_model_state"] = self._stepped


class Patience(EarlyStopping):
    """Stop for good after so many validations without a better one, also where the run is called again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not begin where an earlier call has stopped."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether patience is at its end."""
        return bool(self.wait_count >= self.patience)
