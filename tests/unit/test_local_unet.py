"""The local network sees what it should see, and one pass over a volume equals its blocks."""

import numpy as np
import pytest
import torch

from bids_brainage.models.networks import inference
from bids_brainage.models.networks.inference import (
    Window,
    gates_of,
    monte_carlo,
    predict_blocks,
    predict_whole,
    window_around,
)
from bids_brainage.models.networks.local_unet import LocalUNet, thinned

YEARS = 10.0


@pytest.fixture(scope="module")
def network() -> LocalUNet:
    """Small, with random weights and a spread of some years."""
    torch.manual_seed(0)
    made = LocalUNet(channels=4)
    maps = torch.rand(1, 3, 52, 52, 52)
    with torch.no_grad():
        made.output.weight *= YEARS / predict_whole(made, maps).std()
    return made.eval()


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    """Smooth maps of which no side is a multiple of 12 beyond the margin."""
    torch.manual_seed(1)
    coarse = torch.rand(1, 3, 9, 8, 8)
    return torch.nn.functional.interpolate(coarse, (64, 60, 52), mode="trilinear")


def test_52_voxels_give_12(network):
    assert network(torch.zeros(2, 3, 52, 52, 52)).shape == (2, 12, 12, 12)


@pytest.mark.parametrize("size", [40, 50, 53])
def test_other_sizes_than_the_pooling_takes_are_refused(network, size):
    with pytest.raises(ValueError, match="multiples of 4 from 44"):
        network(torch.zeros(1, 3, 52, 52, size))


