"""Figure of the reference people that ship against the published centiles that they were brought to.

python benchmarks/reference.py --data MUSE --figure docs/figures/reference.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from bids_brainage.cohort import genmind
from bids_brainage.image.muse import regions
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.toolbox.genmind.model import DEFAULT
from bids_brainage.training.normative import NOMINAL, read_published

SHOWN = (47, 59, 51, 4, 104, 81)
WINDOW = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of istaging_cn_centiles_*.tsv")
    parser.add_argument("--figure", type=Path, required=True)
    args = parser.parse_args()
    drawn = genmind.sample(genmind.read(find(DEFAULT, [PACKAGED])), 20_000, np.random.default_rng(0), (21, 86))
    names = {region.number: region.name for region in regions()}
    published = {
        s: read_published(args.data / f"istaging_cn_centiles_{n}.tsv") for s, n in (("F", "female"), ("M", "male"))
    }
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, layout="constrained")
    at = np.arange(23, 86)
    for axis, index in zip(axes.flat, SHOWN, strict=True):
        for sex, colour in (("F", "#b8487a"), ("M", "#2f6db0")):
            part, rows = published[sex], drawn.categories["sex"] == sex
            curves = part.volumes[part.indices.index(index)] / 1000
            axis.plot(part.ages, curves, color=colour, lw=0.9)
            values = drawn.volumes[rows, drawn.indices.index(index)] / 1000
            near = [values[np.abs(drawn.age[rows] - age) <= WINDOW] for age in at]
            axis.plot(at, [np.quantile(some, NOMINAL) for some in near], ":", color=colour, lw=1.4)
        axis.set_title(names[index], fontsize=10)
        axis.set_xlim(20, 92)
    figure.supxlabel("age, years")
    figure.supylabel("volume, ml")
    figure.suptitle("centiles 5, 25, 50, 75, 95: published (lines) and of the reference (dots); women red, men blue")
    figure.savefig(args.figure, dpi=110)


if __name__ == "__main__":
    main()
