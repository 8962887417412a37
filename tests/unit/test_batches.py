"""Several scans in one pass give what each gives alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from localbundle import CARD, make_bundle, write_maps

from bids_brainage.image.network import SegmentationNet, posterior, posteriors
from bids_brainage.models.base import load_model
from bids_brainage.models.local import LocalInputs

SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = SegmentationNet(4, (2, 4, 4, 4, 4), 4).eval()
    return made.to(memory_format=torch.channels_last_3d)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One that gives no uncertainty."""
    told = {"maps": ["age", "gap_corrected"], "prediction": CARD["prediction"] | {"samples": 0}}
    return load_model(make_bundle(tmp_path_factory.mktemp("bundles") / "local", **told))


@pytest.fixture(scope="module")
def person(model, tmp_path_factory):
    return model.prepare({**write_maps(tmp_path_factory.mktemp("maps")), "sex": "F"})


def people_of(person, count, seed):
    """People with other tissue and of other sex."""
    rng = np.random.default_rng(seed)
    return [
        LocalInputs(person.maps * rng.uniform(0.5, 1.5, person.maps.shape).astype(np.float32), sex, person.source)
        for sex in rng.choice(np.array(["F", "M", None]), count)
    ]


@settings(max_examples=4)
@given(seed=SEEDS, count=st.integers(2, 4), shape=st.sampled_from([(16, 16, 32), (32, 16, 16)]))
def test_scans_segmented_together_are_segmented_as_alone(network, seed, count, shape):
    scans = torch.from_numpy(np.random.default_rng(seed).uniform(0, 1.5, (count, *shape)).astype(np.float32))
    together = posteriors(network, scans, half=False)
    assert together.classes.shape == (count, *shape, 4)
    assert together.right.shape == (count, *shape)
    for number, scan in enumerate(scans):
        alone = posterior(network, scan, half=False)
        torch.testing.assert_close(together.classes[number], alone.classes, atol=1e-4, rtol=0)
        torch.testing.assert_close(together.right[number], alone.right, atol=1e-4, rtol=0)


@settings(max_examples=2)
@given(seed=SEEDS, count=st.integers(2, 3), samples=st.sampled_from([0, 3]))
def test_local_maps_together_are_those_of_each_alone(model, person, seed, count, samples):
    seen = torch.cat([model.tensor(one) for one in people_of(person, count, seed)])
    together = model.maps_of(seen, samples=samples, half=False)
    assert [len(part) for part in together] == [count] * (2 if samples else 1)
    for number, one in enumerate(seen.split(1)):
        for part, alone in zip(together, model.maps_of(one, samples=samples, half=False), strict=True):
            torch.testing.assert_close(part[number], alone[0], atol=1e-3, rtol=0)


def test_predictions_of_several_are_those_of_each(model, person):
    people = people_of(person, 3, 0)
    alone = [model.predict([one])[0] for one in people]
    together = model.predict(people)
    assert [one.brain_age for one in together] == [one.brain_age for one in alone]
    assert len({one.brain_age for one in together}) == 3
    assert all(np.array_equal(a.maps.age, b.maps.age, equal_nan=True) for a, b in zip(together, alone, strict=True))
    assert model.predict([]) == []
