"""How the local network learns: loss at each voxel and at the two coarser scales, validation on whole brains.

Popescu et al. (2021), Frontiers in Aging Neuroscience 13:761954, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from bids_brainage.image.network import has_bfloat16
from bids_brainage.models.networks.inference import predict_whole
from bids_brainage.models.networks.local_unet import LocalUNet, Supervised
from bids_brainage.training.engine import warmup_and_decay
from bids_brainage.training.local.config import Config
from bids_brainage.training.local.store import Batch, Blocks, Wholes

MONITOR = "voxel_mae"


class LocalLearner(LightningModule):
    """The network with its loss; batches are those of :class:`~bids_brainage.training.local.store.Blocks`."""

    def __init__(self, network: LocalUNet, config: Config) -> None:
        super().__init__()
        self.network, self.config = network, config
        self._errors: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch of blocks."""
        maps = batch.maps.contiguous(memory_format=torch.channels_last_3d)
        weight = annealed(self.global_step, self.config)
        return loss(self.network.forward_training(maps), batch, weight)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Errors of one whole brain: mean over voxels, and of the mean age, years."""
        maps = batch.maps.contiguous(memory_format=torch.channels_last_3d)
        found = predict_whole(self.network, maps, half=has_bfloat16(self.device.type))[batch.inside[0]]
        wanted = batch.ages[batch.inside]
        self._errors.append(((found - wanted).abs().mean(), (found.mean() - wanted.mean()).abs()))

    def on_validation_epoch_end(self) -> None:
        """Log both, the mean over people."""
        for name, values in zip((MONITOR, "mae"), zip(*self._errors, strict=True), strict=True):
            self.log(name, torch.stack(values).mean(), sync_dist=True)
        self._errors = []

    def configure_optimizers(self) -> Any:
        """Adam; the rate rises over at most 200 steps, stays, and falls where the settings say so."""
        optimiser = torch.optim.Adam(self.parameters(), lr=self.config.rate)
        steps = self.config.steps
        schedule = warmup_and_decay(optimiser, steps, min(200, 1 + steps // 10), self.config.decay)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def annealed(step: int, config: Config) -> float:
    """Weight of the coarser ages at a step: falls in a line to 0."""
    last = config.auxiliary_until * config.steps
    return config.auxiliary * max(0.0, 1 - step / last) if last > 0 else 0.0


def loss(found: Supervised, batch: Batch, auxiliary: float) -> Tensor:
    """Mean absolute error over the voxels of the brain, and of the two coarser ages to their mean age there."""
    inside = batch.inside
    voxels = ((found.ages - batch.ages).abs() * inside).sum() / inside.sum().clamp(min=1)
    if auxiliary == 0:
        return voxels
    count = inside.sum((1, 2, 3))
    mean = (batch.ages * inside).sum((1, 2, 3)) / count.clamp(min=1)
    coarse = [((part - mean).abs() * (count > 0)).mean() for part in (found.middle, found.coarse)]
    return voxels + auxiliary * (coarse[0] + coarse[1])


def steps_from(blocks: Blocks, first: int, every: int) -> DataLoader[Batch]:
    """The batches of the steps until the next validation."""
    numbers = range(first, min(first + every, len(blocks)))
    return DataLoader(blocks, batch_size=None, sampler=numbers, num_workers=blocks.config.workers)


def whole_brains(wholes: Wholes) -> DataLoader[Batch]:
    """The people who validate."""
    return DataLoader(wholes, batch_size=None)
