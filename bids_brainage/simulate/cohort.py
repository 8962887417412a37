"""Cohorts of simulated people, and BIDS datasets of them with the truth as a derivative."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bids_brainage import __version__
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json, write_text
from bids_brainage.simulate import aging, anatomy, disease, maps
from bids_brainage.simulate.anatomy import Anatomy
from bids_brainage.simulate.files import save, table
from bids_brainage.simulate.local import check_field
from bids_brainage.simulate.person import Grown, Person, Visit, grown, head_of
from bids_brainage.simulate.scanner import ORIENTATIONS, Head, Protocol, acquire
from bids_brainage.simulate.sites import SITES
from bids_brainage.simulate.truth import Truth, describe_maps, write_tissue_maps
from bids_brainage.simulate.variety import varied

LOG = logging.getLogger("bids_brainage")
AGE_RANGE = (45.0, 78.0)
EVERY = 20
"""Scans between two lines of progress."""

_COLUMNS = {"site": "profile of the simulated scanner", "group": "disease whose changes were planted, or control"}


@dataclass(frozen=True)
class Plan:
    """What `simulate_dataset` does beyond its defaults.

    Attributes
    ----------
    ages : tuple of float
        Least and most age, years, within 18 and 95.
    sites : tuple of str
        Names in `sites.SITES`, in turn.
    diseases : tuple of Disease
    field_sd, field_mm : float
        Random field of local age of everybody, as in `Person`.
    bases : callable, optional
        Makes the base anatomies, once all else is known to be right.
    maps_only : bool
        Write tissue maps in template space, and no scans.
    vary_local : bool
        Each person ages unevenly, as `variety.varied` draws it.
    """

    ages: tuple[float, float] = AGE_RANGE
    sites: tuple[str, ...] = ()
    diseases: tuple[disease.Disease, ...] = ()
    field_sd: float = 0.0
    field_mm: float = 20.0
    bases: Callable[[], Iterable[Anatomy]] | None = None
    maps_only: bool = False
    vary_local: bool = False

    def check(self, resolution: float) -> None:
        """Refuse what makes no sense, before any work."""
        low, high = self.ages
        if not 18 <= low <= high <= 95:
            raise UsageError(f"--ages {low:g} {high:g}: give the lower age first, both from 18 to 95 years")
        if self.maps_only and not 1 <= resolution <= 4:
            raise UsageError(f"--maps-only at {resolution:g} mm: give a voxel size of 1 to 4 mm")
        if self.vary_local and (self.field_sd or self.diseases):
            raise UsageError("--vary-local: draws fields and offsets itself; leave out --field and --disease")
        check_field(self.field_sd, self.field_mm)


def people(n: int, seed: int) -> list[Person]:
    """``n`` people, women and men in turn."""
    seeds = np.random.default_rng((seed, 0)).integers(0, 2**31, n)
    width = max(2, len(str(n)))
    return [Person(f"{i + 1:0{width}d}", "F" if i % 2 == 0 else "M", int(s)) for i, s in enumerate(seeds)]


def visits(
    persons: Sequence[Person], seed: int, ages: tuple[float, float] = AGE_RANGE, sites: Sequence[str] = ()
) -> list[Visit]:
    """Their scans, ages evenly over a range, sites in turn: a woman and a man each.

    The first person comes twice, two years apart; the second has two runs in one session.
    """
    rng = np.random.default_rng((seed, 1))
    n = len(persons)
    years = np.linspace(*ages, n) if n > 1 else np.array([60.0 if ages == AGE_RANGE else sum(ages) / 2])
    found = []
    for i, (person, age) in enumerate(zip(persons, np.round(years + rng.uniform(-1, 1, n), 1), strict=True)):
        seeds = [int(s) for s in rng.integers(0, 2**31, 2)]
        first = Visit(person, float(age), seeds[0], site=sites[i // 2 % len(sites)] if sites else "")
        if i == 0:
            later = round(float(age) + 2.0, 1)
            found += [replace(first, session="1"), replace(first, age=later, seed=seeds[1], session="2")]
        elif i == 1:
            found += [replace(first, seed=s, run=str(r + 1)) for r, s in enumerate(seeds)]
        else:
            found.append(first)
    return found


def _counted(scans: Sequence[Visit]) -> Iterator[Visit]:
    """The scans, with a line of progress now and then."""
    for number, visit in enumerate(scans, start=1):
        yield visit
        if number % EVERY == 0 or number == len(scans):
            LOG.info("scans %d of %d", number, len(scans))


def _describe(out: Path, scans: list[Visit], seed: int, given: bool) -> None:
    """The files of the dataset beside the images; ``given``: the base anatomies are the user's."""
    source = "label maps that the user gave" if given else "the tissue maps of MNI152NLin2009aSym"
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
        f"seed {seed}) from {source}. Atrophy was planted by age;\n"
        "the derivatives hold what is true of each scan.\n",
    )
    first = {v.person.label: v for v in reversed(scans)}
    optional = {"site": lambda v: v.site, "group": lambda v: v.person.group}
    columns = {name: of for name, of in optional.items() if any(of(v) for v in scans)}
    rows = [(f"sub-{k}", v.age, v.person.sex, *(of(v) for of in columns.values())) for k, v in sorted(first.items())]
    table(out / "participants.tsv", ("participant_id", "age", "sex", *columns), rows)
    described = {name: {"Description": _COLUMNS[name]} for name in columns}
    age = {"Description": "age at the scan (at the first session where there are several)", "Units": "year"}
    sex = {"Description": "sex", "Levels": {"F": "female", "M": "male"}}
    write_json(out / "participants.json", {"age": age, "sex": sex, **described})
    for label in sorted(first):
        sessions = {v.session: v.age for v in scans if v.person.label == label and v.session}
        if sessions:
            path = out / f"sub-{label}" / f"sub-{label}_sessions.tsv"
            table(path, ("session_id", "age"), ((f"ses-{s}", years) for s, years in sessions.items()))
            write_json(path.with_suffix(".json"), {"age": {"Description": "age at the session", "Units": "year"}})


