"""Compare simulated people with published centiles and with the correlations of regions between people.

Volumes are the planted ones at the person's head size. ``--grown N`` measures those of N people after the random
deformation of the person and that of aging too, a second of processor time each, and prints how far they are from them.

Prints, for the plain and the related variation between people: the share of simulated volumes outside the published 5th
and 95th centiles, as they are and after the level of each region is taken out; how correlations of regions (age and sex
regressed out) differ from those of IXI; and, below 40 years, what the simulation assumes beside what IXI shows.

    python benchmarks/simulated.py --muse ../shared/data/muse --figure docs/figures/simulated.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_brainage.core.types import Sex
from bids_brainage.image import muse
from bids_brainage.simulate import aging, anatomy, deform, local, maps
from bids_brainage.simulate.lobes import LOBES
from bids_brainage.simulate.person import Person, grown, linear_of, shape_of

Matrix = NDArray[np.float64]
AGES = (25.0, 85.0)
SINGLE = {
    "thalamus": "ThalamusProper",
    "caudate": "Caudate",
    "putamen": "Putamen",
    "pallidum": "Pallidum",
    "hippocampus": "Hippocampus",
    "amygdala": "Amygdala",
    "accumbens": "AccumbensArea",
    "ventral_dc": "VentralDC",
    "cerebellar_white_matter": "Cerebellum_WM",
    "cerebellar_cortex": "CerebellumExterior",
    "lateral_ventricle": "LateralVentricle",
    "third_ventricle": "3rdVentricle",
    "fourth_ventricle": "4thVentricle",
    "brainstem": "BrainStem",
}
VARIATIONS = {"plain": aging.PLAIN, "related": aging.RELATED}
COLOURS: Mapping[Sex, str] = {"F": "tab:red", "M": "tab:blue"}
SHOWN = ("Hippocampus_L", "LateralVentricle_L", "Frontal_GM_L", "ThalamusProper_L")


def main() -> None:
    """Simulate, compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--muse", type=Path, required=True, help="folder with the centiles and IXI's tables")
    parser.add_argument("--n", type=int, default=200, help="people of each variation (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grown", type=int, default=0, metavar="N", help="people measured after the deformations")
    parser.add_argument("--figure", type=Path, help="PNG to write")
    args = parser.parse_args()
    base = anatomy.build(2)
    shares = aging.fractions(base, 4)
    timed(base, shares)
    real = measured(pd.read_csv(args.muse / "ixi_dlmuse_1mm.tsv", sep="\t"))
    curves = centiles(args.muse)
    for name, variation in VARIATIONS.items():
        people = cohort(base, shares, args.n, args.seed, variation)
        print(f"\n## {name}: {args.n} people\n{against_centiles(people, curves).to_string(float_format='%.2f')}")
        print(correlations(people, real, args.seed))
    if args.grown:
        print(deformed(base, shares, args.grown, args.seed))
    print(f"\n## below 40 years\n{young(args.muse).to_string(float_format='%.3f')}")
    if args.figure:
        draw(people, curves, args.figure, args.muse)


def timed(base: anatomy.Anatomy, shares: aging.Fractions, n: int = 5) -> None:
    """Print how long tissue maps of a person take."""
    tissues = maps.tissues(base)
    begin = time.process_time(), time.perf_counter()
    for seed in range(n):
        maps.tissue_maps(Person("x", "F", seed), 60.0, tissues, shares, np.random.default_rng(seed))
    cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    print(f"tissue maps at 2 mm: {cpu / n:.2f} s of processor time a person, {wall / n:.2f} s of wall time")


def names_of(parcel: local.Parcel) -> str:
    """MUSE's name of a parcel; empty for the fluid around the brain."""
    region = anatomy.REGIONS[parcel.region]
    side = {"left_": "_L", "right_": "_R"}.get(region.name.removesuffix(region.kind), "")
    if parcel.lobe is not None:
        return f"{LOBES[parcel.lobe].title()}_{'GM' if region.kind == 'cerebral_cortex' else 'WM'}{side}"
    return SINGLE[region.kind] + side if region.kind in SINGLE else ""


