"""Regional volumes: tables, fusion of atlas and network, sides, calibration."""

import csv

import ants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from bids_brainage import data
from bids_brainage.core.bundle import save as save_bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.files import read_json
from bids_brainage.image import brain, muse
from bids_brainage.image.atlas import look_up, read_atlas
from bids_brainage.image.classes import CLASSES
from bids_brainage.image.fusion import fuse, gather, measured, spread, structure_prior
from bids_brainage.image.io import Volume, read, save, save_probability, shifted
from bids_brainage.image.masks import dice, fill_holes
from bids_brainage.image.stripped import Cut, added_by, how_cut
from bids_brainage.image.volumes import calibrate, volumes

LEFT_VENTRICLE, RIGHT_VENTRICLE = 52, 51


@pytest.fixture(scope="module")
def bundle():
    from importlib.resources import files

    return files(data).joinpath("bundles/muse-atlas")


@pytest.fixture(scope="module")
def atlas(bundle):
    return read_atlas(bundle)


def test_the_classes_are_those_of_the_network():
    assert brain.CLASSES == CLASSES


def test_there_are_145_regions_each_with_its_mirror():
    regions = {region.number: region for region in muse.regions()}
    assert len(regions) == 145
    for region in regions.values():
        other = regions[region.mirror]
        assert other.mirror == region.number
        assert {region.side, other.side} in ({"L", "R"}, {"n/a"})
        assert region.class_name == other.class_name


def test_composites_are_made_of_regions():
    numbers = {region.number for region in muse.regions()}
    members = {composite.number: set(composite.members) for composite in muse.composites()}
    assert all(own <= numbers for own in members.values())
    assert members[muse.TOTAL_BRAIN] == numbers
    assert not members[601] & members[604]
    assert members[606] | members[613] < members[601]


def test_columns_of_labels_outside_the_brain():
    assert muse.columns(np.array([4, 207, 1, 46, 69, 0, 5])).tolist() == [0, 144, 145, 145, 145, 146, 146]


def test_the_shipped_atlas_is_symmetric_and_on_the_right_side(atlas):
    mirror = muse.mirrored()
    likely = np.where(atlas.rows >= 0, atlas.labels[atlas.rows, 0], 146)
    x = np.indices(atlas.grid.shape)[0] * atlas.grid.affine[0, 0] + atlas.grid.affine[0, 3]
    for number, sign in ((LEFT_VENTRICLE, -1), (RIGHT_VENTRICLE, 1), (48, -1), (47, 1)):
        column = muse.columns(np.array([number]))[0]
        assert np.sign(x[likely == column]).mean() * sign > 0.95
    assert (likely == mirror[likely[::-1]]).mean() > 0.99


def test_probabilities_of_the_atlas_sum_to_one_everywhere(atlas):
    points = np.random.default_rng(0).uniform(-120, 120, (500, 3)).astype(np.float32)
    found = look_up(atlas, points)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-4)
    assert look_up(atlas, np.array([[0, 300, 0]], np.float32))[0, 146] == pytest.approx(1)


@settings(max_examples=25)
@given(
    arrays(np.float32, (30, 147), elements=st.floats(0, 1, width=32)),
    arrays(np.float32, (30, 18), elements=st.floats(0, 1, width=32)),
    arrays(np.float32, (30,), elements=st.floats(0, 2000, width=32)),
)
def test_fused_probabilities_are_probabilities(prior, posterior, intensity):
    found = fuse(prior, structure_prior(prior, posterior), intensity, np.arange(90, dtype=np.float32).reshape(30, 3))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert np.allclose(found.sum(axis=1), 1, atol=1e-3)


def test_a_voxel_without_parcel_takes_those_of_the_nearest():
    prior, posterior = np.zeros((3, 147), np.float32), np.zeros((3, 18), np.float32)
    left, right = muse.columns(np.array([LEFT_VENTRICLE, RIGHT_VENTRICLE]))
    prior[0, left], prior[1, right], prior[2, 146] = 1, 1, 1
    posterior[:, CLASSES.index("lateral_ventricle")] = 1
    points = np.array([[-10, 0, 0], [10, 0, 0], [12, 0, 0]], np.float32)
    found = fuse(prior, structure_prior(prior, posterior), np.ones(3, np.float32), points)
    assert found.argmax(axis=1).tolist() == [left, right, right]


@given(arrays(np.float64, (146,), elements=st.floats(0, 2e6)), st.floats(0.5, 10))
def test_calibrated_volumes_are_positive_and_composites_add_up(atlas, measured, edge):
    found = calibrate(measured, atlas, edge)
    assert all(found[region.number] > 0 for region in muse.regions())
    assert found[muse.CORTICAL_CSF] >= 0
    for composite in muse.composites():
        assert found[composite.number] == pytest.approx(sum(found[member] for member in composite.members))


def test_calibration_keeps_order(atlas):
    assert (atlas.lines.slope > 0).all()
    for edge in (1, 2.5, 5):
        small, large = (calibrate(np.full(146, volume), atlas, edge) for volume in (500.0, 900.0))
        assert all(small[region.number] < large[region.number] for region in muse.regions())


