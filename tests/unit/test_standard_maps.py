"""Maps become deviations from those of the people who trained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.models.networks.standard import (
    LEAST_SD,
    MOST,
    Reference,
    read_reference,
    reference_of,
    standardised,
    write_reference,
)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 8))
def test_the_reference_is_mean_and_sd_over_people(seed, n):
    people = np.random.default_rng(seed).random((n, 2, 3, 4, 5), np.float32)
    found = reference_of(iter(people))
    np.testing.assert_allclose(found.mean, people.mean(0), atol=1e-3)
    np.testing.assert_allclose(found.sd, people.std(0), atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(sds=st.floats(-9, 9))
def test_deviations_are_in_sds_and_bounded(sds):
    reference = Reference(np.full((2, 1, 1, 1), 0.5, np.float32), np.full((2, 1, 1, 1), 0.1, np.float32))
    maps = reference.mean + np.float32(sds * (0.1 + LEAST_SD))
    assert standardised(maps, reference) == pytest.approx(np.clip(sds, -MOST, MOST), abs=1e-4)


def test_a_reference_comes_back_as_it_was_and_another_size_is_refused(tmp_path):
    people = np.random.default_rng(0).random((3, 2, 3, 4, 5), np.float32)
    reference = reference_of(people)
    path = write_reference(reference, tmp_path / "reference.npz")
    for one, other in zip(read_reference(path, (3, 4, 5)), reference, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="not of the shape"):
        read_reference(path, (3, 4, 6))
