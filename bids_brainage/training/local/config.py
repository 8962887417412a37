"""Settings of the local recipe: presets, and a TOML file over them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import UsageError
from bids_brainage.image.modulate import RESOLUTION
from bids_brainage.models.networks.local_unet import MARGIN, STEP, UNITS

SMALLEST = 2 * MARGIN + STEP


@dataclass(frozen=True)
class Config:
    """How a local model is trained.

    Attributes
    ----------
    channels, reduction, dropout, slope
        Of :class:`~bids_brainage.models.networks.local_unet.LocalUNet`.
    unit : float
        Of the network: years that 1 stands for inside.
    standardise : bool
        Whether the network sees deviations from the people who train, place by place and in the direction of age.
    sex, context : bool
        Whether the person's sex, and the mean of each map over the whole brain, are inputs too.
    resolution : float
        Voxel size of the maps, mm.
    crop : int
        Side of the input blocks in voxels; the output is 40 smaller. 0: always the whole brain.
    batch : int
        Blocks a step.
    whole : float
        Share of the steps, the last ones, on whole brains instead of blocks, as many as have the voxels of a batch
        (one at least): squeeze-and-excitation then pools over what it pools over when the model is used.
    rate, decay : float
        Learning rate of Adam, and the share of the steps, the last ones, over which it falls (0: never).
    averaging : float
        Decay of the moving average of the weights; 0: none.
    auxiliary, auxiliary_until : float
        Weight of the two coarser ages in the loss at first, and the share of the steps at which it reaches 0.
    flip : bool
        Mirror half of the blocks, left to right.
    jitter : float
        SD of a random relative gain of each tissue map.
    steps, every : int
        Steps in all, and between validations.
    patience : int
        Validations without a better one after which training ends; 0: never.
    validate : int
        People, at most, whose whole brains are predicted at each validation.
    samples, dropped_from : int
        Of the uncertainty of the maps; see :mod:`bids_brainage.models.local`. Training drops channels from
        there on too: a dozen in every layer are too few to lose some.
    bin_years : int
        Width of the age bins of the correction by voxel: 5 as published, or 10, in half the space.
    workers : int
        Processes that read blocks; 0: none beside the one that trains.
    """

    channels: int = 12
    reduction: int = 4
    dropout: float = 0.1
    slope: float = 0.2
    unit: float = 20.0
    standardise: bool = True
    sex: bool = True
    context: bool = True
    resolution: float = RESOLUTION
    crop: int = 84
    batch: int = 4
    whole: float = 0.25
    rate: float = 1e-3
    decay: float = 0.4
    averaging: float = 0.998
    auxiliary: float = 1.0
    auxiliary_until: float = 0.3
    flip: bool = True
    jitter: float = 0.02
    steps: int = 10_000
    every: int = 250
    patience: int = 0
    validate: int = 24
    samples: int = 8
    dropped_from: int = 7
    bin_years: int = 10
    workers: int = 0

    def __post_init__(self) -> None:
        for name, fine in self._limits().items():
            if not fine:
                raise UsageError(f"{name} = {getattr(self, name)}: is not possible; see docs/models.md")

    def _limits(self) -> dict[str, bool]:
        positive = ("channels", "reduction", "unit", "batch", "rate", "steps", "every", "validate", "samples")
        shares = ("dropout", "whole", "decay", "averaging", "auxiliary_until")
        return {
            **{name: getattr(self, name) > 0 for name in positive},
            **{name: 0 <= getattr(self, name) <= 1 for name in shares},
            **{name: getattr(self, name) >= 0 for name in ("auxiliary", "jitter", "patience", "workers")},
            "crop": self.crop == 0 or (self.crop >= SMALLEST and self.crop % STEP == 0),
            "resolution": 1 <= self.resolution <= 6,
            "dropped_from": 0 <= self.dropped_from < UNITS,
            "bin_years": self.bin_years in (5, 10),
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the network."""
        named = {
            name: getattr(self, name) for name in ("channels", "reduction", "dropout", "slope", "unit", "dropped_from")
        }
        return {"inputs": 2 + self.sex + 2 * self.context, **named}


PRESETS: Mapping[str, Config] = {
    "default": Config(),
    "compact": Config(
        resolution=3.0,
        crop=60,
        batch=8,
        whole=0.15,
        rate=5e-4,
        averaging=0.99,
        jitter=0.03,
        steps=1200,
        every=100,
        validate=20,
    ),
    "tiny": Config(
        channels=4,
        reduction=2,
        crop=52,
        batch=2,
        averaging=0.8,
        steps=12,
        every=6,
        validate=1,
        samples=2,
        dropped_from=9,
    ),
    "published": Config(
        channels=64,
        reduction=8,
        dropout=0.2,
        unit=1.0,
        standardise=False,
        sex=False,
        context=False,
        crop=52,
        batch=32,
        whole=0.0,
        rate=1e-4,
        decay=0.0,
        averaging=0.0,
        auxiliary_until=0.1,
        flip=False,
        jitter=0.0,
        steps=500_000,
        every=5000,
        samples=25,
        dropped_from=0,
        bin_years=5,
    ),
}
"""``compact``: a small network at 3 mm, for a single core.

``published``: Popescu et al. 2021, Frontiers in Aging Neuroscience 13:761954."""


def configure(preset: str, path: Path | None = None, **given: Any) -> Config:
    """A preset, changed by a TOML file, changed by what is given and not ``None``.

    Raises
    ------
    UsageError
        Where the file cannot be read, names an unknown key, or a value is of another type or not possible.
    """
    config = PRESETS[preset]
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: is not a readable TOML file ({error}); correct it") from None
    known = {field.name for field in fields(Config)}
    for name, value in content.items():
        if name not in known:
            raise UsageError(f"{path}: unknown key {name!r}; there are {', '.join(sorted(known))}")
        content[name] = _typed(path, name, value, type(getattr(config, name)))
    try:
        return replace(config, **content | {name: value for name, value in given.items() if value is not None})
    except UsageError as error:
        raise UsageError(f"{path}: {error}" if path else f"--preset {preset}: {error}") from None


def _typed(path: Path | None, name: str, value: Any, kind: type) -> Any:
    """The value as its field has it; an integer may stand for a float."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UsageError(f"{path}: {name} = {value!r}: give a value of type {kind.__name__}")
    return value
