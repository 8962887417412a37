"""Resampling keeps what the world space says; masks keep what their names say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_brainage.core.errors import ScanError
from bids_brainage.image import io, masks

SOME = settings(max_examples=25)
small = st.floats(-3, 3)


def grid(shape=(24, 26, 22), zooms=(2.0, 2.0, 2.0), origin=(-20.0, -30.0, -10.0), angle=0.0):
    affine = np.eye(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn * zooms
    affine[:3, 3] = origin
    return io.Grid(shape, affine)


def ramp(where, slope):
    """Values that are linear in world coordinates."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in where.shape], indexing="ij"), -1)
    points = index @ where.affine[:3, :3].T + where.affine[:3, 3]
    return (points @ np.asarray(slope) + 7).astype(np.float32)


@SOME
@given(
    slope=st.tuples(small, small, small),
    zooms=st.tuples(*[st.floats(0.8, 4.0)] * 3),
    shift=st.tuples(small, small, small),
    angle=st.sampled_from([0.0, 0.0, 0.2, -0.6]),
    cubic=st.booleans(),
)
def test_linear_values_survive_any_grid(slope, zooms, shift, angle, cubic):
    """Inside, away from the edges, resampling puts a linear function of mm onto itself."""
    source = grid()
    middle = source.centre() + shift
    target = io.centred(grid(angle=angle), middle, 1.0, (9, 8, 7))
    target = io.Grid((5, 5, 5), target.affine @ np.diag([*zooms, 1]))
    got = io.resample(io.Volume(ramp(source, slope), source.affine), target, cubic=cubic)
    inside = ramp(target, (1, 0, 0)), ramp(target, (0, 1, 0)), ramp(target, (0, 0, 1))
    low, high = np.array(source.affine[:3, 3]) + 9, source.affine[:3] @ [*(np.array(source.shape) - 1), 1] - 9
    safe = np.all([(v - 7 > a) & (v - 7 < b) for v, a, b in zip(inside, low, high, strict=True)], axis=0)
    assert np.abs(got - ramp(target, slope))[safe].max(initial=0) < 0.02 * (1 + np.abs(slope).sum())


@SOME
@given(
    flip=st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, -1)]),
    origin=st.tuples(*[st.floats(-90, 90)] * 3),
    angle=st.sampled_from([0.0, 0.3, -0.7]),
    parts=st.integers(1, 3),
)
def test_a_mask_is_kept_up_to_the_edge_of_its_outer_voxels(flip, origin, angle, parts):
    """The same field of view, flipped or in smaller voxels, loses no slice of a head that reaches its border."""
    source = grid(origin=origin, angle=angle)
    ones = io.Volume(np.ones(source.shape, np.uint8), source.affine)
    size = np.array(source.shape) * parts
    scale = np.array(flip) / parts
    start = np.where(scale > 0, (scale - 1) / 2, size / parts - 0.5 + scale / 2)
    affine = source.affine @ np.vstack([np.column_stack([np.diag(scale), start]), [0, 0, 0, 1]])
    assert io.resample(ones, io.Grid(tuple(size), affine), nearest=True).all()


def test_larger_voxels_average_smaller_ones():
    """A checkerboard at 1 mm is flat at 4 mm, where points alone would alias it."""
    source = grid((48, 48, 48), (1.0, 1.0, 1.0))
    board = (np.indices(source.shape).sum(0) % 2).astype(np.float32)
    coarse = io.Grid((12, 12, 12), source.affine @ np.diag([4.0, 4, 4, 1]))
    values = io.resample(io.Volume(board, source.affine), coarse)
    assert np.abs(values[1:-1, 1:-1, 1:-1] - 0.5).max() < 1e-3
    assert np.abs(io.resample(io.Volume(board, source.affine), coarse, antialias=False) - 0.5).max() > 0.1


