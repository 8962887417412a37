"""Simulated people, and BIDS datasets of them with the truth as a derivative."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_brainage import __version__
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import atomic, write_json, write_text
from bids_brainage.core.types import Sex
from bids_brainage.simulate import aging, anatomy
from bids_brainage.simulate.anatomy import CSF, ORIGIN, REGIONS, Anatomy
from bids_brainage.simulate.deform import Array, Warp, apply, noise, random_warp
from bids_brainage.simulate.scanner import ORIENTATIONS, Acquisition, Head, Protocol, acquire

AGE_RANGE = (45.0, 78.0)
_BRAIN_ML = {"F": 1217.0, "M": 1369.0}
"""Median brain volume at 40 years (iSTAGING normative centiles, TotalBrain)."""
_WARP_SCALES = ((30.0, 3.0), (14.0, 1.3))
_WARP_SPACING = 5.0
_TEXTURE_STEP = 3.0


@dataclass(frozen=True)
class Person:
    """Who is simulated; the same seed is the same anatomy at every age.

    Attributes
    ----------
    label : str
        Participant label without ``sub-``.
    sex : {"F", "M"}
    seed : int
        Draws the anatomy.
    gap : float
        Years by which the brain is older than the person.
    planted : mapping of str to float
        Further volume factors by region (``left_lateral_ventricle``) or kind, both sides (``hippocampus``).
    """

    label: str
    sex: Sex
    seed: int
    gap: float = 0.0
    planted: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Visit:
    """One scan of a person: age in years, BIDS entities after ``sub``, and the seed of the scanner."""

    person: Person
    age: float
    seed: int
    session: str | None = None
    run: str | None = None

    @property
    def folder(self) -> Path:
        """``sub-01/ses-1/anat``."""
        return Path(f"sub-{self.person.label}", *([f"ses-{self.session}"] if self.session else []), "anat")

    @property
    def stem(self) -> str:
        """``sub-01_ses-1_run-1``."""
        parts = [f"sub-{self.person.label}"]
        parts += [f"ses-{self.session}"] if self.session else []
        return "_".join(parts + ([f"run-{self.run}"] if self.run else []))


def _shape(person: Person, brain: float) -> tuple[NDArray[np.float64], Warp]:
    """Linear map from the head to the base anatomy, and the random warp of the person; ``brain`` is the base's, ml."""
    rng = np.random.default_rng((person.seed, 1))
    size = _BRAIN_ML[person.sex] * np.exp(0.07 * rng.standard_normal())
    scale = (size / brain) ** (1 / 3) * np.exp(0.02 * rng.standard_normal(3))
    matrix = np.diag(scale) @ (np.eye(3) + 0.015 * rng.standard_normal((3, 3)) * (1 - np.eye(3)))
    matrix *= (size / brain / np.linalg.det(matrix)) ** (1 / 3)
    shape = tuple(int(extent // _WARP_SPACING) + 2 for extent in anatomy.EXTENT)
    box = Warp(np.zeros((3, *shape), np.float32), ORIGIN, _WARP_SPACING)
    return np.asarray(np.linalg.inv(matrix), np.float64), random_warp(rng, box, _WARP_SCALES)


def head_of(person: Person, age: float, base: Anatomy, shares: aging.Fractions) -> Head:
    """The head of a person at an age.

    Parameters
    ----------
    person : Person
    age : float
        Years; the atrophy is that of ``age + person.gap``.
    base : Anatomy
    shares : aging.Fractions
        Of ``base``.

    Returns
    -------
    Head
    """
    volumes = shares.values.sum((1, 2, 3), dtype=np.float64) * shares.spacing**3 / 1000
    brain = float(sum(v for v, r in zip(volumes, REGIONS, strict=True) if r.number != CSF))
    inverse, warp = _shape(person, brain)
    factors = aging.planted(age + person.gap, person.sex, person.planted)
    factors = factors * aging.individual(np.random.default_rng((person.seed, 2)))
    aged = aging.grow(shares, factors)

    def to_base(points: Array) -> Array:
        straight = np.einsum("ab,bxyz->axyz", inverse.astype(np.float32), points)
        return apply(aged, apply(warp, straight))

    shape = tuple(int(extent // _TEXTURE_STEP) + 2 for extent in anatomy.EXTENT)
    texture = noise(np.random.default_rng((person.seed, 3)), shape, 0.8)
    return Head(to_base, base.labels, ORIGIN, base.step, texture, _TEXTURE_STEP)


def people(n: int, seed: int) -> list[Person]:
    """``n`` people, women and men in turn."""
    seeds = np.random.default_rng((seed, 0)).integers(0, 2**31, n)
    width = max(2, len(str(n)))
    return [Person(f"{i + 1:0{width}d}", "F" if i % 2 == 0 else "M", int(s)) for i, s in enumerate(seeds)]


def visits(persons: list[Person], seed: int) -> list[Visit]:
    """Their scans, ages evenly over `AGE_RANGE`.

    The first person comes twice, two years apart; the second has two runs in one session.
    """
    rng = np.random.default_rng((seed, 1))
    n = len(persons)
    ages = np.linspace(*AGE_RANGE, n) if n > 1 else np.array([60.0])
    found = []
    for i, (person, age) in enumerate(zip(persons, np.round(ages + rng.uniform(-1, 1, n), 1), strict=True)):
        seeds = [int(s) for s in rng.integers(0, 2**31, 2)]
        if i == 0:
            later = round(float(age) + 2.0, 1)
            found += [Visit(person, float(age), seeds[0], session="1"), Visit(person, later, seeds[1], session="2")]
        elif i == 1:
            found += [Visit(person, float(age), s, run=str(r + 1)) for r, s in enumerate(seeds)]
        else:
            found.append(Visit(person, float(age), seeds[0]))
    return found


def _save(path: Path, data: NDArray[np.generic], affine: NDArray[np.float64], orientation: str = "RAS") -> None:
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


def _table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a TSV; missing values are given as ``None``."""
    lines = [header, *rows]
    write_text(path, "".join("\t".join("n/a" if v is None else str(v) for v in row) + "\n" for row in lines))


def _describe(out: Path, scans: list[Visit], seed: int) -> None:
    """The files of the dataset beside the images."""
    name = "Simulated T1w heads"
    write_json(
        out / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["bids-brainage"],
            "GeneratedBy": [
                {"Name": "bids-brainage", "Version": __version__, "Description": f"simulated with seed {seed}"}
            ],
        },
    )
    write_text(
        out / "README",
        f"{name}\n\nNobody was scanned: these heads were made by `brainage simulate` (bids-brainage {__version__},\n"
        f"seed {seed}) from the tissue maps of MNI152NLin2009aSym. Atrophy was planted by age; derivatives/truth\n"
        "holds what is true of each scan.\n",
    )
    first = {v.person.label: v for v in reversed(scans)}
    rows = [(f"sub-{label}", first[label].age, first[label].person.sex) for label in sorted(first)]
    _table(out / "participants.tsv", ("participant_id", "age", "sex"), rows)
    age = {"Description": "age at the scan (at the first session where there are several)", "Units": "year"}
    sex = {"Description": "sex", "Levels": {"F": "female", "M": "male"}}
    write_json(out / "participants.json", {"age": age, "sex": sex})
    for label in sorted(first):
        sessions = {v.session: v.age for v in scans if v.person.label == label and v.session}
        if sessions:
            path = out / f"sub-{label}" / f"sub-{label}_sessions.tsv"
            _table(path, ("session_id", "age"), ((f"ses-{s}", years) for s, years in sessions.items()))
            write_json(path.with_suffix(".json"), {"age": {"Description": "age at the session", "Units": "year"}})


def _describe_truth(out: Path) -> None:
    """The files of the truth beside the images and the table of volumes."""
    description = {
        "Name": "What is true of the simulated heads",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [{"Name": "bids-brainage", "Version": __version__}],
        "SourceDatasets": [{"URL": "../../"}],
    }
    write_json(out / "dataset_description.json", description)
    write_text(out / "README", "Label maps on the grid of each scan, and volumes.tsv with what was planted.\n")
    write_text(out / ".bidsignore", "volumes.tsv\nvolumes.json\n")
    _table(out / "desc-truth_dseg.tsv", ("index", "name"), ((r.number, r.name) for r in REGIONS))
    write_json(
        out / "volumes.json",
        {
            "brain_age": {"Description": "age whose atrophy was planted", "Units": "year"},
            "index": {"Description": "number of the region in the label maps"},
            "name": {"Description": "name of the region; left is the person's left"},
            "volume_mm3": {"Description": "volume in this scan", "Units": "mm^3"},
            "planted": {
                "Description": "planted volume relative to the same anatomy at 40 years, differences between people"
                " apart; n/a for the fluid around the brain, which takes what is left"
            },
        },
    )


def _truth_rows(visit: Visit, scan: Acquisition) -> list[tuple[object, ...]]:
    """Rows of volumes.tsv of one scan."""
    person = visit.person
    planted = aging.planted(visit.age + person.gap, person.sex, person.planted)
    who = (f"sub-{person.label}", f"ses-{visit.session}" if visit.session else None, visit.run)
    return [
        (
            *who,
            round(visit.age + person.gap, 2),
            r.number,
            r.name,
            round(float(volume), 1),
            None if np.isnan(p) else round(float(p), 4),
        )
        for r, volume, p in zip(REGIONS, scan.volumes, planted, strict=True)
    ]


def write_scans(out: Path, scans: list[Visit], *, seed: int, resolution: float = 2.0, step: int = 1) -> Path:
    """Write a BIDS dataset of given visits, with ``derivatives/truth``.

    Parameters
    ----------
    out : Path
        Folder of the dataset; made if it is not there.
    scans : list of Visit
    seed : int
        Named in the description.
    resolution : float
        Voxel size of the scans, mm.
    step : int
        Voxel size of the base anatomy, mm: 1, or 2 for quick tests.

    Returns
    -------
    Path
        ``out``.
    """
    out, truth = Path(out), Path(out) / "derivatives" / "truth"
    base = anatomy.build(step)
    shares = aging.fractions(base, 3 if step == 1 else 4)
    rows: list[tuple[object, ...]] = []
    heads: dict[tuple[str, float], Head] = {}
    for i, visit in enumerate(scans):
        key = (visit.person.label, visit.age)
        if key not in heads:
            heads = {key: head_of(visit.person, visit.age, base, shares)}
        protocol = Protocol(resolution=resolution, orientation=ORIENTATIONS[i % len(ORIENTATIONS)])
        scan = acquire(heads[key], protocol, np.random.default_rng((visit.seed, 4)))
        path = out / visit.folder / f"{visit.stem}_T1w.nii.gz"
        _save(path, scan.data, scan.affine, protocol.orientation)
        write_json(
            out / visit.folder / f"{visit.stem}_T1w.json", {"Manufacturer": "simulated", "MagneticFieldStrength": 3}
        )
        target = truth / visit.folder / f"{visit.stem}_desc-truth_dseg.nii.gz"
        _save(target, scan.labels, scan.affine, protocol.orientation)
        rows += _truth_rows(visit, scan)
    _describe(out, scans, seed)
    _describe_truth(truth)
    _table(
        truth / "volumes.tsv",
        ("participant_id", "session_id", "run", "brain_age", "index", "name", "volume_mm3", "planted"),
        rows,
    )
    return out


def simulate_dataset(out: Path, *, n: int = 4, seed: int = 0, resolution: float = 2.0) -> Path:
    """Write a small raw BIDS dataset of simulated people with skull, and the truth about them.

    Parameters
    ----------
    out : Path
        An empty or new folder.
    n : int
        People; the first has two sessions, the second two runs.
    seed : int
        The same seed gives the same bytes.
    resolution : float
        Voxel size, mm.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UsageError
        Where ``out`` holds files, or a value makes no sense.
    """
    out = Path(out)
    if n < 1 or not 0.5 <= resolution <= 5 or seed < 0:
        asked = f"{n} people at {resolution} mm, seed {seed}"
        raise UsageError(f"{asked}: give at least 1 person, 0.5 to 5 mm, and a seed of at least 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is not an empty folder; give another one, or empty it")
    return write_scans(out, visits(people(n, seed), seed), seed=seed, resolution=resolution)
