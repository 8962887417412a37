"""The segmentation network: a small 3D U-Net at 2 mm whose full-resolution path is thin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from bids_brainage.core import bundle as bundles
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.passes import through

WEIGHTS = "model.safetensors"
Net = TypeVar("Net", bound=nn.Module)


class _InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation that keeps the channels-last layout of a single scan: twice as fast a training step.

    For one scan it is batch normalisation without running statistics.
    """

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > 1:
            return super().forward(features)
        return functional.batch_norm(features, None, None, self.weight, self.bias, training=True, eps=self.eps)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 x 3 convolution, instance normalisation, leaky ReLU."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False),
        _InstanceNorm(outputs, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _pair(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_block(inputs, outputs, stride), _block(outputs, outputs))


class SegmentationNet(nn.Module):
    """U-Net with four levels of strided convolution and nearest-neighbour upsampling.

    Most of the work is done at 4 mm and coarser: at full resolution there is one block down, one up.

    Parameters
    ----------
    classes : int
        Number of output classes, background included.
    channels : sequence of 5 int
        Channels at full, 1/2, 1/4, 1/8 and 1/16 resolution.
    head : int
        Channels of the last full-resolution block.

    Notes
    -----
    The last output is the logit of the right hemisphere.
    """

    def __init__(self, classes: int, channels: tuple[int, int, int, int, int], head: int = 16) -> None:
        super().__init__()
        c0, c1, c2, c3, c4 = channels
        self.stem = _block(1, c0)
        self.down = nn.ModuleList([_pair(c0, c1, 2), _pair(c1, c2, 2), _pair(c2, c3, 2), _pair(c3, c4, 2)])
        self.up = nn.ModuleList([_pair(c4 + c3, c3), _pair(c3 + c2, c2), _pair(c2 + c1, c1)])
        self.reduce = nn.Conv3d(c1, head, 1)
        self.merge = _block(head + c0, head)
        self.output = nn.Conv3d(head, classes + 1, 1)

    def forward(self, scan: Tensor) -> Tensor:
        """Logits ``(n, classes + 1, x, y, z)`` of scans ``(n, 1, x, y, z)``; x, y, z are multiples of 16."""
        full = _as_it_is if self.training else _exact
        features = [full(self.stem, scan)]
        for level in self.down:
            features.append(level(features[-1]))
        current = features.pop()
        for level in self.up:
            current = level(torch.cat([_double(current), features.pop()], 1))
        current = torch.cat([_double(full(self.reduce, current)), features.pop()], 1)
        return full(self.output, full(self.merge, current))


def _as_it_is(layer: nn.Module, features: Tensor) -> Tensor:
    result: Tensor = layer(features)
    return result


def _exact(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply a layer in float32 even under autocast: the full-resolution path decides where borders lie."""
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = layer(features.float())
    return result


def _double(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode="nearest")


def build(arguments: Mapping[str, Any]) -> SegmentationNet:
    """The network that a card's ``network`` entry describes (``classes``, ``channels``, ``head``)."""
    try:
        c0, c1, c2, c3, c4 = (int(value) for value in arguments["channels"])
        return SegmentationNet(int(arguments["classes"]), (c0, c1, c2, c3, c4), int(arguments["head"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"segmentation card: 'network' needs classes, 5 channels and head ({error})") from None


def fill(network: Net, bundle: Bundle) -> Net:
    """Put the weights of a bundle into a network, as float32, ready for inference on the CPU.

    Raises
    ------
    BundleError
        Where they are not a safetensors file, or not by name and shape those of this network.
    """
    path = bundle.file(WEIGHTS)
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (RuntimeError, SafetensorError):
        what = f"not the weights of the architecture {bundle.card['architecture']}"
        raise BundleError(f"{path}: {what}; install the bundle again") from None
    return network.eval()


def load_network(folder: Path, device: str = "cpu") -> tuple[SegmentationNet, Mapping[str, Any]]:
    """A bundle's network, ready for inference in float32, and the bundle's card.

    Raises
    ------
    BundleError
        Where the bundle is damaged or its weights are not those of this network.
    """
    bundle = bundles.load(folder)
    network = fill(build(bundle.card.get("network", {})), bundle)
    network.to(device)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network, bundle.card


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is computed in hardware: AVX-512 BF16 or AMX on a CPU, compute capability 8 on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)


class Posterior(NamedTuple):
    """What the network says of a scan ``(x, y, z)``; float32 on the CPU.

    Attributes
    ----------
    classes : tensor, (x, y, z, classes)
        Probabilities.
    right : tensor, (x, y, z)
        Probability of the right hemisphere; means something inside the brain alone.
    """

    classes: Tensor
    right: Tensor


def posterior(network: nn.Module, scan: Tensor, *, half: bool) -> Posterior:
    """Probabilities of the classes and of the right hemisphere in a normalised scan ``(x, y, z)``.

    With ``half`` the convolutions below full resolution run in bfloat16; the volume of a class changes by 0.2 % at
    most.
    """
    classes, right = through(partial(posteriors, network, half=half), scan[None], network, "posteriors", half)
    return Posterior(classes[0], right[0])


def posteriors(network: nn.Module, scans: Tensor, *, half: bool) -> Posterior:
    """As :func:`posterior`, of scans ``(n, x, y, z)`` in one pass where the network is; results have ``n`` in front."""
    batch = scans[:, None].to(next(network.parameters()).device).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        values = network(batch).movedim(1, -1).float()
        return Posterior(values[..., :-1].softmax(-1), values[..., -1].sigmoid())