def test_nothing_is_invented_outside_the_field_of_view():
    source = grid()
    wide = io.centred(source, source.centre(), 2.0, (40, 40, 40))
    values = io.resample(io.Volume(np.ones(source.shape, np.float32), source.affine), wide)
    assert values.sum() == pytest.approx(np.prod(source.shape), rel=1e-5)
    turned = io.centred(grid(angle=0.3), source.centre() + 500, 2.0, (10, 10, 10))
    assert not io.resample(io.Volume(np.ones(source.shape, np.float32), source.affine), turned).any()


def test_labels_stay_labels():
    source = grid()
    labels = np.random.default_rng(0).integers(0, 200, source.shape).astype(np.uint8)
    flipped = io.Grid(source.shape, source.affine @ np.diag([-1.0, 1, 1, 1]))
    flipped.affine[:3, 3] = (source.affine @ [source.shape[0] - 1, 0, 0, 1])[:3]
    assert np.array_equal(io.resample(io.Volume(labels, source.affine), flipped, nearest=True), labels[::-1])
    turned = io.resample(io.Volume(labels, source.affine), grid(angle=0.4), nearest=True)
    assert turned.dtype == np.uint8
    assert set(np.unique(turned)) <= {0, *np.unique(labels)}


def test_what_is_written_is_read(tmp_path):
    where = grid(angle=0.3)
    values = ramp(where, (1, 2, 3))
    back = io.read(io.save(tmp_path / "a.nii.gz", values, where.affine))
    assert np.array_equal(back.data, values)
    assert np.allclose(back.affine, where.affine, atol=1e-5)
    assert io.same_grid(io.read_grid(tmp_path / "a.nii.gz"), where)
    chance = np.random.default_rng(0).dirichlet(np.ones(4), where.shape).astype(np.float32)
    path = io.save_probability(tmp_path / "p.nii.gz", chance, where.affine)
    assert np.abs(io.read(path).data - chance).max() < 0.5 / 255 + 1e-6
    first = path.read_bytes()
    assert io.save_probability(tmp_path / "p.nii.gz", chance, where.affine).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "p.nii.gz"]


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"nothing")
    for reader in (io.read, io.read_grid):
        with pytest.raises(ScanError, match=r"a\.nii\.gz: cannot be read"):
            reader(path)


def test_windows_keep_the_world():
    source = io.Volume(ramp(grid(), (1, 0, 0)), grid().affine)
    part = io.window(source, (-3, 4, 20), (8, 6, 5))
    assert part.data.shape == (8, 6, 5)
    assert not part.data[:3].any()
    assert np.allclose(part.data[3:, :, :2], ramp(part.grid, (1, 0, 0))[3:, :, :2])


def test_standardised_scans_become_positive():
    rng = np.random.default_rng(0)
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = rng.normal(size=(10, 10, 10))
    lifted = io.nonnegative(data)
    assert lifted.min() == 0
    assert not lifted[0].any()
    assert (lifted[5:15, 5:15, 5:15] > 0).mean() > 0.98
    assert np.array_equal(io.nonnegative(np.abs(data)), np.abs(data))


def hollow_ball(radius=8.0):
    distance = np.sqrt(((np.indices((24, 24, 24)) - 12.0) ** 2).sum(0))
    return (distance < radius) & (distance > 3), distance < radius


def test_mask_operations():
    shell, ball = hollow_ball()
    shell[0, 0, 0:2] = True
    assert np.array_equal(masks.fill_holes(masks.largest_component(shell)), ball)
    assert np.array_equal(masks.solid(shell), ball)
    assert masks.dice(ball, ball) == 1
    assert masks.dice(ball, ~ball) == 0
    assert not masks.solid(np.zeros((5, 5, 5), bool)).any()
    open_shell = shell.copy()
    open_shell[12, 12] = False
    assert not masks.fill_holes(open_shell)[12, 12, 12]


@SOME
@given(st.floats(0.5, 6.0), st.tuples(*[st.floats(0.7, 3.0)] * 3))
def test_dilation_is_a_distance_in_mm(reach, zooms):
    point = np.zeros((31, 31, 31), bool)
    point[15, 15, 15] = True
    distance = np.sqrt((((np.indices(point.shape).T - 15) * zooms) ** 2).sum(-1)).T
    assert np.array_equal(masks.dilate(point, reach, np.asarray(zooms)), distance <= reach + 1e-6)


