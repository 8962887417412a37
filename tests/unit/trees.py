"""Small BIDS datasets on disk for tests: empty files where content does not matter, tiny NIfTIs where it does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def make_dataset(root: Path, files: Iterable[str] = (), *, kind: str = "raw", **tables: Any) -> Path:
    """A dataset with empty files at the given paths.

    Keywords name further files: ``participants`` and ``participants_json``, or any path in ``extra``; a string is
    written as it is, anything else as JSON.
    """
    root.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {"Name": "Tree", "BIDSVersion": "1.10.0", "DatasetType": kind}
    if kind == "derivative":
        description["GeneratedBy"] = [{"Name": "fMRIPrep"}]
    write(root / "dataset_description.json", description)
    if "participants" in tables:
        write(root / "participants.tsv", tables["participants"])
    if "participants_json" in tables:
        write(root / "participants.json", tables["participants_json"])
    for name, content in tables.get("extra", {}).items():
        write(root / name, content)
    for name in files:
        write(root / name, "")
    return root


def write(path: Path, content: Any) -> Path:
    """A text file, or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def tsv(*rows: str) -> str:
    """Rows written with spaces, as TSV."""
    return "\n".join("\t".join(row.split()) for row in rows) + "\n"


def t1w(subject: str, session: str = "", rest: str = "", extension: str = ".nii.gz") -> str:
    """Path of a T1w image: ``t1w("01", "pre", "run-01")``."""
    folder = f"sub-{subject}/" + (f"ses-{session}/" if session else "") + "anat/"
    parts = [f"sub-{subject}", *([f"ses-{session}"] if session else []), *([rest] if rest else []), "T1w"]
    return folder + "_".join(parts) + extension


def tiny_nifti(path: Path, dtype: str = "float32") -> Path:
    """A NIfTI image of 4 x 4 x 4 voxels of 1 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def snapshot(root: Path) -> Mapping[str, tuple[int, int]]:
    """Every path below a folder with its time of change and size."""
    paths = [root, *sorted(root.rglob("*"))]
    return {str(p.relative_to(root)): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in paths}
