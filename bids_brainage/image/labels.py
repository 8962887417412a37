"""Atlases that a user has: a label image with a table of names, carried to our grid, and means over its regions."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from bids_brainage.core.errors import BrainAgeError, ScanError, UsageError
from bids_brainage.core.files import copy, make_writable, sha256_of
from bids_brainage.image.io import Grid, Volume, read, resample
from bids_brainage.image.register import align, template_brain, warp
from bids_brainage.image.template import Template

COLUMNS = ("index", "name")
MOST = 2**24


class LabelAtlas(NamedTuple):
    """Labels, 3D ``int32`` with 0 for what is no region, and the name of each."""

    name: str
    labels: Volume
    names: Mapping[int, str]


def read_labels(path: Path) -> LabelAtlas:
    """Read an atlas: a 3D image of whole numbers and, beside it, a TSV with ``index`` and ``name`` of each.

    Parameters
    ----------
    path : Path
        ``NAME.nii.gz`` with ``NAME.tsv`` beside it.

    Raises
    ------
    UsageError
        Where one of the two is not there or cannot be read, the image is not 3D or holds other than whole numbers, or
        the table lacks a label of the image.
    """
    try:
        image = read(path, np.float64)
    except ScanError as error:
        raise UsageError(str(error)) from None
    data = image.data
    if data.ndim != 3 or not np.isfinite(data).all() or (data != np.rint(data)).any():
        raise UsageError(f"{path}: is no 3D image of whole numbers; give a label image, a number a region")
    if data.min() < 0 or data.max() >= MOST or not data.any():
        raise UsageError(f"{path}: has no labels, or some below 0 or above {MOST}; number the regions from 1")
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
    names = _names(table)
    labels = data.astype(np.int32)
    lacking = [str(index) for index in np.unique(labels).tolist() if index and index not in names]
    if lacking:
        raise UsageError(f"{table}: lacks the labels {', '.join(lacking[:8])} of {path.name}; add a line for each")
    return LabelAtlas(table.stem, Volume(labels, image.affine), names)


def _names(table: Path) -> dict[int, str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        return {int(row["index"]): row["name"] or row["index"] for row in rows}
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except (KeyError, ValueError, TypeError, csv.Error):
        problem = f"has no columns {' and '.join(COLUMNS)}, or an index is no whole number"
    raise UsageError(f"{table}: {problem}; give a table of the atlas's regions, separated by tabs")


def labels_on(atlas: LabelAtlas, space: Template, target: Template, grid: Grid, cache: Path) -> NDArray[np.int32]:
    """Labels of an atlas of one template space on a grid of another, nearest neighbour, shape ``grid.shape``.

    Parameters
    ----------
    space, target : Template
        The atlas's template and ours; the two are registered once where their names differ.
    cache : Path
        Folder of transforms between templates.
    """
    if space.name == target.name:
        return resample(atlas.labels, grid, nearest=True)
    transform = transform_between(space, target, cache)
    return np.rint(warp(atlas.labels, transform, grid, nearest=True)).astype(np.int32)


def transform_between(moving: Template, fixed: Template, cache: Path) -> Path:
    """Transform that takes images from one template's space to another's, from the cache or made for it.

    A lock lets one process register while others wait. The name holds a hash of both templates.

    Raises
    ------
    UsageError
        Where the folder cannot be written or the templates cannot be registered.
    """
    digest = sha256_of([_digest(moving), _digest(fixed)])[:12]
    path = cache / f"from-{moving.name}_to-{fixed.name}_{digest}_xfm.h5"
    if path.is_file():
        return path
    try:
        make_writable(cache)
    except OSError as error:
        raise UsageError(f"{cache}: cannot be written ({error.strerror}); set BIDS_BRAINAGE_HOME to a folder") from None
    with FileLock(path.with_suffix(".lock")):
        return path if path.is_file() else _register(moving, fixed, path)


def _register(moving: Template, fixed: Template, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            forward, _ = align(fixed, template_brain(moving), Path(scratch))
        except (BrainAgeError, RuntimeError):
            raise UsageError(f"templates {moving.name} and {fixed.name}: cannot be registered; check both") from None
        return copy(forward, path)


def _digest(template: Template) -> str:
    arrays = (template.t1w, template.gm, template.wm, template.grid.affine)
    return sha256_of([template.name, *(hashlib.sha256(part.tobytes()).hexdigest() for part in arrays)])
