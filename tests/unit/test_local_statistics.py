"""The group level on maps of local brain age: planted effects come out, people are the units, trouble is named."""

import json

import nibabel as nib
import numpy as np
import pytest
from brainages import number, rows_of, write_people, write_scan
from scipy.stats import ttest_ind
from test_group_level import Links

from bids_brainage.bids.outputs import group_kinds
from bids_brainage.core.errors import UsageError
from bids_brainage.image.io import save
from bids_brainage.workflows import voxelwise
from bids_brainage.workflows.group import run_group
from bids_brainage.workflows.local import AtlasChoice

SHAPE, AFFINE = (9, 10, 8), np.array([[14.0, 0, 0, -56], [0, 14, 0, -80], [0, 0, 14, -50], [0, 0, 0, 1]])
INSIDE = np.zeros(SHAPE, bool)
INSIDE[1:-1, 1:-1, 1:-1] = True
PLANTED = np.zeros(SHAPE)
PLANTED[2:4, 2:4, 2:4] = 12.0
MUSE = {31: ("Amygdala_R", "2:4"), 47: ("Hippocampus_R", "rest")}


def write_map(out, stem, gap, age, affine=AFFINE):
    """Map, regions and volumes of one scan, as the participant level writes them."""
    (table,) = out.glob(f"sub-*/**/{stem}_brainage.tsv")
    data = np.where(INSIDE, age + gap, 0).astype(np.float32)
    save(table.parent / f"{stem}_space-MNI152NLin2009aSym_desc-local_brainagemap.nii.gz", data, affine)
    here, rest = gap[PLANTED > 0].mean(), gap[INSIDE & (PLANTED == 0)].mean()
    lines = ["index\tname\tbrain_age\tgap"]
    lines += [f"31\tAmygdala_R\t{age + here:.4f}\t{here:.4f}", f"47\tHippocampus_R\t{age + rest:.4f}\t{rest:.4f}"]
    (table.parent / f"{stem}_desc-local_regions.tsv").write_text("\n".join(lines) + "\n")
    volumes = f"31\ta\t{900 - 20 * here:.2f}\n47\th\t3000\n702\tICV\t{1.4e6 + 1e4 * here:.1f}\n"
    (table.parent / f"{stem}_desc-muse_volumes.tsv").write_text("index\tname\tvolume_mm3\n" + volumes)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """24 people, half of them patients with 12 years more in one block; two sessions, the second with two runs."""
    monkeypatch.setattr(voxelwise, "PERMUTATIONS", 60)
    rng = np.random.default_rng(0)
    out, bids = tmp_path / "out", tmp_path / "bids"
    table, gaps = ["participant_id diagnosis"], {}
    for i in range(24):
        age, own = round(float(rng.uniform(40, 80)), 1), rng.normal(0, 3) + rng.normal(0, 2, SHAPE)
        patient = i % 2 == 0
        for name in ("ses-a", "ses-b_run-1", "ses-b_run-2"):
            stem, gap = f"sub-{i:02d}_{name}", own + PLANTED * patient + rng.normal(0, 0.5, SHAPE)
            write_scan(out, stem, {"local": round(age + gap.mean(), 2), "roi": age}, age, sex="FM"[i // 2 % 2])
            write_map(out, stem, gap, age)
            gaps[stem] = np.where(INSIDE, np.float32(age + gap) - age, np.nan)
        table.append(f"sub-{i:02d} {'AD' if patient else 'CN'}")
    write_people(bids, "\n".join(table))
    return out, bids, gaps


def local(result):
    return json.loads(result.summary.read_text())["LocalBrainAge"]


def data_of(path):
    return nib.load(path).get_fdata()


def test_planted_effects_come_out_where_they_are(cohort):
    out, bids, gaps = cohort
    result = run_group(out, bids, controls="diagnosis == 'CN'")
    assert result.exit_code == 0
    assert list(local(result)) == ["local"]
    (contrast,) = local(result)["local"]["Contrasts"]
    assert contrast["People"] == {"AD": 12, "CN": 12}
    assert contrast["Covariates"] == ["age", "sex"]
    names = contrast["Files"]
    assert names["z"] == "group_desc-local_contrast-ADvCN_zmap.nii.gz"
    first = np.array([gaps[f"sub-{i:02d}_ses-a"] for i in range(24)])  # the first session, and it alone
    known = ttest_ind(first[::2], first[1::2], equal_var=False)
    assert data_of(out / names["welch"])[INSIDE] == pytest.approx(known.statistic[INSIDE], rel=1e-3, abs=1e-4)
    assert data_of(out / names["dof"])[INSIDE] == pytest.approx(known.df[INSIDE], rel=1e-3)
    assert np.isnan(data_of(out / names["z"])[~INSIDE]).all()
    corrected = data_of(out / names["pfwe"])
    assert corrected[PLANTED > 0] == pytest.approx(1 / 61)
    assert (corrected[INSIDE & (PLANTED == 0)] > 0.05).mean() > 0.97
    assert contrast["ThresholdZ"]["Permutation"] < contrast["ThresholdZ"]["Bonferroni"] * 1.2
    mean = data_of(out / local(result)["local"]["Groups"]["AD"]["Files"][0])
    assert mean[INSIDE] == pytest.approx(first[::2].mean(axis=0)[INSIDE], abs=1e-3)
    sidecar = json.loads((out / names["z"].replace(".nii.gz", ".json")).read_text())
    assert sidecar["People"] == {"AD": 12, "CN": 12}
    assert sidecar["ThresholdZ"] == contrast["ThresholdZ"]


def test_reliability_is_over_sessions_with_runs_averaged(cohort):
    out, bids, gaps = cohort
    found = local(run_group(out, bids))["local"]["Reliability"]
    assert (found["People"], found["Measurements"], found["Measurement"]) == (24, 2, "session")
    b = [(gaps[f"sub-{i:02d}_ses-b_run-1"] + gaps[f"sub-{i:02d}_ses-b_run-2"]) / 2 for i in range(24)]
    people = np.stack([[gaps[f"sub-{i:02d}_ses-a"], b[i]] for i in range(24)])[:, :, 4, 5, 4]
    from bids_brainage.stats.groups import icc

    assert data_of(out / found["Files"][0])[4, 5, 4] == pytest.approx(icc(people).value, abs=1e-3)


def test_reliability_wants_five_people_whose_maps_can_be_read(cohort):
    out, bids, _ = cohort
    for i in range(4, 24):
        (path,) = out.glob(f"sub-{i:02d}/ses-a/anat/*brainagemap.nii.gz")
        path.write_bytes(b"damaged")
    result = local(run_group(out, bids))["local"]
    assert result["Reliability"] is None
    assert not list(out.glob("*icc*"))


def test_groups_have_names_of_their_own_in_files():
    assert voxelwise._entities(["A", "A!2", "A.", "A-"]) == {"A": "A", "A!2": "A2", "A.": "A3", "A-": "A4"}


def test_regions_are_compared_and_set_beside_volumes(cohort):
    out, bids, _ = cohort
    found = local(run_group(out, bids))["local"]["Regions"]["MUSE"]
    assert found["Strongest"][0]["name"] == "Amygdala_R"
    contrasts = {row["name"]: row for row in rows_of(out / "group_desc-local_atlas-MUSE_contrasts.tsv")}
    amygdala = contrasts["Amygdala_R"]
    assert float(amygdala["difference_low"]) < 12 < float(amygdala["difference_high"])
    assert float(amygdala["p_holm"]) == pytest.approx(2 * float(amygdala["p"]), rel=1e-4)
    relations = {row["name"]: row for row in rows_of(out / "group_desc-local_atlas-MUSE_volumes.tsv")}
    assert number(relations["Amygdala_R"]["r"]) < -0.99
    assert relations["Hippocampus_R"]["r"] == "n/a"  # its volume does not vary
    people = rows_of(out / "group_desc-local_atlas-MUSE_gaps.tsv")
    assert len(people) == 24
    assert list(people[0]) == ["participant_id", "session_id", "Amygdala_R", "Hippocampus_R"]


def test_a_further_atlas_is_used_in_its_space(cohort, tmp_path):
    out, bids, gaps = cohort
    (out / "group_desc-local_contrast-XvY_zmap.nii.gz").write_text("of an earlier run")
    save(tmp_path / "blocks.nii.gz", ((PLANTED > 0) + 2 * (PLANTED == 0)).astype(np.uint8), AFFINE)
    (tmp_path / "blocks.tsv").write_text("index\tname\n1\tplanted\n2\trest\n")
    choice = AtlasChoice(tmp_path / "blocks.nii.gz", "MNI152NLin2009aSym", tmp_path / "cache")
    run_group(out, bids, atlas=choice)
    people = rows_of(out / "group_desc-local_atlas-blocks_gaps.tsv")
    assert not (out / "group_desc-local_contrast-XvY_zmap.nii.gz").exists()
    expected = [gaps[f"sub-{i:02d}_ses-a"][PLANTED > 0].mean() for i in range(24)]
    assert [float(row["planted"]) for row in people] == pytest.approx(expected, abs=1e-3)


def test_an_unknown_space_is_refused_in_one_line(cohort, tmp_path):
    out, bids, _ = cohort
    save(tmp_path / "blocks.nii.gz", np.ones(SHAPE, np.uint8), AFFINE)
    (tmp_path / "blocks.tsv").write_text("index\tname\n1\tall\n")
    with pytest.raises(UsageError, match="NoSuchSpace") as caught:
        run_group(out, bids, atlas=AtlasChoice(tmp_path / "blocks.nii.gz", "NoSuchSpace", tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    assert not list(out.glob("group*"))
    run_group(out, bids)
    before = sorted(path.name for path in out.glob("group*"))
    with pytest.raises(UsageError, match="NoSuchSpace"):
        run_group(out, bids, atlas=AtlasChoice(tmp_path / "blocks.nii.gz", "NoSuchSpace", tmp_path / "cache"))
    assert sorted(path.name for path in out.glob("group*")) == before, "a refused run leaves what was there"


def test_trouble_is_named_and_the_others_go_on(cohort, caplog):
    out, bids, _ = cohort
    maps = "sub-{}/ses-a/anat/sub-{}_ses-a_space-MNI152NLin2009aSym_desc-local_brainagemap.nii.gz"
    (out / maps.format("03", "03")).unlink()
    (out / maps.format("05", "05")).write_bytes(b"nonsense")
    save(out / maps.format("06", "06"), np.full(SHAPE, 50, np.float32), np.eye(4))
    part = data_of(out / maps.format("07", "07")).astype(np.float32)
    part[:5] = 0
    save(out / maps.format("07", "07"), part, AFFINE)
    result = run_group(out, bids)
    entry = local(result)["local"]
    assert entry["Contrasts"][0]["People"] == {"AD": 11, "CN": 9}
    assert [note for note in entry["Notes"] if "sub-03" in note and "no map" in note]
    said = " ".join(entry["DamagedMaps"])
    assert "sub-05_ses-a_space" in said
    assert "sub-06_ses-a_space-MNI152NLin2009aSym_desc-local_brainagemap.nii.gz: lies on another grid" in said
    assert "map of sub-07: covers" in said
    assert result.exit_code == 1
    html = result.report.read_text()
    assert "lies on another grid" in html
    assert "sub-03: has no map" in html


def test_no_readable_map_is_said_and_gives_exit_code_1(cohort):
    out, bids, _ = cohort
    for path in out.rglob("*_brainagemap.nii.gz"):
        path.write_bytes(b"nonsense")
    result = run_group(out, bids)
    assert result.exit_code == 1
    assert "cannot be read" in local(result)["local"]["DamagedMaps"][0]
    assert "cannot be read" in result.report.read_text()
    assert not list(out.glob("group_desc-*"))


def test_small_groups_are_not_compared(cohort):
    out, bids, _ = cohort
    lines = [f"sub-{i:02d} {'AD' if i < 2 else 'CN'}" for i in range(24)]
    write_people(bids, "\n".join(["participant_id diagnosis", *lines]))
    entry = local(run_group(out, bids))["local"]
    assert entry["Contrasts"] == []
    assert "group AD: 2 people with maps, at least 3 are needed" in entry["Notes"]


def test_a_group_that_sex_alone_tells_apart_is_not_compared(cohort):
    out, bids, _ = cohort
    lines = [f"sub-{i:02d} {'AD' if i // 2 % 2 else 'CN'}" for i in range(24)]
    write_people(bids, "\n".join(["participant_id diagnosis", *lines]))
    entry = local(run_group(out, bids))["local"]
    assert entry["Contrasts"] == []
    assert [note for note in entry["Notes"] if "cannot be told apart" in note]


def test_without_maps_there_is_nothing_but_an_empty_entry(tmp_path):
    write_scan(tmp_path, "sub-01", 55, 50)
    (tmp_path / "group_desc-local_iccmap.nii.gz").write_text("of an earlier run")
    assert local(run_group(tmp_path, tmp_path / "bids")) == {}
    assert not list(tmp_path.glob("group_desc-*"))
    with pytest.raises(UsageError, match="no scan has a map"):
        run_group(tmp_path, tmp_path / "bids", atlas=AtlasChoice(tmp_path / "x.nii.gz", "X", tmp_path))


def test_the_report_shows_maps_and_tables_and_the_same_input_gives_the_same_bytes(cohort):
    out, bids, _ = cohort

    def run():
        html = run_group(out, bids).report.read_text()
        return {path.name: path.read_bytes() for path in out.glob("group*")}, html

    first, html = run()
    assert run()[0] == first
    page = Links()
    page.feed(html)
    assert page.open == []
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert html.count('<img alt="Axial slices') == 2
    assert "Regions that differ most (MUSE" in html
    assert "AD minus CN" in html


def test_the_docs_name_every_result_of_the_group_level():
    from test_docs import OUTPUTS

    from bids_brainage.bids.outputs import group_file

    for kind in group_kinds():
        path, _ = group_file(kind, "", model="<model>", group="<group>", contrast="<contrast>", atlas="<atlas>")
        assert f"`{path.name}`" in OUTPUTS


def test_a_damaged_table_of_regions_is_named_and_gives_exit_code_1(cohort):
    out, bids, _ = cohort
    (out / "sub-03" / "ses-a" / "anat" / "sub-03_ses-a_desc-local_regions.tsv").write_text("index\tname\n31\n")
    result = run_group(out, bids)
    assert result.exit_code == 1
    assert any("sub-03_ses-a_desc-local_regions.tsv" in line for line in result.damaged)


def test_people_without_an_age_are_no_damage(tmp_path):
    out, bids = tmp_path / "out", tmp_path / "bids"
    write_scan(out, "sub-01", {"local": 50, "roi": 51}, None)
    write_map(out, "sub-01", np.zeros(SHAPE), 50.0)
    write_people(bids, "participant_id age\nsub-01 89+")
    result = run_group(out, bids)
    assert result.exit_code == 0
    assert "of a person with an age" in local(result)["local"]["Notes"][0]
