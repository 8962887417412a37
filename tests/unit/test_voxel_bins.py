"""Mean gaps by age bin and voxel: what is fitted, what is taken off, and what is said outside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.core.errors import BundleError
from bids_brainage.stats.voxel_bins import (
    EDGES,
    VoxelBins,
    correct,
    fit_voxel_bins,
    offset,
    read_voxel_bins,
    write_voxel_bins,
)


def bins_of(**means):
    """Bins of one voxel from the means by first age of the bin, e.g. ``a25=3``."""
    gaps = np.zeros((len(EDGES) - 1, 1), np.float16)
    people = np.zeros(len(EDGES) - 1, np.int64)
    for name, value in means.items():
        gaps[EDGES.index(float(name[1:]))] = value
        people[EDGES.index(float(name[1:]))] = 1
    return VoxelBins(np.array(EDGES), people, gaps)


def test_the_bins_are_18_to_25_and_then_five_years_each():
    assert EDGES[:4] == (18, 25, 30, 35)
    assert EDGES[-1] == 100


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(18, 99.9), st.floats(-30, 30)), min_size=1, max_size=20))
def test_controls_of_a_bin_have_a_mean_corrected_gap_of_zero(people):
    fitted = fit_voxel_bins((age, np.array([gap, -gap])) for age, gap in people)
    assert fitted.people.sum() == len(people)
    index = np.searchsorted(EDGES, [age for age, _ in people], side="right")
    corrected = np.array([correct(fitted, np.array([gap, -gap]), age).gap for age, gap in people])
    for chosen in set(index):
        assert corrected[index == chosen].mean(axis=0) == pytest.approx([0, 0], abs=0.02)
    assert not any(correct(fitted, np.array([gap, -gap]), age).outside for age, gap in people)


@pytest.mark.parametrize(
    ("age", "expected", "outside"),
    [
        (18, 1, False), (24.99, 1, False), (25, 2, False), (29.9, 2, False),
        (31, 3, False), (34, 3, False), (37, 4, False), (44.9, 5, False),
        (45, 5, True), (17.9, 1, True), (120, 5, True),
    ],
)  # fmt: skip
def test_empty_bins_are_interpolated_between_centres_and_ages_outside_take_the_nearest(age, expected, outside):
    found = offset(bins_of(a18=1, a25=2, a40=5), age)
    assert found.gap == pytest.approx([expected])
    assert found.outside is outside


def test_the_first_bin_has_its_own_centre():
    assert offset(bins_of(a18=0, a30=11), 27).gap == pytest.approx([11 * 6 / 11])


def test_nobody_in_range_and_odd_gaps_are_refused():
    with pytest.raises(ValueError, match="nobody between 18 and 100"):
        fit_voxel_bins([(12.0, np.zeros(2))])
    with pytest.raises(ValueError, match="nobody"):
        fit_voxel_bins([])
    with pytest.raises(ValueError, match="2 voxels, all finite"):
        fit_voxel_bins([(30.0, np.zeros(2)), (31.0, np.zeros(3))])
    with pytest.raises(ValueError, match="all finite"):
        fit_voxel_bins([(30.0, np.array([0, np.nan]))])
    with pytest.raises(ValueError, match="does not fit bins of 1 voxels"):
        correct(bins_of(a18=1), np.zeros(2), 20)


def test_what_is_written_is_read_and_another_mask_is_refused(tmp_path):
    path = write_voxel_bins(bins_of(a18=1, a25=-2.5), tmp_path / "bins.safetensors")
    read = read_voxel_bins(path, 1)
    assert offset(read, 26).gap == pytest.approx([-2.5])
    with pytest.raises(BundleError, match="do not fit a mask of 7 voxels"):
        read_voxel_bins(path, 7)
    path.write_bytes(b"x" * 40)
    with pytest.raises(BundleError, match="holds no voxel bins"):
        read_voxel_bins(path, 1)
