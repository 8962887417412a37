"""Synthetic controls at the group level, through the command: who is matched, what is tested, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from brainages import write_people, write_scan
from scipy.stats import norm, t, ttest_ind
from statsmodels.stats.multitest import multipletests
from studies import MIDDLE, REGIONS, SPREAD, healthy
from test_group_level import Links

from bids_brainage import cli
from bids_brainage.bids import derivative
from bids_brainage.bids.roi_tables import region_names
from bids_brainage.bids.validate import issues
from bids_brainage.cohort.matching import group_test
from bids_brainage.cohort.reference import reference
from bids_brainage.cohort.tables import frame_of, people_of
from bids_brainage.core.errors import BundleError
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.training import genmind

K = 12
NAMES = {index: name for name, index in region_names().items()}
PATIENTS, PEOPLE = 10, 26


def people_of_study(n, seed, **ages):
    """Healthy people without those few ventricles that are below nothing."""
    made = healthy(n, seed, **ages)
    return replace(made, volumes=np.maximum(made.volumes, 1000 + np.arange(n)[:, None]))


def fit(folder, people, **options):
    """A small reference, by the recipe that the app has."""
    table = folder / "reference.tsv"
    frame_of(people).to_csv(table, sep="\t", index=False)
    options = {"icv": people.icv is not None, "bandwidths": [0.7], "fewest": 10, "scale": "dlmuse-2mm"} | options
    return genmind.fit(table, out=folder / "models" / "small", **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("reference"), people_of_study(200, 1)).folder


def write_volumes(out, stem, volumes, icv):
    (table,) = out.glob(f"sub-*/**/{stem}_brainage.tsv")
    lines = ["index\tname\tvolume_mm3", *(f"{i}\t{NAMES[i]}\t{v:.3f}" for i, v in volumes.items())]
    (table.parent / f"{stem}_desc-muse_volumes.tsv").write_text("\n".join([*lines, f"702\tICV\t{icv:.1f}"]) + "\n")


@pytest.fixture
def cohort(tmp_path):
    """People like those of the reference; patients have lost 2 SD of both hippocampi (47 and 48)."""
    out, bids, people = tmp_path / "out", tmp_path / "bids", people_of_study(PEOPLE, 7, low=52, high=78)
    table = ["participant_id diagnosis race"]
    for i in range(PEOPLE):
        stem, patient = f"sub-{i:02d}", i % 2 == 0 and i < 2 * PATIENTS
        age = round(float(people.age[i]), 2)
        write_scan(out, stem, age + 3 * patient + i % 5, age, sex=people.categories["sex"][i])
        loss = np.where(np.isin(REGIONS, (47, 48)), 2 * SPREAD, 0) * patient
        write_volumes(out, stem, dict(zip(REGIONS, people.volumes[i] - loss, strict=True)), people.icv[i])
        table.append(f"{stem} {'AD' if patient else 'CN'} {('White', 'african-american')[i % 2]}")
    write_people(bids, "\n".join(table).replace("african-american", "n/a"))
    (bids / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.10.0"}')
    return bids, out


def run(cohort, bundle, *more):
    bids, out = cohort
    options = ["--genmind", str(bundle)] if bundle else []
    return cli.main([str(bids), str(out), "group", *options, "--genmind-controls", str(K), *more])


def entry_of(out):
    return json.loads((out / "group_summary.json").read_text())["SyntheticControls"]


def table_of(out, kind):
    return pd.read_csv(out / entry_of(out)["Files"][kind], sep="\t")


def files_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


# --- what comes out -------------------------------------------------------------------------------------------------


def test_scores_are_those_against_controls_of_the_person_s_age_sex_and_head(cohort, bundle):
    assert run(cohort, bundle) == 0
    _, out = cohort
    drawn, z, centile = (table_of(out, kind) for kind in ("controls", "volume_z", "volume_centiles"))
    assert len(drawn) == K * PEOPLE
    assert len(z) == len(centile) == PEOPLE
    assert drawn["SampleID"].str.startswith("synthetic-").all()
    assert drawn["SampleID"].is_unique
    who = "sub-04"
    own = drawn[drawn["matched_to"] == who]
    scan = pd.read_csv(out / who / "anat" / f"{who}_brainage.tsv", sep="\t")
    volumes = pd.read_csv(out / who / "anat" / f"{who}_desc-muse_volumes.tsv", sep="\t").set_index("index")[
        "volume_mm3"
    ]
    assert own["age"].tolist() == pytest.approx(scan["age"].tolist() * K)
    assert set(own["sex"]) == set(scan["sex"])
    assert own["MUSE_702"].tolist() == pytest.approx([volumes[702]] * K, abs=0.1)
    of_person = z.set_index("participant_id").loc[who]
    for index in REGIONS:
        controls = own[f"MUSE_{index}"]
        value = (volumes[index] - controls.mean()) / (controls.std() * np.sqrt(1 + 1 / K))
        assert of_person[NAMES[index]] == pytest.approx(norm.ppf(t.cdf(value, K - 1)), abs=2e-3)
        share = 100 * ((controls < volumes[index]).sum() + 0.5) / (K + 1)
        assert centile.set_index("participant_id").loc[who, NAMES[index]] == pytest.approx(share, abs=1e-3)


def test_every_table_is_explained_and_says_where_its_controls_come_from(cohort, bundle):
    run(cohort, bundle, "--random-seed", "5")
    _, out = cohort
    files = entry_of(out)["Files"]
    tables = {kind: name for kind, name in files.items() if name.endswith(".tsv")}
    assert set(files) - set(tables) == {"love_plot"}
    card = json.loads((bundle / "model.json").read_text())
    for kind, name in tables.items():
        sidecar = json.loads((out / name.replace(".tsv", ".json")).read_text())
        assert (sidecar["Model"], sidecar["ModelVersion"]) == ("small", card["version"])
        assert (sidecar["ControlsPerPerson"], sidecar["RandomSeed"]) == (K, 5)
        assert len(sidecar["ModelSHA256"]) == 64
        assert sidecar["MatchedOn"] == ["age", "sex", "intracranial volume"]
        assert all(sidecar[column]["Description"] for column in table_of(out, kind))
    assert json.loads((out / tables["controls"].replace(".tsv", ".json")).read_text())["Synthetic"] is True
    balance = table_of(out, "balance").set_index("covariate")
    assert balance.loc[["age", "sex F", "icv"], "smd_after"].abs().max() < 1e-3
    assert balance.loc["icv", "people"] == pytest.approx(people_of_study(PEOPLE, 7).icv.mean(), abs=1)


def test_groups_are_compared_by_one_z_a_person_and_controls_are_nobody(cohort, bundle):
    run(cohort, bundle)
    _, out = cohort
    entry, z, rows = entry_of(out), table_of(out, "volume_z"), table_of(out, "contrasts").set_index("name")
    patient = np.array([i % 2 == 0 and i < 2 * PATIENTS for i in range(PEOPLE)])
    values = z[[NAMES[i] for i in REGIONS]].to_numpy()
    known = ttest_ind(values[patient], values[~patient], equal_var=False)
    own = rows.loc[[NAMES[i] for i in REGIONS]]
    assert set(zip(own["n_first"], own["n_second"], strict=True)) == {(PATIENTS, PEOPLE - PATIENTS)}
    assert own["p"].to_numpy() == pytest.approx(known.pvalue, rel=1e-2)
    for column, method in (("p_holm", "holm"), ("p_fdr", "fdr_bh")):
        assert own[column].to_numpy() == pytest.approx(multipletests(own["p"], method=method)[1], rel=1e-4)
    assert {row["name"] for row in entry["Strongest"][:2]} == {NAMES[47], NAMES[48]}
    assert own.loc[NAMES[47], "difference"] < -1
    assert own.loc[NAMES[47], "p_holm"] < 0.01
    (pair,) = entry["GroupTests"]
    tissue = [REGIONS.index(i) for i in (47, 48, 59, 60)]
    test = group_test(values, patient, ~patient, tissue)
    assert (pair["First"], pair["Second"], pair["People"]) == ("AD", "CN", [PATIENTS, PEOPLE - PATIENTS])
    assert pair["P"] == pytest.approx(test.p, rel=1e-2)
    assert entry["FarthestFromZero"][0]["name"] in (NAMES[47], NAMES[48])
    means = table_of(out, "means").set_index("name")
    assert means["mean"].to_numpy() == pytest.approx(values.mean(axis=0), abs=1e-3)


def test_participants_stay_who_they_were_and_nothing_is_left_of_an_earlier_run(cohort, bundle):
    _, out = cohort
    run(cohort, None)
    plain = files_of(out)
    run(cohort, bundle)
    first = files_of(out)
    for name in ("group_participants.tsv", "group_scans.tsv", "group_summary.tsv", "group_participants.json"):
        assert first[name] == plain[name]
    run(cohort, bundle)
    assert files_of(out) == first
    run(cohort, None)
    assert files_of(out) == plain


def test_the_validator_finds_no_error(cohort, bundle):
    bids, out = cohort
    derivative.write_dataset_files(out, bids, "0.1")
    run(cohort, bundle)
    assert (out / entry_of(out)["Files"]["love_plot"]).is_file()
    assert [issue for issue in issues(out) if issue.severity == "error"] == []


def test_the_report_tells_it_all_in_one_wellformed_file(cohort, bundle):
    _, out = cohort
    shutil.rmtree(out / "sub-03")
    write_scan(out, "sub-03", 99, 95)
    run(cohort, bundle)
    html = (out / "group.html").read_text()
    parser = Links()
    parser.feed(html)
    assert parser.open == []
    assert all(link.startswith("data:image/png;base64,") for link in parser.fetched)
    for words in (
        "no test counts them",
        "sub-03: has no table of volumes",
        f">{PEOPLE - 1}<",
        "absolute standardised mean differences".capitalize(),
        NAMES[47],
        "Regions whose z differ most",
    ):
        assert words in html


# --- who is matched -------------------------------------------------------------------------------------------------


def test_who_cannot_be_matched_is_named_with_the_reason(cohort, bundle, capsys):
    _, out = cohort
    write_scan(out, "sub-01", 90, 88, sex="F")
    write_scan(out, "sub-02", 60, 58, sex="n/a")
    write_scan(out, "sub-03", 60, None)
    write_scan(out, "sub-05", None, 60)
    volumes = out / "sub-06" / "anat" / "sub-06_desc-muse_volumes.tsv"
    volumes.write_text(volumes.read_text().replace("47\t", "999\t"))
    assert run(cohort, bundle) == 0
    reasons = {
        "sub-01": "age 88 is outside 50-",
        "sub-02": "sex is not F or M",
        "sub-03": "age is missing",
        "sub-05": "has no usable scan with a brain age",
        "sub-06": "MUSE_47 is missing or no number",
    }
    lost, told = table_of(out, "unmatched").set_index("participant_id")["reason"], capsys.readouterr().err
    assert set(lost.index) == set(reasons)
    for who, reason in reasons.items():
        assert reason in lost[who]
        assert f"{who} is not matched: " in told
    assert entry_of(out)["People"] == PEOPLE - 5
    assert set(table_of(out, "volume_z")["participant_id"]).isdisjoint(reasons)


def test_a_damaged_table_is_named_and_makes_the_exit_code_one(cohort, bundle, capsys):
    _, out = cohort
    (out / "sub-06" / "anat" / "sub-06_desc-muse_volumes.tsv").write_text("index\tname\tvolume_mm3\n47\tx\tlots\n")
    assert run(cohort, bundle) == 1
    assert "left out: sub-06/anat/sub-06_desc-muse_volumes.tsv: lacks" in capsys.readouterr().err
    assert entry_of(out)["Unmatched"].keys() == {"sub-06"}


def test_a_person_counts_once_by_the_first_session_with_volumes_and_its_runs_are_averaged(cohort, bundle):
    bids, out = cohort
    shutil.rmtree(out / "sub-00")
    for stem, age in (("sub-00_ses-a", 60), ("sub-00_ses-b_run-1", 62), ("sub-00_ses-b_run-2", 62)):
        write_scan(out, stem, age + 1, age)
    for run_name, factor in (("run-1", 0.9), ("run-2", 1.1)):
        volumes = dict(zip(REGIONS, MIDDLE * factor, strict=True))
        write_volumes(out, f"sub-00_ses-b_{run_name}", volumes, 1.4e6)
    assert run((bids, out), bundle) == 0
    z, drawn = table_of(out, "volume_z"), table_of(out, "controls")
    (row,) = z[z["participant_id"] == "sub-00"].to_dict("records")
    assert row["session_id"] == "ses-b"
    own = drawn[drawn["matched_to"] == "sub-00"]
    assert set(own["age"]) == {62}
    value = (MIDDLE[0] - own["MUSE_47"].mean()) / (own["MUSE_47"].std() * np.sqrt(1 + 1 / K))
    assert row[NAMES[47]] == pytest.approx(norm.ppf(t.cdf(value, K - 1)), abs=2e-3)


def test_categories_of_the_model_come_from_the_dataset(cohort, tmp_path):
    _, out = cohort
    people = people_of_study(120, 3)
    race = np.where(np.arange(120) % 3 == 0, "Black", "White")
    table = frame_of(people).assign(race=race)
    table.to_csv(tmp_path / "both.tsv", sep="\t", index=False)
    made = genmind.fit(tmp_path / "both.tsv", out=tmp_path / "both", by=("sex", "race"), bandwidths=[0.7], fewest=10)
    assert run(cohort, made.folder) == 0
    lost = entry_of(out)["Unmatched"]
    assert len(lost) == PEOPLE // 2
    assert set(lost.values()) == {"race is not White, Black or Asian"}
    assert set(table_of(out, "controls")["race"]) == {"White"}
    assert entry_of(out)["MatchedOn"] == ["age", "sex", "race"]


# --- which model, and what is refused -------------------------------------------------------------------------------


def test_without_a_value_the_first_reference_that_can_draw_is_taken(cohort, bundle, tmp_path):
    _, out = cohort
    models = tmp_path / "models"
    for name in ("b", "a"):
        shutil.copytree(bundle, models / name)
        card = json.loads((models / name / "model.json").read_text())
        (models / name / "model.json").write_text(json.dumps(card | {"name": name}))
    other = json.loads((models / "a" / "model.json").read_text()) | {"name": "a", "architecture": "normative"}
    (models / "a" / "model.json").write_text(json.dumps(other))
    assert run(cohort, None, "--models-dir", str(models), "--genmind") == 0
    assert entry_of(out)["Model"] == "b"
    with pytest.raises(BundleError, match=r"no bundle is there to draw synthetic people from \(looked in /nowhere\)"):
        reference("auto", [Path("/nowhere")])


def test_volumes_are_brought_to_the_scale_of_the_model(cohort, tmp_path):
    """The app's are those of 2 mm; against controls of 1 mm people would be off by up to three SD."""
    small = fit(tmp_path, people_of_study(200, 1), scale="dlmuse-1mm")
    assert small.card["volume_scale"] == "dlmuse-1mm"
    assert run(cohort, small.folder) == 0
    _, out = cohort
    roi = load_model(find("roi", [PACKAGED]))
    who = "sub-04"
    table = pd.read_csv(out / who / "anat" / f"{who}_desc-muse_volumes.tsv", sep="\t").set_index("index")["volume_mm3"]
    volumes, icv = roi.conversion(table.reindex(roi.indices).to_numpy(), table[702])
    drawn = table_of(out, "controls")
    own = drawn[drawn["matched_to"] == who]
    assert own["MUSE_702"].tolist() == pytest.approx([float(icv)] * K, rel=1e-6)
    of_person = table_of(out, "volume_z").set_index("participant_id").loc[who]
    for index in REGIONS:
        controls, here = own[f"MUSE_{index}"], volumes[roi.indices.index(index)]
        assert abs(here / table[index] - 1) > 0.002
        value = (here - controls.mean()) / (controls.std() * np.sqrt(1 + 1 / K))
        assert of_person[NAMES[index]] == pytest.approx(norm.ppf(t.cdf(value, K - 1)), abs=2e-3)