def write_scans(
    out: Path,
    scans: list[Visit],
    *,
    seed: int,
    resolution: float = 2.0,
    step: int = 1,
    bases: Sequence[Anatomy] = (),
) -> Path:
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
    bases : sequence of Anatomy
        Base anatomies, which people have in turn; the template's where there are none.

    Returns
    -------
    Path
        ``out``.
    """
    out, truth = Path(out), Truth(Path(out) / "derivatives" / "truth")
    base_of = based(scans, bases or [anatomy.build(step)])
    divided = any(v.person.is_local for v in scans)
    known: tuple[tuple[str, float], Grown, Head] | None = None
    for i, visit in enumerate(_counted(scans)):
        key, person = (visit.person.label, visit.age), visit.person
        base, shares = base_of[person.label]
        if known is None or known[0] != key:
            aged = grown(person, visit.age, base, shares, divided=divided)
            known = (key, aged, head_of(person, visit.age, base, shares, aged))
        site = SITES[visit.site].protocol if visit.site else Protocol()
        protocol = replace(site, resolution=resolution, orientation=ORIENTATIONS[i % len(ORIENTATIONS)])
        scan = acquire(known[2], protocol, np.random.default_rng((visit.seed, 4)))
        path = out / visit.folder / f"{visit.stem}_T1w.nii.gz"
        save(path, scan.data, scan.affine, protocol.orientation)
        write_json(path.with_name(f"{visit.stem}_T1w.json"), {"Manufacturer": "simulated", "MagneticFieldStrength": 3})
        truth.add(visit, scan, known[1], base, protocol.orientation)
    _describe(out, scans, seed, bool(bases))
    truth.finish()
    return out


def based(
    scans: Sequence[Visit], bases: Sequence[Anatomy], spacing: int | None = None
) -> dict[str, tuple[Anatomy, aging.Fractions]]:
    """Base anatomy of each person, and its shares in cells of ``spacing`` mm (3, or 4 for a coarse base).

    Each base is had equally often, in an order that has nothing to do with sex, age or site.
    """
    pairs = [(base, aging.fractions(base, spacing or (3 if base.step == 1 else 4))) for base in bases]
    labels = list(dict.fromkeys(v.person.label for v in scans))
    drawn = np.random.default_rng((scans[0].person.seed, len(pairs))).permutation(len(labels))
    return {label: pairs[int(i) % len(pairs)] for label, i in zip(labels, drawn, strict=True)}


def write_maps(
    out: Path, scans: list[Visit], *, seed: int, spacing: float = 2.0, bases: Sequence[Anatomy] = ()
) -> Path:
    """Write grey and white matter maps in template space and their local age, without scans: what training needs.

    Parameters
    ----------
    out : Path
        Folder of the dataset; the maps are in its ``derivatives/maps``, under the names that the app gives its own.
    scans : list of Visit
    seed : int
        Named in the description.
    spacing : float
        Voxel size, mm.
    bases : sequence of Anatomy
        As of `write_scans`.

    Returns
    -------
    Path
        ``out``.
    """
    out, folder = Path(out), Path(out) / "derivatives" / "maps"
    base_of = based(scans, bases or [anatomy.build(1)], spacing=4)
    tissues = {id(base): maps.tissues(base) for base, _ in base_of.values()}
    rows = []
    for visit in _counted(scans):
        base, shares = base_of[visit.person.label]
        site = SITES[visit.site].segmentation if visit.site else maps.Site()
        rng = np.random.default_rng((visit.seed, 6))
        made = maps.tissue_maps(visit.person, visit.age, tissues[id(base)], shares, rng, spacing=spacing, site=site)
        rows.append(write_tissue_maps(folder, visit, made))
    _describe(out, scans, seed, bool(bases))
    describe_maps(folder, rows)
    return out


def simulate_dataset(
    out: Path,
    *,
    n: int = 4,
    seed: int = 0,
    resolution: float = 2.0,
    plan: Plan | None = None,
) -> Path:
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
    plan : Plan, optional
        Ages, sites, diseases, base anatomies, and whether only maps are written.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UsageError
        Where ``out`` holds files, or a value makes no sense.
    """
    out, plan = Path(out), plan or Plan()
    if n < 1 or not 0.5 <= resolution <= 5 or seed < 0:
        asked = f"{n} people at {resolution} mm, seed {seed}"
        raise UsageError(f"{asked}: give at least 1 person, 0.5 to 5 mm, and a seed of at least 0")
    plan.check(resolution)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is not an empty folder; give another one, or empty it")
    persons = disease.spread(people(n, seed), plan.diseases, seed)
    persons = [replace(p, field_sd=plan.field_sd, field_mm=plan.field_mm) for p in persons]
    persons = varied(persons, seed) if plan.vary_local else persons
    bases = list(plan.bases()) if plan.bases else []
    scans = visits(persons, seed, plan.ages, plan.sites)
    if plan.maps_only:
        return write_maps(out, scans, seed=seed, spacing=resolution, bases=bases)
    return write_scans(out, scans, seed=seed, resolution=resolution, bases=bases)
