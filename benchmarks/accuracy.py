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
from bids_brainage.bids.tables import read_tsv
from bids_brainage.image import muse
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.training import agreement, heads, judge

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
        found = heads.find_heads(args.data)
        examples = [heads.prepare(head, work, segment_bundle=SEGMENT, threads=args.threads) for head in found]
    judged = agreement.leave_one_out(examples)
    print_masks(examples, judged)
    print_structures(judged)
    print("| volume | r | bias % | median absolute error % |\n|---|---|---|---|")
    for name, figures in agreement.summary(judged).items():
        print("| " + " | ".join([name, *map(shown, figures.values())]) + " |")
    print_ages(examples, judged, people(args.data))
    write_regions(args.out, judged)


def people(dataset: Path) -> dict[str, dict[str, str]]:
    """Rows of participants.tsv."""
    return {row["participant_id"]: row for row in read_tsv(dataset / "participants.tsv")}


def print_ages(examples: list[heads.Example], judged: agreement.Judged, known: dict[str, dict[str, str]]) -> None:
    """Brain age by the default model from the app's volumes and from DLMUSE's of the same scan."""
    model = load_model(find("roi", [PACKAGED]))
    column = {region.number: position for position, region in enumerate(muse.regions())}
    chosen = [column[index] for index in model.indices]
    rows = []
    for n, one in enumerate(examples):
        person = known.get(one.name, {})
        sex = person.get("sex") if person.get("sex") in ("F", "M") else None
        both = [judged.volumes[n], judged.reference[n]]
        inputs = [model.inputs(values[chosen], values[145], sex, "dlmuse-2mm") for values in both]
        ours, theirs = (found.brain_age for found in model.predict(inputs))
        rows.append((one.name, float(person.get("age", "nan")), ours, theirs))
    print("\n| head | age | from the app's volumes | from DLMUSE's | difference |\n|---|---|---|---|---|")
    for name, age, ours, theirs in rows:
        print(f"| {name} | {age:.1f} | {ours:.1f} | {theirs:.1f} | {ours - theirs:+.1f} |")
    low, high = model.age_range
    for which, used in (("all", rows), ("in the model's range", [row for row in rows if low <= row[1] <= high])):
        gap = np.array([ours - theirs for _, _, ours, theirs in used])
        told = f"mean {gap.mean():+.1f}, median absolute {np.median(np.abs(gap)):.1f}, largest {np.abs(gap).max():.1f}"
        print(f"\n{which}, n = {len(gap)}: {told} years")


def shown(figure: float | dict[str, float]) -> str:
    """A figure, with its interval where it has one."""
    return "{value} ({low} to {high})".format(**figure) if isinstance(figure, dict) else str(figure)


def print_masks(examples: list[heads.Example], judged: agreement.Judged) -> None:
    """Dice of the masks, head by head."""
    print("| head | brain, network | brain, with atlas | ICV | 145 regions, mean |\n|---|---|---|---|---|")
    rows = [(*one.dice, own.brain, own.regions.mean()) for one, own in zip(examples, judged.measured, strict=True)]
    for one, (network, icv, brain, regions) in zip(examples, rows, strict=True):
        print(f"| {one.name} | {network:.3f} | {brain:.3f} | {icv:.3f} | {regions:.3f} |")
    network, icv, brain, regions = (shown(judge.interval(column)) for column in np.array(rows).T)
    print(f"| mean | {network} | {brain} | {icv} | {regions} |\n")


def print_structures(judged: agreement.Judged) -> None:
    """Dice of the structures and tissues, mean over heads."""
    print("| structure | Dice |\n|---|---|")
    every = np.array([one.structures for one in judged.measured])
    for name, column in zip([*judge.STRUCTURES, "mean of these"], [*every.T, every.mean(axis=1)], strict=True):
        print(f"| {name} | {shown(judge.interval(column))} |")
    tissues = np.array([one.tissues for one in judged.measured])
    for name, column in zip(("grey matter", "white matter", "CSF"), tissues.T, strict=True):
        print(f"| {name} | {shown(judge.interval(column))} |")
    print()


def write_regions(path: Path, judged: agreement.Judged) -> None:
    """One row a region: accuracy, Dice, and mean volumes."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "name", "r", "bias_percent", "median_absolute_error_percent", "dice", "mean_mm3"])
        for column, region in enumerate(muse.regions()):
            found = agreement.accuracy(judged.volumes[:, column], judged.reference[:, column])
            mean = judged.reference[:, column].mean()
            overlap = np.mean([one.regions[column] for one in judged.measured])
            figures = [found["r"], found["bias_percent"]["value"], found["median_absolute_error_percent"]["value"]]
            writer.writerow([region.number, region.name, *figures, f"{overlap:.3f}", f"{mean:.0f}"])


if __name__ == "__main__":
    main()
