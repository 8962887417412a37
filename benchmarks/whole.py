"""Whether every file of an output folder is whole, and whether two output folders hold the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.files import sha256


def _gzipped(path: Path) -> None:
    gzip.decompress(path.read_bytes())  # to the end: its checksum is the last of it
    assert np.isfinite(np.asarray(nib.load(path).dataobj, dtype=float)).all()


def _transform(path: Path) -> None:
    with h5py.File(path) as stream:
        assert stream["TransformGroup"]


def _table(path: Path) -> None:
    assert read_tsv(path)


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _closed(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith((f"</{path.suffix[1:]}>", f"</{path.suffix[1:]}>\n"))


READERS: dict[str, Callable[[Path], None]] = {
    ".gz": _gzipped,
    ".h5": _transform,
    ".tsv": _table,
    ".json": _json,
    ".svg": _closed,
    ".html": _closed,
}


def files(out: Path) -> list[Path]:
    """Every file under its final name, without the logs; sorted."""
    found = (p for p in sorted(out.rglob("*")) if p.is_file() and "logs" not in p.relative_to(out).parts)
    return [p for p in found if not p.name.startswith(".") or p.name == ".bidsignore"]


def leftovers(out: Path) -> list[Path]:
    """Temporary files that a killed writer left."""
    return [p for p in sorted(out.rglob(".*")) if p.is_file() and p.name != ".bidsignore"]


def faults(out: Path) -> list[str]:
    """One line for each file that cannot be read to its end."""
    found = []
    for path in files(out):
        try:
            READERS.get(path.suffix, lambda p: p.read_bytes())(path)
        except Exception as error:  # noqa: BLE001 - any failure to read is the finding
            found.append(f"{path.relative_to(out)}: {type(error).__name__}: {error}")
    return found


def differences(first: Path, second: Path) -> list[str]:
    """Names that only one folder has, and files that differ; images also by how much.

    Files are the same if their bytes are; transforms if all their numbers are, for HDF5 keeps the time of writing.
    """
    one, two = ({p.relative_to(out): p for p in files(out)} for out in (first, second))
    found = [f"{name}: in one folder only" for name in sorted(set(one) ^ set(two))]
    for name in sorted(set(one) & set(two)):
        if sha256(one[name]) != sha256(two[name]) and not _same_transform(one[name], two[name]):
            found.append(f"{name}: differs{_by_how_much(one[name], two[name])}")
    return found


def _same_transform(first: Path, second: Path) -> bool:
    """Whether both are HDF5 and hold the same numbers under the same names."""
    if {first.suffix, second.suffix} != {".h5"}:
        return False
    one, two = (_arrays(path) for path in (first, second))
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as stream:
        stream.visititems(lambda n, o: found.update({n: np.asarray(o)}) if isinstance(o, h5py.Dataset) else None)
    return found


def _by_how_much(first: Path, second: Path) -> str:
    if first.suffix == ".gz":
        a, b = (np.asarray(nib.load(p).dataobj, dtype=float) for p in (first, second))
        return f" by at most {np.abs(a - b).max():.3g}" if a.shape == b.shape else " in shape"
    lines = zip(first.read_bytes().splitlines(), second.read_bytes().splitlines(), strict=False)
    return next((f": {a[:200]!r} / {b[:200]!r}" for a, b in lines if a != b), "")
