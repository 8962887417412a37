"""The base head: a label map of brain, skull and face, and random smooth deformations of it.

The brain comes from the tissue maps of MNI152NLin2009aSym that nilearn ships (Fonov et al. 2011, NeuroImage 54).
Deep structures are ellipsoids, and the tentorium a quadric, fitted to a segmentation of that template; tissue maps
cut their borders. Skull and face, which the template lacks, are shells and simple bodies around it (`head`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_brainage.simulate import head
from bids_brainage.simulate.deform import Warp

Array = NDArray[np.float32]

ORIGIN = np.array((-98.0, -134.0, -142.0))
"""World position (mm, RAS+) of the first voxel of the base grid."""
EXTENT = (196, 252, 258)
"""Length of the base grid along each axis, mm."""
CSF = 24


class Region(NamedTuple):
    """A region of the truth: number (FreeSurfer's aseg), name, and mean T1w intensity.

    Intensities are means over subjects of T1-weighted images as in SynthSeg's priors (Billot et al. 2023).
    """

    number: int
    name: str
    t1: float

    @property
    def kind(self) -> str:
        """The name without its side."""
        return self.name.removeprefix("left_").removeprefix("right_")


_PAIRS = (
    (2, 41, "cerebral_white_matter", 160.0),
    (3, 42, "cerebral_cortex", 97.0),
    (4, 43, "lateral_ventricle", 42.0),
    (7, 46, "cerebellar_white_matter", 138.0),
    (8, 47, "cerebellar_cortex", 92.0),
    (10, 49, "thalamus", 127.0),
    (11, 50, "caudate", 103.0),
    (12, 51, "putamen", 116.0),
    (13, 52, "pallidum", 145.0),
    (17, 53, "hippocampus", 97.0),
    (18, 54, "amygdala", 97.0),
    (26, 58, "accumbens", 100.0),
    (28, 60, "ventral_dc", 138.0),
)
REGIONS: tuple[Region, ...] = tuple(
    sorted(
        [Region(left, f"left_{name}", t1) for left, _, name, t1 in _PAIRS]
        + [Region(right, f"right_{name}", t1) for _, right, name, t1 in _PAIRS]
        + [
            Region(14, "third_ventricle", 45.0),
            Region(15, "fourth_ventricle", 45.0),
            Region(16, "brainstem", 132.0),
            Region(CSF, "csf", 42.0),
        ]
    )
)
"""All regions inside the skull, by index. Left is the person's left (x < 0 in RAS+)."""

_LEFT_OF = {name: left for left, _, name, _ in _PAIRS} | {
    "third_ventricle": 14,
    "fourth_ventricle": 15,
    "brainstem": 16,
}
_RIGHT_OF = {left: right for left, right, _, _ in _PAIRS}

# Ellipsoids: centre (|x|, y, z) in mm, and the covariance xx, yy, zz, xy, xz, yz in mm^2 of a uniform solid.
_SOLIDS: dict[str, tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]] = {
    "lateral_ventricle": (
        ((7.4, -3.4, 19.6), (19.7, 82.4, 18.1, 0.5, 13.3, -10.1)),
        ((6.6, 13.6, 8.3), (22.0, 73.9, 28.8, 27.5, -2.2, -14.8)),
        ((14.0, -27.0, 20.1), (30.4, 61.8, 15.1, -26.3, 3.0, 14.0)),
        ((26.0, -42.3, 8.8), (19.6, 32.9, 36.5, -11.6, -19.2, 11.2)),
    ),
    "third_ventricle": (((0.0, -10.9, -3.4), (1.7, 58.2, 18.4, 0.0, 0.0, -14.6)),),
    "fourth_ventricle": (((0.0, -44.8, -33.5), (18.5, 14.4, 43.1, 0.0, 0.0, 9.1)),),
    "thalamus": (((12.5, -18.0, 6.9), (35.6, 67.2, 27.3, -24.1, 1.5, 1.8)),),
    "caudate": (
        ((12.9, 13.2, 6.3), (12.5, 36.9, 39.5, 5.7, 5.1, -20.0)),
        ((15.0, -3.8, 19.8), (7.3, 89.8, 9.9, -13.5, 4.8, -17.4)),
    ),
    "putamen": (((25.5, 0.5, -0.6), (25.1, 82.2, 42.3, -28.2, 7.4, -10.4)),),
    "pallidum": (((19.0, -4.0, -1.9), (16.0, 26.0, 12.9, -14.7, 5.2, -4.3)),),
    "hippocampus": (
        ((26.5, -32.1, -7.4), (27.3, 25.7, 29.4, 9.1, -11.4, -22.6)),
        ((25.4, -15.7, -19.1), (29.4, 27.8, 24.3, -8.7, 4.6, -16.9)),
    ),
    "amygdala": (((24.4, -4.9, -19.7), (20.9, 13.0, 28.3, 0.0, -4.6, -12.5)),),
    "accumbens": (((8.4, 9.4, -7.1), (6.9, 16.5, 6.2, 4.0, -2.5, 0.6)),),
    "ventral_dc": (((9.6, -15.0, -9.6), (29.2, 48.0, 15.0, -8.7, 2.0, -4.0)),),
    "brainstem": (
        ((0.0, -36.0, -44.2), (36.8, 32.0, 121.7, 0.0, 0.0, 30.7)),
        ((0.0, -25.6, -24.2), (54.0, 37.2, 113.1, 0.0, 0.0, -23.2)),
        ((0.0, -43.5, -66.0), (9.0, 9.0, 30.0, 0.0, 0.0, 6.0)),
    ),
}
_SHARPEN = 0.7
"""How far the sulci, blurred in an average of people, are brought back (weight of an unsharp mask)."""
_FLUID = ("lateral_ventricle", "third_ventricle", "fourth_ventricle")
_GREY = ("caudate", "hippocampus", "amygdala", "accumbens")


