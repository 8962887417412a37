"""Local brain age: an age at each voxel from modulated grey and white matter maps, by a U-Net.

Popescu et al. (2021), Frontiers in Aging Neuroscience 13:761954. The brain age of a scan is the mean over the brain,
the uncertainty at a voxel the SD under Monte Carlo dropout. All voxels come from one pass over the whole brain.

Beside what every card has, this one has ``arguments`` (of :class:`LocalUNet`), ``standardised`` (whether the network
sees deviations from ``reference.npz``, in the direction of age), ``context`` (whether it is told
their means over the brain), ``template``, ``age_range``, ``maps``
(``age``, ``sd``, ``gap_corrected``, as far as the bundle gives them) and ``prediction``: ``mean_age`` (of training,
years), ``coverage`` and ``bandwidth`` (years) of the interval, and ``samples`` and ``dropped_from`` of
:func:`~bids_brainage.models.networks.inference.monte_carlo`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError, ScanError, UsageError
from bids_brainage.core.files import atomic
from bids_brainage.core.passes import through
from bids_brainage.core.types import Prediction, Sex, VoxelMaps
from bids_brainage.image.io import Volume, read, refines, resample, window
from bids_brainage.image.network import fill, has_bfloat16
from bids_brainage.image.template import Template
from bids_brainage.models.base import BRAIN_AGE_OUTSIDE_TRAINING_RANGE, SEX_CODE, SEX_MISSING, LocalConformal, Model
from bids_brainage.models.networks.inference import Window, monte_carlo, predict_several, window_around
from bids_brainage.models.networks.local_unet import UNITS, LocalUNet
from bids_brainage.models.networks.standard import means_over, read_reference, standardised, with_constants
from bids_brainage.stats.voxel_bins import VoxelBins, read_voxel_bins

BRAIN, RESIDUALS, BINS = "brain.npz", "residuals.tsv", "voxel_bins.safetensors"
REFERENCE = "reference.npz"
TISSUES = ("gm_modulated", "wm_modulated")
TISSUE_IN_BRAIN = 0.1
MEAN_TISSUE = (0.2, 2.0)
POSSIBLE_AGES = (0.0, 130.0)
CONSTANT = 1e-3
Map = NDArray[np.float32]


@dataclass(frozen=True)
class LocalInputs:
    """One scan as the network sees it.

    Attributes
    ----------
    maps : array of float32, (2, x, y, z)
        Modulated grey and white matter in the model's window.
    sex : {"F", "M"} or None
    source : Path
        The grey matter map, for messages.
    """

    maps: NDArray[np.float32]
    sex: Sex | None
    source: Path


def brain_of(template: Template) -> Volume:
    """Voxels of a template over which brain age is averaged: grey and white matter together above 0.1."""
    return Volume(template.gm + template.wm > TISSUE_IN_BRAIN, template.grid.affine)


def write_brain(brain: Volume, path: Path) -> Path:
    """Write the mask of a bundle."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, mask=brain.data, affine=brain.affine)
    return Path(path)


def read_tissues(paths: Sequence[Path], brain: Volume, seen: Window, use: str) -> NDArray[np.float32]:
    """Modulated grey and white matter in the window of a model, (2, x, y, z); finer maps are brought to its grid.

    Parameters
    ----------
    paths : sequence of Path
        Of grey and of white matter.
    brain : Volume
        Mask on the grid that the maps must have, or refine.
    seen : Window
    use : str
        Of which model or template that grid is, and what to do about another: ends the message.

    Raises
    ------
    ScanError
        Where a map lies on another grid, or cannot be a tissue map.
    """
    tissues = []
    for path in paths:
        found = read(path)
        if not refines(found.grid, brain.grid):
            raise ScanError(f"{path}: is not on the grid of {use}")
        if not np.isfinite(found.data).all() or found.data.min() < -TISSUE_IN_BRAIN:
            raise ScanError(f"{path}: holds values that are no volumes (negative or not finite); make it again")
        tissues.append(Volume(resample(found, brain.grid), brain.affine))
    mean = float(sum(tissue.data[brain.data].mean() for tissue in tissues))
    if not MEAN_TISSUE[0] <= mean <= MEAN_TISSUE[1]:
        raise ScanError(
            f"{paths[0]}: grey and white matter fill {mean:.2f} of the template's brain, "
            f"where {MEAN_TISSUE[0]} to {MEAN_TISSUE[1]} are possible; look at segmentation and registration"
        )
    return np.stack([window(tissue, seen.start, seen.shape).data for tissue in tissues])


