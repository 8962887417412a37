"""Group level on many people: time, memory and size. ``python benchmarks/group.py [N] [FOLDER]``."""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bids_brainage.workflows.group import run_group
from bids_brainage.workflows.predict import COLUMNS

MARK = {
    **{name: {"Description": meaning} for name, meaning in COLUMNS.items()},
    "Fingerprint": {"Model roi": "0" * 64, "Tool segment": "1" * 64, "Template": "MNI " + "2" * 64, "Version": "0.1.0"},
}
HEADER = "model\tbrain_age\tbrain_age_low\tbrain_age_high\tage\tgap\tsex\tflags\tnote\ttraining_data\n"


def make(root: Path, n: int, seed: int = 0) -> tuple[Path, Path]:
    """Derivatives and dataset of n people with a planted bias and patients; returns both folders."""
    rng = np.random.default_rng(seed)
    out, bids = root / "derivatives", root / "bids"
    bids.mkdir(parents=True, exist_ok=True)
    age = rng.uniform(20, 90, n).round(2)
    diagnosis = rng.choice(["CN", "MCI", "AD"], n, p=[0.6, 0.2, 0.2])
    effect = np.select([diagnosis == "MCI", diagnosis == "AD"], [2.0, 5.0])
    predicted = 0.75 * age + 14 + effect + rng.normal(0, 5, n)
    people, mark = ["participant_id\tdiagnosis\tMMSE"], json.dumps(MARK, indent=2)
    for i in range(n):
        name = f"sub-{i:06d}"
        people.append(f"{name}\t{diagnosis[i]}\t{30 - int(effect[i])}")
        folder = out / name / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        y, x = predicted[i], age[i]
        flags = "brain_age_outside_training_range" if y < 25 else "n/a"
        row = f"roi\t{y:.2f}\t{y - 9:.2f}\t{y + 9:.2f}\t{x:g}\t{y - x:.2f}\t{'FM'[i % 2]}\t{flags}\tn/a\treal\n"
        (folder / f"{name}_brainage.tsv").write_text(HEADER + row)
        (folder / f"{name}_brainage.json").write_text(mark)
    (bids / "participants.tsv").write_text("\n".join(people) + "\n")
    return out, bids


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        started = time.monotonic()
        out, bids = make(root, n)
        made = time.monotonic()
        result = run_group(out, bids, controls="diagnosis == 'CN'")
        seconds = time.monotonic() - made
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = result.report.stat().st_size / 1e6
        print(f"scans: {n} (made in {made - started:.1f} s)")
        print(f"group level: {seconds:.1f} s, peak memory {peak:.0f} MiB, report {size:.2f} MB")


if __name__ == "__main__":
    main()
