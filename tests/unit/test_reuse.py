"""Masks and preprocessed images of other tools, in the layouts of fMRIPrep and sMRIPrep."""

from pathlib import Path

import pytest
from trees import make_dataset, t1w, write

from bids_brainage.bids.inputs import find_scans
from bids_brainage.bids.reuse import Reuse, parse_derivatives
from bids_brainage.core.errors import UsageError


def look(tmp_path: Path, raw: list[str], derived: dict[str, object], **more: dict[str, object]) -> dict[str, Reuse]:
    """What is reused for each scan, with the notes of the dataset."""
    root = make_dataset(tmp_path / "ds", raw)
    places = {}
    for name, files in {"fmriprep": derived, **more}.items():
        places[name] = make_dataset(tmp_path / name, kind="derivative", extra=files)
    dataset = find_scans(root, derivatives=places)
    return {
        s.stem: Reuse(
            s.mask, s.preproc, s.preproc_stripped, tuple(note for who, note in dataset.notes if who == s.stem)
        )
        for s in dataset.scans
    }


def name_of(path: Path | None) -> str | None:
    return path and path.name


def both(stem: str, folder: str, sidecar: object = None) -> dict[str, object]:
    files: dict[str, object] = {
        f"{folder}/{stem}_desc-brain_mask.nii.gz": "",
        f"{folder}/{stem}_desc-preproc_T1w.nii.gz": "",
    }
    return files | ({f"{folder}/{stem}_desc-preproc_T1w.json": sidecar} if sidecar is not None else {})


def test_one_image_of_one_person(tmp_path: Path) -> None:
    derived = both("sub-01", "sub-01/anat", {"SkullStripped": False})
    derived["sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz"] = ""
    derived["sub-01/anat/sub-01_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz"] = ""
    derived["sub-01/anat/sub-01_desc-ribbon_mask.nii.gz"] = ""
    derived["sub-01/anat/sub-01_label-cortex_desc-brain_mask.nii.gz"] = ""
    found = look(tmp_path, [t1w("01"), t1w("02")], derived)
    assert name_of(found["sub-01"].mask) == "sub-01_desc-brain_mask.nii.gz"
    assert name_of(found["sub-01"].preproc) == "sub-01_desc-preproc_T1w.nii.gz"
    assert not found["sub-01"].stripped
    assert found["sub-01"].notes == ()
    assert found["sub-02"][:3] == (None, None, False)
    assert found["sub-02"].notes == ("nothing to reuse in fmriprep",)


def test_skull_stripped_is_told(tmp_path: Path) -> None:
    assert look(tmp_path, [t1w("01")], both("sub-01", "sub-01/anat", {"SkullStripped": True}))["sub-01"].stripped


def test_runs_and_sessions_find_their_own(tmp_path: Path) -> None:
    raw = [t1w("01", s, f"acq-x_run-{r}") for s in ("a", "b") for r in ("01", "02")]
    derived = {}
    for session in ("a", "b"):
        for run in ("1", "2"):
            derived |= both(f"sub-01_ses-{session}_acq-x_run-{run}", f"sub-01/ses-{session}/anat")
    found = look(tmp_path, raw, derived)
    assert {k: name_of(v.mask) for k, v in found.items()} == {
        f"sub-01_ses-{s}_acq-x_run-0{r}": f"sub-01_ses-{s}_acq-x_run-{r}_desc-brain_mask.nii.gz"
        for s in "ab"
        for r in "12"
    }


def test_single_image_whose_entities_were_dropped(tmp_path: Path) -> None:
    found = look(tmp_path, [t1w("01", "a", "acq-x_run-1")], both("sub-01", "sub-01/anat"))
    assert name_of(found["sub-01_ses-a_acq-x_run-1"].preproc) == "sub-01_desc-preproc_T1w.nii.gz"


@pytest.mark.parametrize("sidecar", [None, {"Sources": ["bids:raw:" + t1w("01", "a"), "bids:raw:" + t1w("01", "b")]}])
def test_merged_sessions_belong_to_none_of_them(tmp_path: Path, sidecar: object) -> None:
    found = look(tmp_path, [t1w("01", "a"), t1w("01", "b")], both("sub-01", "sub-01/anat", sidecar))
    for one in found.values():
        assert one[:2] == (None, None)
        assert any("T1w images" in note for note in one.notes)


def test_merged_runs_of_a_session(tmp_path: Path) -> None:
    raw = [t1w("01", "a", "run-1"), t1w("01", "a", "run-2"), t1w("01", "b")]
    found = look(tmp_path, raw, both("sub-01_ses-a", "sub-01/ses-a/anat") | both("sub-01_ses-b", "sub-01/ses-b/anat"))
    assert found["sub-01_ses-a_run-1"].mask is None
    assert name_of(found["sub-01_ses-b"].mask) == "sub-01_ses-b_desc-brain_mask.nii.gz"


