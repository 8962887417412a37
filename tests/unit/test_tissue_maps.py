"""Tissue maps of simulated people made without an image."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bids_brainage.core.errors import UsageError
from bids_brainage.image import classes
from bids_brainage.image.template import template
from bids_brainage.simulate import aging, anatomy, deform, local, maps
from bids_brainage.simulate.anatomy import REGIONS
from bids_brainage.simulate.person import Person

QUICK = settings(max_examples=4, phases=(Phase.explicit, Phase.generate))
EXACT = maps.Errors(smoothing=(0.01, 0.01), affine=0.0, border=0.0)
SHARP = maps.Site(blur=0.0)


@pytest.fixture(scope="module")
def head() -> anatomy.Anatomy:
    return anatomy.build(2)


@pytest.fixture(scope="module")
def base(head) -> maps.Tissues:
    return maps.tissues(head, 2)


@pytest.fixture(scope="module")
def shares(head) -> aging.Fractions:
    return aging.fractions(head, 4)


def made(base, shares, age=60.0, seed=0, **options) -> maps.TissueMaps:
    person = Person("x", "F", 7, **options.pop("person", {}))
    options = {"spacing": 4.0, **options}
    return maps.tissue_maps(person, age, base, shares, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("spacing", [1.5, 2.0])
def test_the_grid_is_the_apps(spacing) -> None:
    shape, affine = maps.template_grid(spacing)
    grid = template(resolution=spacing).grid
    assert shape == grid.shape
    assert affine == pytest.approx(grid.affine)


def test_grey_and_white_are_the_apps() -> None:
    tissue = local.is_tissue()
    for region in REGIONS:
        number = classes.NUMBER[region.kind]
        assert tissue[region.number] == (number in classes.GREY or number in classes.WHITE), region.name
        assert (region.kind in maps.WHITE) == (number in classes.WHITE), region.name


def test_maps_look_like_the_template_and_hold_no_ghosts(base, shares) -> None:
    found = made(base, shares)
    goal = template(resolution=4.0)
    assert found.gm.dtype == found.wm.dtype == found.age_map.dtype == np.float32
    assert found.gm.shape == goal.grid.shape
    assert np.corrcoef(found.gm.ravel(), goal.gm.ravel())[0, 1] > 0.75
    assert np.corrcoef(found.wm.ravel(), goal.wm.ravel())[0, 1] > 0.8
    assert min(found.gm.min(), found.wm.min()) >= 0
    assert set(np.unique(found.age_map)) == {0.0, 60.0}


def test_modulated_maps_keep_the_volumes_of_the_head(base, shares) -> None:
    """Sum x voxel volume x det A is the tissue's volume: with an exact registration it falls as was planted."""
    total = {}
    for age in (45.0, 80.0):
        person = Person("x", "F", 7)
        aged = maps.grown(person, age, base.anatomy, shares, divided=True)
        to_base, to_template = maps.pull_backs(person, aged.warp, base, shares)
        _, volume = maps.registered(to_template, base, np.random.default_rng(0), EXACT)
        found = made(base, shares, age, errors=EXACT, site=SHARP, spacing=2.0)
        total[age] = np.array([found.gm.sum(), found.wm.sum()]) * 8 * volume
        shape, affine = maps.template_grid(2.0)
        points = deform.nodes(shape, affine[:3, 3], 2.0)
        there = deform.sample(base.values[:2], base.origin, base.spacing, deform.apply(to_base, points))
        assert total[age] == pytest.approx(there.sum((1, 2, 3)) * 8, rel=0.02)
    ratio = total[80.0] / total[45.0]
    cortex = aging.expected("cerebral_cortex", 80, "F") / aging.expected("cerebral_cortex", 45, "F")
    assert ratio[0] == pytest.approx(cortex, abs=0.03)


def test_a_smoother_registration_recovers_less(base, shares) -> None:
    goal = template(resolution=4.0).wm
    maps_by_width = [made(base, shares, 85.0, errors=EXACT._replace(smoothing=(w, w))).wm > 0.5 for w in (0.01, 15.0)]
    dice = [2 * (m & (goal > 0.5)).sum() / (m.sum() + (goal > 0.5).sum()) for m in maps_by_width]
    assert dice[0] > dice[1] + 0.01


def test_the_age_map_bears_the_planted_offset_in_its_place(base, shares) -> None:
    found = made(base, shares, person={"offsets": {"left_occipital": 12.0}, "gap": 1.0})
    assert set(np.unique(found.age_map)) == {0.0, 61.0, 73.0}
    where = np.argwhere(found.age_map == 73) @ found.affine[:3, :3].T + found.affine[:3, 3]
    assert where[:, 0].max() < 8
    assert where[:, 1].mean() < -65
    plain = made(base, shares, person={"gap": 1.0})
    old = found.age_map == 73
    assert found.gm[old].sum() < 0.985 * plain.gm[old].sum()


def test_a_border_shift_trades_grey_for_white(base, shares) -> None:
    plain = made(base, shares)
    moved = made(base, shares, site=maps.Site(inner=0.2))
    gained, lost = (moved.wm - plain.wm).sum(), (plain.gm - moved.gm).sum()
    assert gained > 0.02 * plain.wm.sum()
    assert gained == pytest.approx(lost, rel=0.35)


@QUICK
@given(st.integers(0, 2**31), st.floats(1.0, 4.0))
def test_the_inverse_leads_back(seed, size) -> None:
    box = deform.Warp(np.zeros((3, 50, 60, 50), np.float32), anatomy.ORIGIN, 4.0)
    warp = deform.random_warp(np.random.default_rng(seed), box, ((30.0, size), (14.0, 1.3)))
    points = deform.nodes((30, 40, 30), anatomy.ORIGIN + 40, 4.0)
    back = deform.apply(warp, deform.apply(maps.inverse(warp), points))
    assert np.abs(back - points).max() < 0.3


def test_the_same_draws_give_the_same_maps(base, shares) -> None:
    one, two, other = (made(base, shares, seed=s) for s in (3, 3, 4))
    assert np.array_equal(one.gm, two.gm)
    assert not np.array_equal(one.gm, other.gm)


@pytest.mark.parametrize("spacing", [0.5, 5.0, float("nan")])
def test_senseless_voxels_are_refused(base, shares, spacing) -> None:
    with pytest.raises(UsageError, match="voxel size of 1 to 4 mm"):
        maps.tissue_maps(Person("x", "F", 1), 60, base, shares, np.random.default_rng(0), spacing=spacing)
