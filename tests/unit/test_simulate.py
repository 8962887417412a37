"""Simulated people: anatomy, planted aging, scans, datasets."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import sha256
from bids_brainage.simulate import aging, anatomy, cohort, deform, head, scanner
from bids_brainage.simulate.anatomy import REGIONS
from bids_brainage.toolbox import simulate as command

NAMES = [r.name for r in REGIONS]
COARSE = scanner.Protocol(resolution=4.0)
QUICK = settings(max_examples=5, phases=(Phase.explicit, Phase.reuse, Phase.generate))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "ds"
    return cohort.write_scans(out, cohort.visits(cohort.people(3, 1), 1), seed=1, resolution=4.0, step=2)


def volumes_of(person, age, base, shares, seed=0) -> dict[str, float]:
    scan = scanner.acquire(cohort.head_of(person, age, base, shares), COARSE, np.random.default_rng(seed))
    return dict(zip(NAMES, scan.volumes, strict=True))


def test_base_head_has_every_region_and_two_like_sides(base) -> None:
    count = np.bincount(base.labels.ravel(), minlength=256) * base.step**3 / 1000
    assert all(count[r.number] > 0.5 for r in REGIONS)
    for region in REGIONS:
        if region.name.startswith("left_"):
            right = next(r for r in REGIONS if r.name == f"right_{region.kind}")
            assert count[right.number] == pytest.approx(count[region.number], rel=0.1), region.name
            x = anatomy.ORIGIN[0] + base.step * np.argwhere(base.labels == region.number)[:, 0]
            assert x.max() <= 0, region.name
    brain = sum(count[r.number] for r in REGIONS if r.name != "csf")
    assert 1400 < brain < 1900
    assert 10 < count[4] + count[43] < 40


def test_brain_lies_inside_the_skull(base) -> None:
    outside = (base.labels == 0) | np.isin(base.labels, (head.SKIN, head.FAT))
    tissue = (base.labels > 0) & (base.labels < 100) & (base.labels != anatomy.CSF)
    for axis in range(3):
        for shift in (-1, 1):
            touching = np.roll(outside, shift, axis) & tissue
            assert touching.sum() == 0


@given(st.sampled_from(sorted(aging._MEDIAN)), st.floats(20, 95), st.sampled_from("FM"))
def test_expected_volume_is_positive_and_continuous(kind, age, sex) -> None:
    here, there = aging.expected(kind, age, sex), aging.expected(kind, age + 0.01, sex)
    assert 0.1 < here < 6
    assert there == pytest.approx(here, rel=2e-3)


@given(st.floats(40, 88), st.floats(0.5, 10), st.sampled_from("FM"))
def test_ventricles_grow_and_grey_matter_shrinks(age, years, sex) -> None:
    for kind, sign in (("lateral_ventricle", 1), ("third_ventricle", 1), ("cerebral_cortex", -1), ("hippocampus", -1)):
        change = aging.expected(kind, age + years, sex) - aging.expected(kind, age, sex)
        assert sign * change > 0, kind


def test_expected_volume_follows_the_published_decades() -> None:
    assert aging.expected("lateral_ventricle", 80, "F") == pytest.approx(2.654)
    assert aging.expected("hippocampus", 70, "M") == pytest.approx(0.950)
    assert aging.expected("thalamus", 40, "M") == pytest.approx(1.0)


@QUICK
@given(st.floats(40, 90), st.sampled_from("FM"), st.floats(0.6, 2.0), st.integers(0, 2**31))
def test_aging_is_a_diffeomorphism_that_meets_its_targets(shares, age, sex, left, seed) -> None:
    factors = aging.planted(age, sex, {"left_lateral_ventricle": left})
    factors = factors * aging.individual(np.random.default_rng(seed))
    warp = aging.grow(shares, factors)
    assert deform.jacobian(warp).min() > 0
    points = deform.nodes(shares.values.shape[1:], shares.origin, shares.spacing)
    grown = deform.sample(shares.values, shares.origin, shares.spacing, points + warp.displacement).sum((1, 2, 3))
    ratio = dict(zip(NAMES, grown / shares.values.sum((1, 2, 3)), strict=True))
    wanted = dict(zip(NAMES, factors, strict=True))
    for name in set(NAMES) - {"csf"}:
        assert ratio[name] == pytest.approx(wanted[name], rel=0.05), name
    assert grown.sum() == pytest.approx(shares.values.sum(), rel=0.01)


@QUICK
@given(st.integers(0, 2**31), st.floats(1.0, 4.0))
def test_random_warps_do_not_fold(seed, size) -> None:
    box = deform.Warp(np.zeros((3, 40, 50, 50), np.float32), anatomy.ORIGIN, 5.0)
    warp = deform.random_warp(np.random.default_rng(seed), box, ((30.0, size), (14.0, 1.3)))
    assert deform.jacobian(warp).min() > 0
    assert np.abs(warp.displacement).max() > 0.5


def test_planted_atrophy_grows_with_age_in_one_anatomy(base, shares) -> None:
    person = cohort.Person("x", "F", 11)
    by_age = pd.DataFrame([volumes_of(person, age, base, shares) for age in (45, 58, 70, 82)])
    for name, sign in (("left_lateral_ventricle", 1), ("right_lateral_ventricle", 1), ("third_ventricle", 1)):
        assert (sign * by_age[name].diff().iloc[1:] > 0).all(), name
    for kind in ("cerebral_cortex", "hippocampus"):
        assert (by_age[f"left_{kind}"] + by_age[f"right_{kind}"]).diff().iloc[1:].max() < 0, kind
    ventricles = by_age["left_lateral_ventricle"] + by_age["right_lateral_ventricle"]
    wanted = aging.expected("lateral_ventricle", 82, "F") / aging.expected("lateral_ventricle", 45, "F")
    assert ventricles.iloc[-1] / ventricles.iloc[0] == pytest.approx(wanted, rel=0.15)
    inside = by_age.sum(axis=1)
    assert inside.max() / inside.min() < 1.02


def test_an_older_brain_is_what_a_gap_means(base, shares) -> None:
    older = volumes_of(cohort.Person("x", "M", 5, gap=10.0), 60, base, shares)
    assert older == volumes_of(cohort.Person("x", "M", 5), 70, base, shares)


def test_planted_asymmetry_is_on_its_side(base, shares) -> None:
    plain = volumes_of(cohort.Person("x", "F", 3), 60, base, shares)
    planted = volumes_of(cohort.Person("x", "F", 3, planted={"left_lateral_ventricle": 2.0}), 60, base, shares)
    assert planted["left_lateral_ventricle"] / plain["left_lateral_ventricle"] == pytest.approx(2.0, rel=0.1)
    assert planted["right_lateral_ventricle"] / plain["right_lateral_ventricle"] == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("name", ["csf", "left_third_ventricle", "hipocampus"])
def test_unknown_regions_are_refused(name) -> None:
    with pytest.raises(ValueError, match=name):
        aging.planted(60, "F", {name: 2.0})


def test_noise_is_rician_and_absent_when_asked(base, shares) -> None:
    person = cohort.head_of(cohort.Person("x", "M", 8), 50, base, shares)
    clean = scanner.Protocol(resolution=4.0, noise=0.0)
    noisy = scanner.Protocol(resolution=4.0, noise=5.0)
    quiet = scanner.acquire(person, clean, np.random.default_rng(2))
    loud = scanner.acquire(person, noisy, np.random.default_rng(2))
    corner = (slice(0, 6), slice(0, 6), slice(-8, None))
    assert quiet.data[corner].max() == 0
    air = loud.data[corner].astype(float)
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.15)
    assert np.array_equal(quiet.labels, loud.labels)
    means = [quiet.data[np.isin(quiet.labels, numbers)].mean() for numbers in ((2, 41), (3, 42), (4, 43))]
    assert means[0] > 1.2 * means[1] > 1.4 * means[2]


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_majority_is_the_mode(seed, kinds) -> None:
    parts = np.random.default_rng(seed).integers(0, kinds, (8, 4, 3, 2)).astype(np.uint8)
    assert np.array_equal(scanner._majority(parts), stats.mode(parts, axis=0).mode)


@QUICK
@given(st.floats(1.0, 4.0))
def test_scan_grid_is_centred(resolution) -> None:
    shape, affine = scanner.grid(resolution)
    middle = affine @ [*((np.array(shape) - 1) / 2), 1]
    assert middle[:3] == pytest.approx(scanner.CENTRE)
    assert np.array(shape) * resolution == pytest.approx(scanner.FIELD_OF_VIEW, abs=resolution)


def test_dataset_has_sessions_runs_and_truth_on_each_grid(dataset) -> None:
    scans = sorted(p.relative_to(dataset).as_posix() for p in dataset.glob("sub-*/**/*_T1w.nii.gz"))
    assert scans == [
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-2_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
    ]
    orders = set()
    for scan in scans:
        image = nib.load(dataset / scan)
        truth = nib.load(dataset / "derivatives" / "truth" / scan.replace("_T1w", "_desc-truth_dseg"))
        assert image.get_data_dtype() == np.int16
        assert image.shape == truth.shape
        assert np.allclose(image.affine, truth.affine)
        assert np.allclose(image.get_sform(), image.get_qform(), atol=1e-4)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        orders.add("".join(nib.aff2axcodes(image.affine)))
        left = nib.affines.apply_affine(truth.affine, np.argwhere(np.asarray(truth.dataobj) == 2))
        right = nib.affines.apply_affine(truth.affine, np.argwhere(np.asarray(truth.dataobj) == 41))
        assert left[:, 0].mean() < right[:, 0].mean() - 30
    assert len(orders) == 4


def test_tables_of_the_dataset(dataset) -> None:
    participants = pd.read_csv(dataset / "participants.tsv", sep="\t")
    assert participants["age"].is_monotonic_increasing
    assert set(participants["sex"]) == {"F", "M"}
    sessions = pd.read_csv(dataset / "sub-01" / "sub-01_sessions.tsv", sep="\t")
    assert sessions["age"].diff().iloc[1] == pytest.approx(2.0)
    truth = pd.read_csv(dataset / "derivatives" / "truth" / "volumes.tsv", sep="\t")
    assert len(truth) == 5 * len(REGIONS)
    runs = truth[truth["participant_id"] == "sub-02"].pivot(index="name", columns="run", values="volume_mm3")
    large = runs.mean(axis=1) > 5e3
    assert np.abs(runs[large].diff(axis=1).iloc[:, 1] / runs[large].mean(axis=1)).max() < 0.05
    ventricles = truth[truth["name"] == "left_lateral_ventricle"].sort_values("brain_age")
    by_sex = ventricles.assign(f=ventricles["participant_id"] != "sub-02").groupby("f")["planted"]
    assert by_sex.apply(lambda v: v.is_monotonic_increasing).all()


@pytest.mark.slow
def test_same_seed_same_bytes(dataset, tmp_path) -> None:
    again = cohort.write_scans(tmp_path / "a", cohort.visits(cohort.people(3, 1), 1), seed=1, resolution=4.0, step=2)
    assert sha256(again) == sha256(dataset)
    other = cohort.write_scans(tmp_path / "b", cohort.visits(cohort.people(1, 2), 2), seed=2, resolution=4.0, step=2)
    name = "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    assert sha256(other / name) != sha256(dataset / name)


@pytest.mark.parametrize("part", [".", "derivatives/truth"])
def test_bids_validator_finds_no_error(dataset, part) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([str(validator), str(dataset / part)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout


def test_bad_requests_are_one_line(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="not an empty folder"):
        cohort.simulate_dataset(tmp_path)
    for wrong in ({"n": 0}, {"resolution": 0.0}, {"resolution": float("nan")}, {"seed": -1}):
        with pytest.raises(UsageError, match="at least 1 person"):
            cohort.simulate_dataset(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_command_at_full_detail(tmp_path, capsys) -> None:
    out = tmp_path / "ds"
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["simulate", str(out), "--n", "1", "--seed", "4", "--resolution", "3"])
    assert args.run(args) == 0
    assert str(out) in capsys.readouterr().out
    truth = pd.read_csv(out / "derivatives" / "truth" / "volumes.tsv", sep="\t").set_index(["session_id", "name"])
    ventricles = truth["volume_mm3"].xs("left_lateral_ventricle", level="name")
    assert ventricles["ses-2"] > ventricles["ses-1"] > 2000
    assert len(list(out.glob("sub-01/ses-*/anat/*_T1w.nii.gz"))) == 2


@pytest.mark.parametrize("sites", [("a", "b"), ("a", "b", "c", "d"), ("a", "b", "c")])
def test_each_site_has_women_and_men(sites):
    scans = cohort.visits(cohort.people(48, 0), 0, sites=sites)
    assert {(v.site, v.person.sex) for v in scans} == {(site, sex) for site in sites for sex in "FM"}


def test_each_base_has_women_and_men_of_each_site(monkeypatch):
    monkeypatch.setattr(cohort.aging, "fractions", lambda base, spacing: None)
    scans = cohort.visits(cohort.people(96, 0), 0, sites=("a", "b"))
    bases = [SimpleNamespace(step=1, name=name) for name in "xy"]
    found = cohort.based(scans, bases)
    met = {(v.site, v.person.sex, found[v.person.label][0].name) for v in scans}
    assert len(met) == 8
    counts = [sum(base.name == name for base, _ in found.values()) for name in "xy"]
    assert counts == [48, 48]