def test_the_shipped_atlas_knows_what_large_voxels_do(atlas):
    """Thin cortex is partly lost in them; a hippocampus seems larger. Up to 2 mm nothing changes."""
    measured = np.geomspace(300, 2e6, 146)
    fine, same, three, five = (calibrate(measured, atlas, edge) for edge in (0.7, 2.0, 3.0, 5.0))
    assert fine == same
    assert three[601] > 1.01 * same[601]
    assert five[47] + five[48] < three[47] + three[48] < same[47] + same[48]


def test_the_volumes_of_a_stripped_scan_are_brought_to_those_of_the_whole_head(atlas):
    whole = np.geomspace(300, 2e6, 146)
    shifts = atlas.shifts
    assert shifts.rims[0] < 0.05 < shifts.rims[1] < 0.15 < shifts.rims[2]
    for rim, fluid, shift in zip(shifts.rims, shifts.fluid[:, 0], shifts.stripped, strict=True):
        copy = whole * np.exp(shift)
        told = calibrate(copy, atlas, 2.0, Cut(float(rim), float(fluid)))
        known, untold = calibrate(whole, atlas, 2.0), calibrate(copy, atlas, 2.0)
        assert told == pytest.approx(known, rel=1e-5)
        # less brain along the masks, more with a margin
        assert abs(untold[muse.TOTAL_BRAIN] / known[muse.TOTAL_BRAIN] - 1) > 0.01


def test_what_a_stripped_scan_holds_beside_the_brain():
    ball = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0)
    for radius, known in ((10, 0.0), (12, 3 * np.log(1.2))):
        scan = Volume(np.where(ball <= radius, 5.0, -1.0).astype(np.float32), np.eye(4))
        seen = np.zeros((*ball.shape, 18), np.float32)
        seen[..., 0], seen[..., 1], seen[..., 2] = ball > 14, (ball <= 14) & (ball > 10), ball <= 10
        found = how_cut(scan, float((ball <= 14).sum()), [Volume(seen, np.eye(4))])
        assert found.rim == pytest.approx(known, abs=0.03)
        assert found.fluid == pytest.approx(3 * np.log(1.4), abs=0.03)


@pytest.fixture(scope="module")
def lopsided(atlas, tmp_path_factory):
    """A head in template space, of the atlas's likeliest regions, its left lateral ventricle grown by 4 mm."""
    folder = tmp_path_factory.mktemp("lopsided")
    likely = np.where(atlas.rows >= 0, atlas.labels[atlas.rows, 0], 146)
    ventricle = likely == muse.columns(np.array([LEFT_VENTRICLE]))[0]
    classes = muse.classes()[likely].astype(int)
    classes[ndimage.binary_dilation(ventricle, iterations=2) & (likely != 146)] = CLASSES.index("lateral_ventricle")
    bright = np.array([0, 2, 7, 10, 2, 2, 2, 8, 7.5, 8, 9, 7, 7, 7.5, 9, 9.5, 7, 10]) * 100
    affine = atlas.grid.affine
    t1w = save(folder / "t1w.nii.gz", bright[classes].astype(np.float32), affine)
    icv = save(folder / "icv.nii.gz", classes > 0, affine)
    sharp = np.eye(18, dtype=np.float32)[classes]
    posteriors = save_probability(folder / "p.nii.gz", sharp, affine)
    between = save_probability(folder / "b.nii.gz", sharp, shifted(affine, [0.5] * 3))
    still = ants.create_ants_transform("AffineTransform", dimension=3, matrix=np.eye(3), translation=[0, 0, 0])
    ants.write_transform(still, str(folder / "xfm.mat"))
    brain = save(folder / "brain.nii.gz", classes > 1, affine)
    return t1w, brain, icv, posteriors, between, folder / "xfm.mat", ventricle


def test_a_ventricle_grown_on_the_left_is_larger_on_the_left(lopsided, bundle, tmp_path):
    *head, ventricle = lopsided
    made = volumes(*head, atlas=bundle, out=tmp_path)
    with made.muse_volumes.open(encoding="utf-8") as stream:
        rows = {int(row["index"]): float(row["volume_mm3"]) for row in csv.DictReader(stream, delimiter="\t")}
    assert rows[LEFT_VENTRICLE] > 1.3 * rows[RIGHT_VENTRICLE]
    assert rows[48] == pytest.approx(rows[47], rel=0.1)
    assert rows[muse.ICV] > rows[muse.TOTAL_BRAIN] > rows[601] > rows[604] * 0.5
    labels = read(made.muse_dseg, np.uint8)
    where = np.argwhere(labels.data == LEFT_VENTRICLE) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    assert (where[:, 0] < 2).mean() > 0.98
    assert (labels.data[ventricle] == LEFT_VENTRICLE).mean() > 0.9


