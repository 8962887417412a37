"""Seconds and memory of the participant level against plain antspyx calls on the same scan, in one run.

    python benchmarks/speed.py SCAN.nii.gz [--threads 2] [--repeats 1]

The baseline is what a script of plain calls would do at full resolution: N4, SyN to the default template, Atropos.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

BASELINE = """
import sys, time, ants
from nilearn.datasets import load_mni152_template
import tempfile, os
fixed = os.path.join(tempfile.mkdtemp(), "template.nii.gz")
load_mni152_template(resolution=1).to_filename(fixed)
def step(name, call):
    start = time.monotonic()
    result = call()
    print(f"{name}\\t{time.monotonic() - start:.1f}", flush=True)
    return result
scan, fixed = ants.image_read(sys.argv[1]), ants.image_read(fixed)
n4 = step("n4_bias_field_correction", lambda: ants.n4_bias_field_correction(scan))
step("registration SyNQuick[s]", lambda: ants.registration(fixed, n4, "antsRegistrationSyNQuick[s]"))
mask = ants.get_mask(n4)
step("atropos", lambda: ants.atropos(a=n4, x=mask, i="kmeans[3]", m="[0.2,1x1x1]"))
"""


def memory_of(group: int) -> int:
    """Proportional set size in bytes of all processes of a session."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == group:
                rollup = (entry / "smaps_rollup").read_text()
                total += 1024 * int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1))
        except (OSError, AttributeError):
            continue
    return total


def timed(argv: list[str], threads: int) -> tuple[float, float, str]:
    """Wall seconds, peak GiB of the whole process tree, and what was printed."""
    names = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
    reader.start()
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.2)
    seconds = time.monotonic() - started
    reader.join()
    if process.returncode:
        sys.exit("".join(said))
    return seconds, peak / 2**30, said[0]


def dataset(scan: Path, folder: Path) -> Path:
    """A BIDS dataset of one scan."""
    target = folder / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    target.parent.mkdir(parents=True)
    target.symlink_to(scan.resolve())
    (folder / "bids" / "dataset_description.json").write_text('{"Name": "benchmark", "BIDSVersion": "1.10.0"}')
    (folder / "bids" / "README").write_text("One scan.\n")
    return folder / "bids"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    app, plain = [], []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            argv = [sys.executable, "-m", "bids_brainage.cli", str(dataset(args.scan, folder)), str(folder / "out")]
            n = str(args.threads)
            argv += ["participant", "-w", str(folder / "work"), "--device", "cpu", "--nprocs", n, "--omp-nthreads", n]
            app.append(timed(argv, args.threads))
        plain.append(timed([sys.executable, "-c", BASELINE, str(args.scan)], args.threads))
    print(f"\n{args.scan.name}, {args.threads} threads, median of {args.repeats}\n")
    print("| what | wall seconds | peak GiB |\n|---|---|---|")
    for title, runs in (("bids-brainage participant", app), ("plain antspyx", plain)):
        print(f"| {title} | {median(r[0] for r in runs):.1f} | {median(r[1] for r in runs):.2f} |")
    print(f"| ratio | {median(a[0] / p[0] for a, p in zip(app, plain, strict=True)):.2f} | |\n")
    print("| stage | seconds |\n|---|---|")
    for stage, seconds in re.findall(r"sub_01: (\w+)\s+([\d.]+) s", app[-1][2]):
        print(f"| {stage} | {seconds} |")
    for line in plain[-1][2].splitlines():
        if re.fullmatch(r".+\t[\d.]+", line):
            print("| plain: {} | {} |".format(*line.split("\t")))


if __name__ == "__main__":
    main()
