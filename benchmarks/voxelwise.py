"""Group level on maps of local brain age: time and memory. ``python benchmarks/voxelwise.py [N] [FOLDER]``."""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bids_brainage.image.io import save
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.workflows.group import run_group

HEADER = "model\tbrain_age\tbrain_age_low\tbrain_age_high\tage\tgap\tsex\tflags\tnote\ttraining_data\n"


def make(root: Path, n: int, seed: int = 0) -> tuple[Path, Path]:
    """Derivatives and dataset of n people, half of them patients who are 3 years older in the left hemisphere."""
    rng, space = np.random.default_rng(seed), template(DEFAULT, 1.5)
    out, bids = root / "derivatives", root / "bids"
    bids.mkdir(parents=True, exist_ok=True)
    left = np.zeros(space.grid.shape, np.float32)
    left[: space.grid.shape[0] // 2] = 3
    coarse = tuple(-(-size // 6) for size in space.grid.shape)
    people = ["participant_id\tdiagnosis"]
    for i in range(n):
        name, age = f"sub-{i:05d}", round(float(rng.uniform(40, 85)), 1)
        folder = out / name / "anat"
        gap = np.kron(rng.normal(0, 8, coarse), np.ones((6, 6, 6)))[tuple(slice(size) for size in space.grid.shape)]
        data = np.where(space.mask, np.round(age + gap + left * (i % 2), 2), 0).astype(np.float32)
        save(folder / f"{name}_space-{DEFAULT}_desc-local_brainagemap.nii.gz", data, space.grid.affine)
        row = f"local\t{data[space.mask].mean():.2f}\tn/a\tn/a\t{age}\tn/a\t{'FM'[i // 2 % 2]}\tn/a\tn/a\treal\n"
        (folder / f"{name}_brainage.tsv").write_text(HEADER + row)
        people.append(f"{name}\t{'AD' if i % 2 else 'CN'}")
    (bids / "participants.tsv").write_text("\n".join(people) + "\n")
    return out, bids


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        started = time.monotonic()
        out, bids = make(root, n)
        made = time.monotonic()
        run_group(out, bids, controls="diagnosis == 'CN'")
        seconds, used = time.monotonic() - made, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"maps: {n} (made in {made - started:.0f} s)")
        print(f"group level: {seconds:.0f} s, peak memory {peak:.0f} MiB (processor {used:.0f} s with the making)")


if __name__ == "__main__":
    main()
