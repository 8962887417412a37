"""Registration: head angle, sides, determinism, and the way between RAS and ANTs' world."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core.errors import ScanError, UsageError
from bids_brainage.image.classes import CLASSES, NUMBER
from bids_brainage.image.io import Volume, read, resample, save, save_probability
from bids_brainage.image.register import affine_of, as_ants, find_pose, register, rotation
from bids_brainage.image.template import DEFAULT, template, template_digest

ANGLE = st.floats(-40, 40)


@given(ANGLE, ANGLE, ANGLE)
def test_rotation_is_a_rotation(x, y, z):
    matrix = rotation(x, y, z)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_a_positive_angle_about_x_nods_backwards():
    assert np.allclose(rotation(90, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_a_voxel_lies_at_the_same_place_for_ants():
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(10, -20, 5) * [1, 2, 3], [5, -6, 7]
    image = as_ants(Volume(np.zeros((4, 5, 6), np.float32), affine))
    import ants

    found = np.array(ants.transform_index_to_physical_point(image, [1, 2, 3]))
    assert np.allclose(found * [-1, -1, 1], (affine @ [1, 2, 3, 1])[:3], atol=1e-4)


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 25, 0), (15, -10, 30)])
def test_the_pose_of_a_turned_head_is_found(angles):
    space = template(DEFAULT, 4.0)
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = rotation(*angles) * 0.9, [30, -20, 40]
    pose = find_pose(Volume(space.t1w, space.grid.affine), Volume(space.t1w, turn @ space.grid.affine))
    away = np.linalg.inv(turn) @ pose
    cosine = (np.trace(away[:3, :3]) / np.cbrt(np.linalg.det(away[:3, :3])) - 1) / 2
    assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) < 18
    assert np.cbrt(np.linalg.det(away[:3, :3])) == pytest.approx(1, abs=0.05)
    assert np.linalg.norm(away[:3, 3]) < 12


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """The template as a scan: turned by 30 degrees, moved, smaller, with a bright ball in the left hemisphere."""
    folder = tmp_path_factory.mktemp("turned")
    space = template(DEFAULT, 2.0)
    ball = _ball(space.grid)
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = rotation(30, 0, 10) * 0.9, [10, -25, 30]
    affine = turn @ space.grid.affine
    posteriors = np.zeros((*space.grid.shape, len(CLASSES)), np.float32)
    posteriors[..., NUMBER["cerebral_cortex"]] = space.gm
    posteriors[..., NUMBER["cerebral_white_matter"]] = space.wm
    scan = save(folder / "t1w.nii.gz", (1000 * (space.t1w + ball)).astype(np.float32), affine)
    mask = save(folder / "mask.nii.gz", space.mask, affine)
    return scan, mask, save_probability(folder / "posteriors.nii.gz", posteriors, affine)


def _ball(grid):
    points = np.indices(grid.shape).transpose(1, 2, 3, 0) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.linalg.norm(points - [-35, -20, 30], axis=-1) < 6


@pytest.mark.slow
def test_a_turned_head_comes_upright_and_left_stays_left(turned, tmp_path):
    made = register(*turned, template=DEFAULT, out=tmp_path, seed=1, threads=2)
    space = template(DEFAULT, 1.0)
    moved = read(made.t1w_mni)
    assert made.measures["similarity"] > 0.9
    assert 0 < made.measures["jacobian_low"] < 1 < made.measures["jacobian_high"]
    assert made.measures["affine_determinant"] == pytest.approx(0.9**3, rel=0.05)
    bright = np.argwhere(moved.data > 1.3 * np.percentile(moved.data[space.mask], 90)).mean(axis=0)
    assert np.allclose((moved.affine @ [*bright, 1])[:3], [-35, -20, 30], atol=4)
    there, back = affine_of(made.xfm_forward), affine_of(made.xfm_inverse)
    assert np.allclose(there @ back, np.eye(4), atol=1e-2)


RUN = """
import sys
from pathlib import Path
import numpy as np
from bids_brainage.image.io import Volume
from bids_brainage.image.register import Channels, align
from bids_brainage.image.template import template
space = template(resolution=4.0)
part = lambda values: Volume(np.roll(values, 2, axis=1), space.grid.affine)
align(space, Channels(part(space.t1w), part(space.gm), part(space.wm)), Path(sys.argv[1]), seed=int(sys.argv[2]))
"""


@pytest.mark.slow
def test_one_thread_and_one_seed_give_the_same_transforms(tmp_path):
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        environment = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        subprocess.run([sys.executable, "-c", RUN, str(tmp_path / name), "3"], check=True, env=environment)
        found.append(_displaced(tmp_path / name))
    assert np.array_equal(*found)


def _displaced(folder):
    from bids_brainage.image.register import displacement

    return displacement(folder / "xfm_forward.h5", template(DEFAULT, 8.0).grid)


def test_an_empty_mask_is_refused_by_name(turned, tmp_path):
    scan, mask, posteriors = turned
    image = read(mask, np.uint8)
    empty = save(tmp_path / "empty.nii.gz", np.zeros_like(image.data), image.affine)
    with pytest.raises(ScanError, match="brain mask is empty"):
        register(scan, empty, posteriors, template=DEFAULT, out=tmp_path)


def test_the_default_template_is_symmetric_on_every_grid():
    for resolution in (1.0, 1.5, 2.0):
        space = template(DEFAULT, resolution)
        assert (space.grid.affine @ [(space.grid.shape[0] - 1) / 2, 0, 0, 1])[0] == pytest.approx(0, abs=1e-6)
        assert space.gm[space.mask].mean() > 0.2
        assert not space.t1w[~space.mask].max() > 0.05


def test_grids_of_other_resolutions_show_the_same_brain():
    fine, coarse = template(DEFAULT, 1.0), template(DEFAULT, 2.0)
    again = resample(Volume(fine.t1w, fine.grid.affine), coarse.grid)
    assert np.corrcoef(again.ravel(), coarse.t1w.ravel())[0, 1] > 0.999


def test_an_unknown_template_is_a_usage_error():
    with pytest.raises(UsageError, match="NoSuchTemplate"):
        template("NoSuchTemplate", 2.0)


def listed(monkeypatch, tmp_path, **found):
    """TemplateFlow with these files by suffix or label: a path, None where it lists none, or an error."""
    from templateflow import api

    def get(name, *, suffix, label=None, **query):
        there = found[label or suffix]
        if isinstance(there, Exception):
            raise there
        return [] if there is None else there

    monkeypatch.setattr(api, "get", get)


def test_tissue_maps_of_a_template_that_are_not_to_be_had_are_no_reason_to_do_without(monkeypatch, tmp_path):
    paths = {}
    for name in ("T1w", "mask", "GM", "WM"):
        data = np.random.default_rng(len(name)).random((12, 12, 12)).astype(np.float32)
        paths[name] = save(tmp_path / f"{name}.nii.gz", np.ones_like(data) if name == "mask" else data, np.eye(4))
    listed(monkeypatch, tmp_path, **paths)
    whole = template_digest("Other")
    assert template("Other").gm.max() > 0
    listed(monkeypatch, tmp_path, **{**paths, "GM": None, "WM": None})
    assert template_digest("Other") != whole
    assert template("Other").gm.max() > 0
    listed(monkeypatch, tmp_path, **{**paths, "WM": RuntimeError("no network")})
    for asked in (template, template_digest):
        with pytest.raises(UsageError, match="no network"):
            asked("Other")
