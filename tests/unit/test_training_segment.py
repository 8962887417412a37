"""The segmentation network is trained on scans made from label maps; a run that was stopped is gone on with."""

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bids_brainage.core import bundle as bundles
from bids_brainage.core.errors import UsageError
from bids_brainage.image.classes import CLASSES, NUMBER
from bids_brainage.image.network import SegmentationNet, load_network, posterior
from bids_brainage.toolbox import main
from bids_brainage.training import engine, labelmaps, segmenter, synthetic
from bids_brainage.training.segment import _source, trained_on

SHELLS = ((60, 507), (52, 24), (49, 3), (42, 2))
BALLS = ((10, (-14, 0, 8), 4), (5, (-22, 0, -4), 10), (4, (-20, -20, -10), 17), (3, (0, 0, 0), 14))
MIRROR = {3: 42, 2: 41, 4: 43, 10: 49, 17: 53}


def head(seed: int) -> np.ndarray:
    """A ball of a head with left and right: skin, fluid, cortex, white matter, deep structures, cerebellum, stem."""
    side = 140
    axes = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"))
    axes = axes * (1 + 0.05 * np.random.default_rng(seed).normal(size=3))[:, None, None, None]
    labels = np.zeros((side,) * 3, np.int16)

    def ball(radius, centre):
        return sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True)) < radius**2

    for radius, label in SHELLS:
        labels[ball(radius, (0, 0, 0))] = label
    labels[ball(16, (-14, -20, -34))], labels[ball(16, (14, -20, -34))] = 8, 47
    labels[ball(9, (0, -8, -44)) | ((np.abs(axes[0]) < 7) & (np.abs(axes[1] + 6) < 7) & (axes[2] < -42))] = 16
    for radius, centre, label in BALLS:
        labels[ball(radius, centre)] = label
    right = axes[0] > 0
    for left, other in MIRROR.items():
        labels[right & (labels[::-1] == left)] = other
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("labels")
    for seed in range(3):
        nib.Nifti1Image(head(seed)[::-1], np.diag([-1.0, 1, 1, 1])).to_filename(made / f"head-{seed}.nii.gz")
    return made


@pytest.fixture(scope="module")
def heads(folder):
    return labelmaps.read_maps(labelmaps.find_maps(folder))


def test_a_label_map_is_read_as_ras_with_its_cord_apart(folder, heads):
    table = labelmaps.labels()
    rows = heads[0].rows
    left = (table.side[rows.long()] == -1).nonzero()[:, 0].float().mean()
    right = (table.side[rows.long()] == 1).nonzero()[:, 0].float().mean()
    assert left + 10 < right
    cord = rows == len(table.rows)
    assert cord.any()
    assert cord.nonzero()[:, 2].max() < (rows == table.rows[16]).nonzero()[:, 2].min()
    assert (table.target[rows.long()][cord] == 0).all()


def test_pairs_of_labels_share_class_and_intensity():
    table = labelmaps.labels()
    for left, right in MIRROR.items():
        a, b = table.rows[left], table.rows[right]
        assert table.target[a] == table.target[b] != 0
        assert table.twin[b] == a == table.twin[a]
        assert (table.side[a], table.side[b]) == (-1, 1)
    assert table.target[table.rows[507]] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: np.where(d == 507, 999, d), "labels 999 are not known"),
        (lambda d: np.where((d == 8) | (d == 47), 0, d), "has no cerebellum"),
        (lambda d: d[..., None].repeat(2, -1), "is not one volume at 1 mm"),
    ],
)
def test_an_unusable_label_map_is_refused_in_one_line(tmp_path, change, words):
    nib.Nifti1Image(change(head(0)), np.eye(4)).to_filename(tmp_path / "bad.nii.gz")
    with pytest.raises(UsageError, match=words) as caught:
        labelmaps.read_map(tmp_path / "bad.nii.gz")
    assert "bad.nii.gz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_label_map_is_refused(folder, tmp_path):
    whole = (folder / "head-0.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cut\.nii\.gz: cannot be read"):
        labelmaps.read_map(tmp_path / "cut.nii.gz")


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), contrast=st.sampled_from([*synthetic.CONTRASTS]))
def test_samples_are_scaled_finite_and_made_again_by_their_seed(heads, seed, contrast):
    sample = synthetic.synthesise(heads, [seed], crop=True, contrast=contrast)
    again = synthetic.synthesise(heads, [seed], crop=True, contrast=contrast)
    assert all(torch.equal(one, other) for one, other in zip(sample, again, strict=True))
    assert sample.scan.shape == sample.target.shape == sample.side.shape == synthetic.CROP
    assert torch.isfinite(sample.scan).all()
    assert 0 <= sample.scan.min() <= sample.scan.max() <= 1.5
    assert (sample.side[sample.target == 0] == 0).all()


