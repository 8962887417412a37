"""``brainage selftest``: simulated heads through this installation, their results beside the stored ones.

A changed library, a broken weight or a processor that computes otherwise shows here before it shows in people.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import write_json

SEED = 0
TOLERANCE = {"scan": 0.001, "volume": 0.02, "region": 0.08, "region_mm3": 60.0, "age": 1.0, "age: local": 2.0}
"""Relative for scan, volume and region (whichever of 8 % and 60 mm^3 is more), years for age.

Between processors with and without bfloat16 the mean of the local map of these heads differs by 0.3 and 1.2 years, roi
by 0.1; repeated scans of simulated people differ by 2.5 years (SD) in the local map (docs/validation.md).
"""

Values = Mapping[str, Mapping[str, float]]


class Difference(NamedTuple):
    """One value beside the stored one, and how much of its tolerance the difference takes."""

    scan: str
    name: str
    stored: float
    found: float
    share: float


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of ``brainage selftest``."""
    made = subparsers.add_parser(
        "selftest", help="run the app on simulated heads and compare with stored results", description=__doc__
    )
    made.add_argument("--out", type=Path, metavar="FOLDER", help="keep dataset and results here (default: nothing)")
    made.add_argument("--record", type=Path, metavar="FILE", help="write what was found as stored results instead")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate, run, compare; 0 where all values are within their tolerance, else 1."""
    with tempfile.TemporaryDirectory() as scratch:
        found = through_the_app(args.out or Path(scratch))
    if args.record:
        write_json(args.record, {"scans": found})
        print(f"recorded: {args.record}")
        return 0
    differences = compare(stored(), found)
    for line in told(differences):
        print(line)
    return int(any(one.share > 1 for one in differences))


def stored() -> dict[str, dict[str, float]]:
    """The results that this version shipped with."""
    text = resources.files("bids_brainage.data").joinpath("golden.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, float]] = json.loads(text)["scans"]
    return found


def through_the_app(folder: Path) -> dict[str, dict[str, float]]:
    """Two simulated heads through the participant level; their results by scan."""
    bids, out = folder / "bids", folder / "derivatives"
    if bids.exists() or out.exists():
        raise UsageError(f"{folder}: holds another run; give an empty folder")
    stems = write_heads(bids)
    argv = [sys.executable, "-m", "bids_brainage.cli", bids, out, "participant", "--work-dir", folder / "work"]
    code = subprocess.run([str(word) for word in argv], check=False).returncode
    if code:
        raise BrainAgeError(f"the app stopped with exit code {code}; its messages are above")
    return {stem: results(bids, out, stem) for stem in stems}


def write_heads(bids: Path) -> list[str]:
    """Write the dataset behind the stored results, a woman of 50 and a man of 75; returns the stems of the scans."""
    from bids_brainage.simulate.cohort import Person, Visit, write_scans

    visits = [
        Visit(Person("golden1", "F", seed=SEED), 50.0, seed=SEED),
        Visit(Person("golden2", "M", seed=SEED + 1), 75.0, seed=SEED + 1),
    ]
    write_scans(bids, visits, seed=SEED)
    return [visit.stem for visit in visits]


def results(bids: Path, out: Path, stem: str) -> dict[str, float]:
    """What one scan and its derivatives hold: mean intensity, mask and tissue volumes, regions, brain ages."""
    import numpy as np

    from bids_brainage.bids.tables import read_tsv
    from bids_brainage.image.io import read

    folder = out / stem.partition("_")[0] / "anat"
    found = {"scan: mean intensity": float(read(bids / folder.relative_to(out) / f"{stem}_T1w.nii.gz").data.mean())}
    parts = {"brain": "desc-brain_mask", "ICV": "desc-icv_mask"}
    parts |= {tissue: f"label-{tissue}_probseg" for tissue in ("GM", "WM", "CSF")}
    for name, file in parts.items():
        image = read(folder / f"{stem}_{file}.nii.gz")
        found[f"volume: {name}, mL"] = float(image.data.sum(dtype=np.float64)) * image.grid.voxel_volume / 1000
    for row in read_tsv(folder / f"{stem}_desc-muse_volumes.tsv"):
        found[f"region: {row['name']}, mm3"] = float(row["volume_mm3"])
    for row in read_tsv(folder / f"{stem}_brainage.tsv"):
        found[f"age: {row['model']}"] = float(row["brain_age"])
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def compare(old: Values, new: Values) -> list[Difference]:
    """All values of both, those further apart than their tolerance with a share over 1; a missing one is infinite."""
    found = []
    for scan, values in old.items():
        for name, value in values.items():
            other = new.get(scan, {}).get(name, math.nan)
            share = abs(other - value) / _allowed(name, value)
            found.append(Difference(scan, name, value, other, math.inf if math.isnan(share) else share))
    return found


def _allowed(name: str, value: float) -> float:
    """The tolerance of one value, in its unit."""
    kind = name.partition(":")[0]
    if kind == "age":
        return TOLERANCE.get(name, TOLERANCE["age"])
    relative = TOLERANCE[kind] * abs(value)
    return max(relative, TOLERANCE["region_mm3"]) if kind == "region" else relative


def told(differences: list[Difference], most: int = 20) -> list[str]:
    """The ages, all that is out of tolerance (the worst ones), and the verdict."""
    bad = sorted((one for one in differences if one.share > 1), key=lambda one: -one.share)
    shown = [one for one in differences if one.name.startswith("age") and one not in bad] + bad[:most]
    lines = [
        f"{'differs' if one.share > 1 else 'ok':8s} {one.scan}  {one.name}: {one.found:g}, stored {one.stored:g} "
        f"({one.share:.0%} of the tolerance)"
        for one in shown
    ]
    if bad:
        scan = " The simulated scan itself differs." if any(one.name.startswith("scan") for one in bad) else ""
        lines.append(f"{len(bad)} of {len(differences)} values differ: do not trust this installation.{scan}")
    else:
        worst = max((one.share for one in differences), default=0.0)
        lines.append(f"all {len(differences)} values are within their tolerance (the worst takes {worst:.0%} of it)")
    return lines