def test_image_without_entities_beside_a_variant_may_be_merged(tmp_path: Path) -> None:
    found = look(tmp_path, [t1w("01"), t1w("01", rest="rec-norm")], both("sub-01", "sub-01/anat"))
    assert [one.mask for one in found.values()] == [None, None]


def test_a_named_source_decides(tmp_path: Path) -> None:
    one = {"Sources": ["bids:raw:" + t1w("01", rest="rec-norm")], "SkullStripped": False}
    derived = both("sub-01", "sub-01/anat", one)
    derived["sub-01/anat/sub-01_desc-brain_mask.json"] = {
        "Sources": ["bids::sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"]
    }
    found = look(tmp_path, [t1w("01"), t1w("01", rest="rec-norm")], derived)
    assert found["sub-01"][:2] == (None, None)
    assert name_of(found["sub-01_rec-norm"].mask) == "sub-01_desc-brain_mask.nii.gz"
    assert name_of(found["sub-01_rec-norm"].preproc) == "sub-01_desc-preproc_T1w.nii.gz"


def test_old_raw_sources_count(tmp_path: Path) -> None:
    sidecar = {"RawSources": ["sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"]}
    derived = {"sub-01/anat/sub-01_desc-brain_mask.nii.gz": "", "sub-01/anat/sub-01_desc-brain_mask.json": sidecar}
    found = look(tmp_path, [t1w("01", "a"), t1w("01", "b")], derived)
    assert name_of(found["sub-01_ses-a"].mask) == "sub-01_desc-brain_mask.nii.gz"
    assert found["sub-01_ses-b"].mask is None


@pytest.mark.parametrize("name", ["space-T1w_desc-brain_mask", "label-brain_mask", "space-orig_label-brain_mask"])
def test_other_names_of_a_native_mask(tmp_path: Path, name: str) -> None:
    found = look(tmp_path, [t1w("01")], {f"sub-01/anat/sub-01_{name}.nii": ""})
    assert name_of(found["sub-01"].mask) == f"sub-01_{name}.nii"


def test_two_that_fit_are_said_and_neither_is_used(tmp_path: Path) -> None:
    names = ("desc-brain_mask", "label-brain_mask")
    found = look(tmp_path, [t1w("01")], {f"sub-01/anat/sub-01_{n}.nii.gz": "" for n in names})
    assert found["sub-01"].mask is None
    assert "both fit as brain mask" in found["sub-01"].notes[0]


def test_first_dataset_that_has_it_wins(tmp_path: Path) -> None:
    mask = {"sub-01/anat/sub-01_desc-brain_mask.nii.gz": ""}
    found = look(tmp_path, [t1w("01")], mask, smriprep=both("sub-01", "sub-01/anat"))
    assert found["sub-01"].mask == tmp_path / "fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert found["sub-01"].preproc == tmp_path / "smriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"


def test_dangling_mask_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "fmriprep/sub-01/anat").mkdir(parents=True)
    (tmp_path / "fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz").symlink_to("/nowhere")
    found = look(tmp_path, [t1w("01")], {})
    assert found["sub-01"].mask is None
    assert "link to nowhere" in found["sub-01"].notes[0]


def test_label_that_begins_alike_is_another_person(tmp_path: Path) -> None:
    found = look(tmp_path, [t1w("1"), t1w("01")], both("sub-01", "sub-01/anat"))
    assert found["sub-1"].mask is None
    assert found["sub-01"].mask is not None


def test_damaged_sidecar_is_named(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "raw", [t1w("01")])
    prep = make_dataset(tmp_path / "prep-x", kind="derivative", extra=both("sub-01", "sub-01/anat", "{"))
    ((path, why),) = find_scans(root, derivatives={"prep": prep}).broken
    assert path.name == "sub-01_T1w.nii.gz"
    assert "desc-preproc_T1w.json" in why


def test_arguments(tmp_path: Path) -> None:
    place = make_dataset(tmp_path / "my.prep", ["sub-01/x"], kind="derivative")
    assert parse_derivatives((f"fmriprep={place}",)) == {"fmriprep": place}
    assert parse_derivatives((str(place),)) == {"myprep": place}
    assert parse_derivatives(()) == {}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "")
    for wrong in (f"a={tmp_path}/none", f"a={tmp_path}/file", f"a={tmp_path}/empty", f"={place}", f"a b={place}"):
        with pytest.raises(UsageError, match="--derivatives"):
            parse_derivatives((wrong,))
    with pytest.raises(UsageError, match="twice"):
        parse_derivatives((f"a={place}", f"a={place}"))


def test_a_dataset_cannot_take_the_name_of_the_scans_own(tmp_path: Path) -> None:
    (tmp_path / "raw" / "sub-01").mkdir(parents=True)
    for value in (f"raw={tmp_path / 'raw'}", str(tmp_path / "raw")):
        with pytest.raises(UsageError, match="that of the dataset itself"):
            parse_derivatives((value,))
