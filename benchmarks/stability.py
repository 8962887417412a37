"""How results move when a scan is changed in ways that must not matter: turned, resampled, noisy, defaced, ...

    python benchmarks/stability.py DATASET --out DIR [--scans sub-a sub-b] [--changes rotate-10 flip]
                                   [--threads 1] [--jobs 1] [--only-masks] [--montage sub-a]

DATASET is a BIDS dataset. Writes one of the changed scans below DIR, each as its own participant, runs the participant
level on it and compares it with that of the clean scan; ``--only-masks`` runs conforming and segmentation alone, and
takes a FLAIR where there is no T1w. Prints Markdown tables; DIR gets ``stability.tsv`` and ``stability.png`` (in front
of them ``masks_`` with ``--only-masks``). What is there from an earlier call is used again.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bids_brainage
from benchmarks import perturb
from benchmarks.perturb import CHANGES
from benchmarks.stability_rows import CLEAN, Row, figure, markdown, number, write_rows
from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import read_json, sha256, sha256_of, write_json, write_text
from bids_brainage.core.source import package_source
from bids_brainage.image import brain, conform, io, masks

SEGMENT = Path(bids_brainage.__file__).parent / "data" / "bundles" / "segment"
REGIONS_BELOW = 300


class Case(NamedTuple):
    """One changed scan: its source, the change, and where the changed image lies."""

    scan: str
    change: str
    source: Path
    folder: Path

    @property
    def label(self) -> str:
        """Participant label of the changed scan, letters and digits only."""
        return self.scan.removeprefix("sub-") + "X" + re.sub(r"[^A-Za-z0-9]", "", self.change)

    @property
    def suffix(self) -> str:
        """``T1w`` or ``FLAIR``."""
        return self.source.name.partition(".")[0].rpartition("_")[2]

    @property
    def image(self) -> Path:
        """The changed image in the dataset of changed scans."""
        end = "".join(self.source.suffixes) if self.change == CLEAN else ".nii.gz"
        return self.folder / "bids" / f"sub-{self.label}" / "anat" / f"sub-{self.label}_{self.suffix}{end}"

    @property
    def made(self) -> Path:
        """What the image was made from, and how points moved."""
        return self.folder / "made" / f"{self.label}.json"

    @property
    def segmented(self) -> Path:
        """Folder of the segmentation alone."""
        return self.folder / "masks" / f"sub-{self.label}"


class Found(NamedTuple):
    """Results of one scan: mask file, flags, age and volumes by region number, or why there are none."""

    mask: Path | None
    flags: str = ""
    age: float | None = None
    volumes: dict[int, float] | None = None
    message: str = ""


# Making the changed scans


def find_image(dataset: Path, scan: str) -> Path | None:
    """The first T1w image of a participant, else the first FLAIR."""
    found = [p for kind in ("T1w", "FLAIR") for p in sorted((dataset / scan).glob(f"**/*_{kind}.nii*"))]
    return found[0] if found else None


def segment_alone(case: Case) -> Found:
    """Conform and segment one image, or take what an earlier call found."""
    out, note = case.segmented, case.segmented / "found.json"
    key = sha256_of([sha256(case.image), package_source(), sha256(SEGMENT)])
    known = read_json(note) if note.is_file() else {}
    if known.get("key") != key:
        out.mkdir(parents=True, exist_ok=True)
        known = {"key": key, "flags": "", "message": ""}
        try:
            conformed = conform.conform(case.image, out=out)
            segmented = brain.segment(conformed.t1w_native, bundle=SEGMENT, out=out)
            known["flags"] = " ".join((*conformed.flags, *segmented.flags))
        except BrainAgeError as error:
            known["message"] = str(error).rpartition(f"{case.image.name}: ")[2].rpartition("t1w_native.nii.gz: ")[2]
        write_json(note, known)
    return Found(None if known["message"] else out / "brain_mask.nii.gz", known["flags"], message=known["message"])


def make_clean(case: Case) -> str:
    """Link the clean scan into the dataset of changed scans and segment it; returns why that fails if it does."""
    case.image.parent.mkdir(parents=True, exist_ok=True)
    case.image.unlink(missing_ok=True)
    case.image.symlink_to(case.source.resolve())
    write_json(case.made, {"key": "", "move": np.eye(4).tolist()})
    return segment_alone(case).message


def make_changed(case: Case, clean: Case) -> None:
    """Write a changed scan, unless it is there from the same source by the same code."""
    code = [sha256(Path(perturb.__file__)), package_source("image"), package_source("training")]
    path = brain_of(clean, published=CHANGES[case.change].published)
    key = sha256_of([sha256(case.source), *code, sha256(path)])
    if case.image.is_file() and case.made.is_file() and read_json(case.made)["key"] == key:
        return
    scan = io.read(clean.segmented / "t1w_native.nii.gz")
    mask = io.read(path, np.uint8).data > 0
    changed = CHANGES[case.change].call(scan, mask)
    io.save(case.image, changed.volume.data, changed.volume.affine, np.float32)
    write_json(case.made, {"key": key, "move": changed.move.tolist()})


def brain_of(clean: Case, *, published: bool) -> Path:
    """The brain mask of a clean scan: the network's, or the app's, which is better, where the app has run."""
    ours = clean.segmented / "brain_mask.nii.gz"
    return found if published and (found := published_mask(clean)).is_file() else ours


def describe_dataset(dataset: Path, cases: Sequence[Case], folder: Path) -> None:
    """Write what makes a BIDS dataset of the changed scans; ages and sex are those of the clean scans."""
    people: dict[str, dict[str, str]] = {}
    if (dataset / "participants.tsv").is_file():
        people = {row["participant_id"]: row for row in read_table(dataset / "participants.tsv")}
    lines = ["participant_id\tage\tsex"]
    for case in cases:
        person = people.get(case.scan, {})
        lines.append(f"sub-{case.label}\t{person.get('age', 'n/a')}\t{person.get('sex', 'n/a')}")
    bids = folder / "bids"
    write_text(bids / "participants.tsv", "\n".join(lines) + "\n")
    write_text(bids / "README", "Scans changed in ways that must not matter.\n")
    write_json(bids / "dataset_description.json", {"Name": "Changed scans", "BIDSVersion": "1.10.0"})


# Running


def run_masks(case: Case, clean: Case) -> Found:
    """Make one changed scan and segment it."""
    if case.change != CLEAN:
        make_changed(case, clean)
    return segment_alone(case)


@cache
def derivatives(folder: Path) -> Path:
    """Where the app writes; another folder for other code, as the app's own records hold its version alone.

    Found once: code that is edited during the run is of the next one.
    """
    return folder / f"derivatives-{package_source()[:8]}"


def run_app(cases: Sequence[Case], folder: Path, threads: int, jobs: int) -> dict[str, str]:
    """Run the participant level, once for each number of threads; returns why scans failed, by label."""
    reasons: dict[str, str] = {}
    for count in sorted({wanted_threads(case, threads) for case in cases}):
        labels = [case.label for case in cases if wanted_threads(case, threads) == count]
        argv = [sys.executable, "-m", "bids_brainage.cli", str(folder / "bids"), str(derivatives(folder))]
        argv += ["participant", "-w", str(folder / "work"), "--device", "cpu", "--skip-bids-validation"]
        argv += ["--nprocs", str(count * jobs), "--omp-nthreads", str(count), "--participant-label", *labels]
        done = subprocess.run(
            argv,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(bids_brainage.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        write_text(folder / f"app_{count}_threads.log", done.stdout)
        reasons |= {label: why for label in labels if (why := reason(done.stdout, label))}
        if done.returncode not in (0, 1):
            sys.exit(done.stdout)
    return reasons


def wanted_threads(case: Case, threads: int) -> int:
    """Threads of ITK for a case: its own where they are the change."""
    own = CHANGES[case.change].threads if case.change in CHANGES else None
    return own or threads


def reason(said: str, label: str) -> str:
    """What the app said when it refused the scan of a participant; empty where it did not."""
    found = re.findall(rf"^\S+ E .*sub-{label}_\S+?: (.*)$", said, re.M)
    return str(found[-1]).strip() if found else ""


def published_mask(case: Case) -> Path:
    """Where the app writes the brain mask of a scan."""
    return derivatives(case.folder) / f"sub-{case.label}" / "anat" / f"sub-{case.label}_desc-brain_mask.nii.gz"


def read_results(case: Case, folder: Path, message: str) -> Found:
    """Mask, age, flags and volumes that the app wrote for one scan."""
    anat, stem = derivatives(folder) / f"sub-{case.label}" / "anat", f"sub-{case.label}"
    table = anat / f"{stem}_brainage.tsv"
    if not table.is_file():
        return Found(None, message=message or "no result; see the log")
    (row,) = (r for r in read_table(table) if r["model"] == "roi")
    volumes = {int(r["index"]): float(r["volume_mm3"]) for r in read_table(anat / f"{stem}_desc-muse_volumes.tsv")}
    flags = "" if row["flags"] == "n/a" else row["flags"].replace(",", " ")
    age = None if row["brain_age"] == "n/a" else float(row["brain_age"])
    return Found(published_mask(case), flags, age, volumes)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


# Comparing


def compare(case: Case, found: Found, clean: Found) -> Row:
    """One row: results of a changed scan against those of its clean scan."""
    row = Row(case.scan, case.change, flags=found.flags, message=found.message, age=found.age)
    if found.mask is None:
        return row
    mask = io.read(found.mask, np.uint8)
    row.mask_ml = float((mask.data > 0).sum()) * mask.grid.voxel_volume / 1000
    if clean.mask is None:
        row.message = f"nothing to compare with: {clean.message}"
        return row
    move = np.asarray(read_json(case.made)["move"])
    before = io.read(clean.mask, np.uint8)
    row.dice = masks.dice(perturb.carry(before.data > 0, before.affine, move, mask.grid), mask.data > 0)
    if found.age is not None and clean.age is not None:
        row.age_change = found.age - clean.age
    if found.volumes and clean.volumes:
        row.region_change_percent, row.icv_change_percent = volume_changes(found.volumes, clean.volumes)
    return row


def volume_changes(changed: dict[int, float], clean: dict[int, float]) -> tuple[float, float]:
    """Median absolute change of the single regions, and change of the ICV; per cent of the clean volumes."""
    percent = {number: 100 * (changed[number] / value - 1) for number, value in clean.items() if value > 0}
    return median(abs(p) for number, p in percent.items() if number < REGIONS_BELOW), percent[702]


# Pictures


def montage(path: Path, results: Sequence[tuple[Case, Found, Row]], across: int = 4) -> None:
    """Three slices of each changed scan with the outline of its mask; the clean scan comes first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    down = -(-len(results) // across)
    drawn, axes = plt.subplots(down, across, figsize=(5 * across, 1.95 * down), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (case, found, row) in zip(axes.flat, results, strict=False):
        strip, outline = slices(io.read(case.image), found.mask)
        axis.imshow(strip, cmap="gray", vmin=0, vmax=max(float(np.percentile(strip, 99.5)), 1e-6))
        if outline.any():
            axis.contour(outline, levels=[0.5], colors="red", linewidths=0.7)
        dice = row.message or f"Dice {number(row.dice, '.3f')}, {number(row.mask_ml, '.0f')} mL"
        axis.set_title(f"{case.change}: {dice}"[:70], fontsize=8, color="black" if row.held else "crimson")
    drawn.savefig(path, dpi=75)
    plt.close(drawn)


def slices(scan: io.Volume, mask_file: Path | None, spacing: float = 1.5, size: int = 128) -> tuple:
    """Axial, coronal and sagittal slices through the middle of the mask, side by side, and the mask's there."""
    data = io.nonnegative(scan.data.astype(np.float32))
    mask = io.read(mask_file, np.uint8).data > 0 if mask_file else np.zeros(data.shape, bool)
    at = np.argwhere(mask).mean(axis=0) if mask.any() else (np.asarray(data.shape) - 1) / 2
    grid = io.centred(scan.grid, (scan.affine @ np.append(at, 1))[:3], spacing, (size, size, size))
    views = []
    for values in (io.Volume(data, scan.affine), io.Volume(mask.astype(np.float32), scan.affine)):
        cube = io.resample(values, grid)
        planes = (cube[:, :, size // 2], cube[:, size // 2, :], cube[size // 2, :, :])
        views.append(np.hstack([plane.T[::-1] for plane in planes]))
    return views[0], views[1]


# The command


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for changed scans, results and tables")
    parser.add_argument("--scans", nargs="+", help="participants (default: all)")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, metavar="CHANGE", default=list(CHANGES),
                        help=f"default: all of {' '.join(CHANGES)}")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--jobs", type=int, default=1, help="scans at once")
    parser.add_argument("--only-masks", action="store_true", help="conform and segment, no more")
    parser.add_argument("--montage", nargs="+", default=[], metavar="SCAN", help="draw all changes of these scans")
    return parser.parse_args()


def settle(threads: int) -> None:
    """Give torch its number of threads."""
    import torch

    torch.set_num_threads(threads)


def main() -> int:
    """Make, run, compare, print."""
    args = parse()
    scans = args.scans or sorted(p.name for p in args.dataset.glob("sub-*") if p.is_dir())
    scans = ["sub-" + scan.removeprefix("sub-") for scan in scans]
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    cases: list[Case] = []
    for scan in scans:
        source = find_image(args.dataset, scan)
        if source is None:
            rows.append(Row(scan, CLEAN, message="no T1w or FLAIR image"))
        elif not args.only_masks and not source.name.partition(".")[0].endswith("_T1w"):
            rows.append(Row(scan, CLEAN, message="no T1w image: only with --only-masks"))
        else:
            cases += [Case(scan, change, source, args.out.resolve()) for change in (CLEAN, *args.changes)]
    found = run(cases, args)
    by_clean = {case.scan: found[case] for case in cases if case.change == CLEAN}
    results = [(case, found[case], compare(case, found[case], by_clean[case.scan])) for case in cases]
    rows += [row for _, _, row in results]
    order = [CLEAN, *args.changes]
    rows.sort(key=lambda row: order.index(row.change))
    prefix = "masks_" if args.only_masks else ""
    write_rows(args.out / f"{prefix}stability.tsv", rows)
    figure(args.out / f"{prefix}stability.png", rows)
    pictured = {"sub-" + name.removeprefix("sub-") for name in args.montage}
    pictured |= {case.scan for case in cases if case.suffix == "FLAIR"}
    for scan in sorted(pictured):
        own = [result for result in results if result[0].scan == scan and result[0].image.is_file()]
        if own:
            montage(args.out / f"{prefix}montage_{scan}.png", own)
    print(f"\n{len(scans)} scans, {len(args.changes)} changes\n\n{markdown(rows)}")
    return 0


def run(cases: Sequence[Case], args: argparse.Namespace) -> dict[Case, Found]:
    """Make all scans and get their results."""
    settle(args.threads)
    clean = {case.scan: case for case in cases if case.change == CLEAN}
    failed = {scan: message for scan, case in clean.items() if (message := make_clean(case))}
    found = {case: Found(None, message=f"clean scan: {failed[case.scan]}") for case in cases if case.scan in failed}
    usable = [case for case in cases if case.scan not in failed]
    pairs = [clean[case.scan] for case in usable]
    pool = ProcessPoolExecutor(args.jobs, get_context("spawn"), initializer=settle, initargs=(args.threads,))
    describe_dataset(args.dataset, usable, args.out)
    if not args.only_masks and any(CHANGES[change].published for change in args.changes):
        run_app([case for case in usable if case.change == CLEAN], args.out.resolve(), args.threads, args.jobs)
    with pool:
        if args.only_masks:
            return found | dict(zip(usable, pool.map(run_masks, usable, pairs), strict=True))
        changed = [(case, one) for case, one in zip(usable, pairs, strict=True) if case.change != CLEAN]
        list(pool.map(make_changed, [case for case, _ in changed], [one for _, one in changed]))
    reasons = run_app(usable, args.out.resolve(), args.threads, args.jobs)
    return found | {case: read_results(case, case.folder, reasons.get(case.label, "")) for case in usable}


if __name__ == "__main__":
    sys.exit(main())
