"""The app from a BIDS dataset to brain ages, as a user runs it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import bids_brainage
from bids_brainage.core.files import sha256
from bids_brainage.options import Options
from bids_brainage.workflows.run import place_of_work
from tests.e2e.conftest import app, tree

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
TABLES = ("brainage", "contributions", "measures", "regions", "volumes")
MAPS = ("brainagemap", "brainagesdmap", "brainagegapmap", "brainagegapcorrectedmap")


def read(path):
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def stems(bids):
    return sorted(p.name.removesuffix("_T1w.nii.gz") for p in bids.glob("sub-*/**/*_T1w.nii.gz"))


def test_each_scan_has_its_ages_under_all_its_entities(participant):
    assert participant.code == 0, participant.said
    tables = sorted(p.name.removesuffix("_brainage.tsv") for p in participant.out.rglob("*_brainage.tsv"))
    assert tables == stems(participant.bids)
    assert any("_ses-" in t for t in tables)
    assert any("_run-" in t for t in tables)
    for path in participant.out.rglob("*_brainage.tsv"):
        rows = read(path)
        assert [row["model"] for row in rows] == ["roi", "local"]
        for row in rows:
            assert float(row["brain_age_low"]) < float(row["brain_age"]) < float(row["brain_age_high"])
            assert float(row["gap"]) == pytest.approx(float(row["brain_age"]) - float(row["age"]), abs=0.011)


def test_maps_of_local_age_are_there_by_default_and_say_whom_they_come_from(participant):
    for stem in stems(participant.bids):
        (anat,) = {p.parent for p in participant.out.rglob(f"{stem}_brainage.tsv")}
        row = next(row for row in read(anat / f"{stem}_brainage.tsv") if row["model"] == "local")
        for kind in ("brainagemap", "brainagesdmap", "brainagegapmap"):
            path = anat / f"{stem}_space-MNI152NLin2009aSym_desc-local_{kind}.nii.gz"
            values = np.asarray(nib.load(path).dataobj)
            told = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
            assert "simulated" in json.dumps(told)
            assert values[values != 0].size > 10_000
            if kind == "brainagemap":
                assert values[values != 0].mean() == pytest.approx(float(row["brain_age"]), abs=0.1)
    assert "trained on simulated people" in next(participant.out.glob("sub-*.html")).read_text(encoding="utf-8")


def test_expected_outputs_are_real_images_on_the_grids_they_claim(participant):
    stem = stems(participant.bids)[0]
    (anat,) = {p.parent for p in participant.out.rglob(f"{stem}_brainage.tsv")}
    preproc = nib.load(anat / f"{stem}_desc-preproc_T1w.nii.gz")
    mask = nib.load(anat / f"{stem}_desc-brain_mask.nii.gz")
    assert preproc.shape == mask.shape
    assert np.allclose(preproc.affine, mask.affine)
    inside = np.asarray(mask.dataobj) > 0
    probabilities = [nib.load(anat / f"{stem}_label-{t}_probseg.nii.gz").get_fdata() for t in ("GM", "WM", "CSF")]
    assert np.allclose(sum(probabilities)[inside], 1, atol=0.02)
    volumes = read(anat / f"{stem}_desc-muse_volumes.tsv")
    assert sum(1 for row in volumes if int(row["index"]) < 300) == 145
    assert all(float(row["volume_mm3"]) > 0 for row in volumes)
    for way in ("from-T1w_to-MNI152NLin2009aSym", "from-MNI152NLin2009aSym_to-T1w"):
        assert (anat / f"{stem}_{way}_mode-image_xfm.h5").is_file()


def test_the_validator_finds_no_error_in_the_output(participant):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run(
        [str(validator), "--format", "json", str(participant.out)], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [i for i in issues if i["severity"] == "error"] == []


def test_the_ignored_names_are_our_own_only(participant):
    lines = (participant.out / ".bidsignore").read_text().split()
    own = [f"*_{suffix}.{kind}" for suffix in TABLES for kind in ("json", "tsv")]
    own += [f"*_{suffix}.*" for suffix in MAPS] + [f"group_*.{kind}" for kind in ("json", "nii.gz", "png", "tsv")]
    assert sorted(lines) == sorted([*own, "*_xfm.*", "*.html", "figures", "logs"])


def test_planted_atrophy_is_seen_in_the_ventricles(participant):
    people = {row["participant_id"]: float(row["age"]) for row in read(participant.bids / "participants.tsv")}
    found = {}
    for path in participant.out.rglob("*_desc-muse_volumes.tsv"):
        volumes = {int(row["index"]): float(row["volume_mm3"]) for row in read(path)}
        found.setdefault(path.name.split("_")[0], []).append((volumes[51] + volumes[52]) / volumes[702])
    ages = [people[p] for p in found]
    share = [np.mean(v) for v in found.values()]
    assert np.argsort(ages)[-1] == np.argsort(share)[-1]
    assert np.corrcoef(ages, share)[0, 1] > 0.5


def test_a_second_run_changes_nothing_and_says_so(participant):
    before = tree(participant.out)
    again = app(participant.bids, participant.out, "participant", participant.work, "--device", "cpu")
    assert again.code == 0
    assert "0 to do" in again.said
    assert tree(participant.out) == before


def test_the_log_is_free_of_tracebacks(participant):
    assert "Traceback" not in participant.said


def test_the_group_level_makes_its_tables_from_the_derivatives_alone(participant, group):
    assert group.code == 0, group.said
    scans = read(group.out / "group_scans.tsv")
    models = ("local", "roi")
    assert sorted((row["scan"], row["model"]) for row in scans) == [(s, m) for s in stems(group.bids) for m in models]
    people = read(group.out / "group_participants.tsv")
    assert len(people) == len({(row["participant_id"], row["session_id"], row["model"]) for row in scans})
    described = json.loads((group.out / "group_scans.json").read_text())
    assert set(scans[0]) <= set(described)
    assert {row["correction"] for row in scans} == {"median_offset"}  # fewer than 15 people
    html = (group.out / "group.html").read_text(encoding="utf-8")
    assert "<svg" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    for subject in {row["participant_id"] for row in scans}:
        assert (group.out / f"{subject}.html").is_file()


@pytest.fixture(scope="module")
def one(simulated, tmp_path_factory):
    """A dataset of one scan, complete, in folders of its own."""
    root = tmp_path_factory.mktemp("one")
    bids = root / "bids"
    shutil.copytree(simulated, bids, ignore=shutil.ignore_patterns("derivatives"))
    keep = stems(bids)[-1].split("_")[0]
    for folder in bids.glob("sub-*"):
        if folder.name != keep:
            shutil.rmtree(folder)
    first = app(bids, root / "out", "participant", root / "work", "--skip-bids-validation", "--write-graph")
    assert first.code == 0, first.said
    return first


def test_the_graph_and_the_methods_are_in_the_logs(one):
    assert "n4 -> register" in (one.out / "logs" / "workflow.dot").read_text()
    assert "N4" in (one.out / "logs" / "CITATION.md").read_text()


def test_given_derivatives_and_several_models_are_used(one, tmp_path):
    """A mask and a preprocessed image that are there are taken; each model has its row; the work folder goes."""
    roi = Path(bids_brainage.__file__).parent / "data" / "bundles" / "roi"
    shutil.copytree(roi, tmp_path / "models" / "second")
    card = json.loads((roi / "model.json").read_text())
    (tmp_path / "models" / "second" / "model.json").write_text(json.dumps(card | {"name": "second"}))
    words = [
        "--derivatives",
        f"earlier={one.out}",
        "--models-dir",
        str(tmp_path / "models"),
        "--models",
        "roi",
        "second",
    ]
    words += ["--nipype-plugin", "Linear", "--clean-workdir", "--skip-bids-validation"]
    done = app(one.bids, tmp_path / "out", "participant", tmp_path / "work", *words)
    assert done.code == 0, done.said
    assert ": n4 " not in done.said
    assert not list((tmp_path / "work").glob("*/bids_brainage_wf/*"))
    (table,) = (tmp_path / "out").rglob("*_brainage.tsv")
    rows = read(table)
    assert [row["model"] for row in rows] == ["roi", "second"]
    assert rows[0]["brain_age"] == rows[1]["brain_age"]
    (given,), (used,) = one.out.rglob("*_desc-brain_mask.nii.gz"), (tmp_path / "out").rglob("*_desc-brain_mask.nii.gz")
    assert np.array_equal(nib.load(given).dataobj, nib.load(used).dataobj)
    fingerprint = json.loads(table.with_suffix(".json").read_text())["Fingerprint"]
    assert {"Mask", "Preprocessed", "Model roi", "Model second"} <= set(fingerprint)


def test_a_lost_output_is_made_again(one):
    stem = stems(one.bids)[0]
    (mask,) = one.out.rglob(f"{stem}_desc-brain_mask.nii.gz")
    before = sha256(mask)
    mask.unlink()
    again = app(one.bids, one.out, "participant", one.work, "--skip-bids-validation")
    assert again.code == 0
    assert f"missing: {mask.name}" in again.said
    assert sha256(mask) == before


def test_minimal_outputs_are_the_same_numbers_without_images(one, tmp_path):
    words = ("--skip-bids-validation", "--minimal-outputs")
    (tmp_path / "out").mkdir()
    full, minimal = (Options(one.bids, out, "participant", work_dir=one.work) for out in (one.out, tmp_path / "out"))
    shutil.copytree(place_of_work(full), place_of_work(minimal))  # the same stages: two threads give other last digits
    done = app(one.bids, tmp_path / "out", "participant", one.work, *words)
    assert done.code == 0, done.said
    for kind in ("brainage", "volumes", "measures"):
        (full,), (minimal,) = (folder.rglob(f"*_{kind}.tsv") for folder in (one.out, tmp_path / "out"))
        assert full.read_bytes() == minimal.read_bytes()
    images = [p.name for p in (tmp_path / "out").rglob("sub-*") if p.name.endswith((".nii.gz", ".h5"))]
    assert len(images) == 4
    assert all("_desc-local_brainage" in name for name in images)
    assert len(list((tmp_path / "out").glob("sub-*.html"))) == 1
    again = app(one.bids, tmp_path / "out", "participant", one.work, *words)
    assert "0 to do" in again.said


def test_a_lost_page_is_written_again_without_any_work(one):
    (page,) = one.out.glob("sub-*.html")
    before = sha256(page)
    page.unlink()
    again = app(one.bids, one.out, "participant", one.work, "--skip-bids-validation")
    assert again.code == 0
    assert "0 to do" in again.said
    assert sha256(page) == before


@pytest.fixture
def without_ages(one):
    """The tables of the dataset are taken away for one test; its images stay, so that only the last stages run."""
    tables = [*one.bids.glob("sub-*/*_sessions.*"), *one.bids.glob("participants.*")]
    kept = {path: path.read_bytes() for path in tables}
    for path in tables:
        path.unlink()
    yield
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("age", "units", "shown", "note"),
    [("12418.5", "days", "34", "n/a"), ("89+", "years", "n/a", "censored"), ("n/a", "years", "n/a", "missing")],
)
def test_an_age_of_any_kind_reaches_the_table(one, without_ages, tmp_path, age, units, shown, note):
    (subject,) = (folder.name for folder in one.bids.glob("sub-*"))
    (one.bids / "participants.tsv").write_text(f"participant_id\tage\n{subject}\t{age}\n")
    (one.bids / "participants.json").write_text(json.dumps({"age": {"Units": units}}))
    done = app(one.bids, tmp_path / "out", "participant", one.work, "--skip-bids-validation")
    assert done.code == 0, done.said
    for table in (tmp_path / "out").rglob("*_brainage.tsv"):
        assert [row["model"] for row in read(table)] == ["roi", "local"]
        for row in read(table):
            assert 0 < float(row["brain_age"]) < 120
            assert row["age"] == shown
            assert (row["gap"] == "n/a") == (shown == "n/a")
            assert note in row["note"]


def test_another_seed_redoes_and_says_why(one):
    dry = app(one.bids, one.out, "participant", one.work, "--skip-bids-validation", "--random-seed", "7", "--dry-run")
    assert "RandomSeed" in dry.said
    forced = app(one.bids, one.out, "participant", one.work, "--skip-bids-validation", "--force", "--dry-run")
    assert "--force" in forced.said


def test_bad_scans_fail_alone_with_a_reason_each(one, tmp_path):
    bids = tmp_path / "bids"
    shutil.copytree(one.bids, bids)
    (source,) = list(bids.glob("sub-*/**/*_T1w.nii.gz"))[:1]
    harmed = {"truncated": source.read_bytes()[:20000], "empty": b"", "nogzip": b"no image at all"}
    for name, content in harmed.items():
        target = bids / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz"
        target.parent.mkdir(parents=True)
        target.write_bytes(content)
    zeros = bids / "sub-zeros" / "anat" / "sub-zeros_T1w.nii.gz"
    zeros.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((90, 90, 90), np.float32), np.diag([2, 2, 2, 1])), zeros)
    (bids / "sub-none" / "func").mkdir(parents=True)
    done = app(bids, one.out, "participant", one.work, "--skip-bids-validation")
    assert done.code == 1
    assert "Traceback" not in done.said
    for name in (*harmed, "zeros"):
        lines = [line for line in done.said.splitlines() if f"sub-{name}_T1w.nii.gz:" in line]
        assert len(lines) == 1, done.said
        assert not list(one.out.rglob(f"sub-{name}_brainage.*"))
    assert "sub-none" in done.said
    assert "4 failed" in done.said.splitlines()[-1]


def stopped(words: list[str], work: Path, stage: str, how: signal.Signals) -> tuple[int, str]:
    """Start the app, stop it once a stage is done; its exit code and what it said."""
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background job ignores
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heeded)
    deadline = time.monotonic() + 180
    while not list(work.rglob(f"{stage}/result_{stage}.pklz")) and time.monotonic() < deadline:
        time.sleep(0.2)
    if how == signal.SIGKILL:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    said = process.communicate(timeout=120)[1]
    deadline = time.monotonic() + 10
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(process.pid), "a worker outlives the app"
    return process.returncode, said


def alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stopped_run_is_finished_by_the_next_with_equal_results(one, tmp_path):
    """Stopped by the system, by Ctrl-C and by a kill, each further on: nothing is half-written, nothing is lost."""
    out, work = tmp_path / "out", tmp_path / "work"
    options = ["--skip-bids-validation", "--nprocs", "1"]
    words = [
        sys.executable,
        "-m",
        "bids_brainage.cli",
        str(one.bids),
        str(out),
        "participant",
        "-w",
        str(work),
        *options,
    ]
    codes = {}
    for how, stage in ((signal.SIGTERM, "conform"), (signal.SIGINT, "brain"), (signal.SIGKILL, "n4")):
        codes[how], said = stopped(words, work, stage, how)
        assert "Traceback" not in said
        assert ("the next run goes on from there" in said) == (how != signal.SIGKILL)
        assert not list(out.rglob("*_brainage.*"))
    assert codes == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
    again = app(one.bids, out, "participant", work, *options)
    assert again.code == 0, again.said
    (first,), (second,) = one.out.rglob("sub-*_brainage.tsv"), out.rglob("sub-*_brainage.tsv")
    a, b = read(first)[0], read(second)[0]
    assert float(a["brain_age"]) == pytest.approx(float(b["brain_age"]), abs=0.5)
    assert not list(out.rglob(".*.nii.gz"))


def test_left_is_left(tmp_path):
    """A ventricle that was enlarged on one side comes out large on that side, however the voxels are stored."""
    from bids_brainage.simulate.cohort import Person, Visit, write_scans

    planted = Person("left", "F", 3, planted={"left_lateral_ventricle": 2.5})
    bids = write_scans(tmp_path / "bids", [Visit(planted, 60.0, seed, run=f"{seed}") for seed in (1, 2)], seed=5)
    (first, second) = sorted(bids.glob("sub-left/**/*_T1w.nii.gz"))
    image = nib.load(first)
    flipped = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine @ flip(image.shape[0]))
    nib.save(flipped, second)
    done = app(bids, tmp_path / "out", "participant", tmp_path / "work", "--device", "cpu")
    assert done.code == 0, done.said
    for path in (tmp_path / "out").rglob("*_desc-muse_volumes.tsv"):
        volumes = {row["name"]: float(row["volume_mm3"]) for row in read(path)}
        assert volumes["LateralVentricle_L"] > 1.5 * volumes["LateralVentricle_R"], path.name
        labels = nib.as_closest_canonical(nib.load(path.with_name(path.name.replace("volumes.tsv", "dseg.nii.gz"))))
        where = np.argwhere(np.asarray(labels.dataobj) == 52)  # LateralVentricle_L
        assert (labels.affine @ [*where.mean(axis=0), 1])[0] < (labels.affine @ [*other_side(labels), 1])[0]


def flip(size):
    """Affine of the first axis stored the other way round."""
    matrix = np.diag([-1.0, 1.0, 1.0, 1.0])
    matrix[0, 3] = size - 1
    return matrix


def other_side(labels):
    """Middle of the right lateral ventricle, voxels."""
    return np.argwhere(np.asarray(labels.dataobj) == 51).mean(axis=0)
