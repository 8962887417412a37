"""Label maps of whole heads: what their numbers mean, and reading them for the generator of synthetic scans."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bids_brainage.core.errors import UsageError
from bids_brainage.image.classes import NUMBER

CORD_BELOW_MM = 6
CORD, CORD_FLUID = "spinal cord", "spinal fluid"
BRAINSTEM, FLUID = 16, 24
CEREBELLUM = (7, 8, 46, 47)


class Labels(NamedTuple):
    """What each row of the label table is; all tensors have one entry a row.

    Attributes
    ----------
    rows : dict
        Label value -> row.
    target : uint8 tensor
        Class of the segmentation network; 0 for all outside the skull.
    side : int8 tensor
        1 right, -1 left, 0 neither.
    twin : int64 tensor
        The row that shares its intensity: the left one of a pair of left and right.
    group : int64 tensor
        Rows of one intensity group have the same T1w prior.
    prior : float32 tensor, 4 x groups
        T1w mean of a group, its SD among scans, SD within a scan, and its SD among scans; 1 is white.
    """

    rows: dict[int, int]
    target: Tensor
    side: Tensor
    twin: Tensor
    group: Tensor
    prior: Tensor


class LabelMap(NamedTuple):
    """One head: rows of the label table, uint8 ``(x, y, z)``, RAS at 1 mm, and the middle of its brain in voxels."""

    rows: Tensor
    middle: Tensor


@cache
def labels() -> Labels:
    """The label table that ships with the package, with the spinal cord and the fluid around it added as rows.

    T1w priors: Billot et al. 2023, SynthSeg, doi:10.1016/j.media.2023.102789 (Apache-2.0), scaled to 0-1.
    """
    text = (files("bids_brainage") / "data" / "head_labels.tsv").read_text("utf-8")
    table = pd.read_csv(StringIO(text), sep="\t", na_values=["n/a"])
    rows = {int(value): row for row, value in enumerate(table["label"])}
    side = table["hemisphere"].map({"R": 1, "L": -1}).fillna(0).astype(int).tolist()
    partner = table["partner"].fillna(table["label"]).astype(int).map(rows).tolist()
    twin = [partner[row] if side[row] > 0 else row for row in range(len(table))]
    group = table["intensity_group"].astype(int).tolist()
    prior = table.groupby("intensity_group")[["t1_mean", "t1_mean_sd", "t1_sd", "t1_sd_sd"]].first().to_numpy()
    like = [rows[BRAINSTEM], rows[FLUID]]
    return Labels(
        rows,
        torch.tensor([NUMBER[name] for name in table["class"]] + [0, 0], dtype=torch.uint8),
        torch.tensor([*side, 0, 0], dtype=torch.int8),
        torch.tensor(twin + like),
        torch.tensor(group + [group[row] for row in like]),
        torch.tensor(prior.T.copy(), dtype=torch.float32),
    )


def find_maps(folder: Path) -> list[Path]:
    """The label maps (NIfTI) of a folder, by name.

    Raises
    ------
    UsageError
        Where there is none.
    """
    found = sorted(path for path in folder.glob("*.nii*") if path.name.endswith((".nii", ".nii.gz")))
    if not found:
        raise UsageError(f"{folder}: holds no label map (*.nii.gz); give a folder of label maps of whole heads")
    return found


def read_map(path: Path) -> LabelMap:
    """Read a label map of about 1 mm; brainstem and fluid over 6 mm below the cerebellum become spinal cord.

    Raises
    ------
    UsageError
        Where it cannot be read, has labels that the table does not know, other voxels than 1 mm, or no cerebellum.
    """
    try:
        image = nib.as_closest_canonical(nib.load(path))
        values = np.rint(np.asanyarray(image.dataobj)).astype(np.int32)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a label map ({error}); copy it anew") from None
    zooms = np.asarray(image.header.get_zooms()[:3])
    if values.ndim != 3 or np.abs(zooms - 1).max() > 0.1:
        raise UsageError(f"{path}: is not one volume at 1 mm; resample it with nearest neighbours")
    return LabelMap(*_rows(values, path))


def _rows(values: np.ndarray, path: Path) -> tuple[Tensor, Tensor]:
    table = labels()
    unknown = sorted(set(np.unique(values).tolist()) - set(table.rows))
    if unknown:
        raise UsageError(
            f"{path}: labels {', '.join(map(str, unknown[:8]))} are not known; "
            "recode them to those of bids_brainage/data/head_labels.tsv"
        )
    lookup = np.zeros(max(table.rows) + 1, np.uint8)
    lookup[list(table.rows)] = list(table.rows.values())
    rows = lookup[values]
    slices = np.flatnonzero(np.isin(values, CEREBELLUM).any(axis=(0, 1)))
    if not slices.size:
        raise UsageError(f"{path}: has no cerebellum (labels 7, 8, 46, 47); give a label map of a whole head")
    below = rows[:, :, : max(0, int(slices[0]) - CORD_BELOW_MM)]
    for added, label in enumerate((BRAINSTEM, FLUID)):
        below[below == table.rows[label]] = len(table.rows) + added
    brain = np.argwhere((table.target.numpy() > NUMBER["csf"])[rows])
    middle = (brain.min(axis=0) + brain.max(axis=0)) / 2
    return torch.from_numpy(np.ascontiguousarray(rows)), torch.tensor(middle, dtype=torch.float32)


def read_maps(paths: Sequence[Path], device: str = "cpu") -> list[LabelMap]:
    """Read several label maps onto a device."""
    return [LabelMap(one.rows.to(device), one.middle.to(device)) for one in map(read_map, paths)]
