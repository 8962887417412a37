"""A run is gone on with wherever its folder lies, keeps its best weights, and stops for good where it said so."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from bids_brainage.core.errors import UsageError
from bids_brainage.training import engine

EVERY = 5


class Scripted(LightningModule):
    """Its score is what the script says for the step: what is kept does not depend on learning."""

    def __init__(self, script: dict[int, float]) -> None:
        super().__init__()
        self.network, self.script = torch.nn.Linear(1, 1), script

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.network(torch.ones(1, 1)).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("dice", torch.tensor(self.script[self.global_step_now()]))

    def global_step_now(self) -> int:
        return int(self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def run(folder: Path, steps: int, script: dict[int, float], patience: int | None = None) -> engine.Outcome:
    plan = engine.Plan(folder, steps, every=EVERY, averaging=0.5, patience=patience)
    return engine.run(Scripted(script), lambda first: DataLoader(range(EVERY)), DataLoader(range(1)), plan)


@pytest.mark.parametrize("relative", [False, True])
def test_the_end_of_a_run_stays_the_best_until_a_better_one(tmp_path, monkeypatch, relative) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("work") if relative else tmp_path / "work"
    script = {5: 0.5, 10: 0.6, 12: 0.8, 15: 0.7, 20: 0.74, 25: 0.9}
    assert run(folder, 12, script).steps == 12
    again = run(folder, 20, script)
    assert again.steps == 12
    assert again.metrics["dice"] == pytest.approx(0.8)
    assert run(folder, 25, script).metrics["dice"] == pytest.approx(0.9)


def test_a_folder_that_was_moved_keeps_its_best_weights(tmp_path) -> None:
    """As another scratch disk, or another path in a container."""
    script = {5: 0.9, 10: 0.6, 15: 0.7, 20: 0.7}
    assert run(tmp_path / "first", 10, script).steps == 5
    (tmp_path / "first").rename(tmp_path / "second")
    again = run(tmp_path / "second", 20, script)
    assert again.steps == 5
    assert again.metrics["dice"] == pytest.approx(0.9)


def test_a_run_that_has_stopped_for_good_does_so_when_called_again(tmp_path) -> None:
    script = {step: 0.9 if step == 5 else 0.5 for step in range(5, 65, 5)}
    for _ in range(2):
        found = run(tmp_path, 60, script, patience=2)
        assert found.complete
        assert found.steps == 5
        assert engine.read_curves(tmp_path / "curves.csv")[-1]["step"] == 15


def test_an_end_between_validations_keeps_the_weights_that_were_stepped(tmp_path) -> None:
    """The averaged ones are what is used; the others are what is gone on with."""
    script = {5: 0.5, 10: 0.6, 12: 0.8}
    for steps in (10, 12):
        run(tmp_path, steps, script)
        kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
        apart = kept["state_dict"]["network.weight"] - kept["current_model_state"]["network.weight"]
        assert abs(apart.item()) > 1e-4, steps


def test_several_devices_validate_and_step_as_one_does(tmp_path, monkeypatch) -> None:
    """Lightning would share the numbers of steps and of validation scans out among them."""

    class AskedError(Exception):
        pass

    def trainer(**words: object) -> None:
        raise AskedError(words["use_distributed_sampler"])

    monkeypatch.setattr(engine, "Trainer", trainer)
    with pytest.raises(AskedError, match="False"):
        run(tmp_path, 10, {})


def test_a_run_of_other_heads_is_not_gone_on_with(tmp_path: Path) -> None:
    """Heads that trained would validate."""
    engine.same_run(tmp_path, {"held_back": ["d"]}, "label maps")
    engine.same_run(tmp_path, {"held_back": ["c", "d"]}, "label maps")  # nothing was trained yet
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(UsageError, match="a run with other label maps; give another --work"):
        engine.same_run(tmp_path, {"held_back": ["d"]}, "label maps")
    engine.same_run(tmp_path, {"held_back": ["c", "d"]}, "label maps")
