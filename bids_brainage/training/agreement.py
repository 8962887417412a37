"""Average heads to an atlas, calibrate volumes measured with it, and judge both on heads that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse.csgraph import connected_components

from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas, look_up, template_points
from bids_brainage.image.calibration import MINIMUM, logarithm, no_lines
from bids_brainage.image.fusion import CSF, Head, fuse, fused_mask, measured, structure_prior
from bids_brainage.image.io import Volume, resample
from bids_brainage.image.masks import dice
from bids_brainage.image.stripped import no_shifts
from bids_brainage.image.template import DEFAULT, template
from bids_brainage.image.tissue import TISSUES
from bids_brainage.training.heads import RESOLUTION, Example
from bids_brainage.training.judge import STRUCTURES, numbers

KEPT = 8
PRIOR_SLOPE = 2.0
RESAMPLES = 2000
SAME_PERSON = 0.68


def average(examples: Sequence[Example]) -> Atlas:
    """Share of heads and their mirror images that have each region at each voxel, the likeliest ``KEPT`` kept."""
    grid = template(DEFAULT, RESOLUTION).grid
    mirror = muse.mirrored()
    every = [c for e in examples for c in (e.columns, mirror[e.columns[::-1]].astype(np.uint8))]
    stack = np.stack([columns.reshape(-1) for columns in every], axis=1)
    covered = (stack != 146).any(axis=1)
    stack = stack[covered]
    counts = np.zeros((len(stack), 147), dtype=np.uint16)
    for columns in stack.T:
        counts[np.arange(len(stack)), columns] += 1
    labels = np.argsort(-counts.astype(np.int32), axis=1, kind="stable")[:, :KEPT].astype(np.uint8)
    share = np.take_along_axis(counts, labels, axis=1).astype(np.float32)
    share /= share.sum(axis=1, keepdims=True)
    rows = np.where(covered, np.cumsum(covered) - 1, -1).astype(np.int32).reshape(grid.shape)
    return Atlas(grid, rows, labels, share, no_lines(), no_shifts())


class Measured(NamedTuple):
    """One head by an atlas that never saw its person.

    Attributes
    ----------
    volumes : array, (146,)
        145 regions and the ICV, mm^3, not calibrated.
    regions : array, (145,)
        Dice of each region.
    structures : array
        Dice of each of :data:`STRUCTURES`, what lies beyond the app's mask of the skull's inside counted as missed.
    tissues : array, (3,)
        Dice of grey matter, white matter and CSF within the skull.
    brain : float
        Dice of the fused brain mask, holes of the reference filled.
    """

    volumes: NDArray[np.float64]
    regions: NDArray[np.float64]
    structures: NDArray[np.float64]
    tissues: NDArray[np.float64]
    brain: float


def likely_regions(atlas: Atlas, head: Head, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Region probabilities of a head's voxels, which lie at ``points`` of the template; as :func:`fuse`."""
    prior = look_up(atlas, points)
    return fuse(prior, structure_prior(prior, head.posterior), head.intensity, points)


def raw_volumes(atlas: Atlas, head: Head, xfm_inverse: Path) -> NDArray[np.float64]:
    """145 regions and the ICV, mm^3, not calibrated; the transform carries the head's points to the template."""
    points = template_points(xfm_inverse, head.masks)
    return np.array([*measured(likely_regions(atlas, head, points), head), head.skull])


def measure(atlas: Atlas, one: Example) -> Measured:
    """Measure a head with an atlas."""
    likely = likely_regions(atlas, one.head, one.points)
    found, owner = likely[: len(one.truth)].argmax(axis=1), muse.classes()
    both, mine = (np.bincount(of, minlength=147)[:145] for of in (found[found == one.truth], found))
    theirs = one.reference[:145] / one.head.masks[0].grid.voxel_volume  # within the app's mask and beyond it
    structures = [numbers(members) for members in STRUCTURES.values()]
    return Measured(
        np.array([*measured(likely, one.head), one.head.skull]),
        2 * both / np.maximum(mine + theirs, 1),
        np.array([_dice(owner[found], owner[one.truth], of, theirs[np.isin(owner[:145], of)]) for of in structures]),
        np.array([dice(np.isin(owner[found], of), np.isin(owner[one.truth], of)) for of in TISSUES]),
        dice(resampled(_fused(likely, one), one), one.brain()),
    )


