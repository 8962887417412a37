"""The local model is trained on maps, judged on people who took no part, and ends in a bundle that the app can use."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bids_brainage.core import bundle as bundles
from bids_brainage.core.errors import UsageError
from bids_brainage.image.io import save as save_image
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.models.base import load_model
from bids_brainage.models.local import brain_of, read_tissues
from bids_brainage.models.networks.inference import predict_whole, window_around
from bids_brainage.models.networks.local_unet import MARGIN, LocalUNet, Supervised
from bids_brainage.models.networks.standard import reference_of, standardised
from bids_brainage.models.registry import find
from bids_brainage.toolbox import main
from bids_brainage.training.local import fit as recipe
from bids_brainage.training.local import judge, net
from bids_brainage.training.local.card import age_range
from bids_brainage.training.local.config import PRESETS, configure
from bids_brainage.training.local.data import LocalScan, find_scans, people_of, split
from bids_brainage.training.local.recipe import Recipe
from bids_brainage.training.local.store import Batch, Blocks, Stored, Wholes, store

COARSE = 6.0
STEM = f"space-{DEFAULT}_res-6"


def scan(number: int, age: float = 50.0, **told) -> LocalScan:
    return LocalScan(f"0/sub-{number:03d}", f"sub-{number:03d}", Path("gm"), Path("wm"), None, age, "F", **told)


def write_people(root: Path, n: int = 12) -> Path:
    """A dataset as `brainage simulate --maps-only` lays it: tissue shrinks with age, more in one half of the head."""
    head = template(resolution=COARSE)
    rows = ["participant_id\tage\tsex\tsite"]
    for number in range(n):
        age = 25.0 + 5 * number
        half = np.where(np.arange(head.gm.shape[0]) < head.gm.shape[0] // 2, 5.0, -5.0)[:, None, None]
        local = np.where(head.gm + head.wm > 0.05, age + half, 0).astype(np.float32)
        factor = np.where(local > 0, 1.3 - local / 150, 0)
        stem = root / "derivatives" / "maps" / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_{STEM}"
        maps = {
            "label-GM_desc-modulated_probseg": head.gm * factor,
            "label-WM_desc-modulated_probseg": head.wm * factor,
        }
        for name, data in {**maps, "desc-truth_brainagemap": local}.items():
            save_image(Path(f"{stem}_{name}.nii.gz"), data.astype(np.float32), head.grid.affine)
        rows.append(f"sub-{number:02d}\t{age}\t{'FM'[number % 2]}\t{'ab'[number % 2]}")
    made = {"Name": "x", "GeneratedBy": [{"Name": "bids-brainage", "Description": "simulated with seed 0"}]}
    (root / "dataset_description.json").write_text(json.dumps(made))
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    described = {"SourceDatasets": [{"URL": "../../"}]}
    (root / "derivatives" / "maps" / "dataset_description.json").write_text(json.dumps(described))
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


def blocks_of(folder: Path, maps: np.ndarray, brain: np.ndarray, truth: np.ndarray | None, **changes) -> Blocks:
    """Batches of one person."""
    np.save(folder / "maps.npy", maps.astype(np.float16))
    if truth is not None:
        np.save(folder / "age.npy", truth.astype(np.float16))
    person = Stored(scan(0), folder / "maps.npy", folder / "age.npy" if truth is not None else None)
    config = configure("tiny", None, **{"flip": False, "jitter": 0.0, "whole": 0.0, "steps": 40, **changes})
    return Blocks([person], brain, config, seed=0, truth=truth is not None)


@settings(max_examples=25)
@given(n=st.integers(10, 90), seed=st.integers(0, 99), scans=st.integers(1, 3))
def test_nobody_stands_in_two_parts_and_every_part_has_all_ages(n, seed, scans):
    rng = np.random.default_rng(seed)
    all_scans = [scan(i, age, study=f"{i % 3}") for i, age in enumerate(rng.uniform(20, 90, n)) for _ in range(scans)]
    parts = split(all_scans, seed)
    assert parts == split(all_scans, seed)
    people = {part: {s.person for s in of} for part, of in parts.items()}
    assert sum(map(len, people.values())) == n == len(set().union(*people.values()))
    assert sum(map(len, parts.values())) == len(all_scans)
    assert all(len(of) >= n // 10 for of in people.values())
    if n >= 60:
        for study, count in Counter(s.study for s in all_scans).items():
            held = len({s.person for s in parts["correction"] if s.study == study})
            assert abs(held - 0.2 * count / scans) <= 4


def test_the_seed_changes_the_split_and_nine_people_are_too_few():
    all_scans = [scan(i, 20.0 + i) for i in range(40)]
    assert split(all_scans, 0)["test"] != split(all_scans, 1)["test"]
    with pytest.raises(UsageError, match="9 people with maps and an age; ten at least"):
        split(all_scans[:9], 0)


@settings(max_examples=10)
@given(n=st.integers(10, 45), seed=st.integers(0, 99))
def test_everybody_is_judged_once_in_ten_folds(n, seed):
    all_scans = [scan(i, 20.0 + i) for i in range(n)]
    folds = [split(all_scans, seed, fold) for fold in range(10)]
    assert folds[0] == split(all_scans, seed)
    assert Counter(s.person for parts in folds for s in parts["test"]) == Counter(s.person for s in all_scans)
    for parts in folds:
        assert sorted(s.person for of in parts.values() for s in of) == sorted(s.person for s in all_scans)
        assert len({id(s) for s in parts["test"]} & {id(s) for s in parts["train"]}) == 0


@given(step=st.integers(0, 1000))
def test_the_coarser_ages_lose_their_weight_in_a_line(step):
    config = configure("tiny", None, steps=1000, auxiliary=2.0, auxiliary_until=0.5)
    assert net.annealed(step, config) == pytest.approx(max(0.0, 2 * (1 - step / 500)))


def test_the_loss_counts_voxels_of_the_brain_and_the_coarser_ages():
    ages = torch.zeros(1, 4, 4, 4)
    inside = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    inside[0, :2] = True
    batch = Batch(torch.zeros(1), ages, inside)
    found = Supervised(torch.where(inside, 3.0, 99.0), torch.tensor([1.0]), torch.tensor([-2.0]))
    assert net.loss(found, batch, 0.0) == 3.0
    assert net.loss(found, batch, 0.5) == 3.0 + 0.5 * (1 + 2)
    nothing = Batch(torch.zeros(1), ages, torch.zeros_like(inside))
    assert net.loss(found, nothing, 1.0) == 0.0


def test_a_block_s_label_lies_where_a_network_that_copies_the_centre_finds_it(tmp_path):
    rng = np.random.default_rng(0)
    brain = rng.random((20, 24, 16)) > 0.4
    truth = np.where(brain, rng.uniform(20, 90, brain.shape), 0)
    maps = np.pad(truth, MARGIN)[None].repeat(2, 0)
    for flip in (False, True):
        blocks = blocks_of(tmp_path, maps, brain, truth, flip=flip)
        for step in range(6):
            batch = blocks[step]
            copied = batch.maps[:, 0, MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN]
            assert copied.shape == batch.ages.shape
            assert batch.inside.any()
            torch.testing.assert_close(copied[batch.inside], batch.ages[batch.inside] + blocks.mean_age)


def test_a_block_gives_what_the_whole_brain_gives_there(tmp_path):
    """With the whole's gates and aligned poolings, the network's ages of a block are those of the same voxels."""
    torch.manual_seed(0)
    network = LocalUNet(inputs=5, channels=2, reduction=1)
    brain = np.ones((24, 20, 16), bool)
    maps = np.random.default_rng(0).random((2, *(size + 2 * MARGIN for size in brain.shape)))
    blocks = blocks_of(tmp_path, maps, brain, None)
    whole = blocks.item(blocks.people[0], np.zeros(3, int), blocks.whole, None).maps[None]
    gates = network.eval().compute_gates(whole)
    part = blocks.item(blocks.people[0], np.array([8, 4, 0]), (52, 52, 52), None)
    expected = predict_whole(network, whole, gates)[8:20, 4:16, 0:12]
    torch.testing.assert_close(predict_whole(network, part.maps[None], gates), expected, atol=1e-5, rtol=1e-4)
    assert (part.ages == 0).all()


def test_blocks_cover_the_brain_and_come_again_by_their_step(tmp_path):
    brain = np.zeros((28, 20, 24), bool)
    brain[1:27, 3:20, :22] = True
    maps = np.random.default_rng(0).random((2, *(size + 2 * MARGIN for size in brain.shape)))
    blocks = blocks_of(tmp_path, maps, brain, None)
    rng, seen = np.random.default_rng(1), np.zeros(brain.shape, int)
    for _ in range(300):
        start = blocks.place(rng, (52, 52, 52))
        part = tuple(slice(a, a + 12) for a in start)
        assert brain[part].any()
        assert brain[part].size == 12**3
        seen[part] += 1
    assert seen[brain].min() > 0
    assert torch.equal(blocks[3].maps, blocks[3].maps)
    assert not torch.equal(blocks[3].maps, blocks[4].maps)


def test_the_last_steps_are_of_whole_brains(tmp_path):
    brain = np.ones((20, 24, 16), bool)
    blocks = blocks_of(tmp_path, np.zeros((2, 60, 64, 56)), brain, None, whole=0.25, steps=40)
    assert blocks.size(29) == ((52, 52, 52), 2)
    assert blocks.size(30) == ((60, 64, 56), 1)
    assert blocks[39].ages.shape == (1, 20, 24, 16)


def test_presets_and_files_are_read_and_wrong_ones_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("crop = 60\nrate = 1\n")
    config = configure("default", path, steps=7, every=None)
    assert (config.crop, config.rate, config.steps) == (60, 1.0, 7)
    assert config.every == PRESETS["default"].every
    published = PRESETS["published"]
    assert (published.channels, published.batch, published.crop, published.steps) == (64, 32, 52, 500_000)
    assert not published.sex, "grey and white matter alone"
    assert not published.context
    for text, words in {
        "crops = 60": "unknown key 'crops'",
        "crop = 61": "crop = 61: is not possible",
        "crop = '60'": "give a value of type int",
        "flip = 1": "give a value of type bool",
        "crop = ": "is not a readable TOML file",
        "dropout = -0.1": "dropout = -0.1: is not possible",
    }.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=words) as caught:
            configure("default", path)
        assert "mine.toml" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_people_without_an_age_are_left_out_with_a_word_and_a_lost_map_is_named(people, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(people, root)
    lines = (root / "participants.tsv").read_text().splitlines()
    lines[3] = lines[3].replace("35.0", "89+")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    found = find_scans([root], template=DEFAULT, resolution=COARSE, truth=True)
    assert len(found.scans) == 11
    assert "censored" in found.left_out["0/sub-02"]
    assert found.simulated
    assert {s.site for s in found.scans} == {"a", "b"}
    assert people_of(root / "derivatives" / "maps") == root.resolve()
    with pytest.raises(UsageError, match="stands there twice"):
        find_scans([root, root / "."], template=DEFAULT, resolution=COARSE, truth=True)
    with pytest.raises(UsageError, match=r"no modulated maps in .* at 1\.5 mm"):
        find_scans([root], template=DEFAULT, resolution=1.5, truth=False)
    lost = next(root.glob("derivatives/maps/sub-04/anat/*label-WM*"))
    lost.unlink()
    with pytest.raises(UsageError, match=r"label-WM_.*is missing"):
        find_scans([root], template=DEFAULT, resolution=COARSE, truth=False)


def test_maps_are_stored_as_the_model_reads_them_and_unusable_ones_named(people, tmp_path):
    brain = brain_of(template(resolution=COARSE))
    seen = window_around(brain.data)
    found = find_scans([people], template=DEFAULT, resolution=COARSE, truth=True)
    empty = tmp_path / "empty.nii.gz"
    save_image(empty, np.zeros(brain.data.shape, np.float32), brain.affine)
    bad = LocalScan("0/bad", "bad", empty, empty, None, 50.0, None)
    kept, refused = store([*found.scans[:2], bad], tmp_path / "maps", brain, seen, DEFAULT)
    assert len(kept) == 2
    assert "fill 0.00 of the template's brain" in refused["bad"]
    read = read_tissues([kept[1].scan.gm, kept[1].scan.wm], brain, seen, "x")
    np.testing.assert_allclose(np.load(kept[1].maps), read, rtol=1e-3, atol=1e-4)
    assert np.load(kept[1].truth).shape == seen.inner.shape
    before = kept[0].maps.stat().st_mtime_ns
    store(found.scans[:2], tmp_path / "maps", brain, seen, DEFAULT)
    assert kept[0].maps.stat().st_mtime_ns == before


def test_blocks_are_deviations_from_the_people_who_train_at_their_own_place(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.random((2, 60, 64, 56), np.float32)
    people = [maps, rng.random(maps.shape, np.float32), rng.random(maps.shape, np.float32)]
    reference = reference_of(zip(people, (30.0, 50.0, 80.0), strict=True))
    blocks = blocks_of(tmp_path, maps, np.ones((20, 24, 16), bool), None, sex=False, context=False)
    blocks.reference = reference
    whole = standardised(np.load(blocks.people[0].maps).astype(np.float32), reference)
    start = np.array((3, 5, 2))
    found = blocks.item(blocks.people[0], start, (44, 44, 44), None).maps.numpy()
    np.testing.assert_array_equal(found, whole[:, 3:47, 5:49, 2:46])


def test_finer_maps_are_brought_to_the_grid_of_the_model(tmp_path):
    """The app's maps have half the voxel size: volumes, and the local age within the brain, stay what they were."""
    fine, brain = template(resolution=1.5), brain_of(template(resolution=3.0))
    seen = window_around(brain.data)
    age = np.where(fine.gm + fine.wm > 0.05, 50 + 0.2 * np.arange(fine.gm.shape[0])[:, None, None], 0)
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("gm", "wm", "age")}
    for name, data in {"gm": fine.gm, "wm": fine.wm, "age": age}.items():
        save_image(paths[name], data.astype(np.float32), fine.grid.affine)
    one = LocalScan("0/x", "x", paths["gm"], paths["wm"], paths["age"], 50.0, None)
    (kept,), refused = store([one], tmp_path / "maps", brain, seen, DEFAULT)
    assert refused == {}
    found = np.load(kept.maps).astype(np.float64)
    for part, source in zip(found, (fine.gm, fine.wm), strict=True):
        assert part.sum() == pytest.approx(source.sum() / 8, rel=0.01)
    truth = np.load(kept.truth).astype(np.float64)
    there = truth > 0
    first = seen.inner.start[0]
    expected = 50 + 0.2 * (2 * (np.arange(truth.shape[0]) + first) + 0.5)[:, None, None] + np.zeros(truth.shape)
    assert there.mean() > 0.2
    np.testing.assert_allclose(truth[there], expected[there], atol=0.2)


