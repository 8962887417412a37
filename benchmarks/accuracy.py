"""Brain masks and regional volumes against DLMUSE, each head left out of the atlas and calibration that judge it.

    python benchmarks/accuracy.py --data DATASET [--work DIR] [--out FILE.tsv]

DATASET is a BIDS dataset with T1w images and DLMUSE segmentations below ``derivatives/dlmuse``. Prints Markdown tables;
a table of every region is written to ``--out``. The stages' files stay in ``--work``: a second call is quick.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path

import numpy as np

import bids_brainage
from bids_brainage.image import muse
from bids_brainage.training import atlas

SEGMENT = Path(bids_brainage.__file__).parent / "data" / "bundles" / "segment"


def main() -> None:
    """Run the stages, leave one head out at a time, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/dlmuse")
    parser.add_argument("--work", type=Path, help="folder that keeps the stages' files (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("accuracy.tsv"), help="TSV of all regions")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        heads = atlas.find_heads(args.data)
        examples = [atlas.prepare(head, work, segment_bundle=SEGMENT, threads=args.threads) for head in heads]
    judged = atlas.leave_one_out(examples)
    print("| head | brain Dice | ICV Dice | Dice of the 145 regions, mean |\n|---|---|---|---|")
    for one, own in zip(examples, judged.dice, strict=True):
        print(f"| {one.name} | {one.dice[0]:.3f} | {one.dice[1]:.3f} | {own.mean():.3f} |")
    every = np.array([one.dice for one in examples])
    print(f"| mean | {every[:, 0].mean():.3f} | {every[:, 1].mean():.3f} | {judged.dice.mean():.3f} |\n")
    print("| volume | r | bias % | median absolute error % |\n|---|---|---|---|")
    for name, found in atlas.summary(judged).items():
        print("| " + " | ".join([name, *map(str, found.values())]) + " |")
    write_regions(args.out, judged)


def write_regions(path: Path, judged: atlas.Judged) -> None:
    """One row a region: accuracy, Dice, and mean volumes."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "name", "r", "bias_percent", "median_absolute_error_percent", "dice", "mean_mm3"])
        for column, region in enumerate(muse.regions()):
            found = atlas.accuracy(judged.volumes[:, column], judged.reference[:, column])
            mean = judged.reference[:, column].mean()
            overlap = judged.dice[:, column].mean()
            writer.writerow([region.number, region.name, *found.values(), f"{overlap:.3f}", f"{mean:.0f}"])


if __name__ == "__main__":
    main()
