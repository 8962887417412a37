"""Brain masks and regional volumes against DLMUSE, each head left out of the atlas and calibration that judge it.

    python benchmarks/accuracy.py --data DATASET [--muse DIR] [--work DIR] [--out FILE.tsv]

DATASET is a BIDS dataset with T1w images and DLMUSE segmentations below ``derivatives/dlmuse``. Prints Markdown tables;
a table of every region is written to ``--out``. The stages' files stay in ``--work``: a second call is quick. Heads of
one person are left out together.

The ``roi`` model that ships knows with what error the app measures, and that comes from these very heads. With
``--muse``, the folder of the tables that it was trained on, the ages of each head are also given by a model whose error
is of the heads of others. With ``--copies``, the ages of copies of each head without skull and in larger voxels, by the
model that ships: as they are measured, and as they are told, by what other people's copies show.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import bids_brainage
from bids_brainage.bids.tables import read_tsv
from bids_brainage.image import muse
from bids_brainage.image.calibration import logarithm
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.models.roi import RoiModel
from bids_brainage.training import agreement, coarse, heads, judge, stripped
from bids_brainage.training.atlas import against_heads
from bids_brainage.training.card import left_out
from bids_brainage.training.measurement import MeasurementError, against_reference, read_error
from bids_brainage.training.muse import Cohort, read_cohort
from bids_brainage.training.regressors import CAUTION, tuned

DATA = Path(bids_brainage.__file__).parent / "data"
SEGMENT = DATA / "bundles" / "segment"
TABLES = ("ixi_dlmuse_1mm.tsv", "ixi_dlmuse_2mm.tsv", "ixi_dlmuse_2mm_same_heads.tsv")
PATTERNS = 5


def main() -> None:
    """Run the stages, leave one head out at a time, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BIDS dataset with derivatives/dlmuse")
    parser.add_argument("--work", type=Path, help="folder that keeps the stages' files (default: a temporary one)")
    parser.add_argument("--muse", type=Path, help="folder of the tables of regional volumes that roi was trained on")
    parser.add_argument("--copies", action="store_true", help="ages of copies without skull and in larger voxels, too")
    parser.add_argument("--out", type=Path, default=Path("accuracy.tsv"), help="TSV of all regions")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        found = heads.find_heads(args.data)
        examples = [heads.prepare(head, work, segment_bundle=SEGMENT, threads=args.threads) for head in found]
        who = agreement.people(examples)
        atlases = agreement.without_each(examples, who)
        judged = agreement.leave_one_out(examples, who, atlases)
        if args.copies:
            how = {"segment_bundle": SEGMENT, "threads": args.threads}
            bare = stripped.copies_of(found, examples, atlases, who, work, **how)
            large = coarse.coarse_volumes(found, atlases, who, work, **how)
    print_masks(examples, judged)
    print_structures(judged)
    print("| volume | r | bias % | median absolute error % |\n|---|---|---|---|")
    for name, figures in agreement.summary(judged).items():
        print("| " + " | ".join([name, *map(shown, figures.values())]) + " |")
    known = people(args.data)
    print_ages(examples, known, packaged_ages(examples, judged, known))
    if args.muse:
        print("\nBy a model whose measurement error is of the heads of others:")
        print_ages(examples, known, blind_ages(examples, judged, known, who, read_people(args.muse)))
    if args.copies:
        print("\nWithout skull, years from the whole head:\n")
        print_copies(examples, known, judged, stripped.CUTS, bare.volumes, stripped.judge_stripped(judged, bare, who))
        print("\nIn larger voxels, years from the head as it is:\n")
        sizes = [f"{edge:g} mm" for edge in coarse.EDGES]
        print_copies(examples, known, judged, sizes, large, coarse.judge_coarse(judged, large, who))
    write_regions(args.out, judged)


def people(dataset: Path) -> dict[str, dict[str, str]]:
    """Rows of participants.tsv."""
    return {row["participant_id"]: row for row in read_tsv(dataset / "participants.tsv")}


def against_dlmuse(volumes: np.ndarray, reference: np.ndarray) -> MeasurementError:
    """Errors of log volumes relative to ICV; volumes as of :class:`agreement.Judged`."""
    relative = [logarithm(v[:, :145]) - logarithm(v[:, 145:]) for v in (volumes, reference)]
    return against_reference(relative[0] - relative[1], muse.classes()[:145], muse.mirrored()[:145])


def columns_of(indices: Sequence[int]) -> list[int]:
    """Columns of volumes, as of :class:`agreement.Judged`, that have these MUSE numbers."""
    column = {region.number: position for position, region in enumerate(muse.regions())}
    return [column[index] for index in indices]


def sex_of(one: heads.Example, known: dict[str, dict[str, str]]) -> str | None:
    """F, M or None."""
    sex = known.get(one.name, {}).get("sex")
    return sex if sex in ("F", "M") else None


def packaged_ages(
    examples: list[heads.Example], judged: agreement.Judged, known: dict[str, dict[str, str]]
) -> list[list[float]]:
    """Brain age by the model that ships, from the app's volumes and from DLMUSE's of the same scan."""
    model = load_model(find("roi", [PACKAGED]))
    pairs = zip(examples, judged.volumes, judged.reference, strict=True)
    return [ages_of(model, both, sex_of(one, known)) for one, *both in pairs]