def final_mask(atlas: Atlas, one: Example) -> NDArray[np.bool_]:
    """The brain mask that the app writes of a head, on the head's own grid."""
    return _fused(likely_regions(atlas, one.head, one.points), one)


def _fused(likely: NDArray[np.float32], one: Example) -> NDArray[np.bool_]:
    return fused_mask(likely, one.head, one.icv.grid, one.icv.data > 0)


def _dice(found: NDArray[np.int16], truth: NDArray[np.int16], of: Sequence[int], theirs: NDArray[np.float64]) -> float:
    """Dice of classes by voxel; ``theirs``: voxels of all their regions in the reference, beyond the mask too."""
    mine = np.isin(found, of)
    return float(2 * (mine & np.isin(truth, of)).sum() / max(1.0, mine.sum() + theirs.sum()))


def resampled(mask: NDArray[np.bool_], one: Example) -> NDArray[np.bool_]:
    """A mask of a head's own grid on that of its reference."""
    return resample(Volume(mask.astype(np.uint8), one.icv.affine), one.labels.grid, nearest=True) > 0


def calibration(measured: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float32]:
    """Intercepts and slopes of log reference on log measured volume, for the regions and the ICV: ``(2, 146)``.

    Both sides of the brain share a line. Its slope is drawn towards 1 (a ridge penalty of ``PRIOR_SLOPE``), so that
    only regions whose volumes differ a lot between people, the ventricles, get another. Its level is drawn nowhere: one
    between a region's own and that of its structure is off in the same direction in everybody, and a brain age sums a
    hundred regions.

    Parameters
    ----------
    measured, reference : arrays, (heads, 146)
        mm^3.
    """
    x, y = logarithm(measured), logarithm(reference)
    other = np.array([*muse.mirrored()[:145], 145])
    centre, level = x.mean(axis=0), y.mean(axis=0) - x.mean(axis=0)
    square = ((x - centre) ** 2).sum(axis=0)
    product = ((x - centre) * (y - y.mean(axis=0))).sum(axis=0)
    centre, level, square, product = ((v + v[other]) / 2 for v in (centre, level, square, product))
    slope = (product + PRIOR_SLOPE) / (square + PRIOR_SLOPE)
    return np.stack([level + centre * (1 - slope), slope]).astype(np.float32)


class Judged(NamedTuple):
    """Leave-one-out results of all heads.

    Attributes
    ----------
    volumes : array, (heads, 146)
        Calibrated, mm^3.
    slopes : array, (heads, 146)
        Of the calibrations.
    reference : array, (heads, 146)
        What the volumes ought to be, mm^3.
    measured : sequence of Measured
    """

    volumes: NDArray[np.float64]
    slopes: NDArray[np.float64]
    reference: NDArray[np.float64]
    measured: Sequence[Measured]

    @property
    def raw(self) -> NDArray[np.float64]:
        """Volumes before calibration, (heads, 146), mm^3."""
        return np.array([one.volumes for one in self.measured])


def people(examples: Sequence[Example]) -> NDArray[np.int_]:
    """Number of the person whom each head is of, shape (heads,): a dataset may hold one under two names.

    Two heads are one person's where their references are alike at over 68 % of the template's voxels that either of
    them labels. In the shipped atlas, two heads of one person are alike at 76 %, those of different people at 57-61 %.
    """
    columns = [one.columns.reshape(-1) for one in examples]
    alike = np.eye(len(examples), dtype=bool)
    for a, b in combinations(range(len(examples)), 2):
        either = np.minimum(columns[a], columns[b]) < CSF
        alike[a, b] = (columns[a] == columns[b])[either].mean() > SAME_PERSON
    return np.asarray(connected_components(alike, directed=False)[1])


