"""Sites, diseases, base anatomies, and tissue maps of `brainage simulate`."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core.errors import UsageError
from bids_brainage.simulate import aging, anatomy, bases, cohort, disease, local, scanner, variety
from bids_brainage.simulate.person import Person, Visit, head_of
from bids_brainage.simulate.sites import SITES, profiles
from bids_brainage.toolbox import main

DATA = Path(__file__).parents[3] / "shared" / "data"
COARSE = {"resolution": 4.0, "noise": 0.0}


@pytest.fixture(scope="module")
def head(base) -> scanner.Head:
    return head_of(Person("x", "F", 2), 60, base, aging.fractions(base, 4))


def scan(head, **options) -> scanner.Acquisition:
    return scanner.acquire(head, scanner.Protocol(**COARSE, **options), np.random.default_rng(1))


def test_thick_slices_keep_the_head_in_its_place(head) -> None:
    thin, thick = scan(head), scan(head, slices=3)
    assert thick.affine[2, 2] == 12
    assert thick.data.shape[2] == thin.data.shape[2] // 3
    assert thick.labels.shape == thick.data.shape == thick.position.shape[1:]
    centre = [nib.affines.apply_affine(s.affine, np.argwhere(s.labels == 16)).mean(0) for s in (thin, thick)]
    assert centre[0] == pytest.approx(centre[1], abs=1.5)
    assert thick.volumes == pytest.approx(thin.volumes, rel=0.02)


def test_a_short_field_of_view_lacks_the_top(head) -> None:
    whole, short = scan(head), scan(head, cut=40.0)
    assert whole.data.shape[2] - short.data.shape[2] == 10
    assert np.array_equal(whole.data[..., :-10], short.data)
    assert np.array_equal(whole.volumes, short.volumes)
    assert (whole.labels[..., -10:] > 0).any()


def test_motion_makes_ghosts_along_y_and_leaves_the_head_there(head) -> None:
    still = scan(head).data.astype(float)
    rng = np.random.default_rng(0)
    ghosts = scanner.moved(still.astype(np.float32), 1.0, rng)
    air = (slice(2, -2), slice(0, 2), slice(-25, -5))
    assert ghosts[air].mean() > 3 * still[air].mean() + 0.5
    both = np.fft.ifftn(np.fft.fftn(still) * np.conj(np.fft.fftn(ghosts))).real
    assert np.unravel_index(both.argmax(), both.shape) == (0, 0, 0)


@given(st.integers(0, 2**31))
def test_a_still_head_is_left_as_it_is(seed) -> None:
    image = np.random.default_rng(seed).random((5, 6, 7), dtype=np.float32)
    assert scanner.moved(image, 0.0, np.random.default_rng(0)) == pytest.approx(image, abs=1e-5)


def test_gain_is_a_factor(head) -> None:
    assert scan(head, gain=2.0).data.max() == pytest.approx(2 * scan(head).data.max(), abs=2)


def test_sites_are_named() -> None:
    assert list(profiles("thick, standard")) == ["thick", "standard"]
    assert SITES["standard"].protocol == scanner.Protocol()
    for wrong in ("", "thick,", "nowhere", "thick,thick"):
        with pytest.raises(UsageError, match="--sites"):
            profiles(wrong)


def test_a_disease_is_read() -> None:
    found = disease.read("AD:medial_temporal+15,left_frontal-2.5:0.3")
    assert found == ("AD", {"medial_temporal": 15.0, "left_frontal": -2.5}, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        "AD",
        "AD:thalamus:0.2",
        "AD:thalamus+5:0",
        "AD:thalamus+5:1.5",
        "AD:thalamus+5:x",
        "AD:thalamus+5:",
        "AD::0.5",
        "A D:thalamus+5:0.5",
        "control:thalamus+5:0.5",
        "AD:nowhere+5:0.5",
        "AD:thalamus+99:0.5",
        "AD:thalamus+5,thalamus+6:0.5",
    ],
)
def test_a_senseless_disease_is_refused_in_a_line(text) -> None:
    with pytest.raises(UsageError) as caught:
        disease.read(text)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 40), st.integers(0, 2**31), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_diseases_meet_their_share(n, seed, a, b) -> None:
    plan = [disease.Disease("A", {"thalamus": 5.0}, a), disease.Disease("B", {"frontal": 3.0}, b)]
    people = disease.spread(cohort.people(n, seed), plan, seed)
    groups = [p.group for p in people]
    assert groups.count("A") == round(a * n)
    assert groups.count("B") == min(round(b * n), n - round(a * n))
    assert all(p.offsets == {"A": {"thalamus": 5.0}, "B": {"frontal": 3.0}}.get(p.group, {}) for p in people)


def test_groups_sites_and_ages_stand_in_the_table(tmp_path) -> None:
    persons = disease.spread(cohort.people(4, 1), [disease.Disease("AD", {"hippocampus": 20.0}, 0.5)], 1)
    scans = cohort.visits(persons, 1, (20.0, 30.0), ("standard", "thick"))
    out = cohort.write_scans(tmp_path / "ds", scans, seed=1, resolution=4.0, step=2)
    people = pd.read_csv(out / "participants.tsv", sep="\t")
    assert people["site"].tolist() == ["standard", "standard", "thick", "thick"]
    assert sorted(people["group"]) == ["AD", "AD", "control", "control"]
    assert people["age"].between(19, 31).all()
    thick = nib.load(out / "sub-03" / "anat" / "sub-03_T1w.nii.gz")
    assert sorted(thick.header.get_zooms()) == pytest.approx([4, 4, 12])
    ages = pd.read_csv(out / "derivatives" / "truth" / "brainage.tsv", sep="\t").set_index("participant_id")
    older = (ages["brain_age"] - ages["age"]).groupby(level=0).first() > 0.01
    assert older.tolist() == (people["group"] == "AD").tolist()


@pytest.mark.parametrize(
    "argv",
    [
        ["--ages", "60", "50"],
        ["--ages", "nan", "50"],
        ["--ages", "10", "50"],
        ["--sites", "nowhere"],
        ["--disease", "AD"],
        ["--disease", "A:thalamus+5:0.6", "--disease", "B:thalamus+5:0.6"],
        ["--disease", "A:thalamus+5:0.1", "--disease", "A:thalamus+6:0.1"],
        ["--field", "-1", "20"],
        ["--field", "3", "1"],
        ["--maps-only", "--resolution", "0.5"],
        ["--vary-local", "--field", "3", "20"],
        ["--vary-local", "--disease", "A:thalamus+5:0.1"],
        ["--bases", "."],
    ],
)
def test_senseless_options_are_refused_in_a_line(argv, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "new", *argv]) == 2
    error = capsys.readouterr().err.strip()
    assert error
    assert "\n" not in error
    assert not (tmp_path / "new").exists()


def test_people_vary_around_no_mean_and_come_again_by_the_seed() -> None:
    people = variety.varied(cohort.people(400, 1), 3)
    assert people == variety.varied(cohort.people(400, 1), 3)
    assert people != variety.varied(cohort.people(400, 1), 4)
    gaps = np.array([p.gap for p in people])
    assert abs(gaps.mean()) < 0.8
    assert gaps.std() == pytest.approx(4, abs=0.5)
    assert all(3 <= p.field_sd <= 8 and 15 <= p.field_mm <= 40 for p in people)
    offsets = [p.offsets for p in people if p.offsets]
    assert 0.4 < len(offsets) / len(people) < 0.6
    found = np.concatenate([list(o.values()) for o in offsets])
    assert abs(found.mean()) < 1.5
    for mapping in offsets:
        local.offsets_by_parcel(mapping)


def test_maps_are_written_under_the_apps_names(base, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    visit = Visit(Person("a", "F", 1, offsets={"frontal": 10.0}), 60.0, 1, site="soft")
    out = cohort.write_maps(tmp_path / "ds", [visit], seed=1, spacing=4.0, bases=[base])
    stem = "sub-a_space-MNI152NLin2009aSym_res-4"
    folder = out / "derivatives" / "maps" / "sub-a" / "anat"
    names = {p.name for p in folder.iterdir()}
    maps = {f"{stem}_label-{t}_desc-modulated_probseg.nii.gz" for t in ("GM", "WM")}
    assert names == maps | {f"{stem}_desc-truth_brainagemap{e}" for e in (".nii.gz", ".json")}
    assert not list(out.glob("sub-*"))
    row = pd.read_csv(out / "derivatives" / "maps" / "brainage.tsv", sep="\t").iloc[0]
    assert 61 < row["brain_age"] < 67
    assert "scans 1 of 1" in caplog.text
    assert "label maps that the user gave" in (out / "README").read_text(encoding="utf-8")


def test_a_label_map_comes_back_to_the_template(base, tmp_path) -> None:
    """The template's own brain, turned, shifted and enlarged, is brought back to where it was."""
    reference = bases.reference_of(base)
    labels = np.where(base.labels < 100, base.labels, 0).astype(np.uint8)
    angle = np.deg2rad(12)
    moved = np.eye(4)
    moved[1:3, 1:3] = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved[0, 0], moved[:3, 3] = 0.95, (5, -20, 30)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = anatomy.ORIGIN
    path = tmp_path / "seg.nii.gz"
    nib.save(nib.Nifti1Image(labels, moved @ affine), path)
    found = bases.read_base(path, reference, 2)
    back = bases.align(labels, moved @ affine, reference) @ moved
    corners = np.array([[x, y, z] for x in (-60, 60) for y in (-90, 60) for z in (-40, 70)])
    assert np.abs(nib.affines.apply_affine(back, corners) - corners).max() < 4
    inside = labels > 0
    same = found.labels[inside] == labels[inside]
    assert same.mean() > 0.85
    assert found.standard is not None
    assert np.nanmax(np.abs(np.log(found.standard))) < 0.2


