"""The local maps of the scans of a finished run: a table, the correlation with age, and one figure of all.

python benchmarks/local_scans.py OUT_DIR [--model local] [--figure docs/figures/local_scans.jpg]

A row of the figure shows where a brain reads older (red) or younger (blue) than its own mean: the mean itself is in the
table. The maps are those of the app, so the participant level must have run with the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.bids.tables import read_tsv
from bids_brainage.image.io import read

CUTS = (0.35, 0.45, 0.55, 0.68)
REACH = 10.0


class Map(NamedTuple):
    """One scan: its name, age (years or nan), and the map (nan outside the brain)."""

    name: str
    age: float
    ages: NDArray[np.float32]


def maps_of(out: Path, model: str) -> list[Map]:
    found = []
    for path in sorted(out.glob(f"sub-*/**/*_desc-{model}_brainagemap.nii.gz")):
        stem = path.name.split("_space-")[0]
        row = next(r for r in read_tsv(path.parent / f"{stem}_brainage.tsv") if r["model"] == model)
        values = read(path).data
        age = float(row["age"]) if row["age"] != "n/a" else np.nan
        found.append(Map(stem.removeprefix("sub-"), age, np.where(values > 0, values, np.float32("nan"))))
    return found


def told(maps: list[Map]) -> list[str]:
    lines = ["| scan | age | mean | SD | range (1 to 99 %) |", "|---|---|---|---|---|"]
    for one in maps:
        values = one.ages[np.isfinite(one.ages)].astype(np.float64)
        low, high = np.percentile(values, [1, 99])
        age = "n/a" if np.isnan(one.age) else f"{one.age:.1f}"
        lines.append(f"| {one.name} | {age} | {values.mean():.1f} | {values.std():.1f} | {low:.1f} to {high:.1f} |")
    return lines


def draw(maps: list[Map], path: Path) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(2.0 * len(CUTS) * 2 + 0.8, 1.55 * ((len(maps) + 1) // 2)), facecolor="#10151c", dpi=90)
    axes = canvas.subplots((len(maps) + 1) // 2, 2 * len(CUTS), squeeze=False)
    canvas.subplots_adjust(left=0.01, right=0.93, top=0.97, bottom=0.01, wspace=0.02, hspace=0.2)
    for axis in axes.flat:
        axis.axis("off")
    for number, one in enumerate(maps):
        line = axes[number // 2, (number % 2) * len(CUTS) :][: len(CUTS)]
        inside = np.argwhere(np.isfinite(one.ages))
        low, high = inside.min(0), inside.max(0)
        box = one.ages[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
        for axis, cut in zip(line, CUTS, strict=True):
            part = box[:, :, int(cut * box.shape[2])] - np.nanmean(one.ages)
            image = axis.imshow(part.T, origin="lower", cmap="RdBu_r", vmin=-REACH, vmax=REACH)
        age = "" if np.isnan(one.age) else f", {one.age:.0f} years"
        line[0].set_title(f"{one.name}{age}: mean {np.nanmean(one.ages):.0f}", color="#c6d0da", loc="left", fontsize=9)
    bar = canvas.colorbar(image, cax=canvas.add_axes((0.945, 0.3, 0.012, 0.4)))
    bar.ax.tick_params(colors="#c6d0da")
    bar.set_label("years from the brain's own mean", color="#c6d0da")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, facecolor=canvas.get_facecolor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--model", default="local")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    maps = maps_of(args.out, args.model)
    print("\n".join(told(maps)))
    known = [one for one in maps if np.isfinite(one.age)]
    if len(known) > 2:
        pairs = np.array([(one.age, np.nanmean(one.ages)) for one in known])
        gap = pairs[:, 1] - pairs[:, 0]
        r = np.corrcoef(pairs.T)[0, 1]
        print(
            f"\nages known of {len(known)}: r {r:.2f}, mean gap {gap.mean():+.1f}, MAE {np.abs(gap).mean():.1f} years"
        )
    if args.figure:
        draw(maps, args.figure)


if __name__ == "__main__":
    main()
