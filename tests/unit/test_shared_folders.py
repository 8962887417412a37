"""Processes that share folders leave each other's files alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bids_brainage.bids import outputs
from bids_brainage.core.files import atomic, refresh, sweep, write_text
from bids_brainage.core.types import Age, Scan


def scan(label, rest=""):
    entities = {"sub": label} | ({"run": rest} if rest else {})
    name = "_".join([*(f"{key}-{value}" for key, value in entities.items()), "T1w.nii.gz"])
    return Scan(Path("/bids") / f"sub-{label}" / "anat" / name, entities, Age(60.0), "F")


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    folder = tmp_path / "sub-1" / "anat"
    own, other = folder / "sub-1_x.nii.gz", folder / "sub-10_dseg.nii.gz"
    temporary = {}
    for path in (own, other):
        with atomic(path) as name:
            temporary[path] = name
            name.write_text("first")
        temporary[path].write_text("half")  # as a kill leaves it
        path.write_text("whole")
    outputs.begin([scan("1")], tmp_path)
    assert not temporary[own].exists()
    assert temporary[other].read_text() == "half"
    assert own.read_text() == other.read_text() == "whole"
    sweep(tmp_path / "none", "x")


def test_the_page_s_leftovers_are_those_of_one_participant(tmp_path):
    for name in (".0123456789ab.sub-1.html", ".0123456789ab.sub-10.html", ".bidsignore"):
        write_text(tmp_path / name, "x")
    outputs.begin([scan("1")], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".0123456789ab.sub-10.html", ".bidsignore"]


def test_the_output_folder_is_listed_once_however_many_scans_are_done(tmp_path, monkeypatch):
    listed = []
    listing = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, *rest: listed.append(self) or listing(self, *rest))
    names = [f"{number:02d}" for number in range(20)]
    for name in names:
        write_text(tmp_path / f".0123456789ab.sub-{name}.html", "x")
    outputs.begin(map(scan, names), tmp_path)
    assert listed.count(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_says_the_same_is_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    assert refresh(path, "one")
    before = path.stat().st_ino
    assert not refresh(path, "one")
    assert path.stat().st_ino == before
    assert refresh(path, "two")
    path.write_bytes(b"\xff")
    assert refresh(path, "two")
    assert path.read_text() == "two"


def test_many_writers_leave_one_whole_file(tmp_path):
    path, texts = tmp_path / "a.txt", [letter * 200_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda text: (refresh(path, text), path.read_text())[1], texts * 5))
    assert set(seen) <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
