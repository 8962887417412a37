"""The atlas is an average, its calibration a law of powers, and its judgement leaves the judged head out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_brainage.core.bundle import load
from bids_brainage.core.bundle import save as save_bundle
from bids_brainage.core.errors import ScanError
from bids_brainage.core.files import sha256, write_json
from bids_brainage.core.source import package_source
from bids_brainage.image import muse
from bids_brainage.image.atlas import look_up, read_atlas
from bids_brainage.image.classes import CLASSES
from bids_brainage.image.fusion import Head
from bids_brainage.image.io import Volume
from bids_brainage.image.stripped import Cut, Shifts, added_by
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.models.registry import PACKAGED
from bids_brainage.training.agreement import (
    Judged,
    Measured,
    accuracy,
    average,
    calibration,
    leave_one_out,
    measure,
    people,
    without_each,
)
from bids_brainage.training.atlas import describe, write
from bids_brainage.training.coarse import judge_coarse, lines
from bids_brainage.training.heads import FILES, RESOLUTION, Example, through_stages
from bids_brainage.training.judge import STRUCTURES
from bids_brainage.training.stripped import CUTS, Copies, judge_stripped, shifts

VOLUMES = arrays(np.float64, (6, 146), elements=st.floats(100, 1e5))


@settings(max_examples=25)
@given(VOLUMES)
def test_what_agrees_is_left_alone(measured):
    intercept, slope = calibration(measured, measured)
    assert np.allclose(intercept, 0, atol=1e-3)
    assert np.allclose(slope, 1, atol=1e-4)


@settings(max_examples=25)
@given(VOLUMES, st.floats(0.5, 2))
def test_a_common_factor_is_found_and_both_sides_share_a_line(measured, factor):
    intercept, slope = calibration(measured, factor * measured)
    other = muse.mirrored()[:145]
    assert np.allclose(intercept, np.log(factor), atol=1e-3)
    assert np.array_equal(intercept[:145], intercept[:145][other])
    assert np.array_equal(slope[:145], slope[:145][other])


@settings(max_examples=25)
@given(VOLUMES, arrays(np.float64, 146, elements=st.floats(0.5, 2)))
def test_each_region_has_a_level_of_its_own(measured, factor):
    """None is drawn towards that of its neighbours: that would be off in the same direction in everybody."""
    factor[:145] = np.sqrt(factor[:145] * factor[:145][muse.mirrored()[:145]])
    intercept, slope = calibration(measured, factor * measured)
    assert np.allclose(intercept, np.log(factor), atol=1e-3)
    assert np.allclose(slope, 1, atol=1e-4)


def test_a_steeper_law_is_found_where_volumes_differ_a_lot():
    rng = np.random.default_rng(0)
    measured = np.exp(rng.normal(8, 1.5, (40, 146)))
    slope = calibration(measured, measured**1.2)[1]
    assert 1.1 < slope.min() <= slope.max() < 1.2
    close = np.exp(rng.normal(8, 0.05, (40, 146)))
    assert np.abs(calibration(close, close**1.2)[1] - 1).max() < 0.05


def cuts(rims: list[float], fluid: object = 0.2, heads: int = 6) -> np.ndarray:
    """Cuts of so many heads, ``(heads, copies, 2)``."""
    rim = np.tile(np.asarray(rims, float), (heads, 1))
    return np.stack([rim, np.broadcast_to(np.asarray(fluid, float), rim.shape)], axis=-1)


@settings(max_examples=25)
@given(VOLUMES, st.floats(0.7, 1.4))
def test_what_stripping_does_to_all_alike_is_found(whole, factor):
    known = shifts(Copies(np.stack([whole * factor, whole], axis=1), cuts([0.0, 0.2])), whole)
    assert np.allclose(known.stripped[0], np.log(factor), atol=1e-5)
    assert np.allclose(known.stripped[1], 0, atol=1e-5)
    assert np.allclose(added_by(Cut(0.05, 0.2), known), 0.75 * np.log(factor), atol=1e-5)
    assert np.allclose(added_by(Cut(-1, 0.2), known), known.stripped[0])
    assert np.allclose(added_by(Cut(3, 0.2), known), known.stripped[1])


def test_between_three_cuts_the_nearest_two_decide():
    """A cut along the brain loses cortex that half a millimetre brings back: no line goes through all three."""
    shift = np.tile(np.array([[-0.14], [0.0], [0.02]], np.float32), 146)
    known = Shifts(np.array([0.0, 0.05, 0.2], np.float32), shift, np.ones((3, 2), np.float32), 0 * shift)
    found = [added_by(Cut(rim, 1.0), known)[0] for rim in (-1, 0, 0.025, 0.05, 0.125, 0.2, 1)]
    assert np.allclose(found, [-0.14, -0.14, -0.07, 0.0, 0.01, 0.02, 0.02], atol=1e-6)


def test_cuts_are_known_by_growing_rims():
    whole = np.full((6, 146), 1000.0)
    copies = Copies(np.stack([1.2 * whole, 0.9 * whole, whole], axis=1), cuts([0.2, 0.0, 0.1]))
    known = shifts(copies, whole)
    assert known.rims.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert np.allclose(known.stripped[:, 0], np.log([0.9, 1.0, 1.2]), atol=1e-6)


def test_heads_with_more_fluid_are_told_more():
    """Six heads of which an SD more of fluid adds a tenth: five more that show nothing leave 6 / 11 of that."""
    more = np.array([-1.5, -1, -0.2, 0.2, 1, 1.5])
    more /= more.std()
    whole = np.full((6, 146), 1000.0)
    copies = Copies((whole * np.exp(0.1 * more[:, None]))[:, None], cuts([0.05], 0.3 + 0.04 * more[:, None]))
    known = shifts(copies, whole)
    assert np.allclose(known.fluid, [[0.3, 0.04]], atol=1e-6)
    assert np.allclose(known.by_fluid, 0.1 * 6 / 11, atol=1e-5)
    told = [added_by(Cut(0.05, 0.3 + 0.04 * z), known)[0] for z in (-9, -2, 0, 1, 2, 9)]
    assert np.allclose(told, 0.1 * 6 / 11 * np.array([-2, -2, 0, 1, 2, 2]), atol=1e-5)


@settings(max_examples=25)
@given(VOLUMES, VOLUMES)
def test_a_shift_is_alike_on_both_sides_and_the_skulls_is_its_own(whole, copies):
    shift = shifts(Copies(copies[:, None], cuts([0.0])), whole).stripped[0]
    assert np.allclose(shift[:145], shift[:145][muse.mirrored()[:145]], atol=1e-6)
    assert shift[145] == pytest.approx(np.log(copies[:, 145] / whole[:, 145]).mean(), abs=1e-4)


def test_stripped_copies_are_judged_by_the_shift_of_other_people():
    """Two heads of one person shrink by half, those of others by a tenth: neither is told what its own person shows."""
    rng = np.random.default_rng(0)
    raw, slopes = rng.uniform(500, 5000, (4, 146)), rng.uniform(0.9, 1.1, (4, 146))
    who = np.array([0, 0, 1, 2])
    shrink = np.array([0.5, 0.5, 0.9, 0.9])[:, None, None]
    measured = [Measured(own, own, own, own, 1.0) for own in raw]
    judged = Judged(raw * 2, slopes, raw * 2, measured)
    copies = Copies(raw[:, None] * np.repeat(shrink, 2, axis=1), cuts([0.0, 0.2], heads=4))
    found = judge_stripped(judged, copies, who)
    assert found.shape == (4, 2, 146)
    off = np.log(found / judged.volumes[:, None])
    assert np.allclose(off[:2], slopes[:2, None] * np.log(0.5 / 0.9), atol=1e-4)
    mixed = (2 * np.log(0.5) + np.log(0.9)) / 3
    assert np.allclose(off[2, :, 145], slopes[2, 145] * (np.log(0.9) - mixed), atol=1e-4)


def test_accuracy_of_known_errors():
    reference = np.array([100.0, 200, 300, 400])
    found = accuracy(reference * [1.1, 0.9, 1.02, 1.0], reference)
    assert found["bias_percent"]["value"] == pytest.approx(0.5, abs=0.05)
    assert found["median_absolute_error_percent"]["value"] == 6.0
    assert found["bias_percent"]["low"] < 0 < found["bias_percent"]["high"]
    assert found["r"] > 0.9


def made_head(seed: int, odd: int | None = None) -> Example:
    """A head of half left, half right cerebral white matter in template space; ``odd`` is a region of its own."""
    grid = template(DEFAULT, RESOLUTION).grid
    left, right = muse.columns(np.array([82, 81]))
    columns = np.full(grid.shape, 146, np.uint8)
    middle = grid.shape[0] // 2
    columns[middle - 8 : middle, 30:50, 30:50], columns[middle : middle + 8, 30:50, 30:50] = left, right
    if odd is not None:
        columns[middle - 8 : middle, 30:34, 30:50] = odd
    inside = columns != 146
    points = (np.argwhere(inside) @ grid.affine[:3, :3].T + grid.affine[:3, 3]).astype(np.float32)
    truth = columns[inside]
    posterior = np.eye(len(CLASSES), dtype=np.float32)[muse.classes()[truth]]
    intensity = np.random.default_rng(seed).normal(1, 0.01, len(truth)).astype(np.float32)
    numbers = np.array([*(region.number for region in muse.regions()), 1, 0], np.uint8)
    labels = Volume(numbers[columns], grid.affine)
    volume = float(inside.sum() * grid.voxel_volume)
    head = Head((Volume(inside, grid.affine),), posterior, intensity, volume, labels)
    counts = np.bincount(truth, minlength=147)[:145] * grid.voxel_volume
    icv = Volume(inside.astype(np.uint8), grid.affine)
    return Example(f"head-{seed}", head, points, columns, truth, np.array([*counts, volume]), (1.0, 1.0), labels, icv)


def judge(examples: list[Example], who: np.ndarray) -> Judged:
    """Each head by the heads of other people."""
    return leave_one_out(examples, who, without_each(examples, who))


@pytest.fixture(scope="module")
def examples():
    return [made_head(seed) for seed in range(3)]


def test_a_written_atlas_is_read_as_it_was_and_its_card_judges_copies(examples, tmp_path):
    who = np.arange(3)
    spread = np.random.default_rng(0).uniform(0.9, 1.1, (3, 146))
    measured = [Measured(np.full(146, 500.0) * own, own[:145], own[:9], own[:3], 0.97) for own in spread]
    judged = Judged(600 * spread, np.ones((3, 146)), 610 * spread, measured)
    copies = Copies(judged.raw[:, None] * np.array([0.9, 1.1, 0.95])[:, None], cuts([0.01, 0.05, 0.2], heads=3))
    coarse = judged.raw[:, None] * np.array([0.97, 0.9])[:, None]
    atlas = average(examples)._replace(lines=lines(judged, coarse), shifts=shifts(copies, judged.raw))
    write(atlas, tmp_path)
    told = {"stripped": judge_stripped(judged, copies, who), "coarse": judge_coarse(judged, coarse, who)}
    card = describe([one.name for one in examples], who, judged, **told, shipped=False)
    card["training"]["segmentation"] = "none"
    save_bundle(tmp_path, card)
    found = read_atlas(tmp_path)
    for known, made in ((found.lines, atlas.lines), (found.shifts, atlas.shifts)):
        assert all(np.array_equal(*pair) for pair in zip(known, made, strict=True))
    assert np.allclose(look_up(found, examples[0].points), look_up(atlas, examples[0].points), atol=0.01)
    figures = card["metrics"]["stripped"]
    assert set(CUTS) < set(figures)
    assert abs(figures["app_mask"]["ICV"]["bias_percent"]["value"]) < 0.1
    assert set(card["metrics"]["coarse"]) == {"how", "3 mm", "5 mm"}


def test_the_average_is_a_probability_and_alike_on_both_sides(examples):
    atlas = average(examples)
    shares = look_up(atlas, examples[0].points)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares.argmax(axis=1) == examples[0].truth).mean() > 0.95
    mirrored = look_up(atlas, examples[0].points * np.array([-1, 1, 1], np.float32))
    assert np.abs(mirrored[:, muse.mirrored()] - shares).mean() < 0.02


def test_heads_alike_agree_with_each_other(examples):
    judged = judge(examples, np.arange(3))
    assert all(one.brain > 0.97 for one in judged.measured)
    known = examples[0].reference > 0
    assert np.allclose(judged.volumes[:, known], judged.reference[:, known], rtol=0.03)


def test_what_lies_beyond_the_mask_of_the_skulls_inside_counts_as_missed(examples):
    """Half of the reference's white matter is where nothing was looked for."""
    atlas, one = average(examples[1:]), examples[0]
    white = list(STRUCTURES).index("cerebral white matter")
    assert measure(atlas, one).structures[white] > 0.97
    more = one._replace(reference=2 * one.reference)
    assert measure(atlas, more).structures[white] == pytest.approx(2 / 3, abs=0.02)


