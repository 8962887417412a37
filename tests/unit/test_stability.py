"""The comparison of changed scans with clean ones: nothing that was refused or moved too far is lost."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import perturb, stability
from benchmarks.stability import Case, Found
from benchmarks.stability_rows import Row, markdown, write_rows
from bids_brainage.core.files import write_json
from bids_brainage.image import io


def case(folder, change="rotate-10"):
    return Case("sub-a", change, Path("sub-a_ses-1_T1w.nii.gz"), folder)


def box(folder, name, affine):
    data = np.zeros((20, 22, 24), np.uint8)
    data[5:15, 6:14, 7:17] = 1
    return io.save(folder / name, data, affine)


def test_the_mask_is_compared_in_the_changed_space(tmp_path):
    affine = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), [1, 2, 3])
    move = perturb.translation((30, 0, 0))
    clean, moved = box(tmp_path, "a.nii.gz", affine), box(tmp_path, "b.nii.gz", move @ affine)
    for carried, dice in ((move, 1.0), (np.eye(4), 0.0)):
        write_json(case(tmp_path).made, {"key": "", "move": carried.tolist()})
        row = stability.compare(case(tmp_path), Found(moved, age=52.5), Found(clean, age=50.0))
        assert row.dice == pytest.approx(dice)
        assert row.mask_ml == pytest.approx(800 * 8 / 1000)
        assert row.age_change == 2.5
        assert not row.held


def test_changes_of_volumes_are_relative_and_leave_composites_out():
    clean = {4: 100.0, 11: 200.0, 23: 50.0, 601: 1000.0, 702: 1000.0}
    changed = {4: 110.0, 11: 190.0, 23: 50.5, 601: 3000.0, 702: 980.0}
    assert stability.volume_changes(changed, clean) == pytest.approx((5.0, -2.0))


@pytest.mark.parametrize(
    ("row", "held"),
    [
        (Row("a", "flip", dice=0.93, age_change=-2.0), True),
        (Row("a", "flip", dice=0.92, age_change=0.0), False),
        (Row("a", "flip", dice=0.99, age_change=-2.1), False),
        (Row("a", "flip", message="no brain"), False),
    ],
)
def test_a_row_is_held_where_both_limits_are_kept(row, held):
    assert row.held is held


def test_a_refusal_stands_in_both_tables_with_its_words():
    said = (
        "07:00:00 I 2 T1w images\n"
        "07:00:09 E /d/bids/sub-aXflip/anat/sub-aXflip_T1w.nii.gz: the brain found has 20 mL; check it\n"
        "07:00:09 E 1 of 2 scans are complete in /d/out; 1 failed, see above\n"
    )
    assert stability.reason(said, "aXflip") == "the brain found has 20 mL; check it"
    assert stability.reason(said, "aXclean") == ""
    text = markdown([Row("sub-a", "flip", message=stability.reason(said, "aXflip"))])
    first, second = text.split("\n\n")
    assert "| flip | 1 | 0 |" in first
    assert "refused 1" in first
    assert "the brain found has 20 mL" in second


def test_labels_are_of_letters_and_digits_and_differ(tmp_path):
    labels = [case(tmp_path, change).label for change in perturb.CHANGES]
    assert all(label.isalnum() for label in labels)
    assert len(set(labels)) == len(labels)


def test_every_row_and_column_is_in_the_table(tmp_path):
    rows = [Row("sub-a", "flip", dice=0.97, flags="brain_cut"), Row("sub-b", "flip", message="two\nlines")]
    write_rows(tmp_path / "x.tsv", rows)
    one, two = stability.read_table(tmp_path / "x.tsv")
    assert (one["dice"], one["flags"], one["age"]) == ("0.9700", "brain_cut", "n/a")
    assert two["message"] == "two lines"
