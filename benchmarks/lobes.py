"""Fit the surfaces that part the lobes of the simulated anatomy (``simulate/lobes.py``) to the MUSE atlas that ships.

Prints coefficients and agreement. Nothing is written: the coefficients stand in the module.

    python benchmarks/lobes.py
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from sklearn.linear_model import LogisticRegression

from bids_brainage.image import muse
from bids_brainage.image.atlas import read_atlas
from bids_brainage.simulate.bases import muse_tables
from bids_brainage.simulate.lobes import CENTRE, LOBES, SCALE, TERMS

SAMPLE = 40_000


def main() -> None:
    """Fit on a random sample of voxels, judge on all of them."""
    with resources.as_file(resources.files("bids_brainage.data") / "bundles" / "muse-atlas") as folder:
        atlas = read_atlas(folder)
    lobes = muse_tables()[1]
    column = np.array([*(int(lobes[region.number]) for region in muse.regions()), 0, 0]) - 1
    likeliest = atlas.labels[np.arange(len(atlas.labels)), atlas.probabilities.argmax(1)]
    lobe = np.where(atlas.rows >= 0, column[likeliest[atlas.rows]], -1)
    points = np.argwhere(lobe >= 0) @ atlas.grid.affine[:3, :3].T + atlas.grid.affine[:3, 3]
    points[:, 0] = np.abs(points[:, 0])
    scaled, wanted = (points - CENTRE) / SCALE, lobe[lobe >= 0]
    design = np.stack([np.prod(scaled[:, list(term)], axis=1) for term in TERMS], axis=1)
    chosen = np.random.default_rng(0).choice(len(wanted), SAMPLE, replace=False)
    model = LogisticRegression(C=30, max_iter=2000).fit(design[chosen], wanted[chosen])
    intercept, weights = model.intercept_.round(1), model.coef_.round(1)
    found = (design @ weights.T + intercept).argmax(1)
    print("intercept", intercept.tolist(), "\nweights", weights.tolist())
    print(f"agreement {(found == wanted).mean():.3f} of {len(wanted)} voxels")
    for k, name in enumerate(LOBES):
        both = ((found == k) & (wanted == k)).sum()
        print(f"{name:10s} Dice {2 * both / ((found == k).sum() + (wanted == k).sum()):.3f}")


if __name__ == "__main__":
    main()
