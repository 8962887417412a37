"""The whole way from an image to a map: simulated heads through the app, their maps beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from bids_brainage.bids.outputs import entity, path_for
from bids_brainage.core.types import Scan
from bids_brainage.image.io import Volume, read
from bids_brainage.image.register import warp
from bids_brainage.image.template import DEFAULT
from bids_brainage.simulate.cohort import write_scans
from bids_brainage.simulate.person import Visit
from bids_brainage.training.validate.measures import within_person_r
from bids_brainage.training.validate.people import UNSEEN, Plan, Subject, by_base
from bids_brainage.training.validate.table import Key, Row, Sample, global_age, means

IMAGES = "images"
"""The generator's name in the figures."""
RESOLUTION = 1.0
"""Voxel size of the scans, mm."""


def visits(people: Sequence[Subject], plan: Plan) -> list[Visit]:
    """One scan of each person; at the standard scanner where the plan's site has none of its own."""
    site = "" if plan.site == UNSEEN else plan.site
    return [Visit(one.person, one.age, one.scans[0], site=site) for one in people]


def write_heads(folder: Path, people: Sequence[Subject], plan: Plan, resolution: float = RESOLUTION) -> list[Visit]:
    """Write a BIDS dataset of simulated heads, and the truth about them.

    Parameters
    ----------
    folder : Path
        New or empty.
    people : sequence of Subject
    plan : Plan
        Its seed, site and base anatomies.
    resolution : float
        mm.
    """
    scans = visits(people, plan)
    heads = [base for base, _ in islice(by_base(plan, people), len(people))]
    write_scans(folder, scans, seed=plan.seed, resolution=resolution, step=plan.step, bases=heads)
    return scans


def compared(bids: Path, out: Path, scans: Sequence[Visit], bundle: str, seed: int) -> list[Row]:
    """Figures of the maps that the app wrote, against the truth carried to the template by the app's own transform.

    Parameters
    ----------
    bids : Path
        Of `write_heads`.
    out : Path
        The app's derivatives.
    scans : sequence of Visit
    bundle : str
        Name on the card.
    seed : int
        Of the bootstrap.
    """
    samples: list[Sample] = []
    ages: list[tuple[float, float]] = []
    for visit in scans:
        truth, found = maps(bids, out, visit, bundle)
        ages.append((float(truth.mean(dtype=np.float64)), float(found.mean(dtype=np.float64))))
        error = float(np.abs(found - truth).mean(dtype=np.float64))
        for quantity, value in (("voxel_mae", error), ("within_person_r", within_person_r(found, truth))):
            samples.append(Sample(Key(bundle, IMAGES, quantity, "brain"), value))
    pairs = np.array(ages)
    return global_age(bundle, IMAGES, pairs[:, 0], pairs[:, 1], seed) + means(samples, seed)


def maps(bids: Path, out: Path, visit: Visit, bundle: str) -> tuple[np.ndarray, np.ndarray]:
    """True and found ages (years) of one scan at the voxels where both are known, shape (voxels,) each."""
    scan = Scan(bids / visit.folder / f"{visit.stem}_T1w.nii.gz", {"sub": visit.person.label})
    found = read(path_for(scan, f"brainage_map:{entity(bundle)}", out, DEFAULT))
    native = read(bids / "derivatives" / "truth" / visit.folder / f"{visit.stem}_desc-truth_brainagemap.nii.gz")
    forward = path_for(scan, "xfm_forward", out, DEFAULT)
    truth = warp(Volume(native.data, native.affine), forward, found.grid, nearest=True)
    known = (truth > 0) & (found.data > 0)
    return truth[known], found.data[known]