def cohort(
    base: anatomy.Anatomy,
    shares: aging.Fractions,
    n: int,
    seed: int,
    variation: aging.Variation,
    *,
    measure: Literal["", "growth", "head"] = "",
) -> pd.DataFrame:
    """Age, sex and volumes (mm^3, MUSE's names) of simulated people.

    ``measure``: after the deformation that ages them, or after that and the random shape of the head.
    """
    parcels, rng, rows = local.split(shares, base), np.random.default_rng(seed), []
    start = parcels.values.sum((1, 2, 3), dtype=np.float64)
    points = deform.nodes(parcels.values.shape[1:], parcels.origin, parcels.spacing)
    for i, age in enumerate(np.linspace(*AGES, n)):
        person = Person(str(i), "F" if i % 2 else "M", int(rng.integers(2**31)), variation=variation)
        head = np.linalg.det(linear_of(person, shares, np.random.default_rng((person.seed, 1))))
        found = start * planted(person, age)
        if measure:
            shaped = deform.apply(shape_of(person, shares)[1], points) if measure == "head" else points
            places = deform.apply(grown(person, age, base, shares, divided=True).warp, shaped)
            found = deform.sample(parcels.values, parcels.origin, parcels.spacing, places).sum((1, 2, 3))
        volumes = found * parcels.spacing**3 * head
        named = {names_of(p): v for p, v in zip(local.PARCELS, volumes, strict=True) if names_of(p)}
        rows.append({"age": age, "sex": person.sex, **named})
    return pd.DataFrame(rows)


def deformed(base: anatomy.Anatomy, shares: aging.Fractions, n: int, seed: int) -> str:
    """How far volumes after the deformations are from the planted ones, of the same people."""
    begin, lines = time.process_time(), []
    names = list(members())
    wanted = cohort(base, shares, n, seed, aging.RELATED)[names]
    for measure, what in (("growth", "by the deformation that ages"), ("head", "by the random shape of the head too")):
        off = np.abs(np.log(cohort(base, shares, n, seed, aging.RELATED, measure=measure)[names] / wanted).to_numpy())
        lines.append(
            f"planted volumes are missed by {off.mean():.1%} {what} (95th centile {np.quantile(off, 0.95):.1%})"
        )
    spent = time.process_time() - begin
    return "\n".join([f"\n## after the deformations: {n} people, {spent:.0f} s of processor time", *lines])


def planted(person: Person, age: float) -> Matrix:
    """Volume factor of each parcel of a person who ages evenly, in the order of `local.PARCELS`; ``nan`` for fluid."""
    kinds = [anatomy.REGIONS[p.region] for p in local.PARCELS]
    factors = [np.nan if r.number == anatomy.CSF else aging.expected(r.kind, age, person.sex) for r in kinds]
    own = aging.individual(np.random.default_rng((person.seed, 2)), person.variation)
    return np.array(factors) * own[[p.region for p in local.PARCELS]]


def members() -> Mapping[str, tuple[int, ...]]:
    """MUSE's numbers of every name that the simulation has."""
    known = {r.name: (r.number,) for r in muse.regions()} | {c.name: c.members for c in muse.composites()}
    return {name: known[name] for name in map(names_of, local.PARCELS) if name}


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Age, sex and volumes of people, as of `cohort`; and their ICV."""
    volumes = {name: table[[f"MUSE_{n}" for n in numbers]].sum(axis=1) for name, numbers in members().items()}
    return pd.DataFrame({"age": table["age"], "sex": table["sex"], "ICV": table["MUSE_702"], **volumes})


def centiles(folder: Path) -> pd.DataFrame:
    """Published centiles by name, sex and age."""
    tables = [
        pd.read_csv(folder / f"istaging_cn_centiles_{word}.tsv", sep="\t").assign(sex=sex)
        for word, sex in (("female", "F"), ("male", "M"))
    ]
    keys = ["VarName", "sex", "Age"]
    return pd.concat(tables).drop_duplicates(keys).set_index(keys).sort_index()


def against_centiles(people: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Per structure, people of 40 and over: level (ratio of medians), ratio of spreads, shares outside the centiles."""
    old, rows = people[people["age"] >= 40], {}
    for name in members():
        if name not in curves.index.get_level_values(0):
            continue
        found = curves.loc[[(name, s, round(a)) for s, a in zip(old["sex"], old["age"], strict=True)]]
        low, middle, high = (found[f"centile_{c}"].clip(lower=1).to_numpy() for c in (5, 50, 95))
        ratio = np.log(old[name].to_numpy() / middle)
        level = np.median(ratio)
        wanted = np.median(np.log(high / middle)) / 1.645
        raw, levelled = (old[name].to_numpy() / np.exp(shift) for shift in (0.0, level))
        rows[name] = {
            "level": np.exp(level),
            "slope_per_decade": 10 * np.polyfit(old["age"], ratio, 1)[0],
            "spread": ratio.std() / wanted,
            "outside": np.mean((raw < low) | (raw > high)),
            "outside_levelled": np.mean((levelled < low) | (levelled > high)),
        }
    table = pd.DataFrame(rows).T
    return pd.concat([table, table.median().rename("median").to_frame().T])


def residuals(table: pd.DataFrame) -> Matrix:
    """Log volumes with age, its square and sex regressed out; a column a structure."""
    age = (table["age"].to_numpy() - 60) / 10
    design = np.stack([np.ones(len(age)), age, age**2, (table["sex"] == "M").to_numpy(float)], axis=1)
    values = np.log(np.maximum(table[list(members())].to_numpy(float), 1.0))
    return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0])