@dataclass(frozen=True)
class Anatomy:
    """The base head.

    Attributes
    ----------
    labels : uint8 array
        Region indices inside the skull (`REGIONS`), `head.TISSUES` outside, 0 for air; RAS+.
    step : int
        Voxel size in mm.
    lobes : uint8 array, optional
        Lobe of each voxel (index into `lobes.LOBES`), where a parcellation gave them.
    to_template : Warp, optional
        From a position in this anatomy to template space; nothing where the two are the same.
    standard : array, optional
        Factors, in the order of `REGIONS`, that bring the regions to the volumes of `aging.REFERENCE_AGE`; none
        for the template.
    """

    labels: NDArray[np.uint8]
    step: int
    lobes: NDArray[np.uint8] | None = None
    to_template: Warp | None = None
    standard: NDArray[np.float64] | None = None

    @property
    def origin(self) -> NDArray[np.float64]:
        """World position of the first voxel, mm."""
        return ORIGIN


def _template(step: int) -> tuple[Array, Array, Array]:
    """T1w, grey and white matter maps (0-1) on the base grid, zero outside the template's field of view."""
    from nilearn import datasets

    shape = tuple(extent + 1 for extent in EXTENT)
    maps = []
    for load in (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template):
        image = load(resolution=1)
        offset = np.round(image.affine[:3, 3] - ORIGIN).astype(int)
        full = np.zeros(shape, np.float32)
        box = tuple(slice(o, o + n) for o, n in zip(offset, image.shape, strict=True))
        full[box] = np.asarray(image.dataobj, dtype=np.float32)
        maps.append(np.ascontiguousarray(full[::step, ::step, ::step]))
    return maps[0], maps[1], maps[2]


def world(shape: tuple[int, ...], step: int) -> tuple[Array, Array, Array]:
    """Open (broadcastable) world coordinates in mm of the base grid."""
    x, y, z = (ORIGIN[a] + step * np.arange(shape[a], dtype=np.float32) for a in range(3))
    return x[:, None, None], y[None, :, None], z[None, None, :]


def _solids(name: str, xyz: tuple[Array, Array, Array], out: Array) -> None:
    """Write the squared relative radius (1 at the surface) of the nearest of a structure's ellipsoids into ``out``."""
    for centre, (xx, yy, zz, xy, xz, yz) in _SOLIDS[name]:
        inverse = np.linalg.inv(5 * np.array(((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))))
        reach = np.sqrt(5 * np.array((xx, yy, zz)) * 1.7)
        low = [np.abs(xyz[0]) - centre[0], xyz[1] - centre[1], xyz[2] - centre[2]]
        index = [np.flatnonzero(np.abs(d).ravel() <= r) for d, r in zip(low, reach, strict=True)]
        d = [np.take(v, i, axis=a) for a, (v, i) in enumerate(zip(low, index, strict=True))]
        value = sum(inverse[a, b] * d[a] * d[b] for a in range(3) for b in range(3))
        where = np.ix_(*index)
        out[where] = np.minimum(out[where], np.asarray(value, np.float32))


def _below_tentorium(xyz: tuple[Array, Array, Array]) -> NDArray[np.bool_]:
    """Where a voxel is cerebellar rather than cerebral: a quadric fitted by logistic regression."""
    x, y, z = np.abs(xyz[0]) / 50, (xyz[1] + 50) / 50, (xyz[2] + 25) / 50
    linear = -23.8 * x - 12.2 * y - 51.3 * z - 11.1 * x * x - 46.7 * y * y - 5.8 * z * z
    score = linear - 25.4 * x * y - 34.9 * x * z + 32.7 * y * z + 26.8
    return np.asarray((score > 0) & (xyz[2] < 25))


def _brain(step: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Brain labels on the left side's numbers, and the template's brain mask."""
    t1, gm, wm = _template(step)
    xyz = world(t1.shape, step)
    mask = t1 > 0
    sharp = t1 + _SHARPEN * (t1 - ndi.gaussian_filter(t1, 3.0 / step, truncate=3))
    fluid = mask & ((sharp < 0.5) | (gm + wm < 0.5))
    white = ~fluid & (wm > gm)
    labels = np.where(fluid, CSF, np.where(white, 2, 3)).astype(np.uint8) * mask
    cerebellum = mask & ~fluid & _below_tentorium(xyz)
    labels[cerebellum] = np.where(wm[cerebellum] > 0.45, 7, 8)
    best = np.full(t1.shape, 1.0, np.float32)
    for name in _SOLIDS:
        radius = np.full(t1.shape, np.inf, np.float32)
        _solids(name, xyz, radius)
        if name in _FLUID:
            radius[~(mask & (t1 < 0.56))] = np.inf
            radius /= 1.6
        else:
            radius[~mask | (t1 < 0.5)] = np.inf
            if name in _GREY:
                radius[t1 > 0.79] = np.inf
        taken = radius < best
        labels[taken] = _LEFT_OF[name]
        best[taken] = radius[taken]
    return labels, mask


def build(step: int = 1) -> Anatomy:
    """Label map of a whole head at about age 40.

    Parameters
    ----------
    step : int
        Voxel size in mm: 1, or 2 for quick tests.

    Returns
    -------
    Anatomy
    """
    labels, mask = _brain(step)
    xyz = world(labels.shape, step)
    labels = head.surround(labels, mask, xyz, step)
    right = np.arange(256, dtype=np.uint8)
    for left_index, right_index in _RIGHT_OF.items():
        right[left_index] = right_index
    half = xyz[0].ravel() > 0
    labels[half] = right[labels[half]]
    return Anatomy(labels, step)