def test_a_block_sees_exactly_its_52_voxels():
    made = LocalUNet(inputs=1, channels=2, dropout=0.0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.abs_()
    maps = torch.ones(1, 1, 64, 52, 52, requires_grad=True)
    gates = [gate.detach() for gate in made.compute_gates(maps.detach())]
    for first in (0, 12):
        (gradient,) = torch.autograd.grad(made(maps, gates)[:, first : first + 12].sum(), maps)
        seen = np.flatnonzero(gradient[0, 0].abs().sum((1, 2)).numpy())
        assert (seen[0], seen[-1], len(seen)) == (first, first + 51, 52)


def test_one_pass_equals_all_blocks_when_gates_are_the_same(network, maps):
    whole = predict_whole(network, maps)
    gates = gates_of(network, maps)
    blocks = predict_blocks(network, maps, gates, batch=3)
    assert whole.shape == (24, 20, 12)
    assert whole.std() > 1
    assert (whole - blocks).abs().max() < 1e-3
    assert torch.equal(whole, predict_whole(network, maps, gates))


def test_gates_of_each_block_give_other_ages(network, maps):
    assert (predict_whole(network, maps) - predict_blocks(network, maps)).abs().max() > 0.01


def test_bfloat16_changes_ages_little(network, maps):
    fast = predict_whole(network.to(memory_format=torch.channels_last_3d), maps, half=True)
    away = (fast - predict_whole(network, maps)).abs()
    assert fast.dtype == torch.float32
    assert len(fast.unique()) > 0.9 * fast.numel()
    assert 0 < away.mean() < 0.02 * YEARS
    assert away.max() < 0.1 * YEARS


def test_dropout_is_on_in_training_alone_and_inference_leaves_the_mode(network, maps):
    part = maps[:, :, :52, :52, :52]
    assert torch.equal(network(part), network(part))
    network.train()
    try:
        assert not torch.equal(network(part), network(part))
        assert torch.equal(predict_whole(network, part), predict_whole(network, part))
        assert network.training
    finally:
        network.eval()


def test_dropped_channels_are_made_up_for():
    gate = torch.full((2000, 8), 0.5)
    found = thinned(gate, 0.2)
    assert set(found.unique().tolist()) == {0.0, 0.625}
    assert found.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("first", [0, 5, 9])
def test_the_spread_under_dropout_is_that_of_passes_with_dropout(network, maps, first):
    (ages,), (sd,) = monte_carlo(network, maps, samples=4, dropped_from=first, seeds=[3])
    assert torch.equal(ages, predict_whole(network, maps))
    generator = torch.Generator().manual_seed(3)
    gates = gates_of(network, maps)
    passes = [
        predict_whole(network, maps, [thinned(g, 0.2, generator) if i >= first else g for i, g in enumerate(gates)])
        for _ in range(4)
    ]
    assert torch.allclose(sd, torch.stack(passes).std(0), atol=1e-3)
    assert sd.min() > 0


def test_the_seed_decides_the_spread(network, maps):
    def spread(seed):
        return monte_carlo(network, maps, samples=3, dropped_from=8, seeds=[seed])[1]

    torch.manual_seed(7)
    one = spread(1)
    torch.manual_seed(8)
    assert torch.equal(one, spread(1))
    assert not torch.equal(one, spread(2))


def test_training_reaches_every_weight():
    made = LocalUNet(inputs=2, channels=2).train()
    ages, middle, coarse = made.forward_training(torch.rand(2, 2, 52, 52, 52))
    assert (ages.shape, middle.shape, coarse.shape) == ((2, 12, 12, 12), (2,), (2,))
    (ages.abs().mean() + middle.abs().mean() + coarse.abs().mean()).backward()
    assert all(p.grad is not None for p in made.parameters())


def test_the_window_covers_the_mask_and_no_more_than_it_must():
    mask = np.zeros((30, 31, 29), bool)
    mask[3:20, 0:31, 5] = True
    window = window_around(mask)
    assert window == Window((-17, -20, -15), (60, 72, 44))
    assert window.inner == Window((3, 0, 5), (20, 32, 4))
    assert inference.BLOCK_IN == 52


def test_the_unit_scales_all_ages():
    torch.manual_seed(0)
    one = LocalUNet(inputs=2, channels=4, reduction=2, dropout=0.0)
    twenty = LocalUNet(inputs=2, channels=4, reduction=2, dropout=0.0, unit=20.0)
    twenty.load_state_dict(one.state_dict())
    maps = torch.rand(1, 2, 44, 44, 44)
    for a, b in zip(one.forward_training(maps), twenty.forward_training(maps), strict=True):
        torch.testing.assert_close(b, 20 * a)


def test_the_network_learns_an_age_in_few_steps():
    """Ages spread by tens of years: with a unit of 1 they are not reached in thousands of steps."""
    torch.manual_seed(0)
    network = LocalUNet(inputs=2, channels=4, reduction=2, dropout=0.0, unit=20.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    maps = torch.rand(6, 1, 1, 1, 1).expand(6, 2, 44, 44, 44).contiguous()
    ages = (60 * maps[:, 0, 0, 0, 0] - 30)[:, None, None, None]
    for _ in range(60):
        optimiser.zero_grad()
        error = (network.forward_training(maps).ages - ages).abs().mean()
        error.backward()
        optimiser.step()
    assert error.item() < 0.3 * ages.abs().mean().item()


def test_scaled_layers_give_features_of_unit_variance():
    torch.manual_seed(0)
    network = LocalUNet(inputs=2, channels=4, reduction=2, dropout=0.0)
    maps = 0.1 * torch.rand(2, 2, 44, 44, 44) + 3
    network.scale_to(maps)
    for step in network.eval().steps(maps):
        given = step.state.features
        torch.testing.assert_close(given.mean((0, 2, 3, 4)), torch.zeros(given.shape[1]), atol=0.02, rtol=0)
        torch.testing.assert_close(given.std((0, 2, 3, 4)), torch.ones(given.shape[1]), atol=0.02, rtol=0)


def test_training_drops_channels_from_the_given_unit_on():
    torch.manual_seed(0)
    network = LocalUNet(inputs=2, channels=4, reduction=2, dropout=0.5, dropped_from=7).train()
    maps = torch.rand(1, 2, 44, 44, 44)
    first, second = ([step.features for step in network.steps(maps)] for _ in range(2))
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [True] * 7 + [False] * 3