def test_a_perfect_map_has_no_error_and_the_truth_is_told_from_the_age():
    truth = np.linspace(40, 60, 50, dtype=np.float32)
    found = judge.measured(judge.Predicted(scan(0, 45.0), truth, truth))
    assert (found.voxel_mae_truth, found.truth, found.predicted) == pytest.approx((0, 50, 50))
    assert found.local_r == pytest.approx(1)
    assert found.voxel_mae == pytest.approx(np.abs(truth - 45).mean())
    rows = [found._replace(age=20.0 + i, predicted=25.0 + i, truth=24.0 + i) for i in range(30)]
    past = [found._replace(age=20.0 + i, predicted=20.0 + i + 8 * (-1) ** i) for i in range(30)]
    figures = judge.figures(rows, past, 0)
    assert figures["test"]["mae"]["value"] == figures["test"]["bias"]["value"] == 5
    assert figures["by_age"]["30-39"] == {"n": 10, "mae": 5.0, "bias": 5.0}
    assert figures["interval_90"]["covered"] == 30
    assert figures["interval_90"]["mean_width"] == pytest.approx(16)
    assert figures["local_truth"]["voxel_mae"]["value"] == 0
    assert figures["local_truth"]["mean_age"]["bias"]["value"] == 1


def test_the_range_of_ages_keeps_ten_people_beyond_it():
    assert age_range(np.arange(100.0)) == (9.0, 90.0)
    assert age_range(np.arange(7.0)) == (0.0, 6.0)


