"""Affine and SyN registration of a brain to a template, and what one asks of the transforms."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import ants
import nibabel as nib
import numpy as np
import pandas as pd
from ants.internal import get_pointer_string
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import copy
from bids_brainage.image.classes import GREY, WHITE
from bids_brainage.image.io import Grid, Volume, read, resample, save, shifted, spaced
from bids_brainage.image.masks import bounding_box
from bids_brainage.image.template import Template
from bids_brainage.image.template import template as load_template

WORKING_MM = 2.0
COARSE_MM = 8.0
CHECKED_MM = 4.0
ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Channels(NamedTuple):
    """A brain as the registration sees it: T1w (0 to about 1), grey and white matter; one grid, 0 outside."""

    t1w: Volume
    gm: Volume
    wm: Volume


class Registered(NamedTuple):
    """Transforms of a scan to a template and back, and how well they fit.

    Attributes
    ----------
    xfm_forward, xfm_inverse : Path
        ANTs composite transforms (.h5): T1w to template, template to T1w.
    t1w_mni : Path
        The corrected brain on the template's 1 mm grid.
    measures : mapping
        Of :mod:`bids_brainage.core.quality`.
    """

    xfm_forward: Path
    xfm_inverse: Path
    t1w_mni: Path
    measures: Mapping[str, float]


def register(
    t1w_preproc: Path,
    brain_mask: Path,
    posteriors: Path,
    *,
    template: str,
    out: Path,
    seed: int = 0,
    threads: int = 1,
) -> Registered:
    """Register a scan's brain to a template: pose search, affine, then SyN (Avants et al. 2008) on three channels.

    The masked T1w leads by mutual information; grey and white matter posteriors are matched to the template's
    tissue maps by mean squares, which holds on where ventricles are large. All works at 2 mm.

    Parameters
    ----------
    t1w_preproc, brain_mask : Path
        Bias-corrected scan and brain, native grid.
    posteriors : Path
        Class probabilities of :mod:`bids_brainage.image.classes`.
    template : str
        Name of the template space.
    seed : int
        ANTs' random seed.
    threads : int
        Threads of ITK. ITK reads this once in a process: the first call counts. One thread gives the same bits
        each time.

    Raises
    ------
    ScanError
        Where the brain mask is empty or the registration breaks down.
    """
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    scan, mask = read(t1w_preproc), read(brain_mask, np.uint8).data > 0
    if not mask.any():
        raise ScanError(f"{brain_mask}: the brain mask is empty; check the scan or give a mask")
    moving = channels(scan, mask, read(posteriors))
    fixed = load_template(template, WORKING_MM)
    forward, inverse = align(fixed, moving, out, seed=seed)
    fine = load_template(template, 1.0)
    brain = warp(Volume(scan.data * mask, scan.affine), forward, fine.grid)
    similarity = float(np.corrcoef(brain[fine.mask], fine.t1w[fine.mask])[0, 1])
    if not np.isfinite(similarity):
        raise ScanError(f"{t1w_preproc}: the registration to {template} failed; check the scan and its brain mask")
    t1w_mni = save(out / "t1w_mni.nii.gz", brain.astype(np.float32), fine.grid.affine)
    return Registered(forward, inverse, t1w_mni, {"similarity": similarity} | change(forward, template))


def change(forward: Path, template: str) -> dict[str, float]:
    """Size of the affine part and range of the nonlinear volume change within the template's brain.

    Measures of :mod:`bids_brainage.core.quality`, on the template's 4 mm grid.
    """
    coarse = load_template(template, CHECKED_MM)
    affine = float(np.linalg.det(affine_of(forward)[:3, :3]))
    inside = volume_change(displacement(forward, coarse.grid), coarse.grid)[coarse.mask] / affine
    low, high = (float(np.percentile(inside, share)) for share in (0.1, 99.9))
    return {"affine_determinant": affine, "jacobian_low": low, "jacobian_high": high}


def volume_change(field: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    r"""Determinant of :math:`\nabla(x + u(x))`, central differences; at least 0.

    Parameters
    ----------
    field : array, (x, y, z, 3)
        Displacement :math:`u`, mm along RAS.
    grid : Grid
        Its grid, with axes along RAS.
    """
    step = np.diag(grid.affine)[:3].astype(np.float32)
    rows = [[np.gradient(field[..., i], step[j], axis=j) + np.float32(i == j) for j in range(3)] for i in range(3)]
    (a, b, c), (d, e, f), (g, h, i) = rows
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return np.clip(determinant, 0, None).astype(np.float32)


def channels(scan: Volume, mask: NDArray[np.bool_], posteriors: Volume) -> Channels:
    """The brain on the grid of its posteriors (2 mm)."""
    grid, box = posteriors.grid, bounding_box(mask, margin=4)
    top = max(float(np.percentile(scan.data[mask], 99)), 1e-6)
    brain = np.clip(resample(cropped(Volume(scan.data * mask, scan.affine), box), grid) / top, 0, 1.2)
    inside = resample(cropped(Volume(mask.astype(np.float32), scan.affine), box), grid)
    grey, white = (posteriors.data[..., list(numbers)].sum(axis=-1) * inside for numbers in (GREY, WHITE))
    return Channels(*(Volume(part.astype(np.float32), grid.affine) for part in (brain, grey, white)))


def template_brain(template: Template) -> Channels:
    """A template's brain as the moving image of a registration to another."""
    parts = (template.t1w, template.gm, template.wm)
    return Channels(*(Volume(part * template.mask, template.grid.affine) for part in parts))


