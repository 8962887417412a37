"""Volumes are calibrated by the size of the voxels, and what large voxels do is learned from other people's heads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_brainage.core.errors import UsageError
from bids_brainage.image.calibration import MINIMUM, Lines, logarithm, no_lines
from bids_brainage.image.io import Volume, save
from bids_brainage.models.registry import PACKAGED
from bids_brainage.training.agreement import Judged, Measured, calibration
from bids_brainage.training.atlas import build
from bids_brainage.training.coarse import EDGES, judge_coarse, lines, resized

VOLUMES = arrays(np.float64, 146, elements=st.floats(100, 1e5))
SIZES = arrays(np.float32, (3, 146), elements=st.floats(-1, 1, width=32))


def three(intercept: np.ndarray) -> Lines:
    """Voxels of 2, 3 and 5 mm whose lines differ in their level and, by a tenth of that, in their slope."""
    return Lines(np.array([2, 3, 5], np.float32), intercept, 1 + intercept / 10)


def judged_of(raw: np.ndarray, reference: np.ndarray) -> Judged:
    """Heads as they were measured; what is told of them does not matter here."""
    return Judged(reference, np.ones_like(raw), reference, [Measured(own, own, own, own, 1.0) for own in raw])


@given(VOLUMES, st.floats(0.3, 9))
def test_without_lines_volumes_stay(volumes, edge):
    assert np.allclose(no_lines().volumes(logarithm(volumes), edge), volumes, rtol=1e-6)


@given(arrays(np.float64, 146, elements=st.floats(0, 100)))
def test_no_volume_counts_for_less_than_a_voxel(volumes):
    assert np.allclose(np.exp(logarithm(volumes)), np.maximum(volumes, MINIMUM))


@settings(max_examples=25)
@given(SIZES, st.floats(0, 1), st.floats(0, 1))
def test_between_two_sizes_the_line_lies_between_and_beyond_them_it_stays(intercept, low, high):
    found = three(intercept)
    for size, edge in enumerate((2, 3, 5)):
        assert np.allclose(found.at(edge), [found.intercept[size], found.slope[size]], atol=1e-6)
    assert np.array_equal(found.at(2 * low), found.at(2))
    assert np.array_equal(found.at(5 + 4 * high), found.at(5))
    assert np.allclose(found.at(3 + 2 * high), (1 - high) * found.at(3) + high * found.at(5), atol=1e-6)


@settings(max_examples=25)
@given(arrays(np.float64, (6, 146), elements=st.floats(100, 1e5)), st.floats(0.8, 1.3), st.floats(0.7, 1.4))
def test_what_large_voxels_do_to_all_alike_is_undone(raw, three_mm, five_mm):
    coarse = raw[:, None] * np.array([three_mm, five_mm])[:, None]
    found = lines(judged_of(raw, 1.1 * raw), coarse)
    for edge, measured in zip((1, 2, *EDGES), (raw, raw, *coarse.swapaxes(0, 1)), strict=True):
        assert np.allclose(found.volumes(logarithm(measured[0]), edge), 1.1 * raw[0], rtol=2e-3)


def test_voxels_that_widen_small_ventricles_alone_get_a_steeper_line():
    """Young ventricles seem a third larger, those of the old what they are; a mean shift would be wrong in both."""
    raw = np.tile(np.geomspace(5e3, 8e4, 12)[:, None], 146)
    wide = raw * 1.33 ** (1 - np.log(raw / 5e3) / np.log(16))
    found = lines(judged_of(raw, raw), np.stack([raw, wide], axis=1))
    told = np.array([found.volumes(logarithm(one), 5)[0] for one in wide])
    assert np.abs(told / raw[:, 0] - 1).max() < 0.06
    assert np.abs(wide[:, 0] / raw[:, 0] * raw.mean() / wide.mean() - 1).max() > 0.15


def test_large_voxels_are_judged_by_the_heads_of_other_people():
    """Two heads of one person shrink by half, those of others by a tenth: neither is told what its own person shows."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(2000, 2100, (5, 146))
    who = np.array([0, 0, 1, 2, 3])
    shrink = np.array([0.5, 0.5, 0.9, 0.9, 0.9])[:, None, None]
    found = judge_coarse(judged_of(raw, raw), raw[:, None] * np.repeat(shrink, 2, axis=1), who)
    assert found.shape == (5, 2, 146)
    assert np.allclose(found[:2] / raw[:2, None], 0.5 / 0.9, rtol=0.03)
    alike = calibration(raw[2:] * 0.9, raw[2:])
    assert np.allclose(found[0, 0], np.exp(alike[0] + alike[1] * np.log(0.5 * raw[0])), rtol=1e-4)


def test_a_head_in_larger_voxels_lies_where_it_lay():
    scan = np.zeros((60, 64, 58), np.float32)
    scan[20:38, 14:44, 22:40] = 100
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -30, -20, -10
    for edge in EDGES:
        made = resized(Volume(scan, affine), edge)
        assert np.allclose(made.grid.zooms, edge)
        where = np.argwhere(made.data > 50) @ made.affine[:3, :3].T + made.affine[:3, 3]
        assert np.abs(where.mean(axis=0) - [-1.5, 8.5, 20.5]).max() < edge / 3
        assert made.data.sum() * edge**3 == pytest.approx(scan.sum(), rel=0.03)


def test_no_atlas_is_made_of_heads_in_large_voxels(tmp_path):
    """Refused before any work; what larger voxels do could not be learned from them."""
    heads = []
    for name, zoom in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        t1w = save(tmp_path / f"{name}.nii.gz", np.ones((40, 40, 40), np.float32), np.diag([1, 1, zoom, 1]))
        heads.append((f"sub-{name}", t1w, t1w))
    with pytest.raises(UsageError, match="less than 3 mm, sub-c has larger ones; leave out"):
        build(heads, tmp_path / "out", work=tmp_path / "work", segment_bundle=PACKAGED / "segment")
    assert not (tmp_path / "work").exists()
