"""Mapping synthetic people to published centiles: the centiles come out, ranks stay, and volumes are positive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from bids_brainage.cohort import centiles
from bids_brainage.cohort.people import People

AGES = np.arange(40.0, 91.0)
NOMINAL = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def published(level: float) -> np.ndarray:
    """Skewed centiles of two regions that change with age, (2, n_ages, 5); the second has 5th centiles below zero."""
    fall = level * np.exp(-0.004 * (AGES - 40))[:, None]
    values = np.stack([fall * np.array([0.7, 0.85, 1.0, 1.2, 1.6]), fall * np.array([0.01, 0.5, 1.0, 1.6, 2.9])])
    values[1, ::2, 0] = -3.0
    return values


PUBLISHED = {"F": published(1000.0), "M": published(1300.0)}


def people(n: int, seed: int, low: float = 20.0) -> People:
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(low, 90, n), rng.choice(["F", "M"], n)
    shared = rng.standard_normal(n)
    z = np.column_stack([shared + rng.standard_normal(n) for _ in range(3)])
    logs = 6 + 0.2 * z - 0.003 * (age - 60)[:, None] + 0.1 * (sex == "M")[:, None]
    return People(tuple(map(str, range(n))), age, {"sex": sex}, (7, 8, 9), np.exp(logs))


@pytest.fixture(scope="module")
def to_centiles() -> centiles.CentileMap:
    return centiles.fit(people(20_000, 0), (7, 9), AGES, PUBLISHED)


def test_published_centiles_come_out(to_centiles):
    some = to_centiles(people(20_000, 1, low=40.0))
    for sex, values in PUBLISHED.items():
        rows = some.categories["sex"] == sex
        wanted = np.exp(centiles.centiles_at(centiles.log_centiles(values), AGES, some.age[rows]))
        below = (some.volumes[rows][:, [0, 2], None] < wanted).mean(axis=0)
        np.testing.assert_allclose(below, np.tile(NOMINAL, (2, 1)), atol=0.012)


def test_ranks_at_an_age_and_regions_without_centiles_stay(to_centiles):
    some = people(500, 2)
    same = People(some.who, np.full(500, 63.2), {"sex": np.full(500, "F")}, some.indices, some.volumes)
    mapped = to_centiles(same)
    assert (np.argsort(mapped.volumes, axis=0) == np.argsort(same.volumes, axis=0)).all()
    np.testing.assert_array_equal(mapped.volumes[:, 1], same.volumes[:, 1])
    assert (mapped.volumes > 0).all()


def test_younger_people_are_moved_as_those_of_the_youngest_published_age(to_centiles):
    median = np.exp(6 - 0.003 * (np.array([39.999, 40.0, 30.0]) - 60))
    three = People(
        ("a", "b", "c"), np.array([39.999, 40.0, 30.0]), {"sex": np.full(3, "F")}, (7, 8, 9), np.tile(median, (3, 1)).T
    )
    found = np.log(to_centiles(three).volumes[:, 0])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[2] - found[1] == pytest.approx(0.03, abs=2e-3)


@given(
    st.lists(st.floats(0.01, 2), min_size=5, max_size=5),
    st.lists(st.floats(-8, 8), min_size=2, max_size=30, unique=True),
)
def test_volumes_rise_with_scores_through_the_centiles(steps, scores):
    logs = np.cumsum(steps)
    z = np.unique(np.round(scores, 6))
    found = centiles.at_score(np.tile(logs, (len(z), 1, 1)), z[:, None])[:, 0]
    assert (np.diff(found) > 0).all()
    at = centiles.at_score(np.tile(logs, (5, 1, 1)), centiles.SCORES[:, None])[:, 0]
    np.testing.assert_allclose(at, logs)


def test_a_5th_centile_that_is_no_volume_is_continued_from_the_others():
    logs = centiles.log_centiles(PUBLISHED["F"])
    np.testing.assert_allclose(logs[0], np.log(PUBLISHED["F"][0]))
    quarter, median = logs[1, :, 1], logs[1, :, 2]
    slope = (median - quarter) / (centiles.SCORES[2] - centiles.SCORES[1])
    np.testing.assert_allclose(logs[1, :, 0], median + slope * centiles.SCORES[0])
    with pytest.raises(ValueError, match="above the 5th"):
        centiles.log_centiles(-PUBLISHED["F"])
    np.testing.assert_allclose(ndtr(centiles.SCORES), NOMINAL)