def cropped(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """The part of a volume within a box of voxels, at its place in the world."""
    return Volume(volume.data[box], shifted(volume.affine, [part.start for part in box]))


def align(fixed: Template, moving: Channels, out: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Composite transforms ``xfm_forward.h5`` and ``xfm_inverse.h5`` between a brain and a template, in ``out``."""
    target = [as_ants(Volume(part, fixed.grid.affine)) for part in (fixed.t1w, fixed.gm, fixed.wm)]
    source = [as_ants(part) for part in moving]
    pose = find_pose(Volume(fixed.t1w, fixed.grid.affine), moving.t1w)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        start = Path(scratch) / "start.mat"
        ants.write_transform(_affine_transform(pose), str(start))
        arguments = _arguments(target, source, start, f"{scratch}/x", seed)
        try:
            code = ants.registration(fixed=arguments, moving=None)
        except RuntimeError:
            code = 1
        if code != 0:
            raise ScanError(f"{out}: ANTs could not register this scan; check the scan and its brain mask")
        forward = copy(Path(scratch) / "xComposite.h5", out / "xfm_forward.h5")
        inverse = copy(Path(scratch) / "xInverseComposite.h5", out / "xfm_inverse.h5")
    return forward, inverse


def _arguments(target: list[Any], source: list[Any], start: Path, prefix: str, seed: int) -> list[str]:
    """Arguments of antsRegistration: affine at 8 and 4 mm, SyN at 8 and 4 mm."""
    pairs = [f"{get_pointer_string(f)},{get_pointer_string(m)},1" for f, m in zip(target, source, strict=True)]
    affine = ["-t", "Affine[0.2]", "-m", f"Mattes[{pairs[0]},32,Regular,0.2]"]
    affine += ["-c", "[100x20,1e-6,10]", "-s", "2x1", "-f", "4x2"]
    syn = ["-t", "SyN[0.2,3,0]", "-m", f"Mattes[{pairs[0]},32]"]
    syn += [part for pair in pairs[1:] for part in ("-m", f"MeanSquares[{pair}]")]
    syn += ["-c", "[40x20x0,1e-6,8]", "-s", "2x1x0", "-f", "4x2x1"]
    common = ["-d", "3", "-r", str(start), "-o", f"[{prefix}]", "--float", "1", "-z", "1", "-u", "0", "-a", "1"]
    return [*common, "--random-seed", str(seed or 2**31 - 1), *affine, *syn]


def find_pose(fixed: Volume, moving: Volume) -> NDArray[np.float64]:
    """Rigid pose and size (4 x 4, fixed to moving, RAS mm) by a search over head angles: a start for the affine.

    Both images at 8 mm; centres of mass joined, size from the ratio of volumes; all combinations of -40 to 40
    degrees about three axes are tried, the best by correlation is kept.
    """
    small = [_coarse(image) for image in (fixed, moving)]
    centres = [image.affine[:3] @ [*ndimage.center_of_mass(image.data), 1] for image in small]
    volumes = [(image.data > 0.25 * image.data.max()).sum() * image.grid.voxel_volume for image in small]
    size = float(np.clip((volumes[1] / volumes[0]) ** (1 / 3), 0.7, 1.4))
    best, pose = -np.inf, np.eye(4)
    for angles in product(ANGLES, repeat=3):
        trial = np.eye(4)
        trial[:3, :3] = rotation(*angles) * size
        trial[:3, 3] = centres[1] - trial[:3, :3] @ centres[0]
        index = np.linalg.inv(small[1].affine) @ trial @ small[0].affine
        found = ndimage.affine_transform(small[1].data, index[:3, :3], index[:3, 3], small[0].data.shape, order=1)
        score = float(np.corrcoef(found.ravel(), small[0].data.ravel())[0, 1])
        if score > best:
            best, pose = score, trial
    return pose


def _coarse(image: Volume) -> Volume:
    grid = spaced(image.grid, COARSE_MM)
    return Volume(resample(image, grid), grid.affine)


def rotation(x: float, y: float, z: float) -> NDArray[np.float64]:
    """Rotation matrix about the x, then y, then z axis; degrees."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad([x, y, z])):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


def _affine_transform(matrix: NDArray[np.float64]) -> Any:
    lps = LPS @ matrix @ LPS
    return ants.create_ants_transform(
        transform_type="AffineTransform", dimension=3, matrix=lps[:3, :3], translation=lps[:3, 3]
    )


def as_ants(volume: Volume) -> Any:
    """A 3D volume (RAS world) as an ANTs image (LPS world)."""
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return ants.from_numpy(
        np.asarray(volume.data, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=affine[:3, :3] / spacing,
    )


def warp(moving: Volume, transform: Path, grid: Grid, *, nearest: bool = False) -> NDArray[np.float32]:
    """An image carried through a composite transform onto a grid; linear, or nearest neighbour for labels."""
    target = as_ants(Volume(np.zeros(grid.shape, np.float32), grid.affine))
    interpolator = "nearestNeighbor" if nearest else "linear"
    moved = ants.apply_transforms(
        target, as_ants(moving), [str(transform)], interpolator=interpolator, singleprecision=True
    )
    return np.asarray(moved.numpy(), dtype=np.float32)


def displacement(transform: Path, grid: Grid) -> NDArray[np.float32]:
    """Where a transform takes each voxel of a grid, less where it is: ``(x, y, z, 3)``, mm along RAS.

    ``xfm_inverse`` on a native grid leads to the template, ``xfm_forward`` on a template grid to the scan.
    """
    image = as_ants(Volume(np.zeros(grid.shape, np.float32), grid.affine))
    with tempfile.TemporaryDirectory() as scratch:
        path = ants.apply_transforms(image, image, [str(transform)], compose=f"{scratch}/", singleprecision=True)
        field = nib.nifti1.load(path).get_fdata(dtype=np.float32)
    return field.reshape(*grid.shape, 3) * np.array([-1, -1, 1], dtype=np.float32)


def affine_of(transform: Path) -> NDArray[np.float64]:
    """The affine part (4 x 4, RAS mm) of a composite of an affine and a warp that ends within 10 m of the brain."""
    far = 1e4 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]], dtype=np.float64)
    moved = ants.apply_transforms_to_points(3, pd.DataFrame(far, columns=list("xyz")), [str(transform)]).to_numpy()
    solved = np.linalg.solve(np.c_[far, np.ones(4)], moved[:, :3]).T
    return np.asarray(LPS @ np.vstack([solved, [0, 0, 0, 1]]) @ LPS)
