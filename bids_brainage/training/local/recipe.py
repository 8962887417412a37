"""What ``brainage train local`` is asked for, and what it finds."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bids_brainage.training.engine import Plan
from bids_brainage.training.local.config import Config
from bids_brainage.training.local.data import Found, Part
from bids_brainage.training.local.net import MONITOR
from bids_brainage.training.local.store import Blocks, Stored


@dataclass(frozen=True)
class Recipe:
    """What ``brainage train local`` is asked for.

    Attributes
    ----------
    data : tuple of Path
        Derivatives of the app, or datasets of ``brainage simulate --maps-only``.
    out : Path
        Folder of the bundle.
    config : Config
    work : Path
        Keeps maps and checkpoints.
    label : {"age", "truth"}
        What each voxel should say: the person's age, or the local age that was simulated there.
    seed : int
    fold : int
        Which tenth of the people is judged, 0 to 9.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    hours : float
        Stop after so long, to be gone on with later.
    start : Path, optional
        A ``local`` bundle whose weights to begin with.
    preset : str
        For the command on the card.
    settings : Path, optional
        The TOML file that ``config`` came from, for the command on the card.
    """

    data: tuple[Path, ...]
    out: Path
    config: Config
    work: Path
    label: Literal["age", "truth"] = "age"
    seed: int = 0
    fold: int = 0
    device: str = "cpu"
    hours: float = math.inf
    start: Path | None = None
    preset: str = "default"
    settings: Path | None = None

    @property
    def plan(self) -> Plan:
        """How the engine runs it."""
        config = self.config
        return Plan(
            self.work,
            config.steps,
            config.every,
            self.seed,
            self.device,
            self.hours,
            averaging=config.averaging,
            monitor=MONITOR,
            lower_is_better=True,
            patience=config.patience or None,
        )

    @property
    def command(self) -> str:
        """The command that trains the same model."""
        words = ["--data", *(folder.name for folder in self.data), "--label", self.label, "--preset", self.preset]
        words += ["--config", self.settings.name] if self.settings else []
        words += ["--start", self.start.name] if self.start else []
        words += ["--steps", f"{self.config.steps}", "--every", f"{self.config.every}", "--seed", f"{self.seed}"]
        words += ["--fold", f"{self.fold}"] if self.fold else []
        return shlex.join(["brainage", "train", "local", *words, "--out", self.out.name])


class Data(NamedTuple):
    """All that was found, its parts in the model's window, and the batches of training."""

    found: Found
    parts: Mapping[Part, list[Stored]]
    blocks: Blocks
