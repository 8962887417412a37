"""Atlases in other spaces, and means over their regions."""

import re

import numpy as np
import pytest

from bids_brainage.core.errors import UsageError
from bids_brainage.image import labels as module
from bids_brainage.image.io import Grid, Volume, resample, save
from bids_brainage.image.labels import LabelAtlas, labels_on, read_labels, transform_between
from bids_brainage.image.register import rotation
from bids_brainage.image.template import DEFAULT, Template, template


def write_atlas(folder, data, table="index\tname\n1\tleft\n2\tright\n"):
    path = save(folder / "made.nii.gz", data, np.eye(4))
    (folder / "made.tsv").write_text(table)
    return path


def two_halves(dtype=np.uint8):
    data = np.zeros((4, 4, 4), dtype)
    data[:2], data[2:] = 1, 2
    return data


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_atlas_is_read(tmp_path, dtype):
    atlas = read_labels(write_atlas(tmp_path, two_halves(dtype)))
    assert atlas.name == "made"
    assert atlas.names == {1: "left", 2: "right"}
    assert np.array_equal(atlas.labels.data, two_halves())


@pytest.mark.parametrize(
    ("data", "table", "words"),
    [(two_halves() * 0.5, "", "whole numbers"), (np.ones((4, 4, 4, 3), np.uint8), "", "3D"),
     (np.zeros((4, 4, 4), np.uint8), "", "no labels"), (-two_halves(np.int16), "", "below 0"),
     (two_halves(), "index\tname\n1\tleft\n", "made.tsv: lacks the labels 2 "),
     (two_halves(), "number\tname\n1\tleft\n", "made.tsv: has no columns index and name"),
     (two_halves(), "index\tname\none\tleft\n", "made.tsv: has no columns")],
)  # fmt: skip
def test_what_is_no_atlas_is_refused_in_one_line(tmp_path, data, table, words):
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        read_labels(write_atlas(tmp_path, data, table))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_atlas_without_table_or_image_is_refused(tmp_path):
    path = write_atlas(tmp_path, two_halves())
    (tmp_path / "made.tsv").unlink()
    with pytest.raises(UsageError, match=r"made\.tsv: cannot be read \(No such file"):
        read_labels(path)
    with pytest.raises(UsageError, match=r"none\.nii\.gz: cannot be read"):
        read_labels(tmp_path / "none.nii.gz")


def made_space(turn):
    """The default template under another name, moved by an affine (our world to its own)."""
    space = template(DEFAULT, 4.0)
    return Template("Made", Grid(space.grid.shape, turn @ space.grid.affine), *space[2:])


@pytest.fixture
def turn():
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation(6, -4, 8) * 1.08, [7, -12, 9]
    return made


@pytest.mark.slow
def test_an_atlas_of_a_moved_space_comes_back_and_is_registered_once(tmp_path, turn, monkeypatch):
    space, ours = made_space(turn), template(DEFAULT, 4.0)
    points = np.indices(ours.grid.shape).transpose(1, 2, 3, 0) @ ours.grid.affine[:3, :3].T + ours.grid.affine[:3, 3]
    true = np.where(ours.mask, 1 + (points[..., 0] > 0) + 2 * (points[..., 1] > -20), 0).astype(np.int32)
    atlas = LabelAtlas("made", Volume(true, space.grid.affine), {})
    found = labels_on(atlas, space, ours, ours.grid, tmp_path / "cache")
    for index in range(1, 5):
        a, b = found == index, true == index
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
    unmoved = resample(atlas.labels, ours.grid, nearest=True)
    assert (unmoved == true)[ours.mask].mean() < 0.85 < 0.93 < (found == true)[ours.mask].mean()
    (stored,) = (tmp_path / "cache").glob("*.h5")
    assert stored.name.startswith("from-Made_to-MNI152NLin2009aSym_")
    monkeypatch.setattr(module, "align", None)  # a second registration would fail
    assert np.array_equal(labels_on(atlas, space, ours, ours.grid, tmp_path / "cache"), found)
    with pytest.raises(TypeError):
        transform_between(space._replace(t1w=space.t1w * 0.5), ours, tmp_path / "cache")


def test_the_same_space_needs_no_registration(tmp_path):
    ours = template(DEFAULT, 4.0)
    labels = Volume(ours.mask.astype(np.int32), ours.grid.affine)
    found = labels_on(LabelAtlas("made", labels, {}), ours, ours, template(DEFAULT, 2.0).grid, tmp_path / "none")
    assert found.shape == template(DEFAULT, 2.0).grid.shape
    assert set(np.unique(found)) == {0, 1}
    assert not (tmp_path / "none").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, turn):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="BIDS_BRAINAGE_HOME"):
        transform_between(made_space(turn), template(DEFAULT, 4.0), tmp_path / "file")