def test_a_head_is_judged_by_the_others_alone(examples):
    """A region that one head alone has cannot be found in it."""
    odd = int(muse.columns(np.array([47]))[0])
    judged = judge([*examples, made_head(3, odd)], np.arange(4))
    assert judged.reference[3, odd] > 0
    assert judged.measured[3].regions[odd] < 0.5


def test_a_head_is_not_judged_by_another_head_of_the_same_person(examples):
    """The second head has the odd region too, and would give it away."""
    odd = int(muse.columns(np.array([47]))[0])
    twice = [*examples, made_head(3, odd), made_head(4, odd)]
    apart, together = (judge(twice, np.array([0, 1, 2, 3, last])) for last in (4, 3))
    assert apart.measured[3].regions[odd] > 0.9
    assert together.measured[3].regions[odd] < 0.5
    assert np.array_equal(apart.reference, together.reference)


def test_heads_that_are_alike_are_of_one_person(examples):
    """Region by region the same at over 68 % of the voxels; the order of the heads does not matter."""
    other = np.array(examples[0].columns)
    other[other < 145] = (other[other < 145] + 7) % 145
    stranger = examples[0]._replace(columns=other)
    assert people([examples[0], stranger, examples[1]]).tolist() == [0, 1, 0]
    inside = np.flatnonzero(examples[0].columns < 145)
    for share, persons in ((0.60, 2), (0.75, 1)):
        partly = examples[0].columns.copy()
        changed = inside[int(share * len(inside)) :]
        partly.reshape(-1)[changed] = (partly.reshape(-1)[changed] + 7) % 145
        assert people([examples[0], examples[0]._replace(columns=partly)]).max() + 1 == persons


def test_an_atlas_of_very_many_heads_counts_them_all(examples):
    """Each head counts twice, by its mirror image."""
    many, few = average([examples[0]] * 130), average([examples[0]])
    assert np.allclose(look_up(many, examples[0].points), look_up(few, examples[0].points), atol=1e-6)


def test_stages_of_another_network_or_scan_are_not_taken(tmp_path):
    """Their files are there: only what they were made of tells."""
    segment = PACKAGED / "segment"
    scan = tmp_path / "sub-01_T1w.nii.gz"
    scan.write_bytes(b"no image")
    folder = tmp_path / "work"
    for name, end in FILES.items():
        path = folder / f"{name}{end}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"old")
    with pytest.raises(ScanError):
        through_stages(scan, folder, segment_bundle=segment)
    mark = {"scan": sha256(scan), "segmentation": load(segment).digest, "seed": 0, "code": package_source("image")}
    write_json(folder / "made_of.json", mark)
    assert through_stages(scan, folder, segment_bundle=segment)["brain_mask"].read_bytes() == b"old"
    for other in ({"segmentation": "another"}, {"code": "another"}):
        write_json(folder / "made_of.json", {**mark, **other})
        with pytest.raises(ScanError):
            through_stages(scan, folder, segment_bundle=segment)
