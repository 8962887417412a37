"""The network of local brain age: a U-Net of valid convolutions with squeeze-and-excitation, one age a voxel.

Popescu et al. (2021), Frontiers in Aging Neuroscience 13:761954: blocks of 52^3 voxels in, 12^3 out, three scales of
two 3^3 convolutions, average pooling, nearest upsampling, cropped skip connections. Squeeze-and-excitation: Hu et al.
(2018), doi:10.1109/CVPR.2018.00745.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

MARGIN = 20
"""Voxels by which the output is smaller than the input, on each side."""
STEP = 4
"""Sizes are multiples of it; a shift by it shifts the output alike, because the pooling grids stay aligned."""
UNITS = 10
POOLED, RAISED, MIDDLE, COARSE = (2, 4), (6, 8), 7, 5
OPEN = 2.0


class Unit(nn.Module):
    """Valid 3^3 convolution, squeeze-and-excitation gate, channel dropout, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, reduction: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3)
        self.squeeze = nn.Linear(outputs, max(1, outputs // reduction))
        self.excite = nn.Linear(max(1, outputs // reduction), outputs)
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.excite.bias, OPEN)  # nearly open at first: ten gates in a row would close the network

    def gate(self, features: Tensor) -> Tensor:
        """One factor a channel, (n, c), float32, from the mean over all voxels."""
        with torch.autocast(features.device.type, enabled=False):
            mean = features.mean((2, 3, 4), dtype=torch.float32)
            return torch.sigmoid(self.excite(functional.relu(self.squeeze(mean))))


class State(NamedTuple):
    """Where a pass stands: before the gate of a unit.

    Attributes
    ----------
    unit : int
        Which of the ten, in order.
    features : tensor, (n, c, x, y, z)
        What its convolution gives.
    skips : tuple of tensor
        What the way down keeps for the way up.
    """

    unit: int
    features: Tensor
    skips: tuple[Tensor, ...]


class Step(NamedTuple):
    """One unit of a pass: the state before its gate, the gate (n, c), and what the unit gives (n, c, x, y, z)."""

    state: State
    gate: Tensor
    features: Tensor


class Supervised(NamedTuple):
    """What the loss of training compares with the age less the mean age of training, in years.

    Attributes
    ----------
    ages : tensor, (n, x, y, z)
    middle, coarse : tensor, (n,)
        One age a block, from the half and the quarter scale.
    """

    ages: Tensor
    middle: Tensor
    coarse: Tensor


class LocalUNet(nn.Module):
    """Age less the mean age of training at each voxel, from tissue maps.

    Parameters
    ----------
    inputs : int
        Input channels: grey matter, white matter, and the sex as a constant (-1/2 women, 1/2 men, 0 unknown).
    channels : int
        At full resolution; twice and four times as many at the coarser scales. Published: 64.
    reduction : int
        Channels over those of the bottleneck of squeeze-and-excitation.
    dropout : float
        Share of channels that are dropped after each gate in training.
    slope : float
        Of the leaky ReLU below 0.
    unit : float
        Years that 1 stands for inside the network: ages spread by tens of years, what a network gives by about 1.
    dropped_from : int
        The first unit whose channels are dropped in training.

    Notes
    -----
    52 -> 50 -> 48, pooled 24 -> 22 -> 20, pooled 10 -> 8 -> 6, raised 12 -> 10 -> 8, raised 16 -> 14 -> 12. Any size
    ``n``, a multiple of 4 and at least 44, gives ``n - 40``.
    """

    def __init__(
        self,
        inputs: int = 3,
        channels: int = 64,
        reduction: int = 8,
        dropout: float = 0.2,
        slope: float = 0.2,
        unit: float = 1.0,
        dropped_from: int = 0,
    ) -> None:
        super().__init__()
        one, two, four = channels, 2 * channels, 4 * channels
        taken = (inputs, one, one, two, two, four, four + two, two, two + one, one)
        given = (one, one, two, two, four, four, two, two, one, one)
        self.units = nn.ModuleList(Unit(a, b, reduction) for a, b in zip(taken, given, strict=True))
        self.output = nn.Conv3d(one, 1, 1)
        self.middle, self.coarse = nn.Linear(two, 1), nn.Linear(four, 1)
        self.inputs, self.dropout, self.slope, self.unit = inputs, dropout, slope, unit
        self.dropped_from = dropped_from

    def forward(self, maps: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Ages less the mean of training, (n, x - 40, y - 40, z - 40), float32, of maps (n, inputs, x, y, z).

        Parameters
        ----------
        gates : sequence of 10 tensors, (n or 1, c)
            Of :meth:`compute_gates`; without them each item makes its own.

        Raises
        ------
        ValueError
            Where a size is no multiple of 4, or under 44.
        """
        for step in self.steps(maps, gates):
            features = step.features
        return self.ages(features)

    def forward_training(self, maps: Tensor) -> Supervised:
        """As :meth:`forward`, with the ages of the two coarser scales."""
        for step in self.steps(maps):
            if step.state.unit == COARSE:
                coarse = self.coarse(step.features.mean((2, 3, 4), dtype=torch.float32))[:, 0]
            elif step.state.unit == MIDDLE:
                middle = self.middle(step.features.mean((2, 3, 4), dtype=torch.float32))[:, 0]
        return Supervised(self.ages(step.features), self.unit * middle, self.unit * coarse)

    @torch.no_grad()
    def scale_to(self, maps: Tensor) -> None:
        """Scale and shift the convolutions so that each gives features of mean 0 and SD 1 for these maps.

        Ten gated layers without normalisation start with features too small to learn from. Mishkin & Matas (2016),
        All you need is a good init, arXiv:1511.06422; by channel as in Salimans & Kingma (2016), arXiv:1602.07868.
        """
        state: State = self._entered(0, maps, ())
        units: list[Unit] = list(self.units)  # type: ignore[arg-type]
        for number, layer in enumerate(units):
            mean, sd = state.features.mean((0, 2, 3, 4)), state.features.std((0, 2, 3, 4)) + 1e-6
            layer.conv.weight /= sd[:, None, None, None, None]
            layer.conv.bias.copy_((layer.conv.bias - mean) / sd)  # type: ignore[union-attr, operator]
            features = (state.features - mean[:, None, None, None]) / sd[:, None, None, None]
            gate = layer.gate(features)[:, :, None, None, None]
            features = functional.leaky_relu(features * gate, self.slope)
            if number < UNITS - 1:
                state = self._entered(number + 1, features, state.skips)

    def compute_gates(self, whole: Tensor) -> list[Tensor]:
        """The gates of all units for a whole volume, to be handed to passes over its parts."""
        return [step.gate for step in self.steps(whole)]

    def steps(self, maps: Tensor, gates: Sequence[Tensor] | None = None) -> Iterator[Step]:
        """Each unit in order; a caller that keeps no step needs the memory of three feature maps."""
        if any(size % STEP or size < 2 * MARGIN + STEP for size in maps.shape[2:]):
            raise ValueError(f"sizes {tuple(maps.shape[2:])}: multiples of {STEP} from {2 * MARGIN + STEP} are needed")
        yield from self.resume(self._entered(0, maps, ()), gates)

    def resume(self, state: State, gates: Sequence[Tensor] | None = None) -> Iterator[Step]:
        """The steps from a state on; what lies before it is not computed again."""
        while True:
            layer: Unit = self.units[state.unit]  # type: ignore[assignment]
            gate = layer.gate(state.features) if gates is None else gates[state.unit]
            is_thinned = self.training and state.unit >= self.dropped_from
            factor = thinned(gate, self.dropout) if is_thinned else gate
            scaled = state.features * factor.to(state.features.dtype)[:, :, None, None, None]
            features = functional.leaky_relu(scaled, self.slope, inplace=True)
            del scaled
            yield Step(state, gate, features)
            if state.unit == UNITS - 1:
                return
            state = self._entered(state.unit + 1, features, state.skips)

    def _entered(self, index: int, features: Tensor, skips: tuple[Tensor, ...]) -> State:
        """Bring features to the scale of a unit and convolve them there."""
        if index in POOLED:
            features, skips = functional.avg_pool3d(features, 2), (*skips, features)
        elif index in RAISED:
            raised = functional.interpolate(features, scale_factor=2, mode="nearest")
            features, skips = torch.cat([raised, _middle(skips[-1], raised.shape)], 1), skips[:-1]
        layer: Unit = self.units[index]  # type: ignore[assignment]
        return State(index, layer.conv(features), skips)

    def ages(self, features: Tensor) -> Tensor:
        """The map from what the last unit gives; in float32, as an age in bfloat16 has steps of a quarter year."""
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = self.unit * self.output(features.float())[:, 0]
        return found


def thinned(gate: Tensor, share: float, generator: Generator | None = None) -> Tensor:
    """Gates with a share of the channels dropped and the others raised in turn: channel dropout after the gate.

    ``generator``, on the CPU, makes the choice repeatable on any device.
    """
    drawn = torch.rand(gate.shape, generator=generator, device="cpu" if generator else gate.device)
    return gate * (drawn.to(gate.device) >= share) / (1 - share)


def _middle(features: Tensor, shape: torch.Size) -> Tensor:
    """The central part of features of the given size."""
    x, y, z = ((have - want) // 2 for have, want in zip(features.shape[2:], shape[2:], strict=True))
    return features[:, :, x : x + shape[2], y : y + shape[3], z : z + shape[4]]