def test_what_a_stripped_scan_holds_reaches_the_volumes(lopsided, bundle, atlas, tmp_path):
    *head, _ = lopsided
    icv = []
    for name, stripped in (("whole", False), ("stripped", True)):
        (tmp_path / name).mkdir()
        made = volumes(*head, atlas=bundle, out=tmp_path / name, stripped=stripped)
        with made.muse_volumes.open(encoding="utf-8") as stream:
            icv.append({row["name"]: float(row["volume_mm3"]) for row in csv.DictReader(stream, delimiter="\t")}["ICV"])
    scan, skull = read(head[0]), read(head[2], np.uint8)
    cut = how_cut(scan, float(skull.data.sum() * skull.grid.voxel_volume), [read(path) for path in head[3:5]])
    shift = added_by(cut, atlas.shifts)[145]
    assert abs(shift) > 1e-3
    assert icv[1] / icv[0] == pytest.approx(np.exp(-atlas.lines.at(2.0)[1, 145] * shift), rel=1e-4)


def test_the_fused_mask_is_the_brain_unless_a_mask_was_given(lopsided, bundle, tmp_path):
    """The network's mask here has a ball of brain cut out, where the atlas and the posteriors know better."""
    t1w, brain, icv, *rest, _ = lopsided
    whole = read(brain, np.uint8)
    hole = np.zeros(whole.data.shape, bool)
    hole[40:52, 50:62, 50:62] = True
    cut = save(tmp_path / "cut.nii.gz", (whole.data > 0) & ~hole, whole.affine)
    fused = volumes(t1w, cut, icv, *rest, atlas=bundle, out=tmp_path)
    mask = read(fused.brain_mask_fused, np.uint8).data > 0
    assert mask[hole & (whole.data > 0)].mean() > 0.95
    assert dice(mask, fill_holes(whole.data > 0)) > 0.97
    assert not (mask & (read(icv, np.uint8).data == 0)).any()
    given = volumes(t1w, cut, icv, *rest, atlas=bundle, out=tmp_path, given_mask=cut)
    assert np.array_equal(read(given.brain_mask_fused, np.uint8).data > 0, (whole.data > 0) & ~hole)


def test_structure_priors_are_probabilities_and_weigh_both_sources():
    prior, posterior = np.zeros((2, 147), np.float32), np.full((2, 18), 0.5 / 17, np.float32)
    hippocampus, amygdala = CLASSES.index("hippocampus"), CLASSES.index("amygdala")
    posterior[:, hippocampus] = 0.5
    prior[0, muse.columns(np.array([47]))[0]] = 1  # hippocampus
    prior[1, np.flatnonzero(muse.classes() == amygdala)[0]] = 1
    found = structure_prior(prior, posterior)
    assert np.allclose(found.sum(axis=1), 1)
    assert found[0].argmax() == hippocampus
    assert found[1, amygdala] > posterior[1, amygdala]


def test_a_bundle_of_another_kind_is_refused(bundle):
    with pytest.raises(BundleError, match="is no MUSE atlas"):
        read_atlas(bundle.parent / "roi")


@pytest.mark.parametrize("unknown", ["by_fluid", "edges"])
def test_an_atlas_that_knows_less_of_stripped_scans_or_large_voxels_is_refused(bundle, tmp_path, unknown):
    """As versions before wrote it."""
    with np.load(bundle / "atlas.npz") as stored:
        np.savez(tmp_path / "atlas.npz", **{name: stored[name] for name in stored if name != unknown})
    save_bundle(tmp_path, {key: v for key, v in read_json(bundle / "model.json").items() if key != "files"})
    with pytest.raises(BundleError, match="older version; run `brainage train atlas` again"):
        read_atlas(tmp_path)


def test_voxels_of_both_grids_count_half():
    """Two grids half a voxel apart see the same ball: each region has the mean of both volumes."""
    affine = np.diag([2.0, 2, 2, 1])
    ball = np.linalg.norm(np.indices((24, 24, 24)) - 11.6, axis=0) < 8
    moved = np.linalg.norm(np.indices((24, 24, 24)) + 0.5 - 11.6, axis=0) < 8
    sharp = [np.eye(18, dtype=np.float32)[np.where(one, 2, 0)] for one in (ball, moved)]
    scan = Volume(np.random.default_rng(0).uniform(1, 2, (24, 24, 24)).astype(np.float32), affine)
    icv = Volume(np.ones((24, 24, 24), np.uint8), affine)
    grids = [affine, shifted(affine, [0.5] * 3)]
    head = gather(scan, icv, [Volume(one, grid) for one, grid in zip(sharp, grids, strict=True)])
    parts = [int(mask.data.sum()) for mask in head.masks]
    regions = np.zeros((sum(parts), 147), np.float32)
    regions[np.arange(sum(parts)), np.where(head.posterior[:, 2] > 0.5, 0, 145)] = 1
    assert measured(regions, head)[0] == pytest.approx(4 * (ball.sum() + moved.sum()))
    images = spread(regions[:, 0], head)
    assert [int(image.data.sum()) for image in images] == [ball.sum(), moved.sum()]
    assert all(np.array_equal(image.affine, grid) for image, grid in zip(images, grids, strict=True))