@pytest.mark.slow
def test_a_run_without_a_better_validation_ends_by_patience(people, tmp_path):
    (tmp_path / "still.toml").write_text(f"resolution = {COARSE}\nrate = 1e-20\npatience = 1\nsamples = 1\n")
    out = tmp_path / "still"
    argv = ["train", "local", "--data", str(people), "--out", str(out), "--preset", "tiny", "--threads", "1"]
    assert main([*argv, "--config", str(tmp_path / "still.toml"), "--steps", "40", "--every", "1"]) == 0
    card = bundles.load(out).card
    assert card["training"]["complete"]
    assert card["maps"] == ["age", "gap_corrected"]
    steps = [line.split(",")[0] for line in (out / "curves.csv").read_text().splitlines()[1:]]
    assert [float(step) for step in steps] == [1, 2]


def _sees_what_it_was_trained_on(model, people, out, settings):
    """Maps, sex and means over the brain reach the network as in training, but for the rounding of stored maps."""
    work = out.with_name(f"{out.name}-work")
    data = recipe.gather(Recipe((people,), out, configure("tiny", settings), work, label="truth"))
    person = data.parts["test"][0]
    artefacts = {"gm_modulated": person.scan.gm, "wm_modulated": person.scan.wm, "sex": person.scan.sex}
    seen, trained = model.tensor(model.prepare(artefacts)), Wholes(data.blocks, [person])[0].maps
    assert seen.shape[1] == 5
    np.testing.assert_allclose(seen, trained, atol=0.02)


