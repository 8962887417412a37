"""How the segmentation network learns: its loss, its synthetic batches, its validation on heads held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from bids_brainage.image.classes import CLASSES
from bids_brainage.image.network import SegmentationNet
from bids_brainage.training.engine import Plan, warmup_and_decay
from bids_brainage.training.labelmaps import LabelMap
from bids_brainage.training.synthetic import synthesise

CHANNELS = (8, 24, 48, 96, 96)
HEAD = 16
CROPPED = 0.6
RATE = 1.5e-3
VALIDATION = tuple((contrast, number) for number in range(4) for contrast in ("t1", "t1", "random", "inverted"))


class Overlap(NamedTuple):
    """Sums over voxels by class (one entry each): both, predicted, true."""

    both: Tensor
    predicted: Tensor
    true: Tensor

    def dice(self) -> Tensor:
        """Overlap of each class that occurs; ``nan`` where it does not."""
        return 2 * self.both / torch.where(self.true > 0, self.predicted + self.true, torch.nan)


class Segmenter(LightningModule):
    """The network with its loss: soft Dice and cross-entropy of the classes, cross-entropy of the hemisphere.

    Each batch is a number of steps; the scans are made on the device that trains, from the seed and the step.
    """

    def __init__(
        self,
        network: SegmentationNet,
        train: Sequence[LabelMap],
        held_back: Sequence[LabelMap],
        plan: Plan,
        *,
        batch: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.plan, self.batch = plan, batch
        self._maps = {"train": list(train), "held_back": list(held_back)}
        self._sums: dict[str, list[Overlap]] = {}

    def on_fit_start(self) -> None:
        """Bring the label maps to the device."""
        for name, maps in self._maps.items():
            self._maps[name] = [LabelMap(*(part.to(self.device) for part in one)) for one in maps]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of freshly made scans, all whole or all cropped."""
        seeds = [[self.plan.seed, int(batch[0]), self.global_rank, scan] for scan in range(self.batch)]
        generator = torch.Generator().manual_seed(int(batch[0]))
        crop = bool(torch.rand((), generator=generator) < CROPPED)
        samples = [synthesise(self._maps["train"], seed, crop=crop) for seed in seeds]
        scan, target, side = (torch.stack(parts) for parts in zip(*samples, strict=True))
        return loss(self.network(_batched(scan)), target, side)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Overlap on a synthetic scan of a head that trained nothing; the seed of each never changes."""
        for number in batch.tolist():
            contrast, which = VALIDATION[number]
            heads = self._maps["held_back"]
            sample = synthesise([heads[which % len(heads)]], [2**31, number], crop=False, contrast=contrast)
            found = self.network(_batched(sample.scan[None]))[0]
            group = "t1" if contrast == "t1" else "other"
            self._sums.setdefault(group, []).append(overlap(found[: len(CLASSES)].argmax(0), sample.target))
            self._sums.setdefault("side", []).append(_side_overlap(found[len(CLASSES)], sample.side))

    def on_validation_epoch_end(self) -> None:
        """Log mean Dice of the classes (``dice``: all contrasts; T1w; other), of the brain, and of the sides."""
        groups = {name: _total(parts) for name, parts in self._sums.items()}
        self._sums = {}
        both = _total([groups["t1"], groups["other"]])
        self.log("dice", both.dice()[1:].nanmean(), sync_dist=True)
        for name in ("t1", "other"):
            self.log(f"dice_{name}", groups[name].dice()[1:].nanmean(), sync_dist=True)
        self.log("dice_side", groups["side"].dice().nanmean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW; see :func:`~bids_brainage.training.engine.warmup_and_decay` for the rate."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=1e-4)
        schedule = warmup_and_decay(optimiser, self.plan.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _batched(scans: Tensor) -> Tensor:
    return scans[:, None].contiguous(memory_format=torch.channels_last_3d)


def loss(logits: Tensor, target: Tensor, side: Tensor) -> Tensor:
    """Cross-entropy + (1 - mean soft Dice over the classes) + cross-entropy of the hemisphere where there is one.

    Parameters
    ----------
    logits : tensor, (n, classes + 1, x, y, z)
    target : uint8 tensor, (n, x, y, z)
    side : int8 tensor, (n, x, y, z)
        1 right, -1 left, 0 neither.
    """
    values = logits.permute(0, 2, 3, 4, 1).reshape(-1, logits.shape[1]).float()
    count = values.shape[1] - 1
    truth = target.reshape(-1).long()
    log_probability = functional.log_softmax(values[:, :count], 1)
    own = log_probability.gather(1, truth[:, None])[:, 0]
    sums = log_probability.exp().sum(0)
    true = torch.bincount(truth, minlength=count).float()
    both = torch.zeros(count, device=values.device).index_add(0, truth, own.exp())
    soft_dice = ((2 * both + 20) / (sums + true + 20)).mean()
    sides = side.reshape(-1)
    known = sides != 0
    hemisphere = functional.binary_cross_entropy_with_logits(values[known, count], (sides[known] > 0).float())
    return -own.mean() + 1 - soft_dice + 0.1 * (hemisphere if known.any() else 0.0)


def overlap(found: Tensor, truth: Tensor) -> Overlap:
    """Voxels of each class in both, in what was found, and in truth."""
    count = len(CLASSES)
    found, truth = found.reshape(-1).long(), truth.reshape(-1).long()
    both = torch.bincount(truth[found == truth], minlength=count)
    return Overlap(
        *(x.float() for x in (both, torch.bincount(found, minlength=count), truth.bincount(minlength=count)))
    )


def _side_overlap(logit: Tensor, side: Tensor) -> Overlap:
    known = side != 0
    found, truth = (logit[known] > 0).long(), (side[known] > 0).long()
    both = torch.bincount(truth[found == truth], minlength=2)
    return Overlap(*(x.float() for x in (both, found.bincount(minlength=2), truth.bincount(minlength=2))))


def _total(parts: Sequence[Overlap]) -> Overlap:
    return Overlap(*(torch.stack(sums).sum(0) for sums in zip(*parts, strict=True)))


def steps_from(plan: Plan, first: int) -> DataLoader[Any]:
    """The numbers of the steps until the next validation; each is the seed of its scans."""
    return DataLoader(range(first, first + plan.every), batch_size=1)  # type: ignore[arg-type]


def validation_scans() -> DataLoader[Any]:
    """The numbers of the validation scans."""
    return DataLoader(range(len(VALIDATION)), batch_size=1)  # type: ignore[arg-type]


def warm_start(network: SegmentationNet, weights: dict[str, Tensor]) -> None:
    """Load weights of a network with the same classes; outputs that it has not keep their first values."""
    own = network.state_dict()
    for name, value in weights.items():
        if own[name].shape == value.shape:
            own[name] = value.float()
        else:
            own[name][: len(value)] = value.float()
    network.load_state_dict(own)
