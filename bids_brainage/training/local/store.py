"""What the local network is shown: maps kept as float16 files that are read in part, and random blocks of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import atomic, sha256_of
from bids_brainage.image.io import Grid, Volume, read, refines, resample, window
from bids_brainage.models.base import SEX_CODE
from bids_brainage.models.local import read_tissues
from bids_brainage.models.networks.inference import Window
from bids_brainage.models.networks.local_unet import MARGIN
from bids_brainage.models.networks.standard import Reference, means_over, standardised, with_constants
from bids_brainage.training.local.config import Config
from bids_brainage.training.local.data import LocalScan

LOG = logging.getLogger("bids_brainage")
Shape = tuple[int, int, int]
NOWHERE: NDArray[np.float64] = np.eye(4)


class Stored(NamedTuple):
    """A scan, its maps (2, x, y, z) in the model's window, and the local age in its inner part where that is known.

    Both files hold float16.
    """

    scan: LocalScan
    maps: Path
    truth: Path | None


class Batch(NamedTuple):
    """What the network sees, (n, inputs, x, y, z), and ages less the mean of training, (n, x - 40, y - 40, z - 40).

    ``inside`` says where an age counts.
    """

    maps: Tensor
    ages: Tensor
    inside: Tensor


def store(
    scans: Sequence[LocalScan], folder: Path, brain: Volume, seen: Window, template: str
) -> tuple[list[Stored], dict[str, str]]:
    """Bring scans into the window of the model, as files that can be read in part; what is there already is kept.

    Returns
    -------
    list of Stored
    dict
        Why scans cannot be used, by name.
    """
    kept: list[Stored] = []
    refused: dict[str, str] = {}
    for number, scan in enumerate(scans, start=1):
        try:
            kept.append(_stored(scan, folder, brain, seen, template))
        except ScanError as error:
            refused[scan.name] = str(error)
            LOG.warning("left out: %s", error)
        if number % 50 == 0 or number == len(scans):
            LOG.info("maps %d of %d", number, len(scans))
    return kept, refused


def _stored(scan: LocalScan, folder: Path, brain: Volume, seen: Window, template: str) -> Stored:
    sources = [scan.gm, scan.wm, *([scan.truth] if scan.truth else [])]
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    key = sha256_of([list(map(str, sources)), states, seen, brain.grid.shape])[:20]
    maps, ages = folder / f"{key}.npy", folder / f"{key}-age.npy" if scan.truth else None
    if not maps.is_file():
        use = f"{template}, which trains; leave it out, or make it again"
        _keep(maps, read_tissues(sources[:2], brain, seen, use))
    if ages and not ages.is_file():
        _keep(ages, window(local_ages(sources[2], brain), seen.inner.start, seen.inner.shape).data)
    return Stored(scan, maps, ages)


def local_ages(path: Path, brain: Volume) -> Volume:
    """A map of local ages on the grid of a model, as of :func:`ages_on`.

    Raises
    ------
    ScanError
        Where it does not lie on that grid, or one that refines it.
    """
    found = read(path)
    if not refines(found.grid, brain.grid):
        raise ScanError(f"{path}: is not on the grid of its tissue maps; make it again")
    return ages_on(brain.grid, found)


def ages_on(grid: Grid, ages: Volume) -> Volume:
    """Local ages (0 outside the brain) on a coarser grid: means over what is brain in a voxel, where half of it is."""
    share = resample(Volume((ages.data > 0).astype(np.float32), ages.affine), grid)
    mean = resample(ages, grid) / np.maximum(share, 0.5)
    return Volume(np.where(share > 0.5, mean, 0).astype(np.float32), grid.affine)


def _keep(path: Path, data: NDArray[np.float32]) -> None:
    with atomic(path) as temporary:
        np.save(temporary, data.astype(np.float16), allow_pickle=False)


def block(data: NDArray[np.generic], start: ArrayLike, shape: Shape) -> NDArray[np.generic]:
    """Part of a volume, 0 beyond it."""
    return window(Volume(data, NOWHERE), start, shape).data


class Blocks(Dataset[Batch]):
    """The batches of training by the number of their step: the same seed and step give the same blocks.

    Parameters
    ----------
    people : sequence of Stored
    brain : array of bool
        Voxels that count, in the inner part of the window.
    config : Config
        Its steps are those of the run.
    seed : int
    reference : Reference, optional
        What maps are deviations from, in the window of the model.
    truth : bool
        Whether the label is the local age, and not the person's age at every voxel.
    """

    def __init__(
        self,
        people: Sequence[Stored],
        brain: NDArray[np.bool_],
        config: Config,
        *,
        seed: int,
        truth: bool,
        reference: Reference | None = None,
    ) -> None:
        self.people, self.brain, self.config = list(people), brain, config
        self.reference = reference
        self.seed, self.truth = seed, truth
        self.mean_age = round(float(np.mean([person.scan.age for person in people])), 2)
        x, y, z = (size + 2 * MARGIN for size in brain.shape)
        self.whole: Shape = (x, y, z)
        self._means: dict[Path, list[float]] = {}
        self._places = np.argwhere(brain).astype(np.int16)

    def __len__(self) -> int:
        return self.config.steps

    def size(self, step: int) -> tuple[Shape, int]:
        """Input size and number of the blocks of a step."""
        side, config = self.config.crop, self.config
        if side == 0:
            return self.whole, config.batch
        if step >= round((1 - config.whole) * config.steps):
            return self.whole, max(1, config.batch * side**3 // prod(self.whole))
        return (side, side, side), config.batch

    def __getitem__(self, step: int) -> Batch:
        size, count = self.size(step)
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.people), count, replace=count > len(self.people))
        items = [self.item(self.people[i], self.place(rng, size), size, rng) for i in chosen]
        return Batch(*(torch.stack(parts) for parts in zip(*items, strict=True)))

    def place(self, rng: np.random.Generator, size: Shape) -> NDArray[np.int_]:
        """First voxel of a block, in the window: a random voxel of the brain is in its output."""
        given = np.array(size) - 2 * MARGIN
        start = self._places[rng.integers(len(self._places))] - rng.integers(0, given)
        return np.clip(start, 0, np.maximum(0, np.array(self.brain.shape) - given))

    def constants(self, person: Stored) -> list[float]:
        """What is the same at every voxel of a person: the code of the sex, and means over the whole brain."""
        sex = [SEX_CODE[person.scan.sex]] if self.config.sex else []
        return sex + (self._means_of(person) if self.config.context else [])

    def _means_of(self, person: Stored) -> list[float]:
        """Means of a person's maps over the whole brain, as the network sees them; read once."""
        if person.maps not in self._means:
            maps = np.load(person.maps).astype(np.float32)
            maps = maps if self.reference is None else standardised(maps, self.reference)
            self._means[person.maps] = means_over(maps, np.pad(self.brain, MARGIN))
        return self._means[person.maps]

    def item(self, person: Stored, start: NDArray[np.int_], size: Shape, rng: np.random.Generator | None) -> Batch:
        """One block of a person; without a generator, as it is."""
        x, y, z = (side - 2 * MARGIN for side in size)
        stored = np.load(person.maps, mmap_mode="r")
        maps = np.stack([block(part, start, size) for part in stored]).astype(np.float32)
        inside = block(self.brain, start, (x, y, z)).astype(bool)
        if not self.truth or person.truth is None:
            ages = np.full(inside.shape, person.scan.age, np.float32)
        else:
            ages = block(np.load(person.truth, mmap_mode="r"), start, (x, y, z)).astype(np.float32)
            inside &= ages > 0
        if rng is not None:
            maps *= 1 + self.config.jitter * rng.standard_normal((len(maps), 1, 1, 1), np.float32)
        if self.reference is not None:
            here = Reference(*(np.stack([block(one, start, size) for one in part]) for part in self.reference))
            maps = standardised(maps, here)
        if rng is not None and self.config.flip and rng.random() < 0.5:
            maps, ages, inside = maps[:, ::-1], ages[::-1], inside[::-1]
        maps = with_constants(maps, self.constants(person))
        parts = (maps, ages - np.float32(self.mean_age), inside)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


class Wholes(Dataset[Batch]):
    """Whole brains as they are, one a batch."""

    def __init__(self, blocks: Blocks, people: Sequence[Stored]) -> None:
        self.blocks, self.people = blocks, list(people)

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, number: int) -> Batch:
        found = self.blocks.item(self.people[number], np.zeros(3, int), self.blocks.whole, None)
        return Batch(*(part[None] for part in found))
