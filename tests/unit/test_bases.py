"""Base anatomies find their way to the template, and their age."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bids_brainage.image.io import save
from bids_brainage.simulate import aging, anatomy, bases
from bids_brainage.simulate.deform import sample
from bids_brainage.training.bases import registered_bases, to_template
from bids_brainage.training.local.data import people_of


@pytest.fixture(scope="module")
def base():
    return anatomy.build(2)


@pytest.mark.slow
def test_the_way_to_the_template_undoes_a_shift(base) -> None:
    """A head that lies 8 mm further forward is led 8 mm further back, region by region."""
    moved = replace(base, labels=np.roll(base.labels, 4, axis=1))
    ends = []
    for one in (base, moved):
        found = to_template(one)
        centres = bases.reference_of(one).centres.T[:, :, None, None].astype(np.float32)
        ends.append((centres + sample(found.displacement, found.origin, found.spacing, centres))[:, :, 0, 0])
    assert np.abs(ends[1] - ends[0]).max() < 1.0


def test_a_base_of_known_age_ages_from_there(base) -> None:
    old = bases.of_age(base, 80.0, "M")
    for region, factor in zip(anatomy.REGIONS, old.standard, strict=True):
        if region.number == anatomy.CSF:
            assert np.isnan(factor)
        else:
            assert factor * aging.expected(region.kind, 80.0, "M") == pytest.approx(1)


@pytest.mark.slow
def test_ages_come_from_the_dataset_that_the_label_maps_are_derived_from(base, tmp_path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-a\t70\tF\nsub-b\tn/a\tF\n")
    folder = tmp_path / "derivatives" / "seg"
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = anatomy.ORIGIN
    for name in ("a", "b"):
        save(folder / f"sub-{name}" / f"sub-{name}_dseg.nii.gz", base.labels, affine)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "x"}))
    assert people_of(folder) == tmp_path.resolve()
    known, unknown = registered_bases(folder)
    ventricle = [r.kind for r in anatomy.REGIONS].index("lateral_ventricle")
    assert known.standard[ventricle] == pytest.approx(1 / aging.expected("lateral_ventricle", 70.0, "F"))
    assert unknown.standard[ventricle] == pytest.approx(1, abs=0.1)
    assert known.to_template is not None
