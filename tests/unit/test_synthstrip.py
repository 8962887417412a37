"""SynthStrip's network by the names and shapes of the published state dict, with weights of our own."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bids_brainage.core import bundle as bundles
from bids_brainage.core.errors import BundleError, ScanError
from bids_brainage.image import io, synthstrip

WIDTHS = {
    "encoder": [(1, 16), (16, 32), (32, 64), (64, 64), (64, 64), (64, 64)],
    "decoder": [(64, 64), (128, 64), (128, 64), (128, 64), (128, 64), (96, 32)],
}
CARD = {
    "name": "synthstrip", "architecture": "synthstrip", "version": "1", "needs": ["t1w_native"],
    "training": {"kind": "simulated"}, "licence": "test", "metrics": {}, "not_meant_for": [],
}  # fmt: skip


def published_shapes():
    """Names and shapes as in the published checkpoint."""
    shapes = {}
    for part, levels in WIDTHS.items():
        for level, (inputs, outputs) in enumerate(levels):
            for conv, width in enumerate((inputs, outputs)):
                shapes[f"{part}.{level}.{conv}.conv.weight"] = (outputs, width, 3, 3, 3)
                shapes[f"{part}.{level}.{conv}.conv.bias"] = (outputs,)
    for number, (inputs, outputs) in enumerate([(48, 16), (16, 16), (16, 1)]):
        shapes[f"remaining.{number}.conv.weight"] = (outputs, inputs, 3, 3, 3)
        shapes[f"remaining.{number}.conv.bias"] = (outputs,)
    return shapes


def threshold_weights():
    """Weights that pass the input on at full resolution and give ``5 - 10 x input`` as the distance."""
    state = {name: torch.zeros(shape) for name, shape in published_shapes().items()}
    for name in ("encoder.0.0", "encoder.0.1"):
        state[f"{name}.conv.weight"][0, 0, 1, 1, 1] = 1
    state["remaining.0.conv.weight"][0, 32, 1, 1, 1] = 1
    state["remaining.1.conv.weight"][0, 0, 1, 1, 1] = 1
    state["remaining.2.conv.weight"][0, 0, 1, 1, 1] = -10
    state["remaining.2.conv.bias"][0] = 5
    return state


def bundle(folder, state):
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    bundles.save(folder, CARD)
    return folder


@pytest.fixture(scope="module")
def thresholding(tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("bundles") / "synthstrip", threshold_weights())


def blobs(shape=(90, 70, 80), zooms=(1.5, 2.0, 1.8)):
    """A bright, hollow block off the middle, a smaller one apart, on a dim ground; oblique axes."""
    data = np.full(shape, 10, np.float32)
    data[15:60, 20:55, 30:70] = 200
    data[30:40, 30:40, 40:50] = 10
    data[75:80, 5:10, 5:10] = 200
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    affine = np.eye(4)
    affine[:3, :3] = turn * zooms
    affine[:3, 3] = (-50, -60, -70)
    expected = np.zeros(shape, bool)
    expected[15:60, 20:55, 30:70] = True
    return io.Volume(data, affine), expected


def test_the_network_has_the_published_names_and_shapes():
    state = synthstrip.SynthStripNet().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == published_shapes()


def test_every_level_takes_part():
    """With random weights each parameter moves the output, and the output has the input's shape."""
    torch.manual_seed(0)
    network = synthstrip.SynthStripNet()
    scan = torch.rand(1, 1, 64, 64, 64)
    result = network(scan)
    assert result.shape == scan.shape
    result.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_the_input_is_1_mm_lia_and_a_multiple_of_64():
    scan, _ = blobs()
    seen = synthstrip.prepare(scan)
    assert seen.data.shape == (192, 192, 192)
    assert seen.data.min() == 0
    assert seen.data.max() == 1
    assert np.allclose(np.linalg.norm(seen.affine[:3, :3], axis=0), 1)
    turn = np.linalg.inv(scan.affine[:3, :3] / scan.grid.zooms) @ seen.affine[:3, :3]
    assert np.allclose(turn, [[-1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-6)
    there = np.argwhere(seen.data > 0.5).mean(0)
    here = np.argwhere(scan.data > 100).mean(0)
    assert np.allclose((seen.affine @ [*there, 1])[:3], (scan.affine @ [*here, 1])[:3], atol=1)


@pytest.mark.slow
def test_the_mask_lies_where_the_distance_is_small(thresholding):
    """Largest component, holes filled, back on the scan's own oblique grid."""
    scan, expected = blobs()
    mask = synthstrip.brain_mask(scan, bundle=thresholding)
    assert mask.shape == scan.data.shape
    assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) > 0.97
    assert mask[35, 35, 45]
    assert not mask[75:80, 5:10, 5:10].any()


@pytest.mark.slow
def test_a_scan_in_which_it_finds_nothing_is_refused(tmp_path):
    state = threshold_weights()
    state["remaining.2.conv.bias"][0] = 50
    with pytest.raises(ScanError, match="found no brain"):
        synthstrip.brain_mask(blobs()[0], bundle=bundle(tmp_path / "b", state))


def test_other_weights_are_refused(tmp_path):
    state = threshold_weights()
    del state["encoder.0.0.conv.bias"]
    with pytest.raises(BundleError, match="not the weights of the architecture synthstrip"):
        synthstrip.load_synthstrip(bundle(tmp_path / "b", state))
