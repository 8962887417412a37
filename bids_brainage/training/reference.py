"""Recipe of the reference that ships: synthetic people from a mixture, on published centiles, and densities.

The mixture of :mod:`bids_brainage.cohort.alternatives`, what its components leave being independent, is fitted to real
people. A table of fixed size is drawn from it and mapped to published centiles
(:mod:`bids_brainage.cohort.centiles`). The bundle holds kernel densities of that table alone: their centres are
synthetic people, and no more of the real ones can be drawn from them than the table tells.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.cohort import centiles, genmind, privacy
from bids_brainage.cohort.alternatives import MixtureChoice, fit_mixture
from bids_brainage.cohort.calibration import calibration
from bids_brainage.cohort.density import Density
from bids_brainage.cohort.genmind import GenMIND
from bids_brainage.cohort.matching import score
from bids_brainage.cohort.people import Generator, People
from bids_brainage.cohort.structure import correlation_distance
from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import UsageError
from bids_brainage.models.roi import SCALE_1MM
from bids_brainage.stats.normative import SEXES
from bids_brainage.training import card, muse
from bids_brainage.training.evaluate import figure
from bids_brainage.training.normative import NOMINAL, Published, in_common, read_published
from bids_brainage.training.regressors import one_thread

FloatArray = NDArray[np.float64]

CHOICE = MixtureChoice(components=1, dimensions=5, shrinkage=0.0, joined=False)
BANDWIDTH = 0.3
AGES = (21.0, 86.0)
MAPPED_BY = 8_000
DRAWS = 200
LOWEST = 0.02
OPTIONS = ("--table", "--coarse-table", "--same-heads", "--female", "--male")
WINDOW = 2.0


class Made(NamedTuple):
    """A reference: the table, the densities of it, and the map that brings volumes of the real people to its scale."""

    table: People
    model: GenMIND
    to_centiles: centiles.CentileMap


def make(people: People, published: Mapping[str, Published], n: int, rng: np.random.Generator) -> Made:
    """Draw ``n`` people of each sex, ages evenly over :data:`AGES`, map them, and fit their densities."""
    mixture = fit_mixture(people, rng, CHOICE)
    women = published["F"]
    volumes = {sex: part.volumes for sex, part in published.items()}
    to_centiles = centiles.fit(_drawn(mixture, MAPPED_BY // 2, rng), women.indices, women.ages, volumes)
    table = to_centiles(_drawn(mixture, n, rng))
    table = replace(table, age=table.age.round(3), volumes=np.maximum(table.volumes.round(2), 0.01))
    model = genmind.fit(table, bandwidths=[BANDWIDTH]).model
    return Made(table, replace(model, densities={k: _folded(d) for k, d in model.densities.items()}), to_centiles)


def _folded(density: Density) -> Density:
    """Draws are folded from the second centile down: next to the least of thousands, skewed ventricles end at zero."""
    return replace(density, least=np.quantile(density.centres, LOWEST, axis=0) * density.scale + density.mean)


def _drawn(generator: Generator, n: int, rng: np.random.Generator) -> People:
    return generator.at(np.tile(np.linspace(*AGES, n), 2), {"sex": np.repeat(SEXES, n)}, rng)


def judge(
    people: People, published: Mapping[str, Published], n: int, rng: np.random.Generator, halves: int
) -> dict[str, Any]:
    """Make the reference from random halves of the people, and judge it by the other halves.

    The other half is brought to the reference's scale by that half's own map, which sees none of them; scores are those
    of each person among :data:`DRAWS` people of exactly the same age and sex.
    """
    rounds, distances = [], []
    for _ in range(halves):
        member = privacy.half(people, rng)
        made = make(people.take(member), published, n, rng)
        known = (people.age >= AGES[0]) & (people.age <= AGES[1])
        seen, unseen = (made.to_centiles(people.take(rows & known)) for rows in (member, ~member))
        drawn = genmind.sample_like(made.model, seen, n, rng)
        distances.append([correlation_distance(unseen, other) for other in (drawn, seen)])
        rounds.append(calibration(score(made.model, unseen, DRAWS, int(rng.integers(2**31))).z, unseen.age))
    found = np.mean([table[["mean", "sd", "beyond"]].to_numpy() for table in rounds], axis=0)
    synthetic, real = np.mean(distances, axis=0)
    return {
        "halves": halves,
        "z_of_held_out_people": [
            {"ages": ages, "mean": figure(mean), "sd": figure(sd), "beyond_1.96": figure(beyond)}
            for ages, (mean, sd, beyond) in zip(("all", "lowest", "middle", "highest"), found, strict=True)
        ],
        "correlation_rmse": {
            "synthetic_and_held_out": figure(synthetic),
            "two_halves_of_real_people": figure(real),
            "ratio": figure(synthetic / real),
        },
        "membership": _membership(people, n, rng, halves),
    }


def _membership(people: People, n: int, rng: np.random.Generator, halves: int) -> list[dict[str, Any]]:
    """Attacks on tables of the shipped size before they are mapped, which is on the attacked people's own scale."""

    def fit(some: People, again: np.random.Generator) -> Generator:
        return fit_mixture(some, again, CHOICE)

    rows = privacy.membership(people, fit, rng, [2 * n], halves=halves).to_dict("records")
    return [{str(k): figure(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def misses(some: People, published: Mapping[str, Published]) -> dict[str, Any]:
    """How far the share of synthetic people below each published centile is from the nominal one, in points.

    Mean absolute difference over regions, sexes and windows of four years of age, by centile.
    """
    columns = np.array([some.indices.index(index) for index in published["F"].indices])
    found = []
    for sex, part in published.items():
        logs = centiles.log_centiles(part.volumes)
        for middle in np.arange(max(AGES[0], part.ages[0]) + WINDOW, min(AGES[1], part.ages[-1]), 2 * WINDOW):
            rows = np.flatnonzero((some.categories["sex"] == sex) & (np.abs(some.age - middle) <= WINDOW))
            below = np.log(some.volumes[np.ix_(rows, columns)])[..., None] < centiles.centiles_at(
                logs, part.ages, some.age[rows]
            )
            found.append(np.abs(below.mean(axis=0) - NOMINAL).mean(axis=0))
    return {f"{100 * q:g}": figure(100 * v) for q, v in zip(NOMINAL, np.mean(found, axis=0), strict=True)}


def _misses(made: Made, published: Mapping[str, Published], seed: int) -> dict[str, Any]:
    many = genmind.sample(made.model, MAPPED_BY, np.random.default_rng([seed, 1]), AGES)
    tables = {"table": made.table, f"{MAPPED_BY} drawn": many}
    return {"points_from_published_centiles": {name: misses(some, published) for name, some in tables.items()}}


@one_thread
def fit(
    table: Path,
    coarse_table: Path,
    same_heads: Path,
    *,
    female: Path,
    male: Path,
    out: Path,
    n: int = 1500,
    halves: int = 20,
    seed: int = 0,
) -> Bundle:
    """Make the reference, judge it, and write its bundle.

    Parameters
    ----------
    table, coarse_table, same_heads : Path
        As of :func:`bids_brainage.training.roi.fit`.
    female, male : Path
        Published centiles; see :func:`bids_brainage.training.normative.read_published`.
    out : Path
        A new or empty folder; its name becomes the bundle's.
    n : int
        Synthetic people of each sex.
    halves : int
        Random halves of the real people that judge.
    seed : int
        The same tables, seed and versions give the same bytes.

    Raises
    ------
    UsageError
        Where a table or option cannot be used or ``out`` is taken.
    """
    out = card.free(out)
    if n < genmind.FEWEST or halves < 2:
        raise UsageError(f"--n must be at least {genmind.FEWEST}, and --halves 2")
    published = in_common({"F": read_published(female), "M": read_published(male)})
    left_out = card.left_out(coarse_table)
    cohort = muse.read_cohort(table, coarse_table, same_heads, list(left_out)).people()
    people = People(tuple(cohort.who), cohort.age, {"sex": cohort.sex}, cohort.indices, cohort.volumes)
    made = make(people, published, n, np.random.default_rng(seed))
    metrics = _misses(made, published, seed) | judge(people, published, n, np.random.default_rng([seed, 2]), halves)
    paths = dict(zip(OPTIONS, (table, coarse_table, same_heads, female, male), strict=True))
    numbers: dict[str, int | str] = {"--n": n, "--halves": halves, "--seed": seed, "--out": out.name}
    training = {
        "kind": "synthetic",
        "n": len(made.table),
        "drawn_from": f"a mixture fitted to {len(people)} people ({CHOICE})",
        "left_out": left_out,
        "seed": seed,
        **_origin(paths, numbers),
    }
    with card.writing(out) as folder:
        folder.mkdir()
        genmind.write_arrays(folder / genmind.ARRAYS, made.model)
        card.write_licence(folder, list(paths.values()), "reference-bundle.txt")
        save(folder, _card(out.name, made, training, metrics))
    return load(out)


def _origin(paths: Mapping[str, Path], numbers: Mapping[str, int | str]) -> dict[str, Any]:
    """Data, command and software of the card."""
    words = [word for option, path in paths.items() for word in (option, path.name)]
    words += [str(word) for option in numbers.items() for word in option]
    return {
        "data": [card.provenance(path) for path in paths.values()],
        "command": shlex.join(["brainage", "train", "reference", *words]),
        "software": {library: version(library) for library in card.LIBRARIES},
    }


def _card(name: str, made: Made, training: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The card, without the sha256 of the files."""
    entries = genmind.entries(genmind.Fitted(made.model, dict.fromkeys(made.model.densities), {}))
    mapped = set(made.to_centiles.indices)
    kept = ", ".join(str(index) for index in made.model.indices if index not in mapped)
    attack = max(metrics["membership"], key=lambda row: float(row["high"]))
    return {
        "name": name,
        "architecture": genmind.ARCHITECTURE,
        "role": "reference",
        "volume_scale": SCALE_1MM,
        "version": "1.0.0",
        "description": f"{training['n']} synthetic people with {len(made.model.indices)} MUSE volumes, on the scale of "
        "published centiles, as kernel densities by sex",
        "needs": [],
        "age_range": list(AGES),
        "licence": training["data"][0].get("derivative_licence", card.UNSTATED),
        "by": list(made.model.by),
        "indices": list(made.model.indices),
        "has_icv": made.model.has_icv,
        "kernel": "shrunken",
        "categories": entries,
        "training": dict(training),
        "metrics": dict(metrics),
        "notes": [
            "Centres of the kernels are synthetic people; centre times scale plus mean is the table of them.",
            f"Volumes are on the scale of the published centiles. Those have none for MUSE {kept}, which stay on that "
            f"of the people. People younger than {made.to_centiles.ages[0]:g} are moved as those of that age.",
            "z_of_held_out_people are of people brought to that scale by the map of the other half. As they are, "
            "volumes of another source differ from the published centiles by tenths of an SD: harmonise first.",
            f"Membership of the people behind a table of this size: AUC {attack['auc']} ({attack['low']} to "
            f"{attack['high']}) by the strongest of three attacks, fitted on halves of them. "
            + privacy.verdict(float(attack["high"])),
        ],
        "not_meant_for": [
            f"people younger than {AGES[0]:g} or older than {AGES[1]:g} years, or of unknown sex (refused)",
            "comparisons by race, which none of the sources tells",
            "matching on intracranial volume: the published centiles have none that would go with the volumes",
            "volumes at 2 mm that were not converted to the scale of 1 mm, or of other segmentations",
            "clinical decisions about a person",
            "a test that counts synthetic rows as people",
        ],
    }