def test_the_right_hemisphere_lies_right_also_where_the_head_is_mirrored(heads):
    """Turned by up to 40 degrees, but never so that left and right change places."""
    for seed in range(12):
        side = synthetic.synthesise(heads, [seed], crop=False, contrast="t1").side
        left, right = ((side == value).nonzero()[:, 0].float().mean() for value in (-1, 1))
        assert left + 5 < right, seed


def test_scans_are_made_with_all_their_digits_in_a_training_of_half_precision(heads, monkeypatch):
    monkeypatch.setattr(synthetic, "LACKS", {"skull": 1.0})
    alone = synthetic.synthesise(heads, [4], crop=True)
    with torch.autocast("cpu", torch.bfloat16):
        within = synthetic.synthesise(heads, [4], crop=True)
    assert all(torch.equal(one, other) for one, other in zip(alone, within, strict=True))


def test_t1w_is_brightest_in_white_matter_and_inverted_darkest(heads):
    order = {"t1": [], "inverted": []}
    for contrast, found in order.items():
        for seed in range(8):
            sample = synthetic.synthesise(heads[:1], [seed, 5], crop=False, contrast=contrast)
            white, grey = (
                sample.scan[sample.target == NUMBER[name]].mean()
                for name in ("cerebral_white_matter", "cerebral_cortex")
            )
            found.append(bool(white > grey))
    assert sum(order["t1"]) >= 7
    assert sum(order["inverted"]) <= 1


def test_beyond_the_field_of_view_there_is_nothing_to_find():
    """A cut takes scan and truth alike."""
    whole = torch.ones(synthetic.CROP)
    cuts = 0
    for seed in range(12):
        draw = synthetic.Draw([seed], synthetic.CROP, torch.device("cpu"))
        scan, target = synthetic.cut(draw, whole, whole.to(torch.uint8))
        assert torch.equal(scan == 0, target == 0)
        cuts += bool((scan == 0).any())
    assert cuts


def test_brain_extraction_keeps_the_brain_and_a_rim_along_a_smooth_border():
    """At most 1 mm (and a voxel) is lost, 4 mm (and what the border wanders) kept beside it; its place varies."""
    from scipy.ndimage import distance_transform_edt

    distance = synthetic.positions(synthetic.CROP, torch.device("cpu")).square().sum(0).sqrt()
    target = torch.where(distance < 40, NUMBER["cerebral_cortex"], 0).masked_fill_(
        (distance >= 40) & (distance < 46), NUMBER["csf"]
    )
    margins, sharp = [], 0
    for seed in range(40):
        kept = synthetic.kept(synthetic.Draw([seed], synthetic.CROP, torch.device("cpu")), target.to(torch.uint8))
        assert torch.equal(kept, kept.clamp(0, 1))
        assert (kept[distance < 35] == 1).all()
        assert (kept[distance > 56] == 0).all()
        outside = torch.from_numpy(distance_transform_edt((target == 0).numpy(), sampling=synthetic.SPACING))
        margins.append(float((kept * (outside > 0)).sum() / (outside == 2).sum()))
        sharp += bool(((kept == 0) | (kept == 1)).float().mean() > 0.99)
    assert min(margins) == 0
    assert max(margins) > 0.8
    assert 0 < sharp < 40


@settings(max_examples=30)
@given(few=st.integers(12, 60), many=st.integers(12, 120), steepness=st.floats(-3, 3))
def test_coarse_voxels_are_interpolated_where_they_lie(few, many, steepness):
    """A line stays a line between the middles of the outer voxels, and beyond them ends at their values."""
    middles = (np.arange(few) + 0.5) / few
    wanted = ((np.arange(many) + 0.5) / many).clip(middles[0], middles[-1])
    assert np.allclose(synthetic.cubic(few, many) @ (1 + steepness * middles), 1 + steepness * wanted, atol=1e-4)


