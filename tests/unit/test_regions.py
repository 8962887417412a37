"""Means over regions, and where the MUSE regions lie in template space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_brainage.image import muse
from bids_brainage.image.atlas import read_atlas
from bids_brainage.image.regions import muse_labels, roi_means
from bids_brainage.image.template import template
from bids_brainage.models.registry import PACKAGED


@settings(max_examples=50)
@given(
    hnp.arrays(np.float32, (4, 3, 2), elements=st.floats(-100, 100, width=32) | st.just(float("nan"))),
    hnp.arrays(np.int16, (4, 3, 2), elements=st.sampled_from([0, 3, 4, 900])),
)
def test_means_are_those_of_each_region_alone(values, labels):
    found = roi_means(values, labels)
    assert found.labels.tolist() == sorted(set(labels[labels > 0].tolist()))
    for label, mean, count in zip(*found, strict=True):
        inside = values[(labels == label) & np.isfinite(values)]
        assert count == inside.size
        assert mean == pytest.approx(inside.astype(float).mean() if inside.size else np.nan, abs=1e-4, nan_ok=True)


def test_another_grid_is_refused():
    with pytest.raises(ValueError, match="do not lie on one grid"):
        roi_means(np.zeros((2, 2)), np.ones((2, 3), int))


def test_the_regions_lie_where_the_template_has_them():
    head = template(resolution=3.0)
    labels = muse_labels(read_atlas(PACKAGED / "muse-atlas"), head.grid)
    number = {region.name: region.number for region in muse.regions()}
    assert set(np.unique(labels)) <= {0, *number.values()}
    assert len(np.unique(labels)) > 135
    right, left = (np.argwhere(labels == number[name]).mean(0) for name in number if "Hippocampus" in name)
    sides = [(head.grid.affine @ [*where, 1])[0] for where in (right, left)]
    assert sides[0] > 15
    assert sides[1] < -15
    white = np.isin(labels, [r.number for r in muse.regions() if r.name.endswith("WM_right") or "WM" in r.name])
    assert head.wm[white].mean() > 0.6
