"""How long it takes to find the scans of a large dataset: ``python benchmarks/indexing.py [SUBJECTS]``.

Makes datasets of empty files with other modalities beside the T1w images, and times a whole
:func:`bids_brainage.bids.inputs.find_scans` (listing, index, ages) in a new process, the import of pybids included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OTHERS = (
    "func/{}_task-rest_bold.nii.gz",
    "func/{}_task-rest_bold.json",
    "dwi/{}_dwi.nii.gz",
    "anat/{}_T2w.nii.gz",
    "anat/{}_T1w.json",
)
TRIAL = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from bids_brainage.bids.inputs import find_scans
labels = ("0000",) if sys.argv[3] == "one" else ()
found = find_scans(Path(sys.argv[1]), database_dir=Path(sys.argv[2]) if sys.argv[2] else None, participant_label=labels)
print(len(found.scans), time.perf_counter() - start)
"""


def make(root: Path, subjects: int, sessions: int) -> Path:
    """A dataset of empty files."""
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "Benchmark", "BIDSVersion": "1.10.0"}')
    rows = [f"sub-{i:04d}\t{20 + i % 70}\t{'FM'[i % 2]}" for i in range(subjects)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]) + "\n")
    for i in range(subjects):
        folder = root / f"sub-{i:04d}"
        names = [f"ses-{s}" for s in range(1, sessions + 1)] if sessions > 1 else [""]
        for session in names:
            stem = "_".join(filter(None, (f"sub-{i:04d}", session)))
            for other in (*OTHERS, "anat/{}_T1w.nii.gz"):
                path = folder / session / other.format(stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}" if path.suffix == ".json" else "")
        if sessions > 1:
            ages = [f"{s}\t{20 + i % 70 + k}" for k, s in enumerate(names)]
            (folder / f"sub-{i:04d}_sessions.tsv").write_text("\n".join(["session_id\tage", *ages]) + "\n")
    return root


def trial(root: Path, database: Path | None = None, who: str = "all") -> tuple[int, float]:
    """Scans found, and seconds."""
    command = [sys.executable, "-c", TRIAL, str(root), str(database or ""), who]
    images, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(images), float(seconds)


def main() -> None:
    subjects = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{subjects} participants, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
    print("| sessions | index | T1w images | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for sessions in (1, 2):
            root = make(Path(place) / f"ds{sessions}", subjects, sessions)
            saved = Path(place) / f"index{sessions}"
            for label, arguments in {
                "none": (),
                "made and saved": (saved,),
                "saved before": (saved,),
                "none, one participant chosen": (None, "one"),
            }.items():
                images, seconds = trial(root, *arguments)
                print(f"| {sessions} | {label} | {images} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
