"""SFCN: names, shapes and ages are those of a plain computation."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional

from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.bundle import load, save
from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.core.types import Age, Scan
from bids_brainage.image import io
from bids_brainage.models import registry, sfcn
from bids_brainage.models.base import load_model
from bids_brainage.workflows.participant import plan, scan_workflow
from bids_brainage.workflows.predict import predict

PUBLISHED = (32, 64, 128, 256, 256, 64)
SMALL = (2, 3, 4, 5, 6, 4)
CARD = {
    "name": "sfcn", "architecture": "sfcn", "version": "1", "needs": ["t1w_mni_affine"], "age_range": [44, 82],
    "network": {"channels": list(SMALL), "bins": [42, 82], "shape": [32, 64, 32]}, "training": {"kind": "real"},
    "licence": "test", "metrics": {}, "not_meant_for": [],
}  # fmt: skip


def published_shapes(channels=PUBLISHED, bins=40):
    """Names and shapes as in the published checkpoint, without ``module.``."""
    shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise((1, *channels))):
        size = 1 if i == len(channels) - 1 else 3
        name = f"feature_extractor.conv_{i}"
        shapes |= {f"{name}.0.weight": (outputs, inputs, size, size, size), f"{name}.0.bias": (outputs,)}
        shapes |= {f"{name}.1.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes |= {f"{name}.1.num_batches_tracked": ()}
    last = f"classifier.conv_{len(channels)}"
    return shapes | {f"{last}.weight": (bins, channels[-1], 1, 1, 1), f"{last}.bias": (bins,)}


def made_state(channels=SMALL, seed=0):
    """A checkpoint's content of the published names: positive variances, else normal numbers."""
    made = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in published_shapes(channels).items():
        values = torch.randn(shape, generator=made)
        state[name] = values.abs() + 0.5 if name.endswith("running_var") else values
        if name.endswith("tracked"):
            state[name] = torch.tensor(7)
    return state


def by_hand(state, scan, blocks):
    """Log probabilities from the state dict and torch's functions alone."""
    x = scan
    for i in range(blocks):
        name = f"feature_extractor.conv_{i}"
        last = i == blocks - 1
        x = functional.conv3d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=0 if last else 1)
        norm = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = functional.batch_norm(x, *norm)
        x = functional.relu(x if last else functional.max_pool3d(x, 2))
    x = functional.avg_pool3d(x, x.shape[2:])
    x = functional.conv3d(x, state[f"classifier.conv_{blocks}.weight"], state[f"classifier.conv_{blocks}.bias"])
    return functional.log_softmax(x.flatten(1), dim=1)


def bundle(folder: Path, state, **card):
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    save(folder, CARD | card)
    return folder


def model(folder, state=None, **card):
    return load_model(load(bundle(folder, made_state() if state is None else state, **card)))


def brain(path: Path, scale=1.0, affine=None):
    """A smooth blob with structure in MNI space, saved as an image."""
    affine = np.diag([2.0, 2, 2, 1]) if affine is None else affine
    affine[:3, 3] = (-90, -126, -72)
    points = np.indices((92, 110, 92)).transpose(1, 2, 3, 0) @ affine[:3, :3].T + affine[:3, 3]
    values = np.clip(1 - np.linalg.norm((points - [5, -15, 10]) / [65, 80, 60], axis=-1), 0, 1)
    return io.save(path, (scale * values * (2 + np.sin(points[..., 0] / 9))).astype(np.float32), affine)


def test_names_and_shapes_are_the_published_ones():
    network = sfcn.SFCN(PUBLISHED, 40)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published_shapes()
    assert sum(value.numel() for value in network.parameters()) == 2_952_936


def test_every_layer_has_the_shape_of_the_paper():
    with torch.device("meta"):
        network, x = sfcn.SFCN(PUBLISHED, 40), torch.empty(2, 1, 160, 192, 160)
        sides = [(80, 96, 80), (40, 48, 40), (20, 24, 20), (10, 12, 10), (5, 6, 5), (5, 6, 5)]
        for block, channels, side in zip(network.feature_extractor, PUBLISHED, sides, strict=True):
            x = block(x)
            assert tuple(x.shape) == (2, channels, *side)
        assert tuple(network.classifier(x).shape) == (2, 40, 1, 1, 1)


