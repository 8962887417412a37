"""Synthetic scans with their segmentation, made from label maps by domain randomisation.

A network that has seen only scans of random shape, contrast and quality must learn what all of them share: the
anatomy (Billot et al. 2023, SynthSeg, doi:10.1016/j.media.2023.102789; Hoopes et al. 2022, SynthStrip,
doi:10.1016/j.neuroimage.2022.119474). Everything is drawn from one seed, on the device that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor
from torch.nn import functional

from bids_brainage.image.classes import NUMBER
from bids_brainage.training.labelmaps import LabelMap, labels

SPACING = 2.0
WHOLE = (96, 112, 96)
CROP = (64, 80, 64)
CONTRASTS = {"t1": 0.55, "inverted": 0.1, "random": 0.35}
LACKS = {"skull": 0.15, "field": 0.35, "face": 0.5}
NODES_MM = 8.0
PATCHES = 3
SUBVOXELS = ((0.5, 0.5, 0.5), (0.5, -0.5, -0.5), (-0.5, 0.5, -0.5), (-0.5, -0.5, 0.5))


class Sample(NamedTuple):
    """A synthetic scan and its truth on the same grid.

    Attributes
    ----------
    scan : float32 tensor, (x, y, z)
        Scaled as the network sees scans: 1 is the 99th percentile of the foreground, at most 1.5.
    target : uint8 tensor, (x, y, z)
        Class of each voxel.
    side : int8 tensor, (x, y, z)
        1 in structures of the right hemisphere, -1 of the left, 0 elsewhere.
    """

    scan: Tensor
    target: Tensor
    side: Tensor


class Draw:
    """Random numbers of one sample: scalars from numpy, fields from torch on the device.

    Parameters
    ----------
    seed : sequence of int
        For example run, step and rank.
    shape : sequence of 3 int
        Voxels of the sample, 2 mm each.
    """

    def __init__(self, seed: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.rng: Generator = np.random.default_rng(list(seed))
        self.shape = tuple(shape)
        self.device = device
        self._fields = torch.Generator(device).manual_seed(int(self.rng.integers(2**62)))

    def chance(self, probability: float) -> bool:
        """Whether something that happens this often happens."""
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        """A number between two others."""
        return float(self.rng.uniform(low, high))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(shape, generator=self._fields, device=self.device)

    def flat(self, *shape: int) -> Tensor:
        """Numbers between 0 and 1 on the device."""
        return torch.rand(shape, generator=self._fields, device=self.device)

    def smooth(self, channels: int, nodes_mm: float, shape: Sequence[int] | None = None) -> Tensor:
        """Smooth fields ``(channels, x, y, z)``: normal numbers at nodes this far apart, linear between them."""
        shape = self.shape if shape is None else tuple(shape)
        spacing = SPACING * max(1.0, self.shape[0] / shape[0])
        nodes = [max(2, round(size * spacing / nodes_mm)) + 1 for size in shape]
        return functional.interpolate(
            self.normal(1, channels, *nodes), size=tuple(shape), mode="trilinear", align_corners=True
        )[0]


def synthesise(heads: Sequence[LabelMap], seed: Sequence[int], *, crop: bool, contrast: str | None = None) -> Sample:
    """Draw one of the heads, its shape, contrast and scanner.

    Parameters
    ----------
    heads : sequence of LabelMap
        All on one device.
    seed : sequence of int
        The same seed gives the same sample.
    crop : bool
        Part of a head (quicker) instead of the whole.
    contrast : {"t1", "inverted", "random"}, optional
        Default: drawn.
    """
    draw = Draw(seed, CROP if crop else WHOLE, heads[0].rows.device)
    with torch.autocast(draw.device.type, enabled=False):  # places in mm need all their digits
        return _synthesise(draw, heads, crop, contrast)


def _synthesise(draw: Draw, heads: Sequence[LabelMap], crop: bool, contrast: str | None) -> Sample:
    head = heads[int(draw.rng.integers(len(heads)))]
    points, flipped = deform(draw, jitter_mm=24.0 if crop else 0.0)
    points += head.middle.view(3, 1, 1, 1)
    rows = _look_up(head, points).long()
    table = labels()
    target = table.target.to(draw.device)[rows]
    side = table.side.to(draw.device)[rows] * (-1 if flipped else 1)
    contrast = contrast or str(draw.rng.choice(list(CONTRASTS), p=list(CONTRASTS.values())))
    scan = paint(draw, head, points, rows, contrast)
    lack = missing(draw)
    if lack == "field":
        scan, target = cut(draw, scan, target)
    elif lack == "face":
        scan = scan * (~face(draw) | (target > 0))
    scan = scanned(draw, scan)
    if lack == "skull":
        scan = scan * kept(draw, target)
    return Sample(finished(draw, scan), target, side.masked_fill(target == 0, 0))


def positions(shape: Sequence[int], device: torch.device) -> Tensor:
    """Millimetres of each voxel about the middle of the grid, ``(3, x, y, z)``."""
    axes = [torch.arange(size, dtype=torch.float32, device=device) * SPACING - (size - 1) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def deform(draw: Draw, jitter_mm: float) -> tuple[Tensor, bool]:
    """Where each voxel of the sample lies in the label map (mm about the brain's middle), and whether it is mirrored.

    Rotation to 20 degrees about each axis (one in four: to 40), scale 0.87-1.15, 0.93-1.07 an axis, shear 0.06,
    shift 14 mm and in half the cases up to 16 mm downwards, then a diffeomorphic warp.
    """
    most = 40 if draw.chance(0.25) else 20
    angles = np.deg2rad(draw.rng.uniform(-most, most, 3))
    shear = np.eye(3)
    shear[~np.eye(3, dtype=bool)] = draw.rng.uniform(-0.06, 0.06, 6)
    scale = draw.uniform(0.87, 1.15) * draw.rng.uniform(0.93, 1.07, 3)
    matrix = rotation(angles) @ np.diag(scale) @ shear
    flipped = draw.chance(0.5)
    if flipped:
        matrix[0] *= -1
    shift = draw.rng.uniform(-14 - jitter_mm, 14 + jitter_mm, 3)
    if draw.chance(0.5):
        shift[2] += draw.uniform(-16, 4)
    base = positions(draw.shape, draw.device)
    moved = base + torch.tensor(shift, dtype=torch.float32, device=draw.device).view(3, 1, 1, 1)
    affine = torch.tensor(matrix, dtype=torch.float32, device=draw.device)
    points = (affine @ moved.reshape(3, -1)).reshape(3, *draw.shape)
    return points + warp(draw, draw.uniform(0, 4.5), draw.uniform(0, 2.5)), flipped


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix of angles (radians) about x, y, z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def warp(draw: Draw, coarse_mm: float, fine_mm: float, squarings: int = 4) -> Tensor:
    """A diffeomorphic displacement in mm, ``(3, x, y, z)``: random velocities on 32 and 16 mm nodes, integrated.

    Scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113) on a grid of 8 mm.
    """
    nodes = [int(np.ceil((size - 1) * SPACING / NODES_MM)) + 1 for size in draw.shape]
    velocity = coarse_mm * draw.smooth(3, 32.0, nodes) + fine_mm * draw.smooth(3, 16.0, nodes)
    displacement = (velocity / 2**squarings)[None]
    axes = [torch.linspace(-1, 1, size, device=draw.device) for size in nodes]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]
    extent = torch.tensor([(size - 1) * NODES_MM / 2 for size in nodes], device=draw.device)
    for _ in range(squarings):
        where = identity + displacement.permute(0, 2, 3, 4, 1) / extent
        displacement = displacement + functional.grid_sample(
            displacement, where.flip(-1), padding_mode="border", align_corners=True
        )
    return functional.interpolate(displacement, size=draw.shape, mode="trilinear", align_corners=True)[0]


def _look_up(head: LabelMap, points: Tensor) -> Tensor:
    """Row of the label table at each point (voxels of the label map), nearest neighbour; 0 outside."""
    size = torch.tensor(head.rows.shape, device=points.device).view(3, 1, 1, 1)
    where = points.round().to(torch.int32)
    outside = ((where < 0) | (where >= size)).any(0)
    x, y, z = torch.minimum(where.clamp_(min=0), (size - 1).to(torch.int32)).unbind(0)
    flat = (x * head.rows.shape[1] + y) * head.rows.shape[2] + z
    return torch.take(head.rows, flat.long()).masked_fill_(outside, 0)


def paint(draw: Draw, head: LabelMap, points: Tensor, rows: Tensor, contrast: str) -> Tensor:
    """Intensities: one mean and SD a label, partial volume at borders, texture, tissue outside the skull in patches."""
    means, spreads = palette(draw, contrast)
    patches = (draw.smooth(1, draw.uniform(10, 40))[0] + 1).clamp_(0, PATCHES - 1).round_().long()
    image = torch.zeros(draw.shape, device=draw.device)
    for offset in SUBVOXELS:
        shifted = points + torch.tensor(offset, device=draw.device).view(3, 1, 1, 1)
        image += means[patches, _look_up(head, shifted).long()]
    image /= len(SUBVOXELS)
    share = draw.uniform(0.2, 0.9)
    texture = (1 - share) * draw.normal(*draw.shape) + 1.3 * share * draw.smooth(1, draw.uniform(2, 6))[0]
    return (image + spreads[rows] * texture).clamp_(min=0)


def palette(draw: Draw, contrast: str) -> tuple[Tensor, Tensor]:
    """Mean ``(patches, rows)`` and SD ``(rows,)`` of each label; tissue outside the skull differs among patches."""
    table = labels()
    twin, group = table.twin.to(draw.device), table.group.to(draw.device)
    mean, mean_sd, sd, sd_sd = table.prior.to(draw.device)
    count = len(table.target)
    outer = (table.target == NUMBER["background"]).to(draw.device)
    if contrast == "random":
        means = draw.flat(count)[twin]
        spreads = (draw.flat(count) * 0.12)[twin]
    else:
        width = draw.uniform(0.5, 2.0)
        means = (mean + mean_sd * draw.normal(len(mean)) * width)[group] + 0.02 * draw.normal(count)[twin]
        means = means + 0.25 * draw.normal(count) * outer
        spreads = (sd + sd_sd * draw.normal(len(sd))).clamp(min=0.004)[group] * draw.uniform(0.15, 0.8)
    if contrast == "inverted":
        means = 1 - means
    means = means + 0.1 * draw.normal(PATCHES, count) * outer
    bright = contrast == "inverted" and draw.chance(0.5)
    air = draw.uniform(0.85, 1.1) if bright else 0.0 if draw.chance(0.6) else draw.uniform(0, 0.15)
    means[:, 0], spreads[0] = air, draw.uniform(0, 0.04)
    return means.clamp_(0, 1.4), spreads


def missing(draw: Draw) -> str:
    """What a scan lacks, by the shares that add up in :data:`LACKS`; "" for nothing."""
    drawn = draw.rng.random()
    return next((lack for lack, below in LACKS.items() if drawn < below), "")


def cut(draw: Draw, scan: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """End the field of view within the head: beyond it there is nothing to find."""
    below = np.array([0, draw.uniform(-0.3, 0.3), -1.0])
    direction = below if draw.chance(0.6) else draw.rng.normal(size=3)
    seen = _along(draw, direction) < draw.uniform(50, 95)
    return scan * seen, target * seen


def face(draw: Draw) -> Tensor:
    """Where the face is, ``(x, y, z)``, to be taken away."""
    return _along(draw, np.array([0, 1.0, -draw.uniform(0.4, 1.2)])) >= draw.uniform(50, 85)


def kept(draw: Draw, target: Tensor) -> Tensor:
    """What a tool for brain extraction keeps, 0 to 1 ``(x, y, z)``: brain and CSF, the brain filled, or tissue alone.

    Its border is smooth, so that sulci close, and lies up to 4 mm outside or 1 mm within, by 1 mm more or less from
    place to place. The truth stays as it is: CSF that was taken away is still to be found, as the skull was there.
    """
    what = str(draw.rng.choice(["csf", "filled", "tissue"]))
    inside = (target > (0 if what == "csf" else NUMBER["csf"])).float()[None, None]
    if what == "filled":
        inside = closed(inside)
    width = draw.uniform(0.4, 1.2)
    soft = blur(inside, np.full(3, width))[0, 0]
    depth = torch.special.ndtri(soft.clamp(1e-4, 1 - 1e-4))
    border = draw.uniform(-1, 4) + draw.uniform(0, 1) * draw.smooth(1, draw.uniform(16, 40))[0]
    within = depth + (border / (width * SPACING)).clamp(max=2.5)
    return (within * (width * SPACING) / draw.uniform(0.2, 1.5) + 0.5).clamp_(0, 1)


def closed(inside: Tensor, reach: int = 3) -> Tensor:
    """A mask ``(1, 1, x, y, z)`` of 0 and 1 with gaps of up to twice this many voxels closed."""
    size = 2 * reach + 1
    wide = functional.max_pool3d(inside, size, stride=1, padding=reach)
    return 1 - functional.max_pool3d(1 - wide, size, stride=1, padding=reach)


def _along(draw: Draw, direction: np.ndarray) -> Tensor:
    """Distance in mm from the middle of the grid along a direction."""
    unit = torch.tensor(direction / np.linalg.norm(direction), dtype=torch.float32, device=draw.device)
    return (positions(draw.shape, draw.device) * unit.view(3, 1, 1, 1)).sum(0)


def scanned(draw: Draw, scan: Tensor) -> Tensor:
    """What a scanner does: resolution, bias field, gradient of the coil, noise."""
    image = resolution(draw, scan[None, None])[0, 0]
    image = image * torch.exp(draw.uniform(0, 0.45) * draw.smooth(1, draw.uniform(24, 48))[0])
    if draw.chance(0.3):
        axis = int(draw.rng.integers(3))
        image = image * torch.exp(draw.uniform(-1, 1) * positions(draw.shape, draw.device)[axis] / 100)
    level = draw.uniform(0.05, 0.15) if draw.chance(0.1) else draw.uniform(0, 0.05)
    everywhere = draw.chance(0.5)
    noise = draw.normal(*draw.shape) * level
    return (image + (noise if everywhere else noise * (image > 0))).abs_()


def finished(draw: Draw, image: Tensor) -> Tensor:
    """What becomes of the intensities: scaled as the network sees scans, gain, gamma."""
    image = scaled(image) * (draw.uniform(0.8, 1.1) if draw.chance(0.5) else 1.0)
    return (image ** float(np.exp(draw.rng.normal() * 0.3))).clamp_(max=1.5)


def scaled(image: Tensor) -> Tensor:
    """Divide by the 99th percentile of the foreground (of every seventh voxel), cut at 1.5."""
    values = image.flatten()[::7]
    values = values[values > values.max() * 1e-4]
    if not len(values):
        return image
    top = torch.sort(values)[0][int(0.99 * (len(values) - 1))]
    return (image / (top + 1e-6)).clamp_(0, 1.5)


def resolution(draw: Draw, image: Tensor) -> Tensor:
    """Blur; one in five: thick slices of 2.5 to 6 mm; one in six: voxels of 2.5 to 5.5 mm. ``(1, 1, x, y, z)``.

    What is coarser than 2 mm comes back to 2 mm by cubic interpolation.
    """
    if draw.chance(0.7):
        image = blur(image, draw.uniform(0, 0.7) * draw.rng.uniform(0.7, 1.3, 3))
    drawn = draw.rng.random()
    if drawn >= 0.37:
        return image
    thickness = np.full(3, SPACING)
    if drawn < 0.2:
        thickness[int(draw.rng.integers(3))] = draw.uniform(2.5, 6.0)
    else:
        thickness[:] = draw.uniform(2.5, 5.5)
    factor = thickness / SPACING
    small = tuple(round(size / by) for size, by in zip(draw.shape, factor, strict=True))
    wide = draw.uniform(0.3, 0.45)
    image = functional.interpolate(blur(image, wide * factor * (factor > 1)), size=small, mode="trilinear")
    for axis, (few, many) in enumerate(zip(small, draw.shape, strict=True), start=2):
        if few < many:
            between = torch.from_numpy(cubic(few, many)).to(draw.device)
            image = torch.tensordot(image, between, dims=([axis], [1])).movedim(-1, axis)
    return image.clamp_(min=0)


def cubic(few: int, many: int) -> NDArray[np.float32]:
    """Weights of cubic splines that bring ``few`` voxels to ``many`` over the same field, ``(many, few)``.

    The app, too, interpolates cubically: lines would blur a coarse scan more than it is blurred there.
    """
    voxels = np.arange(few)
    places = (np.arange(many) + 0.5) * few / many - 0.5
    between = make_interp_spline(voxels, np.eye(few), k=3)
    return between(places.clip(0, few - 1)).astype(np.float32)


def blur(image: Tensor, sigma: np.ndarray) -> Tensor:
    """Gaussian of ``sigma`` voxels an axis; under 0.15 it is left out."""
    reach = 3
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device)
    for axis, width in enumerate(sigma):
        if width < 0.15:
            continue
        kernel = torch.exp(-(offsets**2) / (2 * float(width) ** 2))
        shape, padding = [1] * 5, [0] * 3
        shape[2 + axis], padding[axis] = 2 * reach + 1, reach
        image = functional.conv3d(image, (kernel / kernel.sum()).view(shape), padding=tuple(padding))
    return image