@pytest.mark.slow
def test_one_run_ends_in_a_bundle_that_predicts_and_is_gone_on_with(people, tmp_path, capsys):
    """The whole command: train, judge, write; predict as the app does; go on; refuse another run's folder."""
    (tmp_path / "coarse.toml").write_text(f"resolution = {COARSE}\n")
    out = tmp_path / "models" / "mine"
    argv = ["train", "local", "--data", str(people), "--out", str(out), "--preset", "tiny", "--threads", "1"]
    argv += ["--config", str(tmp_path / "coarse.toml"), "--label", "truth"]
    assert main([*argv, "--steps", "2", "--every", "2"]) == 0
    bundle = find("mine", [tmp_path / "models"])
    assert bundle.card["training"]["kind"] == "simulated"
    assert bundle.card["training"]["data"] == [{"title": "x (simulated with seed 0)"}]
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert "SBIA Agreement" in bundle.card["licence"]
    assert "simulated people alone" in bundle.file("LICENSE.txt").read_text(encoding="utf-8")
    assert bundle.file("SBIA-1.1.txt").stat().st_size > 1000
    assert bundle.card["training"]["parts"] == {"train": 6, "validation": 1, "correction": 3, "test": 2}
    model = load_model(bundle)
    maps = next((people / "derivatives" / "maps").glob("sub-05/anat/*label-GM*"))
    artefacts = {"gm_modulated": maps, "wm_modulated": Path(str(maps).replace("GM", "WM")), "sex": "M"}
    (prediction,) = model.predict([model.prepare(artefacts)])
    assert prediction.training_data == "simulated"
    assert model.reference is not None
    assert np.isfinite(prediction.maps.age[model.brain.data]).all()
    assert model.voxel_bins() is not None
    _sees_what_it_was_trained_on(model, people, out, tmp_path / "coarse.toml")
    assert main([*argv, "--steps", "4", "--every", "2"]) == 0
    assert bundles.load(out).card["training"]["complete"]
    steps = [line.split(",")[0] for line in (out / "curves.csv").read_text().splitlines()[1:]]
    assert [float(step) for step in steps] == [2, 4]
    assert main([*argv, "--steps", "4", "--seed", "1"]) == 2
    assert "holds a run with other people, settings, label, fold or seed" in capsys.readouterr().err
    assert main([*argv, "--out", str(people)]) == 2
    assert "holds no local model" in capsys.readouterr().err
    assert main([*argv, "--out", str(tmp_path / "my-local")]) == 2
    assert "letters and digits alone" in capsys.readouterr().err
    network = LocalUNet(**bundle.card["arguments"])
    assert recipe._begin(network, out)["bundle"] == bundles.load(out).digest
    assert torch.equal(network.output.weight, load_file(out / "model.safetensors")["output.weight"].float())
    with pytest.raises(UsageError, match="of another network"):
        recipe._begin(LocalUNet(channels=2), out)