def test_ages_are_those_of_a_plain_computation(tmp_path):
    state = made_state()
    made = model(tmp_path / "b", state)
    prepared = made.prepare({"t1w_mni_affine": brain(tmp_path / "x.nii.gz")})
    assert prepared.shape == (32, 64, 32)
    expected = by_hand(state, torch.from_numpy(prepared)[None, None], len(SMALL)).double().exp().numpy()[0]
    assert made.probabilities(prepared) == pytest.approx(expected, abs=1e-6)
    (found,) = made.predict([prepared])
    assert found.brain_age == pytest.approx(float(expected @ (42.5 + np.arange(40))), abs=1e-4)
    assert math.isnan(found.brain_age_low)
    assert math.isnan(found.brain_age_high)


def test_the_input_is_the_middle_of_the_mni_grid_over_the_mean_of_all_of_it():
    values = np.random.default_rng(0).random(sfcn.MNI.shape).astype(np.float32)
    found = sfcn.network_input(io.Volume(values, sfcn.MNI.affine), (160, 192, 160))
    np.testing.assert_allclose(found, (values / values.mean())[11:171, 13:205, 11:171], rtol=1e-5)


def test_x_runs_from_right_to_left():
    ras = np.array([[1, 0, 0, -91], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]], float)
    values = np.zeros(sfcn.MNI.shape, np.float32)
    values[91 + 30, 126 - 20, 72 + 10] = 1
    found = sfcn.network_input(io.Volume(values, ras), (160, 192, 160))
    assert np.argwhere(found > 0.5 * found.max()).tolist() == [[90 - 30 - 11, 126 - 20 - 13, 72 + 10 - 11]]


def test_the_age_depends_on_neither_scale_nor_grid(tmp_path):
    made = model(tmp_path / "b")
    once, brighter = (brain(tmp_path / f"{scale}.nii.gz", scale) for scale in (1.0, 1000.0))
    ages = [one.brain_age for one in made.predict([made.prepare({sfcn.SCAN: path}) for path in (once, brighter)])]
    assert ages[0] == pytest.approx(ages[1], abs=1e-4)


@pytest.mark.parametrize("value", [0, -1, np.nan])
def test_a_scan_without_a_brain_is_refused(tmp_path, value):
    path = io.save(tmp_path / "x.nii.gz", np.full((20, 20, 20), value, np.float32), np.eye(4))
    with pytest.raises(ScanError, match="no brain") as error:
        model(tmp_path / "b").prepare({sfcn.SCAN: path})
    assert str(error.value).startswith(str(path))


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=40, max_size=40).filter(sum))
def test_flags_follow_the_probabilities(weights):
    probability = np.array(weights) / sum(weights)
    made = sfcn.SfcnModel.__new__(sfcn.SfcnModel)
    made.bundle = type("Known", (), {"card": CARD, "name": "sfcn"})()
    made.years, made.half_width = np.arange(42, 82) + 0.5, math.nan
    found = made._prediction(probability)
    assert 42.5 <= found.brain_age <= 81.5
    assert ("brain_age_at_limit" in found.flags) == (probability[0] > 0.5 or probability[-1] > 0.5)
    assert ("brain_age_outside_training_range" in found.flags) == (found.brain_age < 44)


@pytest.mark.parametrize(("bin_", "flagged"), [(0, True), (39, True), (1, False), (20, False)])
def test_an_answer_at_the_limit_is_flagged(tmp_path, bin_, flagged):
    state = made_state()
    state["classifier.conv_6.weight"] *= 0
    state["classifier.conv_6.bias"] *= 0
    state["classifier.conv_6.bias"][bin_] = 50
    made = model(tmp_path / "b", state)
    (found,) = made.predict([made.prepare({sfcn.SCAN: brain(tmp_path / "x.nii.gz")})])
    assert found.brain_age == pytest.approx(42.5 + bin_)
    assert ("brain_age_at_limit" in found.flags) is flagged


