"""SynthStrip: a brain mask from a network that predicts the signed distance to the brain's surface.

Hoopes et al. 2022, NeuroImage 260, 119474, doi:10.1016/j.neuroimage.2022.119474. The weights are its authors';
a bundle holds them under the names of the published state dict (``encoder.0.0.conv.weight``, ...).
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bids_brainage.core import bundle as bundles
from bids_brainage.core.errors import ScanError
from bids_brainage.core.passes import through
from bids_brainage.image import io, masks
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.network import fill, has_bfloat16

ENCODER = (16, 32, 64, 64, 64, 64)
DECODER = (64, 64, 64, 64, 64, 32)
LAST = (16, 16)
BORDER = 1.0
FAR = 100.0


class _Convolution(nn.Module):
    """3 x 3 x 3 convolution, then leaky ReLU unless it is the last."""

    def __init__(self, inputs: int, outputs: int, *, activated: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.activated = activated

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same spatial shape."""
        result: Tensor = self.conv(features)
        return functional.leaky_relu_(result, 0.2) if self.activated else result


class SynthStripNet(nn.Module):
    """U-Net of six poolings; signed distance (mm) ``(n, 1, x, y, z)`` from scans whose sides are multiples of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_two(a, b) for a, b in pairwise((1, *ENCODER)))
        widths = [ENCODER[-1], *(wide + skip for wide, skip in zip(DECODER, reversed(ENCODER), strict=True))]
        self.decoder = nn.ModuleList(_two(a, b) for a, b in zip(widths[:-1], DECODER, strict=True))
        self.remaining = nn.ModuleList(_Convolution(a, b) for a, b in pairwise((widths[-1], *LAST)))
        self.remaining.append(_Convolution(LAST[-1], 1, activated=False))

    def forward(self, scan: Tensor) -> Tensor:
        """Signed distance of every voxel to the brain's surface, negative inside."""
        skips, current = [], scan
        for level in self.encoder:
            current = level(current)
            skips.append(current)
            current = functional.max_pool3d(current, 2)
        for level in self.decoder:
            current = level(current)
            current = torch.cat([functional.interpolate(current, scale_factor=2, mode="nearest"), skips.pop()], 1)
        for convolution in self.remaining:
            current = convolution(current)
        return current


def _two(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_Convolution(inputs, outputs), _Convolution(outputs, outputs))


def load_synthstrip(folder: Path, device: str = "cpu") -> SynthStripNet:
    """The network of a bundle folder, ready for inference.

    Raises
    ------
    BundleError
        Where the bundle is damaged or its weights are not SynthStrip's.
    """
    return fill(SynthStripNet(), bundles.load(folder)).to(device)


def prepare(scan: Volume) -> Volume:
    """What the network sees: 1 mm, axes left, inferior, anterior, sides a multiple of 64 (192 to 320), 0 to 1.

    The box of non-zero voxels is taken, the minimum subtracted, the 99th percentile set to 1.
    """
    grid = io.spaced(scan.grid, 1.0)
    data = io.resample(scan, grid, nearest=True)
    box = masks.bounding_box(data != 0)
    shape = tuple(int(np.clip(-(-(side.stop - side.start) // 64) * 64, 192, 320)) for side in box)
    start = [side.start - (size - (side.stop - side.start)) // 2 for side, size in zip(box, shape, strict=True)]
    placed = io.window(Volume(data, grid.affine), start, shape)
    values = placed.data - placed.data.min()
    values = np.clip(values / max(float(np.percentile(values, 99)), 1e-6), 0, 1).astype(np.float32)
    return _to_lia(Volume(values, placed.affine))


def _to_lia(volume: Volume) -> Volume:
    """RAS to left-inferior-anterior order."""
    x, _, z = volume.data.shape
    turn = np.array([[-1, 0, 0, x - 1], [0, 0, 1, 0], [0, -1, 0, z - 1], [0, 0, 0, 1]], dtype=float)
    return Volume(np.ascontiguousarray(volume.data[::-1, :, ::-1].transpose(0, 2, 1)), volume.affine @ turn)


def distance(network: SynthStripNet, scan: Volume) -> NDArray[np.float32]:
    """Signed distance to the brain's surface (mm) on the scan's grid; 100 beyond what the network saw."""
    seen = prepare(scan)
    half = has_bfloat16(str(next(network.parameters()).device))
    prepared = torch.from_numpy(seen.data)[None]
    (found,) = through(partial(_pass, network, half=half), prepared, network, "distance", half)
    values = found[0].numpy()
    x, y = values.shape[:2]
    turned = np.ascontiguousarray(values.transpose(0, 2, 1)[::-1, :, ::-1])
    back = np.array([[-1, 0, 0, x - 1], [0, 0, -1, y - 1], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
    ras = Volume(turned - np.float32(FAR), seen.affine @ back)
    return io.resample(ras, Grid(scan.grid.shape, scan.affine), antialias=False) + np.float32(FAR)


def _pass(network: SynthStripNet, seen: Tensor, *, half: bool) -> tuple[Tensor]:
    """What the network gives for prepared scans (n, x, y, z), where it is."""
    scans = seen[:, None].to(next(network.parameters()).device)
    with torch.inference_mode(), torch.autocast(scans.device.type, torch.bfloat16, enabled=half):
        return (network(scans)[:, 0].float(),)


def brain_mask(scan: Volume, *, bundle: Path, device: str = "cpu") -> masks.Mask:
    """SynthStrip's mask on the scan's grid: less than 1 mm outside the surface, largest component, holes filled.

    Needs 3 to 6 GiB of memory for a whole head.

    Raises
    ------
    ScanError
        Where it finds no brain.
    BundleError
        Where the weights do not fit.
    """
    mask = distance(load_synthstrip(bundle, device), scan) < BORDER
    if not mask.any():
        raise ScanError(f"{bundle}: SynthStrip found no brain in this scan; run without it, or give a mask")
    return masks.solid(mask)
