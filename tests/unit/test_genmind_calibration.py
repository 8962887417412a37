"""Healthy people who were left out, scored against their matched controls."""

import numpy as np
import pytest

from bids_brainage.bids import roi_tables
from bids_brainage.cohort import density, genmind, matching
from bids_brainage.cohort.tables import people_of


def left_out(people, kernel, bandwidth=0.7):
    z = np.full(people.volumes.shape, np.nan)
    for part in density.split(len(people), 10, seed=0):
        train = people.take(np.setdiff1d(np.arange(len(people)), part))
        model = genmind.fit(train, bandwidths=[bandwidth], kernel=kernel).model
        test = people.take(part)
        known = np.array([not why for why in model.why_not(test.age, test.categories)])
        z[part[known]] = matching.score(model, test.take(known), 30).z
    return z


@pytest.mark.slow
def test_scores_of_people_left_out_are_calibrated_by_age_third_with_the_shrunken_kernel_alone(shared_data):
    path = shared_data / "muse" / "ixi_dlmuse_1mm.tsv"
    people = people_of(roi_tables.read(path), path)
    third = np.digitize(people.age, np.quantile(people.age, [1 / 3, 2 / 3]))
    z = left_out(people, "shrunken")
    done = np.isfinite(z).all(axis=1)
    assert done.sum() > 205
    for which in range(3):
        part = z[done & (third == which)]
        assert abs(part.mean()) < 0.25
        assert 0.85 < part.std() < 1.15
        assert 0.03 < (np.abs(part) > 1.96).mean() < 0.08
    assert np.nanstd(left_out(people, "published", 0.9)) < 0.85