class LocalModel(Model[LocalInputs]):
    """A U-Net over modulated grey and white matter."""

    network: LocalUNet

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        try:
            self._read()
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, UsageError) as error:
            reason = " ".join(str(error).split())[:160]
            raise BundleError(
                f"{bundle.folder}: not a bundle of the local architecture ({reason}); train it again"
            ) from None

    def _read(self) -> None:
        card = self.bundle.card
        with np.load(self.bundle.file(BRAIN), allow_pickle=False) as stored:
            self.brain = Volume(stored["mask"].astype(bool), stored["affine"].astype(np.float64))
        self.window = window_around(self.brain.data)
        self._brain_seen = window(self.brain, self.window.start, self.window.shape).data
        self.network = fill(LocalUNet(**card["arguments"]), self.bundle)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        wanted = card.get("standardised", False)
        self.reference = read_reference(self.bundle.file(REFERENCE), self.window.shape) if wanted else None
        told = card["prediction"]
        self.mean_age, self.samples = float(told["mean_age"]), int(told["samples"])
        self.dropped_from = int(told["dropped_from"])
        rows = read_tsv(self.bundle.file(RESIDUALS))
        predicted, residual = ([float(row[name]) for row in rows] for name in ("predicted", "residual"))
        self.interval = LocalConformal(predicted, residual, float(told["coverage"]), float(told["bandwidth"]))
        gives = {"age": True, "sd": self.samples > 1, "gap_corrected": BINS in card["files"]}
        if [name for name, is_given in gives.items() if is_given] != list(card["maps"]):
            raise ValueError(f"its files do not give the maps {', '.join(card['maps'])} of its card")
        self.context = bool(card.get("context", False))
        constants = ("sex" in self.needs) + len(TISSUES) * self.context
        if self.age_range is None or self.network.inputs != len(TISSUES) + constants:
            raise ValueError("it has no age_range, or its network takes other inputs than it needs")
        if not 0 <= self.dropped_from < UNITS:
            raise ValueError(f"dropped_from is {self.dropped_from}, the units are 0 to {UNITS - 1}")

    def prepare(self, artefacts: Mapping[str, Any]) -> LocalInputs:
        """Read ``gm_modulated`` and ``wm_modulated`` in the model's window, and keep ``sex``."""
        paths = [Path(artefacts[name]) for name in TISSUES]
        use = f"model {self.name}; use the template that it was trained in, --template {self.bundle.card['template']}"
        return LocalInputs(read_tissues(paths, self.brain, self.window, use), artefacts.get("sex"), paths[0])

    def tensor(self, person: LocalInputs) -> Tensor:
        """What the network takes, (1, inputs, x, y, z)."""
        seen = person.maps if self.reference is None else standardised(person.maps, self.reference)
        constants = [SEX_CODE[person.sex]] if "sex" in self.needs else []
        constants += means_over(seen, self._brain_seen) if self.context else []
        return torch.from_numpy(with_constants(seen, constants))[None]

    def predict(self, inputs: Sequence[LocalInputs]) -> list[Prediction]:
        """Brain ages with 90 % prediction intervals and maps, in years.

        Raises
        ------
        ScanError
            Where the map is constant, or holds what is no age.
        """
        return [self._prediction(person, self._maps(person, self.samples)) for person in inputs]

    def _prediction(self, person: LocalInputs, found: tuple[Map, Map | None]) -> Prediction:
        assert self.age_range is not None  # noqa: S101 - checked when the bundle was read
        ages, sd = found
        years = ages[self.brain.data]
        age = float(years.mean(dtype=np.float64))
        if not POSSIBLE_AGES[0] < age < POSSIBLE_AGES[1] or not years.std() > CONSTANT:
            raise ScanError(
                f"{person.source}: model {self.name} gives a map of mean {age:.1f} and SD {years.std():.3f} years, "
                "which is no brain's; look at this file, and verify the bundle (brainage models verify)"
            )
        low, high = self.age_range
        raised = {
            SEX_MISSING: person.sex is None and "sex" in self.needs,
            BRAIN_AGE_OUTSIDE_TRAINING_RANGE: not low <= age <= high,
        }
        width = float(self.interval.half_width(age))
        flags = tuple(flag for flag, is_raised in raised.items() if is_raised)
        maps = VoxelMaps(ages, sd, self.brain.affine)
        return Prediction(self.name, age, age - width, age + width, flags, self.training_data, maps)

    def ages(self, person: LocalInputs) -> Map:
        """Ages on the whole grid, years, ``nan`` outside the brain; without their uncertainty, which takes longer."""
        return self._maps(person, samples=0)[0]

    def _maps(self, person: LocalInputs, samples: int) -> tuple[Map, Map | None]:
        """Ages and, of several samples, their SD on the whole grid, ``nan`` outside the brain."""
        half = has_bfloat16(str(next(self.network.parameters()).device))
        run = partial(self.maps_of, samples=samples, half=half)
        found = through(run, self.tensor(person), self.network, "maps", samples, self.dropped_from, half)
        ages, *sd = (self._placed(part[0]) for part in found)
        return ages + np.float32(self.mean_age), sd[0] if sd else None

    def maps_of(self, seen: Tensor, *, samples: int, half: bool) -> tuple[Tensor, ...]:
        """Ages less the mean of training, and their SD where there are several samples, of scans in one pass.

        Parameters
        ----------
        seen : tensor, (n, inputs, x, y, z)
            Of :meth:`tensor`.
        samples : int
            Of Monte Carlo dropout.
        half : bool
            Compute in bfloat16.

        Returns
        -------
        one or two tensors, (n, x - 40, y - 40, z - 40)
        """
        where = next(self.network.parameters()).device
        maps = seen.to(where).contiguous(memory_format=torch.channels_last_3d)
        if samples < 2:
            return (predict_several(self.network, maps, half=half),)
        seeds = [int.from_bytes(hashlib.sha256(one.numpy().tobytes()).digest()[:7], "big") for one in seen.split(1)]
        return monte_carlo(self.network, maps, samples=samples, dropped_from=self.dropped_from, seeds=seeds, half=half)

    def _placed(self, values: Tensor) -> NDArray[np.float32]:
        """The network's output on the grid of the brain."""
        inner = self.window.inner
        found = window(Volume(values.numpy(), self.brain.affine), [-s for s in inner.start], self.brain.data.shape).data
        return np.where(self.brain.data, found, np.float32("nan"))

    def voxel_bins(self) -> VoxelBins | None:
        """Mean gaps of controls at the voxels of the brain."""
        if BINS not in self.bundle.card["files"]:
            return None
        return read_voxel_bins(self.bundle.file(BINS), int(self.brain.data.sum()))


MODEL = LocalModel
