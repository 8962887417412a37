"""The brain on the template by the affine alone."""

import numpy as np
from test_modulate import transform  # noqa: F401 - a fixture

from bids_brainage.image import io
from bids_brainage.image.linear import moved, place
from bids_brainage.image.register import affine_of, rotation
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.workflows.participant import plan


def blob(grid, centre, width):
    points = np.indices(grid.shape).transpose(1, 2, 3, 0) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.exp(-(((points - centre) / width) ** 2).sum(-1)).astype(np.float32)


def test_points_go_where_the_affine_takes_them():
    native = io.Grid((60, 50, 55), np.diag([2.0, 2.2, 2.4, 1]))
    native.affine[:3, 3] = (-60, -50, -70)
    affine = np.eye(4)
    affine[:3, :3] = rotation(10, -15, 5) * 1.1
    affine[:3, 3] = (3, -4, 5)
    grid = io.Grid((80, 80, 80), np.diag([1.5, 1.5, 1.5, 1]))
    grid.affine[:3, 3] = (-60, -60, -60)
    there = np.array([8.0, 3, -6])
    source = blob(native, affine[:3, :3] @ there + affine[:3, 3], 20)
    found = moved(io.Volume(source, native.affine), affine, grid)
    centre = grid.affine[:3, :3] @ np.array(np.unravel_index(found.argmax(), grid.shape)) + grid.affine[:3, 3]
    assert np.abs(centre - there).max() <= 1.5
    assert np.abs(found - blob(grid, there, 20 / 1.1)).max() < 0.03
    assert found.min() >= 0
    assert found.max() <= source.max()


def test_the_stage_masks_and_uses_the_affine_part_alone(transform, tmp_path):  # noqa: F811
    native = template(DEFAULT, 2.0).grid
    affine = affine_of(transform)
    there = np.array([20.0, -20, 20])
    shape = blob(native, affine[:3, :3] @ there + affine[:3, 3], 15)
    mask = shape > 0.2
    scan = io.save(tmp_path / "scan.nii.gz", shape + 1, native.affine)
    made = place(
        scan, io.save(tmp_path / "mask.nii.gz", mask, native.affine), transform, template=DEFAULT, out=tmp_path
    )
    found, grid = io.read(made.t1w_mni_affine), template(DEFAULT, 1.0).grid
    assert io.same_grid(found.grid, grid)
    expected = blob(grid, there, 15 / 0.9)
    inside, outside = expected > 0.5, expected < 0.1
    assert np.abs(found.data[inside] - expected[inside] - 1).max() < 0.03
    assert not found.data[outside].any()


def test_it_runs_only_for_a_model_that_needs_it():
    assert "linear" not in [stage.name for stage in plan({"muse_volumes", "sex"})]
    chosen = [stage.name for stage in plan({"t1w_mni_affine"})]
    assert chosen == ["conform", "brain", "n4", "register", "linear"]
