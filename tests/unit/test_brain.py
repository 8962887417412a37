"""The brain is found in heads of many kinds; what is no head, or no mask of it, is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy import ndimage

from bids_brainage.core import bundle as bundles
from bids_brainage.core import quality
from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.image import brain, io, locate, masks, stripped
from bids_brainage.image.classes import CLASSES, FREESURFER
from bids_brainage.image.conform import conform
from bids_brainage.image.network import load_network, posterior
from bids_brainage.image.upright import angle
from bids_brainage.models.registry import PACKAGED
from bids_brainage.simulate import anatomy
from bids_brainage.simulate import head as surroundings

BUNDLE = PACKAGED / "segment"


def flags(found):
    """All flags of a segmentation: its own and those of its measures."""
    return (*found.flags, *quality.flags(quality.judged(found.measures)))


@pytest.fixture(scope="module")
def simulated():
    """A simulated head at 2 mm, and its brain (ventricles inside)."""
    base = anatomy.build(2)
    values = np.zeros(256, np.float32)
    for region in (*anatomy.REGIONS, *surroundings.TISSUES):
        values[region.number] = region.t1
    noise = np.random.default_rng(0).normal(0, 3, base.labels.shape)
    data = np.abs(ndimage.gaussian_filter(values[base.labels], 0.5) + noise).astype(np.float32)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = base.origin
    numbers = [region.number for region in anatomy.REGIONS if region.number != anatomy.CSF]
    return io.Volume(data, affine), masks.fill_holes(np.isin(base.labels, numbers))


def run(scan, folder, **given):
    folder.mkdir(parents=True, exist_ok=True)
    path = io.save(folder / "t1w_native.nii.gz", scan.data, scan.affine)
    return brain.segment(path, bundle=BUNDLE, out=folder, **given)


def mask_of(path):
    return io.read(path, np.uint8).data > 0


@pytest.fixture(scope="module")
def segmented(simulated, tmp_path_factory):
    return run(simulated[0], tmp_path_factory.mktemp("whole"))


def test_the_brain_of_a_simulated_head_is_found(simulated, segmented):
    found, icv = mask_of(segmented.brain_mask), mask_of(segmented.icv_mask)
    assert masks.dice(found, simulated[1]) > 0.96
    assert not (found & ~icv).any()
    assert icv.sum() > 1.05 * found.sum()
    assert flags(segmented) == ()


def test_posteriors_are_probabilities_where_the_brain_lies(simulated, segmented):
    classes = io.read(segmented.posteriors)
    assert classes.data.shape == (*locate.SHAPE, len(CLASSES))
    assert np.allclose(classes.grid.zooms, 2)
    assert np.abs(classes.data.sum(-1) - 1).max() < 0.03
    tissue = io.Volume(classes.data[..., 2:].sum(-1), classes.affine)
    there = io.resample(tissue, simulated[0].grid) > 0.5
    assert masks.dice(masks.solid(there), mask_of(segmented.brain_mask)) > 0.99


def test_the_second_posteriors_lie_between_the_voxels_of_the_first(segmented):
    first, second = io.read(segmented.posteriors), io.read(segmented.posteriors_between)
    assert np.allclose(np.linalg.inv(first.affine) @ second.affine[:, 3], [0.5, 0.5, 0.5, 1])
    seen = [io.Volume(one.data[..., 2:].sum(-1), one.affine) for one in (first, second)]
    apart = masks.dice(seen[0].data > 0.5, seen[1].data > 0.5)
    together = masks.dice(io.resample(seen[1], seen[0].grid) > 0.5, seen[0].data > 0.5)
    assert together > max(0.96, apart + 0.02)


def test_structures_are_named_by_hemisphere(simulated, segmented):
    """Left of the midline the left numbers stand, and the structures lie within the skull."""
    found = io.read(segmented.aseg_dseg, np.uint8)
    x = found.affine[0, 0] * np.arange(found.data.shape[0]) + found.affine[0, 3]
    for left, right in (number for number in FREESURFER if number[0] != number[1]):
        where = [np.where((found.data == number).sum(axis=(1, 2)))[0] for number in (left, right)]
        sizes = [(found.data == number).sum() for number in (left, right)]
        assert min(sizes) > 0.4 * max(sizes) > 0, (left, right)
        assert x[where[0]].mean() < -5, left
        assert x[where[1]].mean() > 5, right
    assert not found.data[~mask_of(segmented.icv_mask)].any()


def test_where_the_left_half_is_cut_away_the_right_brain_is_left(simulated, segmented, tmp_path):
    scan, _ = simulated
    x = scan.affine[0, 0] * np.arange(scan.data.shape[0]) + scan.affine[0, 3]
    cut = io.Volume(np.where((x < -4)[:, None, None], 0, scan.data).astype(np.float32), scan.affine)
    whole = mask_of(segmented.brain_mask)
    found = mask_of(run(cut, tmp_path).brain_mask)
    assert not found[x < -6].any()
    assert masks.dice(found[x > 0], whole[x > 0]) > 0.95


@pytest.mark.parametrize("margin", [(0, 0, 60), (30, 10, 0)])
def test_a_larger_field_of_view_changes_nothing(simulated, segmented, margin):
    scan, _ = simulated
    shape = tuple(n + 2 * m for n, m in zip(scan.data.shape, margin, strict=True))
    larger = io.window(scan, -np.asarray(margin), shape)
    network, _ = load_network(BUNDLE)
    half = brain.has_bfloat16("cpu")
    first = locate.locate_and_segment(network, locate.coarse(larger), half=half).classes
    second = locate.half_a_voxel_on(network, larger, first.grid, half=half)
    mask, _, has_no_skull = brain.native_masks([first, second], scan, locate.coarse(scan))
    assert masks.dice(mask, mask_of(segmented.brain_mask)) > 0.995
    assert not has_no_skull


@pytest.mark.parametrize("degrees", [0, 35])
def test_the_second_grid_is_seen_in_the_mirror(degrees):
    class LeftSide(torch.nn.Module):
        """Class 1 in the left half of whatever it sees, background in the right one."""

        def __init__(self):
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            answer = torch.full((len(batch), len(CLASSES) + 1, *batch.shape[2:]), -9.0)
            answer[:, 1, : batch.shape[2] // 2], answer[:, 0, batch.shape[2] // 2 :] = 9, 9
            return answer

    head = io.Volume(np.ones((64, 64, 64), np.float32), np.eye(4))
    grid = locate.coarse(head).grid
    around, angle = np.eye(4), np.deg2rad(degrees)
    around[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = io.Grid(grid.shape, around @ grid.affine)
    seen = locate.half_a_voxel_on(LeftSide(), head, turned, half=False)
    assert np.allclose(seen.affine, io.shifted(turned.affine, [0.5] * 3))
    assert (seen.data[16:, ..., 1] > 0.99).all()
    assert (seen.data[:14, ..., 0] > 0.99).all()  # two voxels around what is not background are as seen


def test_a_turned_head_is_seen_along_its_own_axes(simulated, segmented, tmp_path):
    scan, _ = simulated
    cosine, sine = np.cos(np.deg2rad(35)), np.sin(np.deg2rad(35))
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    to_source = np.eye(4)
    middle = scan.grid.centre()
    to_source[:3, :3], to_source[:3, 3] = turn.T, middle - turn.T @ middle
    matrix = np.linalg.inv(scan.affine) @ to_source @ scan.affine
    data = ndimage.affine_transform(scan.data, matrix[:3, :3], matrix[:3, 3], order=3).clip(0)
    found = run(io.Volume(data.astype(np.float32), scan.affine), tmp_path)
    axes = io.read_grid(found.posteriors).affine[:3, :3] / locate.SPACING
    assert angle(axes.T @ turn) < 15
    back = ndimage.affine_transform(
        mask_of(segmented.brain_mask).astype(np.float32), matrix[:3, :3], matrix[:3, 3], order=1
    )
    assert masks.dice(mask_of(found.brain_mask), back > 0.5) > 0.97
    assert found.measures["icv_ml"] == pytest.approx(segmented.measures["icv_ml"], rel=0.01)


def test_a_grid_that_lies_aslant_with_its_head_stays(simulated, segmented, tmp_path):
    scan, _ = simulated
    cosine, sine = np.cos(np.deg2rad(35)), np.sin(np.deg2rad(35))
    turn = np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]])
    found = run(io.Volume(scan.data, turn @ scan.affine), tmp_path)
    assert np.allclose(io.read_grid(found.posteriors).affine[:3, :3], 2 * turn[:3, :3])
    assert masks.dice(mask_of(found.brain_mask), mask_of(segmented.brain_mask)) > 0.99  # the window may be a voxel off


def test_an_upright_head_is_seen_along_the_axes_of_the_scan(segmented):
    assert np.allclose(io.read_grid(segmented.posteriors).affine[:3, :3], np.diag([2.0, 2, 2]))


@pytest.mark.parametrize("change", [lambda d: d * 1e-5, lambda d: d * 3e4, lambda d: (d - d.mean()) / d.std()])
def test_the_intensity_scale_does_not_matter(simulated, change):
    scan, _ = simulated
    changed = locate.coarse(io.Volume(change(scan.data), scan.affine)).data
    assert np.abs(changed - locate.coarse(scan).data).mean() < 0.02


def test_bright_air_is_taken_for_what_it_is(simulated, segmented, tmp_path):
    scan, _ = simulated
    turned = io.Volume(scan.data.max() - scan.data, scan.affine)
    found = run(turned, tmp_path)
    assert np.abs(locate.coarse(io.read(found.t1w_ordered)).data - locate.coarse(scan).data).mean() < 0.01
    assert masks.dice(mask_of(found.brain_mask), mask_of(segmented.brain_mask)) > 0.97
    assert flags(found) == ("contrast_exchanged",)


def test_a_mask_beside_a_head_in_bright_air_is_refused(simulated, tmp_path):
    scan, _ = simulated
    turned = io.Volume(scan.data.max() - scan.data, scan.affine)
    beside = np.zeros(scan.data.shape, np.uint8)
    beside[:12] = 1
    given = io.save(tmp_path / "mask.nii.gz", beside, scan.affine)
    with pytest.raises(ScanError, match="does not lie on the head"):
        run(turned, tmp_path, given_mask=given)


def test_a_t1w_scan_with_noise_for_air_stays_as_it_is(simulated, segmented, tmp_path):
    scan, _ = simulated
    air = np.random.default_rng(3).uniform(0, np.percentile(scan.data, 99.5), scan.data.shape)
    corners = tuple(slice(None, None, size - 1) for size in scan.data.shape)
    air[corners] = air.max()
    noisy = io.Volume(np.where(scan.data > 0.1 * scan.data.max(), scan.data, air).astype(np.float32), scan.affine)
    found = run(noisy, tmp_path)
    assert found.t1w_ordered.name == "t1w_native.nii.gz"
    assert "contrast_exchanged" not in flags(found)


def test_tissues_in_reverse_order_are_brought_back(simulated, segmented, tmp_path):
    scan, _ = simulated
    top = np.percentile(scan.data, 99.9)
    turned = np.where(scan.data > 0.05 * top, np.maximum(top - scan.data, 1), 0).astype(np.float32)
    found = run(io.Volume(turned, scan.affine), tmp_path)
    assert flags(found) == ("contrast_exchanged",)
    inside = mask_of(segmented.brain_mask)
    assert np.corrcoef(io.read(found.t1w_ordered).data[inside], scan.data[inside])[0, 1] > 0.99
    assert masks.dice(mask_of(found.brain_mask), inside) > 0.98


def test_a_t1w_scan_stays_as_it_is(segmented):
    assert segmented.t1w_ordered.name == "t1w_native.nii.gz"
    assert "contrast_exchanged" not in flags(segmented)


def test_bfloat16_gives_what_float32_gives(simulated):
    network, _ = load_network(BUNDLE)
    head = locate.coarse(simulated[0])
    scan = torch.from_numpy(io.window(head, (1, 7, 25), locate.SHAPE).data)
    exact, half = (posterior(network, scan, half=value).classes.numpy() for value in (False, True))
    inside = exact.sum(axis=(0, 1, 2)) > 100
    assert np.abs(half.sum(axis=(0, 1, 2)) / exact.sum(axis=(0, 1, 2)) - 1)[inside].max() < 0.01
    assert masks.dice(half[..., 2:].sum(-1) > 0.5, exact[..., 2:].sum(-1) > 0.5) > 0.998


def test_a_scan_stripped_to_the_brain_keeps_what_is_left(simulated, tmp_path):
    scan, truth = simulated
    left = io.Volume(np.where(truth, np.maximum(scan.data, 1), 0).astype(np.float32), scan.affine)
    found = run(left, tmp_path)
    assert flags(found) == ("already_stripped",)
    assert masks.dice(mask_of(found.brain_mask), truth) > 0.99


def test_a_cut_that_took_brain_along_is_told_from_one_that_did_not(simulated, tmp_path):
    """All that is left is brain in both, and so is the mask; the network sees less rim where cortex is gone."""
    scan, truth = simulated
    kept = {"within": ndimage.binary_erosion(truth), "along": truth, "beside": masks.dilate(truth, 4, scan.grid.zooms)}
    cuts = {}
    for name, mask in kept.items():
        left = io.Volume(np.where(mask, np.maximum(scan.data, 1), 0).astype(np.float32), scan.affine)
        found = run(left, tmp_path / name)
        assert found.stripped
        skull = mask_of(found.icv_mask).sum() * scan.grid.voxel_volume
        seen = [io.read(path) for path in (found.posteriors, found.posteriors_between)]
        cuts[name] = stripped.how_cut(left, float(skull), seen)
    assert cuts["within"].rim < cuts["along"].rim - 0.01 < cuts["beside"].rim - 0.11
    assert all(0 < cut.fluid < 0.6 for cut in cuts.values())


def test_a_scan_stripped_with_csf_loses_the_csf(simulated, segmented, tmp_path):
    scan, truth = simulated
    wide = masks.dilate(mask_of(segmented.icv_mask), 4, scan.grid.zooms)
    found = run(io.Volume(np.where(wide, np.maximum(scan.data, 1), 0).astype(np.float32), scan.affine), tmp_path)
    mask = mask_of(found.brain_mask)
    assert "already_stripped" in flags(found)
    assert masks.dice(mask, truth) > masks.dice(wide, truth) + 0.05
    assert not (mask & ~wide).any()


def test_a_given_mask_goes_first_on_whatever_grid(simulated, tmp_path):
    scan, truth = simulated
    eroded = ndimage.binary_erosion(truth)
    turned = io.Grid(
        (140, 150, 140), np.array([[-1.5, 0, 0, 105], [0, 1.5, 0, -130], [0, 0, 1.5, -90], [0, 0, 0, 1.0]])
    )
    other = io.resample(io.Volume(eroded.astype(np.uint8), scan.affine), turned, nearest=True)
    given = io.save(tmp_path / "mask.nii.gz", other, turned.affine)
    found = run(scan, tmp_path, given_mask=given)
    assert masks.dice(mask_of(found.brain_mask), eroded) > 0.96
    assert not (mask_of(found.brain_mask) & ~mask_of(found.icv_mask)).any()
    assert "mask_disagrees" not in flags(found)


def test_a_given_mask_that_contradicts_the_network_is_flagged(simulated, tmp_path):
    scan, truth = simulated
    half = truth & (np.arange(truth.shape[0]) < 50)[:, None, None]
    found = run(scan, tmp_path, given_mask=io.save(tmp_path / "mask.nii.gz", half, scan.affine))
    assert "mask_disagrees" in flags(found)
    assert np.array_equal(mask_of(found.brain_mask), half)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m, a: (np.zeros_like(m), a), "is empty"),
        (lambda m, a: (m, a + np.array([[0, 0, 0, 300.0]] + [[0] * 4] * 3)), "does not lie on the head"),
        (lambda m, a: (np.stack([m, m], -1), a), "one 3D volume"),
    ],
)
def test_an_unusable_given_mask_is_refused_by_its_name(simulated, tmp_path, change, word):
    scan, truth = simulated
    given = io.save(tmp_path / "mask.nii.gz", *change(truth, scan.affine))
    with pytest.raises(ScanError, match=word) as caught:
        run(scan, tmp_path / "out", given_mask=given)
    assert str(given) in str(caught.value)


def test_a_scan_without_a_brain_is_refused(tmp_path):
    data = np.random.default_rng(0).gamma(2, 50, (96, 100, 96)).astype(np.float32)
    with pytest.raises(ScanError, match=r"no brain was found|the brain found has"):
        run(io.Volume(data, np.diag([2.0, 2, 2, 1])), tmp_path)


def test_a_brain_at_the_edge_of_the_field_of_view_is_flagged(simulated, segmented, tmp_path):
    scan, _ = simulated
    top = int(np.flatnonzero(mask_of(segmented.brain_mask).any(axis=(0, 1)))[-1])
    found = run(io.Volume(scan.data[:, :, : top - 14], scan.affine), tmp_path)
    assert "brain_cut" in flags(found)


def test_a_bundle_with_other_classes_or_weights_is_refused(simulated, tmp_path):
    folder = tmp_path / "segment"
    shutil.copytree(BUNDLE, folder)
    card = json.loads((folder / "model.json").read_text())
    bundles.save(folder, {**card, "classes": card["classes"][::-1]})
    scan = io.save(tmp_path / "t1w.nii.gz", simulated[0].data, simulated[0].affine)
    with pytest.raises(BundleError, match="18 classes at 2 mm"):
        brain.segment(scan, bundle=folder, out=tmp_path)
    bundles.save(folder, {**card, "network": {**card["network"], "channels": [8, 16, 32, 64, 96]}})
    with pytest.raises(BundleError, match="not the weights"):
        load_network(folder)
    bundles.save(folder, {**card, "network": {"classes": 18}})
    with pytest.raises(BundleError, match="needs classes"):
        load_network(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "least"), [("nichart06", (0.955, 0.955)), ("IXI012", (0.925, 0.962))])
def test_real_heads_against_dlmuse(shared_data, tmp_path, subject, least):
    root = shared_data / "ds-t1w"
    name = f"sub-{subject}"
    native = conform(root / name / "anat" / f"{name}_T1w.nii.gz", out=tmp_path).t1w_native
    found = brain.segment(native, bundle=BUNDLE, out=tmp_path)
    labels = io.read(root / "derivatives" / "dlmuse" / name / "anat" / f"{name}_desc-dlmuse_dseg.nii.gz", np.int16).data
    reference = masks.fill_holes(~np.isin(labels, (0, 1, 46))), masks.fill_holes(labels > 0)
    measured = masks.dice(mask_of(found.brain_mask), reference[0]), masks.dice(mask_of(found.icv_mask), reference[1])
    assert measured[0] > least[0]
    assert measured[1] > least[1]
    assert flags(found) == ()


@pytest.mark.slow
def test_a_real_scan_at_1_mm_oblique(shared_data, tmp_path):
    native = conform(shared_data / "ds-t1w/sub-trio/anat/sub-trio_T1w.nii.gz", out=tmp_path).t1w_native
    found = brain.segment(native, bundle=BUNDLE, out=tmp_path)
    mask = io.read(found.brain_mask, np.uint8)
    assert mask.grid.shape == io.read_grid(native).shape
    assert 1180 < mask.data.sum() * mask.grid.voxel_volume / 1000 < 1300
    assert flags(found) == ()
