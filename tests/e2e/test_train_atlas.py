"""`brainage train atlas` on real files: heads, copies of them without skull and in larger voxels, a bundle to use."""

import subprocess
import sys

import numpy as np
import pytest

from bids_brainage.core.files import read_json
from bids_brainage.image.atlas import read_atlas
from bids_brainage.image.io import read, save
from bids_brainage.image.volumes import volumes
from bids_brainage.models.registry import PACKAGED
from bids_brainage.simulate.cohort import simulate_dataset
from bids_brainage.training.heads import through_stages

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
SEGMENT, ATLAS = PACKAGED / "segment", PACKAGED / "muse-atlas"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, work):
    """Three simulated people and what the shipped atlas says of them, moved, as they share their folding."""
    bids = simulate_dataset(tmp_path_factory.mktemp("heads") / "bids", n=3, seed=7)
    for axis, t1w in enumerate(sorted(bids.glob("sub-*/**/*_T1w.nii.gz"))[:3]):
        stem = t1w.name.removesuffix("_T1w.nii.gz")
        stages = through_stages(t1w, work / stem, segment_bundle=SEGMENT, threads=2)
        used = {name: path for name, path in stages.items() if name != "xfm_forward"}
        (work / stem / "labels").mkdir()
        labels = read(volumes(**used, atlas=ATLAS, out=work / stem / "labels").muse_dseg, np.uint8)
        there = bids / "derivatives" / "dlmuse" / t1w.parent.relative_to(bids)
        there.mkdir(parents=True)
        save(there / f"{stem}_desc-dlmuse_dseg.nii.gz", np.roll(labels.data, 3, axis=axis), labels.affine)
    return bids


def test_an_atlas_of_three_heads_is_made_and_read(dataset, work, tmp_path):
    argv = [sys.executable, "-m", "bids_brainage.toolbox", "train", "atlas", "--data", str(dataset)]
    argv += ["--out", str(tmp_path / "atlas"), "--work", str(work), "--threads", "2"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "head 3 of 3, in larger voxels" in done.stderr
    made = read_atlas(tmp_path / "atlas")
    assert made.lines.edges.tolist() == [2, 3, 5]
    assert np.abs(made.lines.at(2.0)[1] - 1).max() < 0.3
    assert np.abs(made.lines.at(3.0) - made.lines.at(2.0)).max() > 0.01
    assert (np.diff(made.shifts.rims) > 0).all()
    card = read_json(tmp_path / "atlas" / "model.json")
    assert card["metrics"]["people"] == 3
    assert card["licence"] == "not stated"
    assert abs(card["metrics"]["volumes"]["ICV"]["bias_percent"]["value"]) < 5
    assert abs(card["metrics"]["coarse"]["3 mm"]["ICV"]["bias_percent"]["value"]) < 5
