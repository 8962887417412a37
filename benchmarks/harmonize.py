"""The shift between IXI and a clinical table's controls, before and after: ``python benchmarks/harmonize.py MUSE``.

``MUSE`` is the folder with ``ixi_dlmuse_1mm.tsv`` (the reference) and ``clinical_muse.tsv``. Half of the controls, by
chance, fit the harmonisation; the other half judge it; mean over the splits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from bids_brainage.bids.roi_tables import load
from bids_brainage.cohort import harmonize
from bids_brainage.cohort.people import People
from bids_brainage.cohort.tables import read_people
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find

SPLITS = 20
ALPHA = 0.05
HEADER = ("", "median abs(d)", "share p < .05/145", "AUC of site", "slope ratio", "r of slopes", "mean gap", "MAE")


def design(people: People) -> np.ndarray:
    return np.column_stack([np.ones(len(people)), harmonize.covariates(people, None, True)])


def shift(study: People, base: People) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each region, d (site, adjusted, in residual SD) and p; and everybody's residuals without the site."""
    x = np.vstack([design(base), design(study)])
    y = np.vstack([base.volumes, study.volumes])
    site = np.r_[np.zeros(len(base)), np.ones(len(study))]
    whole = np.column_stack([x, site])
    b = np.linalg.lstsq(whole, y, rcond=None)[0]
    dof = len(y) - whole.shape[1]
    sd = np.sqrt(((y - whole @ b) ** 2).sum(axis=0) / dof)
    t = b[-1] / (sd * np.sqrt(np.linalg.inv(whole.T @ whole)[-1, -1]))
    return b[-1] / sd, 2 * stats.t.sf(np.abs(t), dof), y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def auc(residuals: np.ndarray, n_base: int) -> float:
    site = np.arange(len(residuals)) >= n_base
    svm = make_pipeline(StandardScaler(), LinearSVC(C=0.01, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(svm, residuals, site, cv=folds, scoring="roc_auc").mean())


def slopes(people: People) -> np.ndarray:
    """mm^3 a decade, adjusted for sex and ICV."""
    return np.linalg.lstsq(design(people), people.volumes, rcond=None)[0][-1]


def gaps(people: People) -> np.ndarray:
    model = load_model(find("roi", [PACKAGED]))
    order = [people.indices.index(index) for index in model.indices]
    rows = zip(people.volumes[:, order], people.icv, people.categories["sex"], strict=True)
    found = model.predict([model.inputs(volumes, icv, str(sex)) for volumes, icv, sex in rows])
    return np.array([p.brain_age for p in found]) - people.age


def figures(study: People, base: People, before: People) -> list[float]:
    d, p, residuals = shift(study, base)
    was, now, gap = slopes(before), slopes(study), gaps(study)
    return [
        float(np.median(np.abs(d))),
        float((p < ALPHA / d.size).mean()),
        auc(residuals, len(base)),
        float(np.median(now / was)),
        float(np.corrcoef(was / before.volumes.std(axis=0), now / before.volumes.std(axis=0))[0, 1]),
        float(gap.mean()),
        float(np.abs(gap).mean()),
    ]


def split(controls: People, site: np.ndarray, base: People, seed: int) -> dict[str, list[float]]:
    order = np.random.default_rng(seed).permutation(len(controls))
    fitting, judging = order[::2], order[1::2]
    judged = controls.take(judging)
    found = {"before": figures(judged, base, judged)}
    for method in harmonize.METHODS:
        fitted = harmonize.fit(controls.take(fitting), site[fitting], base, method=method)
        found[method] = figures(harmonize.apply(fitted, judged, site[judging]), base, judged)
    chance = np.random.default_rng(seed).permutation(len(base))
    one = base.take(chance[: len(judged)])
    found["no shift: as many of IXI"] = figures(one, base.take(chance[len(judged) :]), one)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    base = read_people(folder / "ixi_dlmuse_1mm.tsv")
    clinical = read_people(folder / "clinical_muse.tsv")
    is_control = load(folder / "clinical_muse.tsv")["diagnosis"].to_numpy(dtype=str) == "CN"
    controls = clinical.take(is_control)
    shared = controls.age <= base.age.max()
    controls = controls.take(shared)
    base = base.take(base.age >= controls.age.min())
    site = np.full(len(controls), "clinic")
    rounds = [split(controls, site, base, seed) for seed in range(SPLITS)]
    print(f"{len(base)} of IXI, {len(controls)} controls, half of them fit; {SPLITS} splits: mean (SD)\n")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for name in rounds[0]:
        values = np.array([found[name] for found in rounds])
        cells = [f"{m:.2f} ({s:.2f})" for m, s in zip(values.mean(axis=0), values.std(axis=0), strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
