"""Maps become deviations from those of the people who trained, in the direction of age."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.models.networks.standard import (
    LEAST_SD,
    MOST,
    Reference,
    means_over,
    read_reference,
    reference_of,
    standardised,
    with_constants,
    write_reference,
)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(2, 8))
def test_the_reference_is_mean_sd_and_correlation_with_age_over_people(seed, n):
    rng = np.random.default_rng(seed)
    people, ages = rng.random((n, 2, 3, 4, 5), np.float32), rng.uniform(20, 90, n)
    found = reference_of(zip(people, ages, strict=True))
    np.testing.assert_allclose(found.mean, people.mean(0), atol=1e-3)
    np.testing.assert_allclose(found.sd, people.std(0), atol=1e-3)
    flat = np.corrcoef(ages, people.reshape(n, -1).T)[0, 1:]
    np.testing.assert_allclose(found.ageing.ravel(), flat, atol=2e-3)


def test_where_nobody_differs_nothing_is_said():
    people = np.ones((3, 2, 3, 4, 5), np.float32)
    reference = reference_of((one, age) for one, age in zip(people, (30.0, 50.0, 80.0), strict=True))
    assert not reference.ageing.any()
    assert not standardised(people[0] + 1, reference).any()


@settings(max_examples=20)
@given(sds=st.floats(-9, 9), ageing=st.floats(-1, 1))
def test_deviations_are_in_sds_bounded_and_positive_where_they_are_of_the_old(sds, ageing):
    reference = Reference(*(np.full((2, 1, 1, 1), value, np.float32) for value in (0.5, 0.1, ageing)))
    maps = reference.mean + np.float32(sds * (0.1 + LEAST_SD))
    assert standardised(maps, reference) == pytest.approx(ageing * np.clip(sds, -MOST, MOST), abs=1e-4)


def test_a_reference_comes_back_as_it_was_and_another_size_is_refused(tmp_path):
    people = np.random.default_rng(0).random((3, 2, 3, 4, 5), np.float32)
    reference = reference_of(zip(people, (30.0, 50.0, 80.0), strict=True))
    path = write_reference(reference, tmp_path / "reference.npz")
    for one, other in zip(read_reference(path, (3, 4, 5)), reference, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="not of the shape"):
        read_reference(path, (3, 4, 6))


def test_constants_come_after_the_maps_and_means_are_over_the_brain_alone():
    maps = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    brain = np.zeros((3, 4, 5), bool)
    brain[1, 2, 3] = brain[0, 0, 0] = True
    means = means_over(maps, brain)
    assert means == pytest.approx([(part[1, 2, 3] + part[0, 0, 0]) / 2 for part in maps])
    found = with_constants(maps, [-0.5, *means])
    np.testing.assert_array_equal(found[:2], maps)
    assert [np.unique(channel) for channel in found[2:]] == pytest.approx([-0.5, *means])
    assert with_constants(maps, []) is maps
