"""Nothing half-written stands under a final name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core.bundle import load, save
from bids_brainage.core.errors import BrainAgeError, BundleError, in_a_line
from bids_brainage.core.files import atomic, read_json, sha256, sha256_of, write_json, write_text

CARD = {
    "name": "x", "architecture": "roi", "version": "1", "needs": ["muse_volumes"], "training": {"kind": "real"},
    "licence": "CC0-1.0", "metrics": {}, "not_meant_for": "anything",
}  # fmt: skip


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = write_text(tmp_path / "a" / "table.tsv", "old")

    def half() -> None:
        with atomic(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        half()
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["table.tsv"]


def test_temporary_names_keep_their_extensions(tmp_path):
    with atomic(tmp_path / "x.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"1")
    assert (tmp_path / "x.nii.gz").read_bytes() == b"1"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BrainAgeError, match="cannot create this folder") as caught:
        write_text(tmp_path / "file" / "below" / "x", "y")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_system_is_one_line_with_the_file_and_what_to_do(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "x").read_text()
    assert in_a_line(caught.value) == f"No such file or directory ({tmp_path / 'x'}); check space and permissions"
    copied = OSError(28, "No space left on device", "source", None, "target")
    assert in_a_line(copied) == "No space left on device (target); check space and permissions"
    assert in_a_line(BrainAgeError("x: is bad")) == "x: is bad"
    assert in_a_line(ValueError("two\nlines")) == "ValueError: two lines"


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_hash_of_a_value_does_not_depend_on_key_order(content):
    assert sha256_of(content) == sha256_of(dict(reversed(content.items())))


def test_hash_of_a_folder_sees_names_and_contents(tmp_path):
    write_text(tmp_path / "a", "1")
    before = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256(tmp_path)
    write_text(tmp_path / "b", "2")
    assert len({before, renamed, sha256(tmp_path)}) == 3


def test_json_with_errors_is_one_line_that_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(BrainAgeError, match=r"x\.json: not a readable JSON file"):
        read_json(tmp_path / "x.json")


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_bundle_round_trips(tmp_path):
    write_text(tmp_path / "w.npz", "weights")
    bundle = save(tmp_path, CARD)
    assert load(tmp_path).digest == bundle.digest
    assert bundle.file("w.npz").read_text() == "weights"


@pytest.mark.parametrize(
    "harm", ["change", "truncate", "remove", "escape", "no_card", "incomplete_card", "no_object", "no_json"]
)
def test_a_harmed_bundle_is_refused_in_one_line(tmp_path, harm):
    write_text(tmp_path / "w.npz", "weights")
    save(tmp_path, CARD)
    card = json.loads((tmp_path / "model.json").read_text())
    match harm:
        case "change":
            (tmp_path / "w.npz").write_text("Weights")
        case "truncate":
            (tmp_path / "w.npz").write_text("weig")
        case "remove":
            (tmp_path / "w.npz").unlink()
        case "escape":
            write_json(tmp_path / "model.json", {**card, "files": {"../w.npz": "0"}})
        case "no_card":
            (tmp_path / "model.json").unlink()
        case "no_object":
            (tmp_path / "model.json").write_text("[]")
        case "no_json":
            (tmp_path / "model.json").write_text("{")
        case "incomplete_card":
            write_json(tmp_path / "model.json", {k: v for k, v in card.items() if k != "licence"})
    with pytest.raises(BundleError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