def test_resolution_moves_no_place_and_keeps_what_there_is():
    """Voxels of up to 5.5 mm and slices of up to 6: a ball stays where it is and keeps what it holds."""
    shape = synthetic.CROP
    where = synthetic.positions(shape, torch.device("cpu"))
    ball = torch.exp(-((where.square().sum(0) / 20**2) ** 2))[None, None]
    for seed in range(60):
        found = synthetic.resolution(synthetic.Draw([seed], shape, torch.device("cpu")), ball)[0, 0]
        assert found.shape == shape
        assert found.min() >= 0
        assert float(found.sum()) == pytest.approx(float(ball.sum()), rel=0.02)
        assert (where * found).sum((1, 2, 3)).abs().max() / found.sum() < 0.2


def test_what_scans_lack_is_as_frequent_as_said():
    draw = synthetic.Draw([0], synthetic.CROP, torch.device("cpu"))
    found = [synthetic.missing(draw) for _ in range(4000)]
    shares = [found.count(lack) / len(found) for lack in ("skull", "field", "face", "")]
    assert np.allclose(shares, (0.15, 0.2, 0.15, 0.5), atol=0.03)


def test_the_skull_is_taken_from_scan_and_not_from_truth(heads, monkeypatch):
    """The brain is cut out of the finished scan: 0 beside it, noise or not; CSF that is gone is still to be found."""
    monkeypatch.setattr(synthetic, "LACKS", {"skull": 1.0})
    for seed in range(6):
        sample = synthetic.synthesise(heads, [seed], crop=False)
        beside = sample.scan[sample.target == 0]
        assert (beside == 0).float().mean() > 0.8
        assert sample.scan[sample.target > NUMBER["csf"]].mean() > 0.05
        assert (sample.target == NUMBER["csf"]).any()


def test_warps_are_smooth_and_keep_their_folds_apart():
    draw = synthetic.Draw([3], synthetic.WHOLE, torch.device("cpu"))
    moved = synthetic.positions(synthetic.WHOLE, draw.device) + synthetic.warp(draw, 4.5, 2.5)
    steps = torch.stack([moved[a].diff(dim=a)[:-1, :-1, :-1].flatten()[:500_000] for a in range(3)])
    assert steps.min() > 0
    assert steps.std() > 0.1


@given(angles=st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_rotations_keep_lengths_and_handedness(angles):
    matrix = synthetic.rotation(np.array(angles))
    assert np.allclose(matrix @ matrix.T, np.eye(3))
    assert np.isclose(np.linalg.det(matrix), 1)


def test_the_loss_falls_to_nothing_where_the_answer_is_right():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, len(CLASSES), (1, 16, 16, 16), generator=generator).byte()
    side = torch.randint(-1, 2, (1, 16, 16, 16), generator=generator).to(torch.int8)
    right = torch.nn.functional.one_hot(target.long(), len(CLASSES)).permute(0, 4, 1, 2, 3).float()
    sure = 40 * torch.cat([right, side[:, None].float()], 1)
    assert segmenter.loss(sure, target, side) < 1e-3
    assert segmenter.loss(sure.roll(1, 1), target, side) > 5
    wrong_side = torch.cat([40 * right, -40 * side[:, None].float()], 1)
    assert segmenter.loss(wrong_side, target, side) > 1
    assert torch.isfinite(segmenter.loss(sure, target, torch.zeros_like(side)))


def test_overlap_is_dice():
    truth = torch.tensor([1, 1, 2, 2, 0])
    found = torch.tensor([1, 2, 2, 2, 0])
    dice = segmenter.overlap(found, truth).dice()
    assert dice[1] == pytest.approx(2 / 3)
    assert dice[2] == pytest.approx(4 / 5)
    assert torch.isnan(dice[3])


def test_weights_of_a_network_without_sides_can_be_started_from():
    torch.manual_seed(0)
    new = SegmentationNet(len(CLASSES), (4, 4, 8, 8, 8), 4)
    state = {name: value + 1 for name, value in new.state_dict().items()}
    state["output.weight"], state["output.bias"] = state["output.weight"][:-1], state["output.bias"][:-1]
    first = new.output.bias[-1].item()
    segmenter.warm_start(new, state)
    assert torch.equal(new.output.weight[:-1], state["output.weight"])
    assert new.output.bias[-1].item() == first