def test_what_is_no_segmentation_is_refused(tmp_path, base) -> None:
    reference = bases.reference_of(base)
    wrong = {
        "neither aseg's nor MUSE's": np.ones((4, 4, 4), np.uint8),
        "is no label map": np.full((4, 4, 4), 0.5, np.float32),
        "has no left_lateral_ventricle": np.resize(np.array([2, 3, 41, 42], np.uint8), (20, 20, 20)),
    }
    for message, values in wrong.items():
        path = tmp_path / "seg.nii.gz"
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
        with pytest.raises(UsageError, match=message):
            bases.read_base(path, reference, 2)
    path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="cannot be read"):
        bases.read_base(path, reference, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ["labelmaps/seg-01.nii.gz", "ds-t1w/derivatives/dlmuse/sub-nichart04/**/*_dseg.nii.gz"]
)
def test_real_heads_become_bases(pattern, base) -> None:
    paths = sorted(DATA.glob(pattern))
    if not paths:
        pytest.skip(f"{DATA / pattern}: the shared data are not there")
    reference = bases.reference_of(base)
    found = bases.read_base(paths[0], reference, 2)
    centres = bases.reference_of(found).centres
    assert np.abs(centres - reference.centres).max() < 15
    assert (found.lobes is not None) == ("dlmuse" in pattern)
    person = Person("x", "M", 5, offsets={"temporal": 10.0})
    aged = cohort.grown(person, 60, found, aging.fractions(found, 4))
    assert np.isfinite(aged.warp.displacement).all()