def elsewhere(tmp_path):
    """A reference of a region that the app's tables here do not have."""
    people = people_of_study(120, 3)
    frame = frame_of(people).rename(columns={"MUSE_47": "MUSE_23"})
    frame.to_csv(tmp_path / "else.tsv", sep="\t", index=False)
    return genmind.fit(tmp_path / "else.tsv", out=tmp_path / "else", bandwidths=[0.7], fewest=10).folder


def by_race(tmp_path):
    frame_of(people_of_study(120, 3)).assign(race="White", site="x").to_csv(tmp_path / "r.tsv", sep="\t", index=False)
    return genmind.fit(tmp_path / "r.tsv", out=tmp_path / "r", by=("sex", "site"), bandwidths=[0.7]).folder


def older(tmp_path):
    return fit(tmp_path, people_of_study(120, 3, low=79, high=90)).folder


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        (lambda _: "absent", (), "absent: no bundle has this name"),
        (elsewhere, (), "1 of its 6 regions are not among the volumes of"),
        (by_race, (), "tells people apart by site, which the dataset does not give"),
        (older, (), "nobody can be matched (e.g. sub-00: age 52 is outside 79."),
        (older, ("--genmind-controls", "2"), "--genmind-controls 2: must be at least 3"),
        (lambda _: "normative", (), "is no genmind bundle"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(cohort, tmp_path, capsys, model, more, words):
    _, out = cohort
    assert run(cohort, model(tmp_path), *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " E " in line]
    assert words in line
    assert files_of(out) == {}


def test_people_without_volumes_are_nobody_to_match(tmp_path, bundle, capsys):
    write_scan(tmp_path / "out", "sub-01", 60, 58)
    (tmp_path / "bids").mkdir()
    assert run((tmp_path / "bids", tmp_path / "out"), bundle) == 2
    assert "(e.g. sub-01: has no table of volumes (desc-muse_volumes.tsv))" in capsys.readouterr().err


def test_the_controls_can_be_read_as_a_reference(cohort, bundle):
    from bids_brainage.bids import roi_tables

    run(cohort, bundle)
    _, out = cohort
    path = out / entry_of(out)["Files"]["controls"]
    people = people_of(roi_tables.read(path), path, icv=True)
    assert len(people) == K * PEOPLE
    assert people.indices == tuple(sorted(REGIONS))
