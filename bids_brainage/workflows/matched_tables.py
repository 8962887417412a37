"""What is written of matched synthetic controls: tables, the figure of the balance, and the summary in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from bids_brainage.bids.outputs import entity, group_file, sidecar_of
from bids_brainage.bids.roi_tables import ICV
from bids_brainage.bids.tables import write_tsv
from bids_brainage.cohort.matching import controls, group_test
from bids_brainage.cohort.scales import scale_of_bundle
from bids_brainage.cohort.tables import frame_of
from bids_brainage.core.files import atomic, write_json
from bids_brainage.models.roi import SCALE_KEY, VENTRICLES
from bids_brainage.reports.cohort import love_plot
from bids_brainage.stats.groups import adjust
from bids_brainage.workflows.matched import Matched
from bids_brainage.workflows.regions import MUSE, STRONGEST, Regions, contrast_columns, contrasts, strongest
from bids_brainage.workflows.summary import SMALLEST_GROUP, interval_entry, number

DIGITS = 4
BALANCE = {
    "covariate": "What people are matched on; of a category the share of people",
    "people": "Mean of the people",
    "before": "Mean of a sample of synthetic people that nobody matched",
    "after": "Mean of the matched synthetic controls",
    "smd_before": "Standardised mean difference, people minus sample before matching, in SD",
    "smd_after": "Standardised mean difference, people minus matched controls, in SD of before",
}
MEANS = {
    "index": "MUSE label",
    "name": "Name of the region",
    "n": "People",
    "mean": "Mean z of the people; 0 is what the model expects",
    "mean_low": "Lower bound of its 95 % confidence interval",
    "mean_high": "Upper bound of its 95 % confidence interval",
    "sd": "Standard deviation of z; 1 is what the model expects",
}
P_FDR = "p corrected for the number of regions by Benjamini and Hochberg"
UNMATCHED = {"participant_id": "Participant", "reason": "Why there are no controls for this person"}
PEOPLE = {"participant_id": "Participant", "session_id": "Session; n/a where the dataset has none"}


def write(out_dir: Path, matched: Matched) -> dict[str, Any]:
    """Write all tables and the figure; returns what ``group_summary.json`` says of them.

    Groups are compared by one z a person. Besides each region, with Holm's and Benjamini & Hochberg's correction over
    regions, by the mean z of all regions but the ventricles.
    """
    to = _Writer(out_dir, matched)
    z = _regions(matched)
    means, compared = _means(z), _contrasts(matched, z)
    files = {"controls": _write_controls(to, matched)}
    for kind, values, text in (
        ("volume_z", matched.scores.z, "z of the volume of {} among the person's own controls, in SD"),
        ("volume_centiles", matched.scores.centile, "Share of the person's own controls with a smaller {}, in percent"),
    ):
        columns = PEOPLE | {name: text.format(name) for name in z.names}
        files[kind] = to.table(kind, _people_rows(matched, values), columns)
    files["means"] = to.table("volume_z_means", means, MEANS)
    if compared:
        columns = contrast_columns("z", "SD of the controls") | {"p_fdr": P_FDR}
        files["contrasts"] = to.table("volume_z_contrasts", compared, columns)
    balance = [_rounded(row._asdict()) for row in matched.balance]
    files["balance"] = to.table("matching_balance", balance, BALANCE)
    files["love_plot"] = _love_plot(to, matched)
    unmatched = [{"participant_id": who, "reason": why} for who, why in matched.unmatched.items()]
    files["unmatched"] = to.table("unmatched", unmatched, UNMATCHED)
    return {
        **_about(matched),
        "People": len(matched.people),
        "Unmatched": matched.unmatched,
        "DamagedTables": list(matched.damaged),
        "Balance": balance,
        "Regions": len(z.indices),
        "FarthestFromZero": sorted(means, key=lambda row: -abs(row["mean"]))[:STRONGEST],
        "GroupTests": _group_tests(matched),
        "Strongest": strongest(compared, "p"),
        "Files": files,
    }


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to 0.0001, without a negative zero."""
    return {name: value if isinstance(value, str) else round(value, DIGITS) + 0.0 for name, value in row.items()}


def _about(matched: Matched) -> dict[str, Any]:
    """Where the controls come from."""
    card = matched.bundle.card
    return {
        "Model": matched.bundle.name,
        "ModelVersion": str(card["version"]),
        "ModelSHA256": matched.bundle.digest,
        "ModelTrainingData": str(card["training"].get("kind", "unknown")),
        "ModelLicence": str(card["licence"]),
        SCALE_KEY: scale_of_bundle(card),
        "MatchedOn": ["age", *matched.model.by, *(["intracranial volume"] if matched.on_icv else [])],
        "ControlsPerPerson": matched.k,
        "RandomSeed": matched.seed,
    }


