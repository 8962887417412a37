"""Repaint heads from their DLMUSE segmentation: scans whose regional volumes are known, not estimated.

Within the skull each voxel gets the mean intensity of its label in the real scan, mixed at borders by a blur of
``--blur`` voxels, and noise of half the SD within white matter; outside, the real head stays. ``accuracy.py`` then
judges the app on them: what it gets wrong here is its own error, for the labels are the truth.

    python benchmarks/repaint.py --data ../shared/data/ds-t1w --out repainted
    python benchmarks/accuracy.py --data repainted
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.image import io
from bids_brainage.image.io import Volume
from bids_brainage.training import heads

WHITE_MATTER = (81, 82, 83, 84, 85, 86, 87, 88)
"""Lobar white matter of MUSE, both sides."""


def main() -> None:
    """Write a dataset of repainted heads with their segmentations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/dlmuse")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--blur", type=float, default=0.5, help="SD of the blur in voxels (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    for name in ("dataset_description.json", "participants.tsv"):
        shutil.copy(args.data / name, args.out / name)
    for number, (name, t1w, dseg) in enumerate(heads.find_heads(args.data)):
        scan, labels = io.read(t1w), io.read(dseg, np.uint8)
        placed = io.resample(labels, scan.grid, nearest=True)
        painted = repaint(scan.data, placed, args.blur, np.random.default_rng((args.seed, number)))
        for source, made in ((t1w, Volume(painted, scan.affine)), (dseg, Volume(placed, scan.affine))):
            target = args.out / source.relative_to(args.data)
            target.parent.mkdir(parents=True, exist_ok=True)
            io.save(target, made.data, made.affine)
        print(name)


def repaint(
    scan: NDArray[np.float32], labels: NDArray[np.uint8], blur: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The scan with each label at its mean intensity, blurred, with noise; outside the labels as it was."""
    present = np.unique(labels[labels > 0])
    means = np.zeros(256, np.float32)
    means[present] = ndimage.mean(scan, labels, present)
    flat = np.where(labels > 0, means[labels], scan)
    white = np.isin(labels, WHITE_MATTER)
    noise = rng.standard_normal(scan.shape, np.float32) * scan[white].std() / 2
    blurred = ndimage.gaussian_filter(flat, blur)
    return np.where(labels > 0, np.maximum(blurred + noise, 0), scan).astype(np.float32)


if __name__ == "__main__":
    main()
