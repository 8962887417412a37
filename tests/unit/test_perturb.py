"""Each change of a scan does what its name says, and says truly where points of the world go."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks import perturb
from bids_brainage.image import masks
from bids_brainage.image.io import Grid, Volume
from bids_brainage.training.stripped import strip

QUICK = settings(max_examples=12)
AFFINE = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), [-47, -55, -41])
SHAPE = (48, 56, 44)
ANGLES = st.floats(-30, 30)
AXES = st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), perturb.OBLIQUE])
MILLIMETRES = st.tuples(*[st.floats(-6, 6)] * 3)


def world(grid):
    """World coordinates of all voxels, last axis x, y, z."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def ellipsoid(grid, radii, centre=(0, 0, 0)):
    return (((world(grid) - centre) / radii) ** 2).sum(axis=-1) < 1


def head():
    """A head of no symmetry in air: scalp 60, a brain of 100 with a bright spot; and the brain's mask."""
    grid = Grid(SHAPE, AFFINE)
    brain = ellipsoid(grid, (24, 30, 20), (0, -2, 4))
    data = 60.0 * ellipsoid(grid, (32, 40, 34)) + 40.0 * brain
    data += 100.0 * ellipsoid(grid, (5, 5, 5), SPOT)
    return Volume(ndimage.gaussian_filter(data, 0.7).astype(np.float32), AFFINE), brain


SPOT = np.array([8.0, 14.0, 6.0])
SCAN, BRAIN = head()


