"""How well the segmentation network does on real scans that have a DLMUSE segmentation; they choose nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bids_brainage.image import muse
from bids_brainage.image.brain import segment
from bids_brainage.image.classes import CLASSES, NUMBER
from bids_brainage.image.conform import conform
from bids_brainage.image.io import Volume, read, resample
from bids_brainage.image.masks import dice, fill_holes
from bids_brainage.training.heads import find_heads

LOG = logging.getLogger("bids_brainage")
STRUCTURES = {
    "thalamus": ("thalamus",), "caudate": ("caudate",), "putamen": ("putamen",), "hippocampus": ("hippocampus",),
    "lateral ventricles": ("lateral_ventricle",), "cerebral white matter": ("cerebral_white_matter",),
    "cortex": ("cerebral_cortex",), "cerebellum": ("cerebellar_cortex", "cerebellar_white_matter"),
    "brainstem": ("brainstem",),
}  # fmt: skip
"""Structures over which the project's own goal (mean Dice of 0.80) is stated."""


def judge(bundle: Path, dataset: Path) -> dict[str, Any]:
    """Dice and volume ratio against DLMUSE: brain, ICV, each class, and the mean over :data:`STRUCTURES`.

    Returns
    -------
    dict
        ``n``; ``dice`` and ``volume_ratio``: mean and 95 % t interval over heads; ``dice_lowest``.
    """
    rows = []
    for name, t1w, dseg in find_heads(dataset):
        with TemporaryDirectory() as scratch:
            rows.append(_one(t1w, dseg, bundle, Path(scratch)))
        LOG.info("%s: brain %.3f, ICV %.3f", name, rows[-1]["brain"][0], rows[-1]["icv"][0])
    names = list(rows[0])
    overlap = {name: np.array([row[name][0] for row in rows]) for name in names}
    ratio = {name: np.array([row[name][1] for row in rows]) for name in names}
    return {
        "how": "real heads against DLMUSE (itself a network), on which nothing was trained; the network alone, without "
        "atlas or calibration; mean over heads with 95 % t interval",
        "n": len(rows),
        "dice": {name: interval(values) for name, values in overlap.items()},
        "dice_lowest": {name: round(float(overlap[name].min()), 4) for name in ("brain", "icv")},
        "volume_ratio": {name: interval(values) for name, values in ratio.items()},
    }


def _one(t1w: Path, dseg: Path, bundle: Path, out: Path) -> dict[str, tuple[float, float]]:
    """Dice and volume ratio by name, of one head."""
    found = segment(conform(t1w, out=out).t1w_native, bundle=bundle, out=out)
    truth = read(dseg, np.uint8)
    masks = [
        resample(read(path, np.uint8), truth.grid, nearest=True) > 0 for path in (found.brain_mask, found.icv_mask)
    ]
    outside = np.isin(truth.data, (0, *muse.OUTSIDE_BRAIN))
    result = {
        "brain": _compare(masks[0], fill_holes(~outside)),
        "icv": _compare(masks[1], fill_holes(truth.data > 0)),
    }
    classes, theirs = likeliest(read(found.posteriors), truth), muse.classes()[muse.columns(truth.data)]
    for name, members in {**STRUCTURES, **{name: (name,) for name in CLASSES[1:]}}.items():
        own = numbers(members)
        result[name] = _compare(np.isin(classes, own), np.isin(theirs, own))
    mean = np.mean([result[name] for name in STRUCTURES], axis=0)
    return {"mean of structures": (float(mean[0]), float(mean[1])), **result}


def numbers(members: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes of these names."""
    return tuple(NUMBER[member] for member in members)


def likeliest(posteriors: Volume, like: Volume) -> NDArray[np.uint8]:
    """The likeliest class at each voxel of another grid."""
    best, label = np.zeros(like.data.shape, np.float32), np.zeros(like.data.shape, np.uint8)
    for number in range(posteriors.data.shape[-1]):
        own = resample(Volume(posteriors.data[..., number], posteriors.affine), like.grid)
        label[own > best] = number
        np.maximum(best, own, out=best)
    return label


def _compare(mine: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[float, float]:
    return dice(mine, theirs), float(mine.sum() / max(1, theirs.sum()))


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and its 95 % t interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else float("nan")
    mean = float(values.mean())
    return {"value": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}