def correlations(people: pd.DataFrame, real: pd.DataFrame, seed: int) -> str:
    """Root mean square difference of correlations from IXI's, beside that of two random halves of IXI."""
    simulated, found = residuals(people), residuals(real)
    above = np.triu_indices(found.shape[1], 1)

    def pairs(values: Matrix) -> Matrix:
        return np.asarray(np.corrcoef(values.T)[above])

    rng, halves = np.random.default_rng(seed), []
    for _ in range(50):
        order = rng.permutation(len(found))
        a, b = np.array_split(order, 2)
        halves.append(np.sqrt(np.mean((pairs(found[a]) - pairs(found[b])) ** 2)))
    rms = np.sqrt(np.mean((pairs(simulated) - pairs(found)) ** 2))
    return (
        f"correlations: RMSE from IXI {rms:.3f}, two halves of IXI {np.mean(halves):.3f}; "
        f"mean {pairs(simulated).mean():.2f}, IXI {pairs(found).mean():.2f}"
    )


def young(folder: Path) -> pd.DataFrame:
    """Log change of volume over ICV from 20-35 to 40-50 years: IXI at 2 mm in both groups, and the simulation."""
    table = measured(pd.concat([segmented(folder / f"ixi_dlmuse_2mm{end}.tsv") for end in ("", "_same_heads")]))
    groups = [table[table["age"].between(*ages)] for ages in ((20, 35), (40, 50))]
    centre = [float(g["age"].mean()) for g in groups]
    rows = {}
    for parcel in local.PARCELS:
        name, kind = names_of(parcel), anatomy.REGIONS[parcel.region].kind
        if not name:
            continue
        logs = [np.log(g[name] / g["ICV"]) for g in groups]
        steps = [np.log(aging.expected(kind, centre[1], s) / aging.expected(kind, centre[0], s)) for s in ("F", "M")]
        error = np.sqrt(sum(v.var() / len(v) for v in logs))
        rows[name] = {"ixi": logs[1].mean() - logs[0].mean(), "se": error, "simulated": float(np.mean(steps))}
    print(f"\nyoung: {len(groups[0])} of mean age {centre[0]:.1f}, {len(groups[1])} of mean age {centre[1]:.1f}")
    return pd.DataFrame(rows).T


def segmented(path: Path) -> pd.DataFrame:
    """People of a table whose segmentation did not fail: no region is empty."""
    table = pd.read_csv(path, sep="\t")
    return table[(table.filter(like="MUSE_") > 0).all(axis=1)]


def real_young(folder: Path) -> pd.DataFrame:
    """IXI's people below 40 years, as of `measured`, segmented at 2 mm."""
    table = measured(segmented(folder / "ixi_dlmuse_2mm.tsv"))
    return table[table["age"] < 40]


def below(name: str, sex: Sex, ages: Matrix) -> Matrix:
    """Volume relative to 40 years that the simulation assumes for a structure."""
    parcel = next(p for p in local.PARCELS if names_of(p) == name)
    return np.array([aging.expected(anatomy.REGIONS[parcel.region].kind, float(age), sex) for age in ages])


def draw(people: pd.DataFrame, curves: pd.DataFrame, path: Path, muse_folder: Path) -> None:
    """Simulated volumes over published centiles; below 40 years over the simulation's curve, beside IXI's people.

    Simulated people are brought to the published level at 40 and above, IXI's to that of the curve.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    young_people = real_young(muse_folder)
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 3), constrained_layout=True)
    for axis, name in zip(axes, SHOWN, strict=True):
        for sex, colour in COLOURS.items():
            found, of_sex = curves.loc[name, sex], people[people["sex"] == sex]
            old = of_sex[of_sex["age"] >= 40]
            middle = np.interp(old["age"], found.index, found["centile_50"])
            level = np.exp(np.median(np.log(old[name] / middle)))
            axis.scatter(of_sex["age"], of_sex[name] / level / 1000, s=6, c=colour, alpha=0.6)
            for column, style in (("centile_5", ":"), ("centile_50", "-"), ("centile_95", ":")):
                axis.plot(found.index, found[column] / 1000, style, c=colour, lw=1)
            ages = np.linspace(AGES[0] - 5, 40, 9)
            at_forty = float(np.interp(40.0, found.index, found["centile_50"]))
            axis.plot(ages, at_forty * below(name, sex, ages) / 1000, "--", c=colour, lw=1)
            own = young_people[young_people["sex"] == sex]
            level = np.exp(np.median(np.log(own[name] / (at_forty * below(name, sex, own["age"].to_numpy())))))
            axis.scatter(own["age"], own[name] / level / 1000, s=12, c=colour, marker="x", lw=0.6)
        axis.set(title=name, xlabel="age, years", ylabel="mL")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
