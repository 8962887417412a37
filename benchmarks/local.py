"""Local brain age: one pass over the brain against all blocks of 12^3 voxels, and bfloat16 against float32, in one run.

    python benchmarks/local.py [--channels 16] [--threads 2] [--batch 8] [--share 1.0] [--model BUNDLE]

Without a bundle the weights are random and scaled so that the map has an SD of 10 years; the maps are the template's
own grey and white matter. Seconds are both of the clock and of the processor: on a shared machine only the latter hold.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bids_brainage.core.bundle import load
from bids_brainage.image.io import Volume, window
from bids_brainage.image.template import template
from bids_brainage.models.base import load_model
from bids_brainage.models.local import LocalInputs, LocalModel, brain_of
from bids_brainage.models.networks.inference import (
    gates_of,
    monte_carlo,
    predict_blocks,
    predict_whole,
    window_around,
)
from bids_brainage.models.networks.local_unet import MARGIN, LocalUNet

SPREAD = 10.0


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds of the clock, seconds of the processor."""
    clock, processor = time.monotonic(), time.process_time()
    result = call()
    return result, time.monotonic() - clock, time.process_time() - processor


def maps_of(resolution: float) -> Tensor:
    """The template's tissues and no sex, in the window around its brain."""
    head = template(resolution=resolution)
    seen = window_around(brain_of(head).data)
    parts = [window(Volume(part, head.grid.affine), seen.start, seen.shape).data for part in (head.gm, head.wm)]
    return torch.from_numpy(np.stack([*parts, np.zeros_like(parts[0])]))[None]


def seen_by(model: LocalModel) -> Tensor:
    """The same as a bundle's network sees it."""
    maps = maps_of(float(model.brain.grid.zooms[0]))[0, :2].numpy()
    return model.tensor(LocalInputs(maps, None, Path("template"))).contiguous()


def random_network(channels: int, maps: Tensor) -> LocalUNet:
    """A network whose map of these tissues has an SD of 10 years."""
    torch.manual_seed(0)
    made = LocalUNet(channels=channels).eval()
    with torch.no_grad():
        made.output.weight *= SPREAD / predict_whole(made, maps).std()
    return made


def line(name: str, clock: float, processor: float, away: Tensor | None = None) -> None:
    difference = "" if away is None else f"{away.abs().mean():.4f} | {away.abs().max():.4f}"
    print(f"| {name} | {clock:.1f} | {processor:.1f} | {difference or ' | '} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="part of the brain from below that is mapped")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--dropped-from", type=int, default=8)
    parser.add_argument("--model", type=Path, help="a bundle, on the grid of its own voxel size")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(load(args.model)) if args.model else None
    maps = seen_by(model) if model else maps_of(1.5)
    if args.share < 1:
        maps = maps[..., : 2 * MARGIN + max(12, int((maps.shape[-1] - 2 * MARGIN) * args.share) // 12 * 12)]
    network = model.network if model else random_network(args.channels, maps)
    print(f"{tuple(maps.shape[2:])} voxels in, {args.model or f'{args.channels} channels'}, {args.threads} threads")
    print("| what | clock, s | processor, s | mean difference, years | largest |\n|---|---|---|---|---|")
    whole, *seconds = timed(lambda: predict_whole(network, maps))
    line("one pass, float32", *seconds)
    gates = gates_of(network, maps)
    blocks, *slow = timed(lambda: predict_blocks(network, maps, gates, batch=args.batch))
    line("blocks, gates of the whole, float32", *slow, blocks - whole)
    last = np.s_[..., : 2 * MARGIN + 12]
    own = predict_blocks(network, maps[last], None, batch=args.batch)
    line("lowest blocks, each with its own gates", 0, 0, own - whole[..., :12])
    network.to(memory_format=torch.channels_last_3d)
    rows = maps.contiguous(memory_format=torch.channels_last_3d)
    fast, *seconds_half = timed(lambda: predict_whole(network, rows, half=True))
    line("one pass, bfloat16, channels last", *seconds_half, fast - whole)
    (_, sd), *sampled = timed(
        lambda: monte_carlo(network, rows, samples=args.samples, dropped_from=args.dropped_from, seeds=[0], half=True)
    )
    line(f"the same with {args.samples} samples of dropout (mean SD {sd.mean():.2f})", *sampled)
    print(f"\nratio of blocks to one pass, processor: {slow[1] / seconds[1]:.1f}; clock: {slow[0] / seconds[0]:.1f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