def test_residuals_on_the_card_give_an_interval(tmp_path):
    made = model(tmp_path / "b", residuals=[float(i) for i in range(1, 20)])
    (found,) = made.predict([np.ones((32, 64, 32), np.float32)])
    assert found.brain_age_high - found.brain_age == pytest.approx(18)
    assert found.brain_age - found.brain_age_low == pytest.approx(18)


@pytest.mark.parametrize(
    "network",
    [
        {},
        None,
        CARD["network"] | {"bins": [82, 42]},
        CARD["network"] | {"shape": [32, 64, 33]},
        {"channels": "abc"},
        CARD["network"] | {"channels": [2, -3, 4, 5, 6, 4]},
    ],
)
def test_a_card_that_does_not_describe_it_is_refused(tmp_path, network):
    with pytest.raises(BundleError, match="not a bundle of the sfcn architecture"):
        model(tmp_path / "b", network=network)


@pytest.mark.parametrize("damage", [dict.popitem, lambda state: state.update(more=torch.ones(1))])
def test_other_weights_are_refused(tmp_path, damage):
    state = made_state()
    damage(state)
    with pytest.raises(BundleError, match="not the weights of the architecture sfcn") as error:
        model(tmp_path / "b", state)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    folder = bundle(tmp_path / "b", made_state())
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    save(folder, CARD)
    with pytest.raises(BundleError, match="not the weights of the architecture sfcn"):
        load_model(load(folder))


def test_networks_compute_where_the_app_was_told(tmp_path, monkeypatch):
    folder, moved = bundle(tmp_path / "b", made_state()), []
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, *where, **_: moved.append(where) or network)
    scan, path = Scan(Path("sub-01_T1w.nii.gz"), {"sub": "01"}, Age(60.0), "F"), brain(tmp_path / "x.nii.gz")
    predict((folder,), scan, registry.PACKAGED / "normative", out=tmp_path, device="cuda:1", t1w_mni_affine=path)
    assert ("cuda:1",) in moved


def test_the_app_writes_its_age_without_an_interval(tmp_path):
    folder = bundle(tmp_path / "b", made_state())
    scan = Scan(Path("sub-01_T1w.nii.gz"), {"sub": "01"}, Age(60.0), "F")
    path = brain(tmp_path / "x.nii.gz")
    made = predict((folder,), scan, registry.PACKAGED / "normative", out=tmp_path, t1w_mni_affine=path)
    (found,) = read_tsv(made.brainage)
    assert (found["brain_age_low"], found["brain_age_high"]) == ("n/a", "n/a")
    (expected,) = load_model(load(folder)).predict([load_model(load(folder)).prepare({sfcn.SCAN: path})])
    assert float(found["brain_age"]) == pytest.approx(expected.brain_age, abs=0.006)
    assert float(found["gap"]) == pytest.approx(expected.brain_age - 60, abs=0.006)


def test_the_workflow_gives_it_the_brain_placed_by_the_affine(tmp_path):
    settings_ = {"preprocessed": False, "template": "MNI152NLin2009aSym", "predict_gb": 2.0}
    flow = scan_workflow("one", plan({"t1w_mni_affine"}), settings_, 1)
    edges = [(a.name, b.name, c["connect"]) for a, b, c in flow._graph.edges(data=True)]
    (given,) = [connect for a, b, connect in edges if (a, b) == ("linear", "predict")]
    assert given == [("t1w_mni_affine", "t1w_mni_affine")]
    assert flow.get_node("predict").mem_gb == 2.0
    assert flow.get_node("publish").mem_gb == 1.5


def test_years_of_several_in_one_pass_are_those_of_each(tmp_path):
    made = model(tmp_path / "b")
    scans = torch.rand(3, *made.shape, generator=torch.Generator().manual_seed(0))
    (together,) = made.pass_of(scans)
    torch.testing.assert_close(together, torch.cat([made.pass_of(one)[0] for one in scans.split(1)]))
