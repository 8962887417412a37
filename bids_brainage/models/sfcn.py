"""SFCN: brain age from the whole T1w image by a small convolutional network.

Peng et al. 2021, Medical Image Analysis 68:101871, doi:10.1016/j.media.2020.101871. Five blocks of a 3 x 3 x 3
convolution, batch normalisation, max pooling by 2 and ReLU, one of a 1 x 1 x 1 convolution without pooling, the mean
over space, and a 1 x 1 x 1 convolution to one logit a year of age; the age is the expectation over the years. Names
and shapes of the weights are those that the authors published, less the prefix ``module.``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.core.passes import through
from bids_brainage.core.types import Prediction
from bids_brainage.image import io
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.network import fill
from bids_brainage.models.base import BRAIN_AGE_OUTSIDE_TRAINING_RANGE, Model, conformal_half_width

SCAN = "t1w_mni_affine"
BRAIN_AGE_AT_LIMIT = "brain_age_at_limit"
MNI = Grid((182, 218, 182), np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]], dtype=float))

Shape = tuple[int, int, int]


class SFCN(nn.Module):
    """Log probability of each one-year bin ``(n, bins)`` of scans ``(n, 1, x, y, z)``.

    Parameters
    ----------
    channels : sequence of int
        Output channels of each block; published: 32, 64, 128, 256, 256, 64.
    bins : int
        Years that are told apart; published: 40.
    """

    def __init__(self, channels: Sequence[int], bins: int) -> None:
        super().__init__()
        blocks = [_block(a, b) for a, b in pairwise((1, *channels[:-1]))]
        blocks.append(_block(*channels[-2:], last=True))
        self.feature_extractor = nn.Sequential(OrderedDict((f"conv_{i}", block) for i, block in enumerate(blocks)))
        head = nn.Conv3d(channels[-1], bins, 1)
        layers = {"average_pool": nn.AdaptiveAvgPool3d(1), "dropout": nn.Dropout(0.5), f"conv_{len(channels)}": head}
        self.classifier = nn.Sequential(OrderedDict(layers))

    def forward(self, scan: Tensor) -> Tensor:
        """Log-softmax over the bins."""
        return torch.log_softmax(self.classifier(self.feature_extractor(scan)).flatten(1), dim=1)


def _block(inputs: int, outputs: int, *, last: bool = False) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, outputs, 1) if last else nn.Conv3d(inputs, outputs, 3, padding=1)
    pooling = [] if last else [nn.MaxPool3d(2)]
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs), *pooling, nn.ReLU(inplace=True))


def network_input(scan: Volume, shape: Shape) -> NDArray[np.float32]:
    """The middle of FSL's 1 mm MNI152 grid, divided by the mean of that whole grid, as the authors' example does.

    Parameters
    ----------
    scan : Volume
        Brain in MNI space, 0 outside; any grid.
    shape : 3 int
        Voxels that are kept along x (from the person's right to the left, as FSL stores it), y and z.

    Returns
    -------
    array of float32, ``shape``
        Without unit.

    Raises
    ------
    ValueError
        Where there is nothing on that grid.
    """
    values = io.resample(scan, MNI)
    mean = float(values.mean(dtype=np.float64))
    if not (math.isfinite(mean) and mean > 0):
        raise ValueError("no brain lies within the MNI152 field of view")
    start = [(whole - kept) // 2 for whole, kept in zip(MNI.shape, shape, strict=True)]
    return np.asarray(io.window(Volume(values, MNI.affine), start, shape).data / np.float32(mean), np.float32)


class SfcnModel(Model[NDArray[np.float32]]):
    """SFCN of one bundle; card: ``network`` (``channels``, ``bins`` [from, to] in years, ``shape``), ``age_range``.

    ``residuals`` (years, of people whom the network did not see) on the card give 90 % intervals; without them there
    are none.
    """

    network: SFCN

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        try:
            network = self._read_card()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BundleError(f"{bundle.folder}: not a bundle of the sfcn architecture ({error!r})") from None
        self.network = fill(network, bundle)

    def _read_card(self) -> SFCN:
        """Everything but the weights."""
        described = self.bundle.card["network"]
        channels = [int(width) for width in described["channels"]]
        low, high = (int(year) for year in described["bins"])
        x, y, z = (int(side) for side in described["shape"])
        step = 2 ** (len(channels) - 1)
        if len(channels) < 2 or high <= low or min(x, y, z) < step or any(side % step for side in (x, y, z)):
            raise ValueError(f"channels {channels}, bins {described['bins']}, shape {described['shape']}")
        self.shape: Shape = (x, y, z)
        self.years = np.arange(low, high) + 0.5
        residuals = self.bundle.card.get("residuals")
        self.half_width = math.nan if residuals is None else conformal_half_width(residuals)
        if self.age_range is None:
            raise KeyError("age_range")
        return SFCN(channels, high - low)

    def prepare(self, artefacts: Mapping[str, Any]) -> NDArray[np.float32]:
        """Read ``t1w_mni_affine`` and crop and scale it as :func:`network_input` says."""
        path = Path(artefacts[SCAN])
        try:
            return network_input(io.read(path), self.shape)
        except ValueError as error:
            raise ScanError(f"{path}: {error}; check the scan, its brain mask and the registration") from None

    def probabilities(self, prepared: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of each year of age, shape (bins,), of one prepared scan."""
        (logarithms,) = through(self.pass_of, torch.from_numpy(prepared)[None], self.network)
        found = logarithms[0].double().exp().numpy()
        return np.asarray(found / found.sum())

    def pass_of(self, prepared: Tensor) -> tuple[Tensor]:
        """Logarithms of the probabilities, (n, bins), of prepared scans (n, x, y, z)."""
        with torch.inference_mode():
            return (self.network(prepared[:, None].to(next(self.network.parameters()).device)),)

    def predict(self, inputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Brain ages in years, one scan at a time: the first block of one takes over 1 GB."""
        return [self._prediction(self.probabilities(prepared)) for prepared in inputs]

    def _prediction(self, probability: NDArray[np.float64]) -> Prediction:
        assert self.age_range is not None  # noqa: S101 - checked when the bundle was read
        low, high = self.age_range
        age = float(probability @ self.years)
        raised = {
            BRAIN_AGE_OUTSIDE_TRAINING_RANGE: not low <= age <= high,
            BRAIN_AGE_AT_LIMIT: max(probability[0], probability[-1]) > 0.5,
        }
        flags = tuple(flag for flag, is_raised in raised.items() if is_raised)
        span = age - self.half_width, age + self.half_width
        return Prediction(self.name, age, *span, flags, self.training_data)


MODEL = SfcnModel