def ages_of(model: RoiModel, volumes: Sequence[np.ndarray], sex: str | None) -> list[float]:
    """Brain ages of one person from several measurements of the volumes."""
    chosen = columns_of(model.indices)
    inputs = [model.inputs(values[chosen], values[145], sex, "dlmuse-2mm") for values in volumes]
    return [said.brain_age for said in model.predict(inputs)]


def blind_ages(
    examples: list[heads.Example],
    judged: agreement.Judged,
    known: dict[str, dict[str, str]],
    who: np.ndarray,
    cohort: Cohort,
    factor: float = CAUTION,
) -> list[list[float]]:
    """The same, each head by a model that was fitted anew with the errors against DLMUSE of the heads of others.

    Errors count ``factor`` times. What changed scans add to them is that of the package's table, in which these heads
    have a small part.
    """
    people, convert = cohort.people(), cohort.conversion()
    chosen = columns_of(people.indices)
    found = []
    for at, one in enumerate(examples):
        error = error_of(judged, who != who[at], people.indices).times(factor)
        model = tuned(0, error, people.logged).fit(people.design(), people.age).best_estimator_
        both = np.stack([judged.volumes[at], judged.reference[at]])
        volumes, icv = zip(*(convert(values[chosen], values[145]) for values in both), strict=True)
        head = replace(
            people.rows(np.array([0, 0])),
            volumes=np.stack(volumes),
            icv=np.array(icv),
            sex=np.array([sex_of(one, known)] * 2),
        )
        found.append(model.predict(head.design()).tolist())
    return found


def error_of(judged: agreement.Judged, heads_used: np.ndarray, indices: Sequence[int]) -> MeasurementError:
    """Errors against DLMUSE of some of the heads, and of changed scans by the package's table."""
    chosen = columns_of(indices)
    error = against_dlmuse(judged.volumes[heads_used], judged.reference[heads_used])
    repeats = read_error(DATA / "muse_error.tsv", indices).shared[-PATTERNS:]
    return MeasurementError(error.own[chosen], np.concatenate([error.shared[:, chosen], repeats]))


def read_people(tables: Path) -> Cohort:
    """The people whom ``roi`` was trained on."""
    files = [tables / name for name in TABLES]
    return read_cohort(files[0], files[1], files[2], list(left_out(files[1])))


def print_ages(examples: list[heads.Example], known: dict[str, dict[str, str]], found: list[list[float]]) -> None:
    """Brain ages from the app's volumes and from DLMUSE's, and how far they are apart."""
    rows = [
        (one.name, float(known.get(one.name, {}).get("age", "nan")), *both)
        for one, both in zip(examples, found, strict=True)
    ]
    print("\n| head | age | from the app's volumes | from DLMUSE's | difference |\n|---|---|---|---|---|")
    for name, age, ours, theirs in rows:
        print(f"| {name} | {age:.1f} | {ours:.1f} | {theirs:.1f} | {ours - theirs:+.1f} |")
    low, high = load_model(find("roi", [PACKAGED])).age_range
    for which, used in (("all", rows), ("in the model's range", [row for row in rows if low <= row[1] <= high])):
        gap = np.array([ours - theirs for _, _, ours, theirs in used])
        told = f"mean {gap.mean():+.1f}, median absolute {np.median(np.abs(gap)):.1f}, largest {np.abs(gap).max():.1f}"
        print(f"\n{which}, n = {len(gap)}: {told} years")


def print_copies(
    examples: list[heads.Example],
    known: dict[str, dict[str, str]],
    judged: agreement.Judged,
    names: Sequence[str],
    measured: np.ndarray,
    told: np.ndarray,
) -> None:
    """How far ages of copies are from those of the heads, and their volumes.

    Parameters
    ----------
    names
        Of the copies of a head.
    measured, told : arrays, (heads, copies, 146)
        mm^3, not calibrated; and calibrated as copies of their kind.
    """
    model = load_model(find("roi", [PACKAGED]))
    untold = agreement.calibrated_again(judged, agreement.added(measured, judged.raw))
    print("| head | copy | as measured | as told |\n|---|---|---|---|")
    gaps = []
    for one, whole, *both in zip(examples, judged.volumes, untold, told, strict=True):
        clean, *found = ages_of(model, [whole, *both[0], *both[1]], sex_of(one, known))
        gap = np.reshape(found, (2, -1)) - clean
        gaps.append(gap)
        for name, (before, after) in zip(names, gap.T, strict=True):
            print(f"| {one.name} | {name} | {before:+.1f} | {after:+.1f} |")
    volumes = (untold, told)
    for which, gap, made in zip(("as measured", "as told"), np.moveaxis(gaps, 1, 0), volumes, strict=True):
        for name, own, copies in zip(names, gap.T, made.swapaxes(0, 1), strict=True):
            said = f"mean {own.mean():+.1f}, mean absolute {np.abs(own).mean():.1f}, largest {np.abs(own).max():.1f}"
            print(f"\n{which}, {name}, n = {len(own)}: {said} years; volumes, bias (median absolute error) %: ", end="")
            print(", ".join(f"{part} {off(of)}" for part, of in against_heads(judged, copies).items()))


def off(figures: dict[str, Any]) -> str:
    """Bias and median absolute error of one volume, per cent, without their intervals."""
    both = (figures[key] for key in ("bias_percent", "median_absolute_error_percent"))
    bias, error = (figure["value"] if isinstance(figure, dict) else figure for figure in both)
    return f"{bias:+.1f} ({error:.1f})"


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
