"""How a trained local model does on people who took no part: voxel by voxel, over the brain, and against the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bids_brainage.image.network import has_bfloat16
from bids_brainage.models.base import LocalConformal
from bids_brainage.models.networks.inference import predict_whole
from bids_brainage.models.networks.local_unet import LocalUNet
from bids_brainage.training import evaluate
from bids_brainage.training.local.data import LocalScan
from bids_brainage.training.local.store import Blocks, Stored, Wholes

COVERAGE, BANDWIDTH = 0.9, 10.0
FEWEST = 3


class Predicted(NamedTuple):
    """Ages at the voxels of the brain, (voxels,), years; the true local ages where known, ``nan`` elsewhere."""

    scan: LocalScan
    ages: NDArray[np.float32]
    truth: NDArray[np.float32] | None


class Measured(NamedTuple):
    """One person in numbers, years: ``nan`` where there is no local truth.

    Attributes
    ----------
    age, predicted, truth : float
        Chronological age; mean of the map over the brain; mean of the true map.
    voxel_mae, voxel_mae_truth : float
        Mean absolute difference over voxels to the age, and to the true map.
    local_r : float
        Correlation over voxels of map and true map.
    sex, site : str
    control : bool
    """

    age: float
    predicted: float
    truth: float
    voxel_mae: float
    voxel_mae_truth: float
    local_r: float
    sex: str
    site: str
    control: bool


def predictions(network: LocalUNet, blocks: Blocks, people: Sequence[Stored], device: str) -> Iterator[Predicted]:
    """The maps of people, one at a time, as the model gives them."""
    network.to(device)
    for person, batch in zip(people, iter(Wholes(blocks, people)), strict=True):
        maps = batch.maps.to(device).contiguous(memory_format=torch.channels_last_3d)
        found = predict_whole(network, maps, half=has_bfloat16(device)).cpu().numpy()[blocks.brain]
        truth = None
        if person.truth is not None:
            known = np.load(person.truth, mmap_mode="r")[blocks.brain].astype(np.float32)
            truth = np.where(known > 0, known, np.float32("nan"))
        yield Predicted(person.scan, found + np.float32(blocks.mean_age), truth)


def measured(found: Predicted) -> Measured:
    """The numbers of one person."""
    scan, ages = found.scan, found.ages.astype(np.float64)
    mean, error, r = np.nan, np.nan, np.nan
    if found.truth is not None:
        known = np.isfinite(found.truth)
        truth = found.truth[known].astype(np.float64)
        mean, error = truth.mean(), np.abs(ages[known] - truth).mean()
        r = np.corrcoef(ages[known], truth)[0, 1] if truth.std() > 0 else np.nan
    whole, off = ages.mean(), np.abs(ages - scan.age).mean()
    return Measured(
        age=scan.age,
        predicted=float(whole),
        truth=float(mean),
        voxel_mae=float(off),
        voxel_mae_truth=float(error),
        local_r=float(r),
        sex=scan.sex or "unknown",
        site=scan.site or "unknown",
        control=scan.is_control,
    )


def figures(test: Sequence[Measured], calibration: Sequence[Measured], seed: int) -> dict[str, Any]:
    """What the card says of people who were judged; 95 % bootstrap intervals over people.

    ``calibration`` are those whose residuals make the intervals.
    """
    if len({row.age for row in test}) < FEWEST:
        return {"test": {"n": len(test), "note": "too few people for figures"}}
    age, predicted, truth = (np.array([getattr(row, n) for row in test]) for n in ("age", "predicted", "truth"))
    past, residual = (np.array([getattr(row, n) for row in calibration]) for n in ("predicted", "age"))
    width = LocalConformal(past, past - residual, COVERAGE, BANDWIDTH).half_width(predicted)
    found: dict[str, Any] = {
        "test": evaluate.whole(age, predicted, seed),
        "voxel_mae": evaluate.mean(np.array([row.voxel_mae for row in test]), seed),
        "by_age": evaluate.by_group(age, predicted, decade(age)),
        "by_sex": evaluate.by_group(age, predicted, np.array([row.sex for row in test])),
        "by_site": evaluate.by_group(age, predicted, np.array([row.site for row in test])),
        "interval_90": evaluate.coverage(age, predicted, width) if np.isfinite(width).all() else {"n": 0},
    }
    if np.isfinite(truth).all():
        found["local_truth"] = {
            "mean_age": evaluate.whole(truth, predicted, seed),
            "voxel_mae": evaluate.mean(np.array([row.voxel_mae_truth for row in test]), seed),
            "voxel_r_within_person": evaluate.mean(np.array([row.local_r for row in test]), seed),
        }
    return found


def decade(age: NDArray[np.float64]) -> NDArray[np.str_]:
    """The decade of each age: ``60-69``."""
    return np.array([f"{int(years // 10) * 10}-{int(years // 10) * 10 + 9}" for years in age])


def rounding(full: LocalUNet, kept: LocalUNet, blocks: Blocks, people: Sequence[Stored], device: str) -> dict[str, Any]:
    """How much the ages at voxels differ, years, between the weights as trained and as kept (float16)."""
    pairs = zip(*(predictions(network, blocks, people, device) for network in (full, kept)), strict=True)
    differences = np.concatenate([np.abs(a.ages - b.ages) for a, b in pairs])
    return {
        "n": len(people),
        "mean_difference_years": evaluate.figure(differences.mean()),
        "largest_difference_years": evaluate.figure(differences.max()),
    }
