"""Maps of whole volumes by :class:`LocalUNet`: in one pass, block by block, and their spread under dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from bids_brainage.image.masks import bounding_box
from bids_brainage.models.networks.local_unet import MARGIN, STEP, LocalUNet, State, thinned

BLOCK_OUT = 12
BLOCK_IN = BLOCK_OUT + 2 * MARGIN


class Window(NamedTuple):
    """The part of a grid that a network sees; it may reach beyond the grid, where there is no tissue.

    Attributes
    ----------
    start : tuple of 3 int
        First voxel.
    shape : tuple of 3 int
        Multiples of 4.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def inner(self) -> Window:
        """The part of it for which the network gives ages."""
        x, y, z = (first + MARGIN for first in self.start)
        a, b, c = (size - 2 * MARGIN for size in self.shape)
        return Window((x, y, z), (a, b, c))


def window_around(mask: NDArray[np.bool_]) -> Window:
    """The smallest window whose ages cover a mask."""
    box = bounding_box(mask)
    x, y, z = (side.start - MARGIN for side in box)
    a, b, c = (-(-(side.stop - side.start) // STEP) * STEP + 2 * MARGIN for side in box)
    return Window((x, y, z), (a, b, c))


@contextmanager
def _inference(network: LocalUNet, half: bool) -> Iterator[None]:
    """No gradients, no dropout; bfloat16 where ``half``."""
    device, training = next(network.parameters()).device.type, network.training
    network.eval()
    try:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            yield
    finally:
        network.train(training)


def predict_several(
    network: LocalUNet, maps: Tensor, gates: Sequence[Tensor] | None = None, *, half: bool = False
) -> Tensor:
    """As :func:`predict_whole`, of ``n`` volumes in one pass and with ``n`` in front of the result."""
    with _inference(network, half):
        found: Tensor = network(maps, gates)
    return found


def predict_whole(
    network: LocalUNet, maps: Tensor, gates: Sequence[Tensor] | None = None, *, half: bool = False
) -> Tensor:
    """Ages less the mean of training of one volume in one pass.

    Parameters
    ----------
    maps : tensor, (1, inputs, x, y, z)
        Sizes are multiples of 4.
    gates
        Of :meth:`LocalUNet.compute_gates`; without them they come from these maps.
    half : bool
        Compute in bfloat16: changes an age by under 2 % of the SD of the map in the mean, single voxels by more.

    Returns
    -------
    tensor, (x - 40, y - 40, z - 40)
        Equal to what :func:`predict_blocks` gives with the gates of the same volume.
    """
    return predict_several(network, maps, gates, half=half)[0]


def gates_of(network: LocalUNet, maps: Tensor, *, half: bool = False) -> list[Tensor]:
    """The gates of one volume, to be handed to passes over its parts."""
    with _inference(network, half):
        return network.compute_gates(maps)


def predict_blocks(
    network: LocalUNet, maps: Tensor, gates: Sequence[Tensor] | None = None, *, half: bool = False, batch: int = 8
) -> Tensor:
    """As :func:`predict_whole`, by blocks of 52^3 voxels in and 12^3 out, as published; some 40 times the work.

    Without gates, each block makes its own.
    """
    sizes = [size - 2 * MARGIN for size in maps.shape[2:]]
    x, y, z = (-(-size // BLOCK_OUT) * BLOCK_OUT for size in sizes)
    more = [value for size, full in zip(sizes[::-1], (z, y, x), strict=True) for value in (0, full - size)]
    padded = functional.pad(maps, more)
    ages = maps.new_empty((x, y, z))
    corners = list(product(range(0, x, BLOCK_OUT), range(0, y, BLOCK_OUT), range(0, z, BLOCK_OUT)))
    with _inference(network, half):
        for first in range(0, len(corners), batch):
            chosen = corners[first : first + batch]
            found = network(torch.cat([padded[:, :, *_from(c, BLOCK_IN)] for c in chosen]), gates)
            for corner, block in zip(chosen, found, strict=True):
                ages[_from(corner, BLOCK_OUT)] = block
    return ages[: sizes[0], : sizes[1], : sizes[2]]


def _from(corner: tuple[int, int, int], size: int) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first in corner)


def monte_carlo(
    network: LocalUNet, maps: Tensor, *, samples: int, dropped_from: int, seeds: Sequence[int], half: bool = False
) -> tuple[Tensor, Tensor]:
    """Ages without dropout, and the SD of ages with it: Monte Carlo dropout (Gal & Ghahramani 2016, ICML).

    Parameters
    ----------
    maps : tensor, (n, inputs, x, y, z)
    samples : int
        Passes with dropout, two at least.
    dropped_from : int
        First of the ten units whose channels are dropped. What lies before its gate is computed once for all samples,
        so late units are quick, and miss the doubt about what the earlier ones find. The gates are those of the pass
        without dropout.
    seeds : sequence of n int
        Of each volume: the same seed and maps give the same SD, whatever is beside them.

    Returns
    -------
    ages, sd : tensors, (n, x - 40, y - 40, z - 40)
        Ages less the mean of training, and years.
    """
    generators = [Generator().manual_seed(seed) for seed in seeds]
    with _inference(network, half):
        gates: list[Tensor] = []
        kept: State | None = None
        for step in network.steps(maps):
            gates.append(step.gate)
            kept = step.state if step.state.unit == dropped_from else kept
        ages = network.ages(step.features)
        del step
        assert kept is not None  # noqa: S101 - dropped_from is one of the units
        mean, squares = torch.zeros_like(ages), torch.zeros_like(ages)
        for count in range(1, samples + 1):
            drawn = [
                _thinned_each(g, network.dropout, generators) if i >= dropped_from else g for i, g in enumerate(gates)
            ]
            for step in network.resume(kept, drawn):
                features = step.features
            away = network.ages(features) - mean
            mean += away / count
            squares += away**2 * ((count - 1) / count)
        return ages, (squares / (samples - 1)).sqrt()


def _thinned_each(gates: Tensor, share: float, generators: Sequence[Generator]) -> Tensor:
    """Gates (n, c) of n volumes, each thinned by its own choice."""
    return torch.cat([thinned(gate, share, one) for gate, one in zip(gates.split(1), generators, strict=True)])
