"""Modulated maps keep volume: where the warp shrinks a region, the map is bright in the same measure."""

import ants
import numpy as np
import pytest

from bids_brainage.image.io import Volume, read, save_probability
from bids_brainage.image.modulate import modulate, volume_change
from bids_brainage.image.register import affine_of, as_ants, displacement
from bids_brainage.image.template import DEFAULT, template

GROWTH = 0.25


@pytest.fixture(scope="module")
def transform(tmp_path_factory):
    """A composite of an affine (scaled, turned, moved) and a smooth local warp, as the registration writes it."""
    folder = tmp_path_factory.mktemp("xfm")
    grid = template(DEFAULT, 2.0).grid
    points = np.indices(grid.shape).transpose(1, 2, 3, 0) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    away = points - [20, -20, 20]
    field = GROWTH * away * np.exp(-(away**2).sum(-1, keepdims=True) / (2 * 25**2))
    image = as_ants(Volume(np.zeros(grid.shape, np.float32), grid.affine))
    warp = ants.from_numpy(
        (field * [-1, -1, 1]).astype(np.float32),
        origin=image.origin,
        spacing=image.spacing,
        direction=image.direction,
        has_components=True,
    )
    angle = np.deg2rad(8)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) * 0.9
    affine = ants.create_ants_transform("AffineTransform", dimension=3, matrix=matrix, translation=[3, -4, 5])
    both = ants.compose_ants_transforms([ants.transform_from_displacement_field(warp), affine])
    ants.write_transform(both, str(folder / "xfm.h5"))
    return folder / "xfm.h5"


def test_the_affine_part_is_found(transform):
    assert np.linalg.det(affine_of(transform)[:3, :3]) == pytest.approx(0.9**3, rel=1e-4)


def test_the_determinant_is_that_of_the_warp_alone(transform):
    grid = template(DEFAULT, 1.5).grid
    found = volume_change(displacement(transform, grid), grid) / np.linalg.det(affine_of(transform)[:3, :3])
    centre = np.rint(np.linalg.inv(grid.affine) @ [20, -20, 20, 1]).astype(int)[:3]
    assert found[tuple(centre)] == pytest.approx((1 + GROWTH) ** 3, rel=0.02)
    assert found[2, 2, 2] == pytest.approx(1, abs=0.01)


def test_volume_is_kept(transform, tmp_path):
    grid = template(DEFAULT, 1.0).grid
    points = np.indices(grid.shape).transpose(1, 2, 3, 0) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    radius = np.linalg.norm(points - [10, -15, 15], axis=-1)
    tissue = [np.clip((size - radius) / 4, 0, 1).astype(np.float32) for size in (45, 30)]
    native = [save_probability(tmp_path / f"{i}.nii.gz", part, grid.affine) for i, part in enumerate(tissue)]
    made = modulate(*native, transform, template=DEFAULT, out=tmp_path)
    scale = np.linalg.det(affine_of(transform)[:3, :3])
    for path, before in zip(made, tissue, strict=True):
        after = read(path)
        assert after.grid.zooms == pytest.approx([1.5] * 3)
        assert after.data.sum() * after.grid.voxel_volume * scale == pytest.approx(before.sum(), rel=0.02)
