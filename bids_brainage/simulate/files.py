"""Images and tables of simulated datasets: the same content gives the same bytes."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import atomic, write_text


def save(path: Path, data: NDArray[np.generic], affine: NDArray[np.float64], orientation: str = "RAS") -> None:
    """Write a NIfTI file in a storage order, the same bytes for the same content."""
    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    order = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    image = image.as_reoriented(order)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a TSV; missing values are given as ``None``."""
    lines = [header, *rows]
    write_text(path, "".join("\t".join("n/a" if v is None else str(v) for v in row) + "\n" for row in lines))