def spot(volume):
    """World position of the bright spot: the centre of mass of what exceeds 150."""
    weight = np.maximum(volume.data - 150, 0)
    return (world(volume.grid) * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()


def inside(data, by=4):
    return data[(slice(by, -by),) * 3]


@QUICK
@given(ANGLES, AXES)
def test_turning_there_and_back_restores_the_scan(degrees, axis):
    there = perturb.turn(SCAN, degrees, axis)
    back = perturb.sample(there.volume, SCAN.grid, np.linalg.inv(there.move))
    assert np.abs(inside(back.data - SCAN.data)).max() < 8
    assert np.corrcoef(back.data.ravel(), SCAN.data.ravel())[0, 1] > 0.999


@QUICK
@given(st.one_of(st.floats(8, 30), st.floats(-30, -8)), AXES)
def test_the_turned_landmark_is_where_the_transform_says(degrees, axis):
    changed = perturb.turn(SCAN, degrees, axis)
    expected = changed.move[:3, :3] @ spot(SCAN) + changed.move[:3, 3]
    assert np.linalg.norm(spot(changed.volume) - expected) < 0.15
    assert np.linalg.norm(expected - spot(SCAN)) > 0.5


def test_turning_is_right_handed_about_the_named_axis():
    move = perturb.rotation(90, (0, 0, 1), (1, 0, 0))
    assert np.allclose(move @ [2, 0, 5, 1], [1, 1, 5, 1])


def test_chin_up_lifts_the_front_and_chin_down_lowers_it():
    front = np.array([0.0, 40.0, 0.0, 1.0])
    assert (perturb.CHANGES["chin-up-30"].call(SCAN, BRAIN).move @ front)[2] > 10
    assert (perturb.CHANGES["chin-down-30"].call(SCAN, BRAIN).move @ front)[2] < -10


@QUICK
@given(MILLIMETRES)
def test_the_shifted_landmark_moved_by_as_much(millimetres):
    changed = perturb.shift(SCAN, millimetres)
    assert np.abs(spot(changed.volume) - spot(SCAN) - millimetres).max() < 0.15


def test_a_shift_by_whole_voxels_moves_values_unchanged():
    changed = perturb.shift(SCAN, (4, 0, -2)).volume
    start = np.rint(np.linalg.solve(AFFINE, changed.affine[:, 3])).astype(int)[:3]
    old = SCAN.data[10:30, 10:30, 10:30]
    new = changed.data[tuple(slice(10 + s - o, 30 + s - o) for s, o in zip((2, 0, -1), start, strict=True))]
    assert np.abs(new - old).max() < 1e-3


@QUICK
@given(ANGLES, AXES, MILLIMETRES)
def test_no_part_of_the_moved_head_leaves_the_grid(degrees, axis, millimetres):
    move = perturb.translation(np.multiply(millimetres, 4)) @ perturb.rotation(degrees, axis, (0, 0, 0))
    moved = perturb.carry(perturb.head_mask(SCAN), AFFINE, move, perturb.grown(SCAN, move))
    assert moved.sum() == pytest.approx(perturb.head_mask(SCAN).sum(), rel=0.01)


@QUICK
@given(ANGLES, AXES)
def test_a_carried_mask_lies_on_the_turned_brain(degrees, axis):
    changed = perturb.turn(SCAN, degrees, axis)
    carried = perturb.carry(BRAIN, AFFINE, changed.move, changed.volume.grid)
    assert masks.dice(carried, changed.volume.data > 80) > 0.97


def test_a_mask_that_is_not_carried_misses_the_turned_brain():
    changed = perturb.turn(SCAN, 30, (0, 0, 1))
    assert masks.dice(perturb.carry(BRAIN, AFFINE, np.eye(4), changed.volume.grid), changed.volume.data > 80) < 0.95


def test_a_header_change_leaves_the_voxels_and_carries_the_mask_exactly():
    changed = perturb.place(SCAN, perturb.rotation(20, perturb.OBLIQUE, (5, 5, 5)))
    assert np.array_equal(changed.volume.data, SCAN.data)
    assert np.array_equal(perturb.carry(BRAIN, AFFINE, changed.move, changed.volume.grid), BRAIN)
    assert not np.allclose(changed.volume.affine, AFFINE)


@pytest.mark.parametrize("codes", ["LPI", "PIR", "ASL"])
def test_another_storage_order_leaves_world_values_identical(codes):
    stored = perturb.reorder(SCAN, codes)
    assert "".join(nib.aff2axcodes(stored.affine)) == codes
    points = np.rint(np.linalg.solve(AFFINE, nib.affines.from_matvec(np.eye(3)) @ _homogeneous(stored.grid)))[:3]
    assert np.array_equal(SCAN.data[tuple(points.astype(int))], stored.data.ravel())


def _homogeneous(grid):
    points = world(grid).reshape(-1, 3)
    return np.vstack([points.T, np.ones(len(points))])


@pytest.mark.parametrize("zooms", [0.7, 1.5, 3, (np.nan, np.nan, 5)])
def test_other_voxels_show_the_same_head_in_the_same_place(zooms):
    changed = perturb.resized(SCAN, zooms)
    wanted = np.where(np.isnan(zooms), 2, zooms)
    assert np.allclose(changed.grid.zooms, wanted)
    assert np.allclose(changed.grid.centre(), SCAN.grid.centre())
    carried = perturb.carry(BRAIN, AFFINE, np.eye(4), changed.grid)
    assert masks.dice(carried, changed.data > 80) > 0.93
    total, before = changed.data.sum() * changed.grid.voxel_volume, SCAN.data.sum() * SCAN.grid.voxel_volume
    assert total == pytest.approx(before, rel=0.02)


def test_the_smallest_scale_of_a_large_voxel_is_averaged_not_picked():
    x = np.indices((40, 40, 40)).sum(axis=0) % 2
    changed = perturb.resized(Volume(100 * x.astype(np.float32), np.eye(4)), 4)
    assert inside(changed.data, 2).std() < 5


def test_a_cut_ends_below_the_brain_and_keeps_the_world():
    changed = perturb.cut(SCAN, BRAIN, 10)
    lost = SHAPE[2] - changed.data.shape[2]
    assert lost == np.flatnonzero(BRAIN.any(axis=(0, 1)))[0] - 5
    assert lost > 0
    assert np.array_equal(changed.data, SCAN.data[:, :, lost:])
    assert np.allclose(spot(changed), spot(SCAN), atol=0.01)


def test_a_close_cut_keeps_the_whole_brain():
    changed = perturb.cut(SCAN, BRAIN, 4, 4)
    carried = perturb.carry(BRAIN, AFFINE, np.eye(4), changed.grid)
    assert carried.sum() == BRAIN.sum()
    assert changed.data.shape == tuple(n + 4 for n in np.ptp(np.argwhere(BRAIN), axis=0) + 1)


def test_more_air_surrounds_the_same_values():
    changed = perturb.padded(SCAN, 7)
    assert changed.data.shape == tuple(n + 8 for n in SHAPE)
    assert np.array_equal(inside(changed.data), SCAN.data)
    assert np.allclose(changed.affine[:3, 3], AFFINE[:3, 3] - 8)


def test_inverting_makes_the_bright_spot_dark_and_leaves_air_as_asked():
    dark, bright = perturb.inverted(SCAN), perturb.inverted(SCAN, bright_background=True)
    at = tuple(np.rint(np.linalg.solve(AFFINE, [*SPOT, 1])[:3]).astype(int))
    for changed in (dark, bright):
        assert changed.data[at] < 0.1 * changed.data[BRAIN].mean()
    assert dark.data[0, 0, 0] == 0
    assert bright.data[0, 0, 0] == bright.data.max() > 100


@given(st.floats(0.001, 1000), st.floats(-100, 100))
@QUICK
def test_a_scaled_scan_is_a_straight_line_of_the_old(factor, offset):
    changed = perturb.scaled(SCAN, factor, offset).data
    assert np.allclose(changed, factor * SCAN.data + offset, rtol=1e-5, atol=1e-3)


def test_a_standardised_scan_has_mean_0_and_deviation_1():
    data = perturb.standardised(SCAN).data
    assert data.mean() == pytest.approx(0, abs=1e-3)
    assert data.std() == pytest.approx(1, abs=1e-3)


@QUICK
@given(st.floats(1, 15), st.integers(0, 1000))
def test_the_noise_is_as_strong_as_asked(deviation, seed):
    changed = perturb.rician(SCAN, deviation, seed)
    inner = SCAN.data > 90
    assert (changed.data - SCAN.data)[inner].std() == pytest.approx(deviation, rel=0.05)
    assert changed.data[:6].mean() == pytest.approx(np.sqrt(np.pi / 2) * deviation, rel=0.03)


def test_noise_of_one_seed_is_the_same_and_of_two_is_not():
    one, other = perturb.rician(SCAN, 5, 1).data, perturb.rician(SCAN, 5, 2).data
    assert np.array_equal(one, perturb.rician(SCAN, 5, 1).data)
    assert not np.array_equal(one, other)


def test_the_level_of_white_matter_is_found_among_grey_matter_and_outliers():
    rng = np.random.default_rng(0)
    grey, white, vessels = rng.normal(60, 6, 50_000), rng.normal(100, 5, 40_000), rng.normal(240, 5, 300)
    data = np.concatenate([grey, white, vessels]).astype(np.float32)[:, None, None]
    volume = Volume(data, np.eye(4))
    assert perturb.white_matter_level(volume, np.ones(data.shape, bool)) == pytest.approx(100, abs=3)


@QUICK
@given(st.floats(0.1, 0.9), st.integers(0, 1000))
def test_a_bias_field_is_smooth_and_spans_what_was_asked(strength, seed):
    flat = Volume(np.ones((30, 32, 34), np.float32), AFFINE)
    field = perturb.biased(flat, strength, seed).data
    assert field.min() == pytest.approx(1 - strength, abs=1e-4)
    assert field.max() == pytest.approx(1 + strength, abs=1e-4)
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.35 * strength


def test_stripping_leaves_the_brain_alone():
    tight, loose = strip(SCAN, BRAIN), strip(SCAN, BRAIN, 4)
    assert np.array_equal(tight.data != 0, BRAIN & (SCAN.data != 0))
    assert np.array_equal(tight.data[BRAIN], SCAN.data[BRAIN])
    kept = loose.data != 0
    assert np.array_equal(kept, masks.dilate(BRAIN, 4, SCAN.grid.zooms))


def test_defacing_takes_the_front_below_and_nothing_of_the_brain():
    changed = perturb.defaced(SCAN, BRAIN)
    gone = changed.data != SCAN.data
    assert gone.sum() > 0.02 * perturb.head_mask(SCAN).sum()
    assert not (gone & masks.dilate(BRAIN, 4.9, SCAN.grid.zooms)).any()
    where = world(SCAN.grid)[gone]
    assert (where[:, 1] - where[:, 2]).min() > 20
    assert (changed.data[gone] == 0).all()


@pytest.mark.parametrize("name", perturb.CHANGES)
def test_every_named_change_gives_a_usable_scan_over_the_brain(name):
    change = perturb.CHANGES[name]
    changed = change.call(SCAN, BRAIN)
    assert np.isfinite(changed.volume.data).all()
    carried = perturb.carry(BRAIN, AFFINE, changed.move, changed.volume.grid)
    assert carried.sum() * changed.volume.grid.voxel_volume == pytest.approx(BRAIN.sum() * 8, rel=0.08)
    same = changed.volume.data.shape == SCAN.data.shape and np.array_equal(changed.volume.data, SCAN.data)
    moves_no_value = name.startswith(("threads", "origin", "oblique")) or name == "voxel-2"  # the head has 2 mm voxels
    assert np.isclose(changed.volume.data, SCAN.data, atol=1e-3).all() if moves_no_value else not same
