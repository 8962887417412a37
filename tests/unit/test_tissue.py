"""Tissues sum to one inside the skull and follow the posteriors."""

import numpy as np
import pytest

from bids_brainage.image.classes import CLASSES, FLUID, GREY, WHITE
from bids_brainage.image.io import read, save, save_probability
from bids_brainage.image.tissue import tissues

SHAPE, AFFINE = (24, 28, 24), np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def head(tmp_path):
    """A ball of white matter in a shell of cortex in a shell of CSF, at 2 mm; the scan itself at 1 mm."""
    middle = (np.array(SHAPE) - 1) / 2
    radius = np.linalg.norm(np.indices(SHAPE).transpose(1, 2, 3, 0) - middle, axis=-1)
    classes = np.select([radius < 5, radius < 8, radius < 10], [3, 2, 1], 0)
    posteriors = save_probability(tmp_path / "p.nii.gz", np.eye(len(CLASSES), dtype=np.float32)[classes], AFFINE)
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    fine[:3, 3] = -0.5
    shape = tuple(2 * n for n in SHAPE)
    where = np.linalg.norm(np.indices(shape).transpose(1, 2, 3, 0) / 2 - 0.25 - middle, axis=-1)
    scan = save(tmp_path / "t.nii.gz", where.astype(np.float32), fine)
    icv = save(tmp_path / "i.nii.gz", where < 10, fine)
    return scan, icv, posteriors, where


def test_each_tissue_is_where_its_classes_are(head, tmp_path):
    scan, icv, posteriors, radius = head
    made = tissues(scan, icv, posteriors, out=tmp_path)
    gm, wm, csf = (read(path).data for path in made[:3])
    assert gm.shape == radius.shape
    assert (wm[radius < 4] > 0.95).all()
    assert (gm[(radius > 6) & (radius < 7)] > 0.95).all()
    assert (csf[(radius > 9) & (radius < 9.7)] > 0.5).all()


def test_they_sum_to_one_inside_and_nothing_is_outside(head, tmp_path):
    scan, icv, posteriors, radius = head
    made = tissues(scan, icv, posteriors, out=tmp_path)
    total = sum(read(path).data for path in made[:3])
    assert np.allclose(total[radius < 10], 1, atol=0.01)
    assert not total[radius >= 10].any()


def test_labels_are_those_of_bids(head, tmp_path):
    scan, icv, posteriors, radius = head
    labels = read(tissues(scan, icv, posteriors, out=tmp_path).dseg, np.uint8).data
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert (labels[radius < 4] == 2).all()
    assert (labels[(radius > 6) & (radius < 7)] == 1).all()


def test_every_class_but_the_background_is_one_tissue():
    assert sorted((*GREY, *WHITE, *FLUID)) == list(range(1, len(CLASSES)))