def without_each(examples: Sequence[Example], who: NDArray[np.int_]) -> dict[int, Atlas]:
    """For each person, the atlas of the heads of others; ``who`` of :func:`people`."""
    return {
        int(person): average([one for one, of in zip(examples, who, strict=True) if of != person])
        for person in np.unique(who)
    }


def leave_one_out(examples: Sequence[Example], who: NDArray[np.int_], atlases: Mapping[int, Atlas]) -> Judged:
    """Measure each head with an atlas and a calibration that never saw its person.

    The calibration comes from the heads of others, each measured by an atlas without its own person.

    Parameters
    ----------
    who : array of int, (heads,)
        Of :func:`people`.
    atlases
        Of :func:`without_each`.
    """
    measured = [measure(atlases[w], one) for w, one in zip(who, examples, strict=True)]
    raw = np.array([one.volumes for one in measured])
    reference = np.stack([one.reference for one in examples])
    return Judged(*calibrated_blindly(raw, reference, who), reference, measured)


def calibrated_blindly(
    measured: NDArray[np.float64], reference: NDArray[np.float64], who: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Volumes, mm^3, by a calibration of the heads of other people, and its slopes: both ``(heads, 146)``."""
    lines = np.array([calibration(measured[rest], reference[rest]) for rest in who[:, None] != who], dtype=np.float64)
    return np.exp(lines[:, 0] + lines[:, 1] * logarithm(measured)), lines[:, 1]


def added(copies: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the volumes of copies ``(heads, copies, 146)`` on those of their heads ``(heads, 146)``."""
    return logarithm(copies) - logarithm(whole)[:, None]


def calibrated_again(judged: Judged, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated volumes, mm^3, of copies whose log volumes ``(heads, copies, 146)`` were ``moved`` by so much."""
    return np.asarray(judged.volumes[:, None] * np.exp(judged.slopes[:, None] * moved))


def accuracy(volumes: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, Any]:
    """Correlation, bias (95 % t interval) and median absolute error (bootstrap over heads) of a quantity, per cent."""
    error = 100 * (volumes / np.maximum(reference, MINIMUM) - 1)
    half = float(stats.t.ppf(0.975, len(error) - 1) * stats.sem(error))
    draws = np.random.default_rng(0).integers(len(error), size=(RESAMPLES, len(error)))
    low, high = np.percentile(np.median(np.abs(error)[draws], axis=1), [2.5, 97.5])
    return {
        "r": round(float(np.corrcoef(volumes, reference)[0, 1]), 3),
        "bias_percent": bounded(float(error.mean()), float(error.mean()) - half, float(error.mean()) + half),
        "median_absolute_error_percent": bounded(float(np.median(np.abs(error))), low, high),
    }


def bounded(value: float, low: float, high: float) -> dict[str, float]:
    """A figure with its interval, one decimal."""
    return {"value": round(value, 1), "low": round(float(low), 1), "high": round(float(high), 1)}


def summary(judged: Judged) -> dict[str, dict[str, Any]]:
    """Accuracy of the ICV, brain, grey and white matter, lateral ventricles, hippocampi, and the median region."""
    column = {region.number: position for position, region in enumerate(muse.regions())}
    members = {composite.number: composite.members for composite in muse.composites()}
    parts = {"brain": members[muse.TOTAL_BRAIN], "grey matter": members[601], "white matter": members[604]}
    parts |= {"lateral ventricles": (51, 52), "hippocampi": (47, 48)}
    found = {"ICV": accuracy(judged.volumes[:, 145], judged.reference[:, 145])}
    for name, regions in parts.items():
        own = [column[number] for number in regions]
        found[name] = accuracy(judged.volumes[:, own].sum(axis=1), judged.reference[:, own].sum(axis=1))
    each = [accuracy(judged.volumes[:, r], judged.reference[:, r]) for r in range(145)]
    found["median of 145 regions"] = {
        "r": round(float(np.nanmedian([m["r"] for m in each])), 3),
        **{key: round(float(np.nanmedian([m[key]["value"] for m in each])), 1) for key in list(each[0])[1:]},
    }
    return found