class _Writer:
    """Writes tables of one model, each with its sidecar."""

    def __init__(self, out_dir: Path, matched: Matched) -> None:
        self.out_dir, self.model, self.about = out_dir, entity(matched.bundle.name), _about(matched)

    def path(self, kind: str) -> Path:
        """Where a result belongs."""
        return group_file(kind, self.out_dir, model=self.model)[0]

    def sidecar(self, kind: str, columns: Mapping[str, Any]) -> str:
        """Write the JSON beside a table: what it is, where the controls come from, its columns; returns its name."""
        path, metadata = group_file(kind, self.out_dir, model=self.model)
        described = {name: text if isinstance(text, dict) else {"Description": text} for name, text in columns.items()}
        write_json(sidecar_of(path), {**metadata, **self.about, **described})
        return path.name

    def table(self, kind: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
        """Write a table and its sidecar; returns its name."""
        write_tsv(self.path(kind), rows, list(columns))
        return self.sidecar(kind, columns)


def _regions(matched: Matched) -> Regions:
    """The z of the people in the form in which regions are compared."""
    rows = np.arange(len(matched.people))
    return Regions(MUSE, list(matched.model.indices), matched.regions, rows, matched.scores.z)


def _people_rows(matched: Matched, values: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {"participant_id": unit.participant, "session_id": unit.session} | dict(zip(matched.regions, own, strict=True))
        for unit, own in zip(matched.units, np.round(values, DIGITS), strict=True)
    ]


def _write_controls(to: _Writer, matched: Matched) -> str:
    """The same controls that gave the scores, a row each, a part of the people at a time."""
    kind = "synthetic_controls"
    drawn = controls(matched.model, matched.people, matched.k, matched.seed, on_icv=matched.on_icv)
    with atomic(to.path(kind)) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        for rows, synthetic in drawn:
            of = np.repeat(matched.people.who[rows], matched.k)
            names = tuple(f"synthetic-{who}-{i % matched.k + 1:03d}" for i, who in enumerate(of))
            frame = frame_of(replace(synthetic, who=names)).round(3).rename(columns={"participant_id": "SampleID"})
            frame.insert(1, "matched_to", of)
            frame.to_csv(stream, sep="\t", index=False, header=rows.start == 0, lineterminator="\n")
    columns: dict[str, Any] = {
        "SampleID": "Name of a synthetic control: no person",
        "matched_to": "The participant whose control it is",
        **{name: f"{name.capitalize()}, as of the participant" for name in matched.model.by},
        "age": {"Description": "Age, as of the participant", "Units": "year"},
    }
    named = dict(zip(matched.model.indices, matched.regions, strict=True))
    named = ({ICV: "intracranial volume"} if matched.model.has_icv else {}) | named
    volumes = {f"MUSE_{i}": {"Description": f"Synthetic volume: {name}", "Units": "mm^3"} for i, name in named.items()}
    return to.sidecar(kind, columns | volumes)


def _love_plot(to: _Writer, matched: Matched) -> str:
    rows = matched.balance
    covariates = [row.covariate for row in rows]
    path = to.path("matching_love_plot")
    return love_plot(path, covariates, [row.smd_before for row in rows], [row.smd_after for row in rows]).name


def _means(z: Regions) -> list[dict[str, Any]]:
    """Mean z of each region with its interval (Student's t); no p, for the distance from 0 is that of the model too."""
    interval = ttest_1samp(z.gaps, 0).confidence_interval() if len(z.gaps) > 1 else None
    rows = []
    for place, (index, name) in enumerate(zip(z.indices, z.names, strict=True)):
        row = {"index": index, "name": name, "n": len(z.gaps), "mean": number(float(z.gaps[:, place].mean()))}
        if interval is None:
            rows.append(row | {"mean_low": None, "mean_high": None, "sd": None})
            continue
        row |= {"mean_low": number(interval.low[place]), "mean_high": number(interval.high[place])}
        rows.append(row | {"sd": number(float(z.gaps[:, place].std(ddof=1)))})
    return rows


def _known(matched: Matched) -> NDArray[np.int64]:
    """People whose group is known."""
    return np.flatnonzero(matched.groups != "")


def _contrasts(matched: Matched, z: Regions) -> list[dict[str, Any]]:
    """Groups compared in each region, with p by Benjamini & Hochberg too, over the regions of a pair."""
    known = _known(matched)
    if not len(known):
        return []
    rows = contrasts(z._replace(people=known, gaps=z.gaps[known]), matched.groups[known], matched.people.age[known])
    for contrast in {row["contrast"]: None for row in rows}:
        pair = [row for row in rows if row["contrast"] == contrast and row["p"] is not None]
        for row, p in zip(pair, adjust([row["p"] for row in pair]), strict=True):
            row["p_fdr"] = number(float(p))
    return rows


def _group_tests(matched: Matched) -> list[dict[str, Any]]:
    """Each pair of groups by one number a person, the mean z of all regions but the ventricles."""
    labels = matched.groups
    tissue = [place for place, index in enumerate(matched.model.indices) if index not in VENTRICLES]
    groups = [name for name in sorted(set(labels) - {""}) if (labels == name).sum() >= SMALLEST_GROUP]
    made = []
    for first, second in combinations(groups, 2):
        test = group_test(matched.scores.z, labels == first, labels == second, tissue or None)
        made.append(
            {
                "First": first,
                "Second": second,
                "People": [test.n_first, test.n_second],
                "Difference": interval_entry(test.difference),
                "CohenD": interval_entry(test.d),
                "T": number(test.t),
                "DoF": number(test.dof),
                "P": number(test.p),
            }
        )
    for pair, adjusted in zip(made, adjust([pair["P"] for pair in made]), strict=True):
        pair["PBenjaminiHochberg"] = number(float(adjusted))
    return made