@given(steps=st.integers(10, 10_000))
def test_the_rate_rises_stays_and_falls(steps):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = engine.warmup_and_decay(optimiser, steps, warmup=5).lr_lambdas[0]
    values = [factor(step) for step in range(steps)]
    assert 0 < min(values) <= max(values) <= 1
    assert values[-1] < 0.2
    assert all(a >= b for a, b in pairwise(values[5:]))


def arguments(folder: Path, out: Path, steps: int) -> list[str]:
    return [
        *("train", "segment", "--labels", str(folder), "--out", str(out), "--steps", str(steps), "--every", "4"),
        *("--hold-back", "1", "--tiny", "--threads", "1"),
    ]


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with_and_ends_in_a_bundle(folder, tmp_path):
    out = tmp_path / "net"
    checkpoint = tmp_path / "net-work" / "last.ckpt"
    start = "import sys; from bids_brainage.toolbox import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", start, *arguments(folder, out, 500)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not checkpoint.is_file() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.is_file()
    assert not (out / "model.json").exists()
    done = int(torch.load(checkpoint, weights_only=True)["global_step"])
    steps = done + 6  # the last round is cut short
    assert main(arguments(folder, out, steps)) == 0
    bundle = bundles.load(out)
    rows = engine.read_curves(out / "curves.csv")
    assert [row["step"] for row in rows] == [*range(4, done + 5, 4), steps]
    assert int(torch.load(checkpoint, weights_only=True)["global_step"]) == steps
    training = bundle.card["training"]
    assert training["complete"]
    assert training["held_back"] == ["head-2.nii.gz"]
    assert f"--steps {steps}" in training["command"]
    assert bundle.card["metrics"]["synthetic"]["dice"] == pytest.approx(max(row["dice"] for row in rows), abs=1e-4)
    assert (out / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_trained_bundle_can_be_used_and_started_from(folder, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(folder, first, 4)) == 0
    network, card = load_network(first)
    classes, right = posterior(network, torch.rand(16, 16, 32), half=False)
    assert classes.shape == (16, 16, 32, len(CLASSES))
    assert torch.allclose(classes.sum(-1), torch.ones(16, 16, 32), atol=1e-5)
    assert 0 <= right.min() <= right.max() <= 1
    weights = load_file(first / "model.safetensors")
    assert card["network"]["parameters"] == sum(value.numel() for value in weights.values())
    assert main([*arguments(folder, second, 4), "--start", str(first)]) == 0
    started = json.loads((second / "model.json").read_text())["training"]["started_from"]
    assert started["bundle"] == bundles.load(first).digest
    assert main(arguments(folder, second, 8)) == 2
    assert "a run with other label maps, seed, batch or --start" in capsys.readouterr().err


def test_too_few_label_maps_and_another_network_are_refused(folder, tmp_path, capsys):
    assert main([*arguments(folder, tmp_path / "net", 4), "--hold-back", "3"]) == 2
    assert "3 label maps, 3 of them held back" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(arguments(empty, tmp_path / "net", 4)) == 2
    assert "holds no label map" in capsys.readouterr().err
    assert not (tmp_path / "net").exists()


def test_label_maps_are_known_by_what_they_hold(folder, tmp_path):
    """Names alone would give anybody's maps the licence of those that the shipped network saw."""
    for number, path in enumerate(sorted(folder.glob("*.nii.gz")), start=1):
        shutil.copy(path, tmp_path / f"seg-{number:02d}.nii.gz")
    assert "licence" not in _source(tmp_path)
    assert _source(tmp_path)["sha256"] == _source(folder)["sha256"]


def test_the_label_maps_of_the_shipped_network_are_known(shared_data):
    assert _source(shared_data / "labelmaps")["licence"] == "Apache-2.0"


def test_what_weights_have_seen_goes_back_to_their_first_start() -> None:
    first = {"label_maps": ["a"], "started_from": None}
    second = {"label_maps": ["b"], "started_from": {"training": first}}
    assert trained_on({"label_maps": ["c"], "started_from": {"training": second}}) == {"a", "b", "c"}
