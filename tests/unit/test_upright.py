"""The head's angle is seen, and does not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_brainage.image import io, upright
from bids_brainage.image.atlas import read_atlas
from bids_brainage.image.classes import CLASSES, FREESURFER
from bids_brainage.image.muse import classes as owners
from bids_brainage.image.muse import regions
from bids_brainage.image.upright import angle, places, pose
from bids_brainage.models.registry import PACKAGED

ANGLES = st.floats(-45, 45)
AFFINE = np.diag([2.0, 2, 2, 1])
AFFINE[:3, 3] = -96


def seen(turn, scale=1.0, only=None, scatter=0.0):
    """Posteriors with a ball at each structure's place in a turned head."""
    rng = np.random.default_rng(0)
    classes, right = np.zeros((96, 96, 96, 18), np.float32), np.zeros((96, 96, 96), np.float32)
    for number, sides in enumerate(FREESURFER):
        for side, label in enumerate(sides):
            if label in places() and (only is None or number in only):
                where = scale * turn @ np.array(places()[label]) + rng.normal(0, scatter, 3) + 5
                x, y, z = np.rint((where - AFFINE[:3, 3]) / 2).astype(int)
                ball = (slice(x - 1, x + 2), slice(y - 1, y + 2), slice(z - 1, z + 2))
                classes[ball][..., number] = 1
                right[ball] = side
    return io.Volume(classes, AFFINE), io.Volume(right, AFFINE)


@settings(max_examples=10)
@given(pitch=ANGLES, roll=ANGLES, yaw=ANGLES, scale=st.floats(0.85, 1.15))
def test_the_angle_of_a_head_is_that_of_its_structures(pitch, roll, yaw, scale):
    turn = Rotation.from_euler("xyz", [pitch, roll, yaw], degrees=True).as_matrix()
    found = pose(*seen(turn, scale))
    assert angle(found.T @ turn) < 3
    assert np.linalg.det(found) == pytest.approx(1)


def test_too_little_of_a_brain_has_no_angle():
    assert pose(*seen(np.eye(3), only={CLASSES.index("thalamus"), CLASSES.index("caudate")})) is None


def test_structures_that_lie_anywhere_have_no_angle():
    assert pose(*seen(np.eye(3), scatter=25)) is None


def test_the_places_are_those_of_the_atlas():
    atlas, owner = read_atlas(PACKAGED / "muse-atlas"), owners()
    voxels = np.argwhere(atlas.rows >= 0)
    where, rows = voxels @ atlas.grid.affine[:3, :3].T + atlas.grid.affine[:3, 3], atlas.rows[atlas.rows >= 0]
    for number, sides in enumerate(FREESURFER):
        for side, label in zip("LR", sides, strict=True):
            if label in places():
                own = [
                    i
                    for i, r in enumerate(regions())
                    if owner[i] == number and (sides[0] == sides[1] or r.name.endswith(f"_{side}"))
                ]
                weight = (np.isin(atlas.labels[rows], own) * atlas.probabilities[rows]).sum(axis=1)
                assert np.linalg.norm(weight @ where / weight.sum() - places()[label]) < 3, CLASSES[number]
    assert len(places()) == 17


def test_a_turned_grid_of_the_same_voxels_is_no_coarser_one():
    rng = np.random.default_rng(0)
    source = io.Volume(rng.normal(size=(20, 20, 20)).astype(np.float32), np.eye(4))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    affine[:3, 3] = 10 - affine[:3, :3] @ np.full(3, 5)
    found = io.resample(source, io.Grid((10, 10, 10), affine), cubic=True)
    plain = ndimage.affine_transform(source.data, affine[:3, :3], affine[:3, 3], (10, 10, 10), order=3)
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_no_turn_is_no_angle():
    assert angle(np.eye(3)) == 0
    assert upright.angle(Rotation.from_euler("y", -40, degrees=True).as_matrix()) == pytest.approx(40)
