"""The intensities bear a right segmentation out, and no other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.image.contrast import explained, has_bright_air, inverted, is_reversed
from bids_brainage.image.io import Volume

AFFINE = np.diag([2.0, 2, 2, 1])
LABELS = np.zeros((20, 20, 20), int)
LABELS[4:16, 4:16, 4:16], LABELS[7:13, 7:13, 7:13] = 1, 2
CLASSES = Volume(np.eye(3, dtype=np.float32)[LABELS], AFFINE)


def scan(means, noise=0.0, seed=0):
    data = np.array(means, np.float32)[LABELS] + noise * np.random.default_rng(seed).normal(size=LABELS.shape)
    return Volume(data.astype(np.float32), AFFINE)


@given(means=st.lists(st.floats(0, 1), min_size=2, max_size=2), noise=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_it_is_a_share_and_as_anova_says(means, noise, seed):
    one = scan([0, *means], noise, seed)
    found = explained(CLASSES, one)
    assert 0 <= found <= 1
    values = [one.data[label == LABELS].astype(float) for label in (1, 2)]
    everything = np.concatenate(values)
    between = sum(len(v) * (v.mean() - everything.mean()) ** 2 for v in values)
    assert np.isclose(found, between / ((everything - everything.mean()) ** 2).sum(), atol=1e-4)


def test_tissues_that_differ_explain_the_intensities_and_noise_does_not():
    assert explained(CLASSES, scan([0, 0.3, 0.8], 0.05)) > 0.9
    assert explained(CLASSES, scan([0, 0.5, 0.5], 0.2)) < 0.01
    assert explained(CLASSES, scan([0, 0.5, 0.5])) == 0
    assert explained(Volume(np.eye(3, dtype=np.float32)[np.zeros_like(LABELS)], AFFINE), scan([0, 0.3, 0.8])) == 0


def test_inverting_exchanges_dark_and_bright_and_leaves_air_dark():
    dark_air = inverted(scan([0, 0.3, 0.8])).data
    assert dark_air[0, 0, 0] == 0
    assert dark_air[5, 5, 5] > dark_air[10, 10, 10]
    bright_air = inverted(scan([1.2, 0.9, 0.4])).data
    assert bright_air[0, 0, 0] == 0
    assert bright_air[10, 10, 10] > bright_air[5, 5, 5]


@given(csf=st.floats(0.05, 1.4), cortex=st.floats(0.05, 1.4), white=st.floats(0.05, 1.4))
def test_the_order_of_tissues_is_reversed_only_where_csf_is_brightest_and_white_matter_darkest(csf, cortex, white):
    classes = Volume(np.eye(18, dtype=np.float32)[np.arange(8).reshape(2, 2, 2) % 4], AFFINE)
    head = Volume(np.array([0, csf, cortex, white], np.float32)[np.arange(8).reshape(2, 2, 2) % 4], AFFINE)
    assert is_reversed(classes, head) == (np.float32(white) < np.float32(cortex) < np.float32(csf))


@given(factor=st.floats(1e-4, 1e4))
def test_inverting_twice_gives_the_order_back_at_any_scale(factor):
    one = scan([0, 0.3 * factor, 0.8 * factor])
    one.data[1] = 1.2 * factor  # fat
    twice = inverted(inverted(one)).data
    assert twice[0, 0, 0] == 0
    assert twice[10, 10, 10] > twice[5, 5, 5] >= 0
    assert not has_bright_air(one)
    assert has_bright_air(Volume(one.data.max() - one.data, AFFINE))


def test_noise_in_the_air_is_not_bright_air():
    rng = np.random.default_rng(0)
    one = scan([0, 0.3, 0.8])
    noisy = [
        Volume(np.where(LABELS, one.data, rng.uniform(0, 1, LABELS.shape)).astype(np.float32), AFFINE)
        for _ in range(50)
    ]
    assert not any(map(has_bright_air, noisy))


def test_tissue_that_outshines_all_is_dark_and_not_air():
    one = scan([0, 0.3, 0.8])
    one.data[7:9, 7:13, 7:13] = 3  # saturated
    found = inverted(one).data
    assert (found[LABELS > 0] > 0).all()
    assert (found[LABELS == 0] == 0).all()


def test_the_darkest_tissue_becomes_the_brightest_though_it_is_dark_as_air():
    one = scan([0, 0.8, 0.01])  # white matter hardly above the air
    found = inverted(one).data
    assert found[10, 10, 10] > found[5, 5, 5] > 0
    assert (found[LABELS == 0] == 0).all()
