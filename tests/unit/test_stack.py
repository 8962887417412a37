"""Maps of many people on disk."""

import numpy as np
import pytest

from bids_brainage.core.errors import ScanError
from bids_brainage.image import stack as module
from bids_brainage.image.io import Grid, save
from bids_brainage.image.stack import Stack, read_map

GRID = Grid((5, 6, 7), np.diag([1.5, 1.5, 1.5, 1.0]))


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """Seven people with values at most voxels of a mask, and the same as an array."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 4 * 30)
    rng = np.random.default_rng(0)
    inside = rng.random(GRID.shape) < 0.8
    data = rng.normal(50, 9, (7, *GRID.shape)).astype(np.float32)
    data[2][tuple(np.argwhere(inside)[5])] = np.nan
    stack = Stack(tmp_path, GRID, inside)
    for values in data:
        stack.append(values, "x")
    held = inside & np.isfinite(data).all(axis=0)
    return stack, data, held


def test_rows_and_chunks_are_the_maps_where_all_have_values(filled):
    stack, data, held = filled
    assert np.array_equal(stack.mask, held)
    assert stack.n_voxels == held.sum()
    people = [1, 4, 6, 2]
    assert np.array_equal(list(stack.rows(people)), data[people][:, held])
    chunks = list(stack.chunks(people))
    assert len(chunks) > 3
    assert np.array_equal(np.hstack(chunks), data[people][:, held])


def test_a_volume_has_its_values_in_place(filled):
    stack, data, held = filled
    made = stack.volume(data[3][held])
    assert np.array_equal(made[held], data[3][held])
    assert np.isnan(made[~held]).all()


def test_nothing_is_left_on_disk(filled, tmp_path):
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_covers_too_little_is_refused_and_not_added(filled):
    stack, data, held = filled
    part = data[0].copy()
    part[:2] = np.nan
    with pytest.raises(ScanError, match=r"sub-7: covers \d+ %"):
        stack.append(part, "sub-7")
    assert stack.n == 7
    assert stack.n_voxels == held.sum()


def test_a_map_on_another_grid_or_without_values_is_named(tmp_path):
    good = save(tmp_path / "good.nii.gz", np.ones(GRID.shape, np.float32), GRID.affine)
    moved = save(tmp_path / "moved.nii.gz", np.ones(GRID.shape, np.float32), np.eye(4))
    blank = save(tmp_path / "blank.nii.gz", np.zeros(GRID.shape, np.float32), GRID.affine)
    assert np.array_equal(read_map(good, GRID).data, np.ones(GRID.shape))
    with pytest.raises(ScanError, match=r"moved\.nii\.gz: lies on another grid"):
        read_map(moved, GRID)
    with pytest.raises(ScanError, match=r"blank\.nii\.gz: holds no value"):
        read_map(blank, GRID)


def test_zero_is_no_age(tmp_path):
    data = np.full(GRID.shape, 40, np.float32)
    data[0, 0, 0] = 0
    assert np.isnan(read_map(save(tmp_path / "m.nii.gz", data, GRID.affine)).data[0, 0, 0])