def test_cubic_interpolation_keeps_what_linear_blurs_and_stays_in_range():
    """A head stored at 0.7 mm and brought back to its own 2 mm voxels is the same head."""
    source = grid((40, 42, 38), (2.0, 2.0, 2.0))
    rng = np.random.default_rng(3)
    head = ndimage.gaussian_filter(rng.random(source.shape), 1.0).astype(np.float32)
    head = np.clip(head - head.mean(), 0, None)
    fine = io.spaced(source, 0.7)
    lost = []
    for cubic in (True, False):
        there = io.resample(io.Volume(head, source.affine), fine, cubic=cubic)
        back = io.resample(io.Volume(there, fine.affine), source, cubic=cubic)
        assert back.min() >= 0
        assert back.max() <= head.max()
        lost.append(np.abs(back - head)[6:-6, 6:-6, 6:-6].mean())
    assert lost[0] < 0.5 * lost[1]


@SOME
@given(parts=st.integers(1, 4), zooms=st.tuples(*[st.floats(0.8, 4.0)] * 3), angle=st.sampled_from([0.0, 0.3]))
def test_a_grid_refines_another_where_each_voxel_is_divided(parts, zooms, angle):
    coarse = grid((8, 9, 7), zooms, angle=angle)
    x, y, z = (size * parts for size in coarse.shape)
    corner = coarse.affine @ np.array([*[(1 / parts - 1) / 2] * 3, 1])
    affine = coarse.affine @ np.diag([*[1 / parts] * 3, 1])
    affine[:3, 3] = corner[:3]
    fine = io.Grid((x, y, z), affine)
    assert io.refines(fine, coarse)
    assert io.refines(coarse, fine) == (parts == 1)
    assert not io.refines(io.Grid((x, y, z - 1), affine), coarse)
    moved = affine.copy()
    moved[0, 3] += 0.1
    assert not io.refines(io.Grid((x, y, z), moved), coarse)


def test_traces_of_interpolation_in_the_air_lift_nothing():
    """A stripped scan that was resampled by splines rings into the air, a third of it below 0."""
    rng = np.random.default_rng(0)
    data = rng.normal(0, 0.2, (30, 30, 30)).astype(np.float32)
    data[8:22, 8:22, 8:22] = 100
    assert np.array_equal(io.nonnegative(data), np.maximum(data, 0))
    held = io.occupied(data)
    assert held.sum() == 14**3
    standardised = (data - data.mean()) / data.std()
    assert io.nonnegative(standardised)[8:22, 8:22, 8:22].min() > 0


def test_what_is_dark_within_is_no_part_that_was_taken_away():
    """Ventricles that somebody's rescaling made 0 are tissue; a slab that was cut off is not."""
    where = np.indices((40, 40, 40)) - 20
    inside = np.linalg.norm(where, axis=0) < 17
    ventricle = np.linalg.norm(where, axis=0) < 6
    data = np.where(inside, 100.0, 0).astype(np.float32)
    data[ventricle] = 0
    data[..., 28:] = 0
    nothing = io.empty(io.Volume(data, np.eye(4)), inside)
    assert nothing[..., 28:].sum() == inside[..., 28:].sum()
    assert not nothing[ventricle].any()


def test_the_thin_rim_that_stripping_leaves_empty_is_found_whole():
    """Some voxels thick, as between a brain and the skull; an opening alone keeps little of it."""
    distance = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0)
    inside, brain = distance < 24, distance < 21.5
    rng = np.random.default_rng(0)
    data = np.where(brain, rng.uniform(50, 100, brain.shape), 0).astype(np.float32)
    nothing = io.empty(io.Volume(data, np.eye(4)), inside)
    assert nothing[inside & ~brain].mean() > 0.99
    assert not nothing[brain].any()
    data[distance < 5] = 0
    again = io.empty(io.Volume(data, np.eye(4)), inside)
    assert np.array_equal(again, nothing)
