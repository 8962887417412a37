"""Volumes of scans segmented at 2 mm, on the scale of those at 1 mm."""

import json
from pathlib import Path

import numpy as np
import pytest

from bids_brainage.bids.roi_tables import RoiTable
from bids_brainage.cohort.scales import on_scale, scale_of, scale_of_bundle
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Age
from bids_brainage.image import muse
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.training.card import kind_of

MODEL = load_model(find("roi", [PACKAGED]))
PATH = Path("people.tsv")
GREY = next(one for one in muse.composites() if one.number == 601)


def table(*indices):
    volumes = np.random.default_rng(0).uniform(1000, 9000, (2, len(indices)))
    if 702 in indices:
        volumes[:, indices.index(702)] = (1.4e6, 1.5e6)
    return RoiTable(("a", "b"), (Age(60.0),) * 2, ("F", "M"), {i: f"MUSE_{i}" for i in indices}, volumes)


def test_regions_icv_and_composites_go_together():
    start = table(*MODEL.indices, 702, 601, 701, 600, 999)
    done = on_scale(start, "dlmuse-2mm", "dlmuse-1mm", PATH)
    volumes, icv = MODEL.conversion(start.select(MODEL.indices), start.select([702])[:, 0])
    np.testing.assert_allclose(done.select(MODEL.indices), volumes)
    np.testing.assert_allclose(done.select([702])[:, 0], icv)
    np.testing.assert_allclose(done.select([601])[:, 0], done.select(GREY.members).sum(axis=1))
    np.testing.assert_allclose(done.select([600])[:, 0], icv - done.select([701])[:, 0])
    assert np.isnan(done.select([999])).all()
    assert on_scale(start, "dlmuse-1mm", "dlmuse-1mm", PATH) is start


def test_a_composite_without_its_regions_is_unknown():
    assert np.isnan(on_scale(table(47, 702, 601), "dlmuse-2mm", "dlmuse-1mm", PATH).select([601])).all()


@pytest.mark.parametrize(
    ("indices", "scale", "wanted", "words"),
    [
        ((47, 702), "dlmuse-1mm", "dlmuse-2mm", "people.tsv: volumes are dlmuse-1mm, those of the model dlmuse-2mm"),
        ((47,), "dlmuse-2mm", "dlmuse-1mm", "no ICV"),
    ],
)
def test_what_cannot_be_brought_there_is_refused(indices, scale, wanted, words):
    with pytest.raises(UsageError, match=words):
        on_scale(table(*indices), scale, wanted, PATH)


@pytest.mark.parametrize("content", ["{", "[1]"])
@pytest.mark.parametrize("asked", [scale_of, lambda path: kind_of([path])])
def test_a_damaged_description_of_a_table_is_refused_rather_than_passed_over(tmp_path, content, asked):
    (tmp_path / "people.json").write_text(content)
    with pytest.raises(UsageError, match=r"people\.json: .*correct or remove it"):
        asked(tmp_path / "people.tsv")


def test_the_reference_that_ships_is_of_1_mm():
    assert find("genmind-reference", [PACKAGED]).card["volume_scale"] == "dlmuse-1mm"
    assert scale_of_bundle({}) == "dlmuse-1mm"


@pytest.mark.parametrize(
    ("kind", "said"),
    [("real", "real"), ("simulated", "simulated"), ("synthetic", "simulated")],
)
def test_a_model_of_people_whom_nobody_scanned_says_so(kind, said):
    bundle = find("roi", [PACKAGED])
    card = {**bundle.card, "training": {**bundle.card["training"], "kind": kind}}
    assert load_model(Bundle(bundle.folder, card)).training_data == said


def test_a_table_of_synthetic_people_is_known(tmp_path):
    path = tmp_path / "people.tsv"
    path.write_text("participant_id\n")
    assert kind_of([path]) == "real"
    path.with_suffix(".json").write_text(json.dumps({"Synthetic": True}))
    assert kind_of([path]) == "synthetic"
