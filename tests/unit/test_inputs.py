"""Datasets of empty files to scans."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import make_dataset, snapshot, t1w, tsv, write

from bids_brainage.bids.filters import read_filter
from bids_brainage.bids.index import parse_name
from bids_brainage.bids.inputs import acquisition, find_scans
from bids_brainage.bids.validate import Issue, ValidatorError, issues, summary, validate
from bids_brainage.core.errors import UsageError


def stems(root: Path, **options: object) -> list[str]:
    return [scan.stem for scan in find_scans(root, **options).scans]


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    files = [t1w(s, v, f"run-{r}") for s in ("01", "1", "A2") for v in ("pre", "post") for r in ("01", "2")]
    return make_dataset(tmp_path / "ds", [*files, "sub-03/anat/sub-03_T2w.nii.gz", "derivatives/x/" + t1w("09")])


def test_every_image_is_a_scan_with_all_entities_as_written(sessions: Path) -> None:
    found = find_scans(sessions)
    assert len(found.scans) == 12
    assert [s.path for s in found.scans] == sorted(s.path for s in found.scans)
    assert [s.stem for s in found.scans][:4] == [
        f"sub-01_ses-{v}_run-{r}" for v in ("post", "pre") for r in ("01", "2")
    ]
    assert dict(found.scans[0].entities) == {"sub": "01", "ses": "post", "run": "01"}
    assert found.skipped == [("sub-03", "no T1w image")]
    assert found.broken == []


def test_both_extensions_and_all_entities(tmp_path: Path) -> None:
    name = "sub-01_acq-b_ce-gd_rec-x_run-007_part-mag_T1w.nii"
    root = make_dataset(tmp_path / "ds", [f"sub-01/anat/{name}", t1w("02"), "sub-02/anat/sub-02_T1w.nii"])
    found = find_scans(root)
    assert [s.path.name for s in found.scans] == [name, "sub-02_T1w.nii.gz"]
    assert found.scans[0].stem == "sub-01_acq-b_ce-gd_rec-x_run-007_part-mag"
    assert found.scans[0].flags == ("contrast_enhanced",)
    assert found.skipped == [("sub-02/anat/sub-02_T1w.nii", "sub-02_T1w.nii.gz has the same name and is taken")]


def test_parts_other_than_magnitude_and_derivatives_are_skipped_by_name(tmp_path: Path) -> None:
    rests = ("part-mag", "part-phase", "part-real", "part-imag", "desc-preproc", "space-MNI")
    root = make_dataset(tmp_path / "ds", [*(t1w("01", rest=r) for r in rests), t1w("02", rest="copy")])
    found = find_scans(root)
    assert [s.stem for s in found.scans] == ["sub-01_part-mag"]
    reasons = dict(found.skipped)
    assert "phase" in reasons["sub-01/anat/sub-01_part-phase_T1w.nii.gz"]
    assert "derivative" in reasons["sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"]
    assert "not a BIDS name" in reasons["sub-02/anat/sub-02_copy_T1w.nii.gz"]
    assert len(found.skipped) == 7  # five images, sub-02's one, and sub-02 itself


def test_reconstructions_of_one_acquisition_are_known(tmp_path: Path) -> None:
    files = [t1w("01"), t1w("01", rest="rec-norm"), t1w("02", rest="rec-b_run-1"), t1w("02", rest="rec-a_run-1")]
    root = make_dataset(tmp_path / "ds", [*files, t1w("02", rest="rec-a_run-2")])
    flags = {s.stem: s.flags for s in find_scans(root).scans}
    assert flags["sub-01"] == ()
    assert flags["sub-01_rec-norm"] == ("rec_variant",)
    assert flags["sub-02_rec-a_run-1"] == ()
    assert flags["sub-02_rec-b_run-1"] == ("rec_variant",)
    assert flags["sub-02_rec-a_run-2"] == ()
    assert acquisition("sub-01_rec-norm") == acquisition("sub-01") == "sub-01"


def test_dangling_links_and_annex_pointers_are_broken(tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path / "ds", [t1w("01"), t1w("04")], extra={t1w("02"): "/annex/objects/MD5E-s1--ab.nii.gz\n"}
    )
    (root / t1w("01", rest="run-2")).symlink_to("../../.git/annex/objects/nowhere.nii.gz")
    (root / "sub-03").symlink_to("/nowhere/sub-03")
    found = find_scans(root)
    assert [s.stem for s in found.scans] == ["sub-01", "sub-04"]
    assert {p.relative_to(root).as_posix() for p, _ in found.broken} == {t1w("01", rest="run-2"), t1w("02"), "sub-03"}
    assert all("get" in reason for _, reason in found.broken)
    assert found.skipped == []
    assert find_scans(root, participant_label=["04"]).broken == []


def test_links_that_lead_somewhere_are_followed(tmp_path: Path) -> None:
    elsewhere = make_dataset(tmp_path / "elsewhere", [t1w("01"), "store/x.nii.gz"])
    root = make_dataset(tmp_path / "ds", ["sub-02/anat/notes.txt"])
    (root / "sub-01").symlink_to(elsewhere / "sub-01")
    (root / t1w("02")).symlink_to(elsewhere / "store/x.nii.gz")
    assert stems(root) == ["sub-01", "sub-02"]


def test_name_that_contradicts_its_folder_is_broken(tmp_path: Path) -> None:
    files = ["sub-01/anat/sub-02_T1w.nii.gz", "sub-03/ses-a/anat/sub-03_T1w.nii.gz"]
    found = find_scans(make_dataset(tmp_path / "ses-x" / "ds", files))
    assert found.scans == []
    assert len(found.broken) == 2
    assert "sub-02" in found.broken[0][1]


def test_folder_that_cannot_be_listed_is_broken(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01"), t1w("02"), t1w("03")])
    for locked in (root / "sub-02/anat", root / "sub-03"):
        locked.chmod(0)
    try:
        if os.access(root / "sub-03", os.R_OK):
            pytest.skip("this user may read everything")
        found = find_scans(root)
        assert find_scans(root, database_dir=tmp_path / "index") == found
    finally:
        for locked in (root / "sub-02/anat", root / "sub-03"):
            locked.chmod(0o755)
    assert [s.stem for s in found.scans] == ["sub-01"]
    assert [p.name for p, _ in found.broken] == ["sub-02", "sub-03"]


def test_broken_images_that_were_not_asked_for_do_not_count(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01", "a")])
    (root / "sub-01/ses-b/anat").mkdir(parents=True)
    (root / t1w("01", "b", "run-1")).symlink_to("/nowhere")
    assert len(find_scans(root).broken) == 1
    assert find_scans(root, session_label=["a"]).broken == []
    assert find_scans(root, bids_filter={"t1w": {"run": None}}).broken == []
    assert len(find_scans(root, bids_filter={"t1w": {"run": 1}}).broken) == 1


@pytest.mark.parametrize("label", ["A2", "sub-A2"])
def test_participant_labels_with_and_without_prefix(sessions: Path, label: str) -> None:
    assert {s.subject for s in find_scans(sessions, participant_label=[label]).scans} == {"A2"}


def test_a_label_is_not_its_number(sessions: Path) -> None:
    assert {s.subject for s in find_scans(sessions, participant_label=["1"]).scans} == {"1"}


def test_session_labels(sessions: Path) -> None:
    found = find_scans(sessions, session_label=["ses-pre"])
    assert {s.session for s in found.scans} == {"pre"}
    assert found.skipped == [("sub-03", "no T1w image among the chosen sessions and filters")]


@pytest.mark.parametrize(
    ("option", "wanted"),
    [("participant_label", ["01", "sub-7"]), ("session_label", ["never"]), ("session_label", ["PRE"])],
)
def test_unknown_labels_are_named_with_what_is_there(sessions: Path, option: str, wanted: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        find_scans(sessions, **{option: wanted})
    message = str(caught.value)
    assert wanted[-1].removeprefix("sub-") in message
    assert "A2" in message if option == "participant_label" else "post, pre" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"acquisition": "mprage"}, ["sub-01_acq-mprage_run-01", "sub-01_acq-mprage_run-2"]),
        ({"acq": ["mprage", "flash"], "run": 1}, ["sub-01_acq-flash_run-1", "sub-01_acq-mprage_run-01"]),
        ({"run": "1"}, ["sub-01_acq-flash_run-1", "sub-01_acq-mprage_run-01"]),
        ({"run": "02"}, ["sub-01_acq-mprage_run-2"]),
        ({"run": None, "reconstruction": None}, ["sub-01"]),
        ({"acq": [None, "flash"]}, ["sub-01", "sub-01_acq-flash_run-1", "sub-01_rec-x_run-3"]),
        (
            {"acq": "*", "rec": "Query.NONE"},
            ["sub-01_acq-flash_run-1", "sub-01_acq-mprage_run-01", "sub-01_acq-mprage_run-2"],
        ),
        ({"acq": "^(mp|fl)", "regex_search": True, "run": "2"}, ["sub-01_acq-mprage_run-2"]),
        ({"suffix": "T1w", "datatype": "anat", "extension": [".nii.gz"], "rec": "x"}, ["sub-01_rec-x_run-3"]),
        ({"session": "sub"}, []),
    ],
)
def test_filter_file_of_fmriprep(tmp_path: Path, query: dict, expected: list[str]) -> None:
    rests = ("", "acq-mprage_run-01", "acq-mprage_run-2", "acq-flash_run-1", "rec-x_run-3")
    root = make_dataset(tmp_path / "ds", [t1w("01", rest=r) for r in rests])
    assert stems(root, bids_filter={"t1w": query, "bold": {"task": "rest"}}) == sorted(expected)


@pytest.mark.parametrize(
    "content",
    [
        {"acquisition": "mprage"},
        {"t1w": {"acquisitoin": "mprage"}},
        {"t1w": ["mprage"]},
        [],
        {"mprage": {}},
        {"t1w": {"run": [{}]}},
        {"t1w": {"acq": "(", "regex_search": True}},
    ],
)
def test_filter_that_means_nothing_is_refused(content: object) -> None:
    with pytest.raises(UsageError, match="BIDS filter"):
        read_filter(content)


def test_dataset_description_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        find_scans(tmp_path / "nothing")
    (tmp_path / "ds").mkdir()
    with pytest.raises(UsageError, match="is missing"):
        find_scans(tmp_path / "ds")
    for text in ("{", "[]"):
        write(tmp_path / "ds" / "dataset_description.json", text)
        with pytest.raises(UsageError, match=r"dataset_description\.json") as caught:
            find_scans(tmp_path / "ds")
        assert "\n" not in str(caught.value)
    write(tmp_path / "ds" / "dataset_description.json", {"Name": "x"})
    with pytest.raises(UsageError, match=r"no sub-\* folder"):
        find_scans(tmp_path / "ds")


def test_derivative_dataset_is_refused_unless_it_holds_raw_images(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01", rest="desc-preproc")], kind="derivative")
    with pytest.raises(UsageError, match="--derivatives"):
        find_scans(root)
    write(root / t1w("02"), "")
    assert stems(root) == ["sub-02"]


def test_nothing_is_written_into_the_dataset(sessions: Path, tmp_path: Path) -> None:
    before = snapshot(sessions)
    find_scans(sessions)
    find_scans(sessions, database_dir=tmp_path / "index")
    assert snapshot(sessions) == before


def test_saved_index_follows_the_dataset(sessions: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    first = stems(sessions, database_dir=index)
    database = index / "bids-brainage" / "layout_index.sqlite"
    made = database.stat().st_ino
    assert stems(sessions, database_dir=index) == first == stems(sessions)
    assert database.stat().st_ino == made
    write(sessions / t1w("03", "new"), "")
    (sessions / t1w("01", "pre", "run-2")).unlink()
    changed = stems(sessions, database_dir=index)
    assert changed == stems(sessions)
    assert "sub-03_ses-new" in changed
    assert "sub-01_ses-pre_run-2" not in changed
    write(sessions / t1w("03", "newer"), "")
    assert stems(sessions, database_dir=index, participant_label=["03"]) == ["sub-03_ses-new", "sub-03_ses-newer"]
    assert sorted(p.name for p in database.parent.iterdir()) == ["layout_index.sqlite"]


@pytest.fixture(scope="module")
def looked_at() -> Iterator[list[str]]:
    """Folders that are listed; a hook stays until Python ends, so it is put to rest."""
    seen: list[str] = []
    active = [True]

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in ("os.listdir", "os.scandir"):
            seen.append(str(arguments[0]))

    sys.addaudithook(note)
    yield seen
    active.clear()


@pytest.mark.parametrize("index", [None, "index"])
def test_only_the_folders_of_chosen_participants_are_listed(
    tmp_path: Path, looked_at: list[str], index: str | None
) -> None:
    files = [t1w(f"{n:03d}", "a" if n % 2 else "") for n in range(300)]
    root = make_dataset(tmp_path / "ds", files)
    looked_at.clear()
    place = tmp_path / index if index else None
    found = find_scans(root, participant_label=["007", "008"], database_dir=place)
    assert [scan.stem for scan in found.scans] == ["sub-007_ses-a", "sub-008"]
    inside = [folder for folder in looked_at if folder.startswith(str(root / "sub-"))]
    assert {Path(folder).relative_to(root).parts[0] for folder in inside} == {"sub-007", "sub-008"}
    assert len(inside) <= 5
    assert looked_at.count(str(root)) <= 3


def test_chosen_participants_have_the_scans_that_all_have(sessions: Path) -> None:
    everyone = find_scans(sessions)
    labels = [path.name for path in sessions.glob("sub-*")]
    assert find_scans(sessions, participant_label=labels) == everyone
    for label in labels:
        own = [scan for scan in everyone.scans if f"sub-{scan.subject}" == label]
        assert find_scans(sessions, participant_label=[label]).scans == own


def test_saved_index_of_another_place_or_damaged_is_made_anew(sessions: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    before = stems(sessions, database_dir=index)
    moved = sessions.rename(tmp_path / "moved")
    assert stems(moved, database_dir=index) == before
    database = index / "bids-brainage" / "layout_index.sqlite"
    database.write_bytes(b"not a database")
    assert stems(moved, database_dir=index) == before
    sqlite3.connect(database).execute("select count(*) from files").fetchone()


def test_index_of_another_tool_is_left_alone(sessions: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "index" / "layout_index.sqlite", "of another tool")
    assert len(stems(sessions, database_dir=tmp_path / "index")) == 12
    assert other.read_text() == "of another tool"


def test_index_that_cannot_be_saved(sessions: Path, tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    with pytest.raises(UsageError, match="--bids-database-dir"):
        find_scans(sessions, database_dir=tmp_path / "file")


def test_ages_come_with_scans(tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path / "ds",
        [t1w("01", "a"), t1w("01", "b"), t1w("02")],
        participants=tsv("participant_id age sex", "sub-01 30 F", "02 40.25 1"),
        extra={"sub-01/sub-01_sessions.tsv": tsv("session_id age", "ses-b 33.5")},
    )
    found = find_scans(root)
    assert [s.age.years for s in found.scans] == [30.0, 33.5, 40.25]
    assert [s.flags for s in found.scans] == [("age_not_by_session",), (), ()]
    assert [s.sex for s in found.scans] == ["F", "F", None]
    assert [(who, "'1'" in note) for who, note in found.notes] == [("sub-02", True)]


@pytest.mark.parametrize(
    "name", ["T1w.nii.gz", "sub-01_ses-_T1w.nii", "sub-01_sub-02_T1w.nii", "ses-1_sub-1_T1w.nii", "sub-01_.nii"]
)
def test_names_that_are_not_bids(name: str) -> None:
    assert parse_name(name) is None


def test_real_dataset_is_found_and_valid(shared_data: Path) -> None:
    found = find_scans(shared_data / "ds-t1w")
    assert len(found.scans) == 14
    assert found.skipped == [("sub-flair", "no T1w image")]
    assert sum(s.age.years is None for s in found.scans) == 2
    assert validate(shared_data / "ds-t1w") == []


def test_errors_of_the_validator_are_told_in_few_lines(tmp_path: Path) -> None:
    lines = validate(make_dataset(tmp_path / "ds", [t1w("01"), "strange.txt"]))
    assert "errors" in lines[0]
    assert any("NOT_INCLUDED in 1 places, e.g. /strange.txt" in line for line in lines)
    assert all("\n" not in line for line in lines)
    many = [Issue(f"CODE{i}", "error", f"/f{i}", "") for i in range(9)] + [Issue("SOFT", "warning", "/w", "")]
    assert len(summary(many)) == 7
    assert summary(many[-1:]) == []


def test_validator_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ValidatorError, match="took longer"):
        issues(make_dataset(tmp_path / "ds", [t1w("01")]), timeout_s=0.001)
    assert "was not validated" in validate(tmp_path / "ds", timeout_s=0.001)[0]


def test_a_folder_that_is_a_link_to_nowhere_is_told_beside_images_that_are_there(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01", "a"), t1w("02", "a"), "sub-02/ses-c/func/x"])
    (root / "sub-01" / "ses-b").symlink_to("/nowhere/ses-b")
    (root / "sub-02" / "ses-c" / "anat").symlink_to("/nowhere/anat")
    for chosen in ((), ("01", "02")):
        found = find_scans(root, participant_label=chosen)
        assert [scan.stem for scan in found.scans] == ["sub-01_ses-a", "sub-02_ses-a"]
        assert [path.relative_to(root).as_posix() for path, _ in found.broken] == ["sub-01/ses-b", "sub-02/ses-c/anat"]
        assert all("link to nowhere" in why for _, why in found.broken)
    assert find_scans(root, session_label=["a"]).broken == []
    assert find_scans(root, bids_filter={"t1w": {"session": "a"}}).broken == []
    (root / "sub-03" / "ses-x" / "anat").mkdir(parents=True)
    (root / "sub-03" / "ses-y").symlink_to("/nowhere/ses-y")
    found = find_scans(root, session_label=["x"], participant_label=["03"])
    assert (found.broken, [who for who, _ in found.skipped]) == ([], ["sub-03"])


def test_a_damaged_sidecar_of_derivatives_concerns_its_scan_alone(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "ds", [t1w("01"), t1w("02")])
    masks = [f"sub-{label}/anat/sub-{label}_desc-brain_mask.nii.gz" for label in ("01", "02")]
    reused = make_dataset(tmp_path / "prep", masks, kind="derivative")
    (reused / "sub-01" / "anat" / "sub-01_desc-brain_mask.json").write_text("{")
    found = find_scans(root, derivatives={"prep": reused})
    assert [scan.stem for scan in found.scans] == ["sub-02"]
    ((path, why),) = found.broken
    assert path.name == "sub-01_T1w.nii.gz"
    assert "sub-01_desc-brain_mask.json" in why
