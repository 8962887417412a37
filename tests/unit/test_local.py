"""Local brain age from maps to files: what is refused, what adds up, and that a second run gives the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from localbundle import ARGUMENTS, CARD, make_bundle, write_maps
from safetensors.torch import load_file, save_file

from bids_brainage.bids.outputs import path_for, sidecar_of
from bids_brainage.bids.tables import read_tsv
from bids_brainage.core import bundle as bundles
from bids_brainage.core.errors import BundleError, ScanError, UsageError
from bids_brainage.core.files import read_json
from bids_brainage.core.types import Age, Scan, VoxelMaps
from bids_brainage.image.io import read, save
from bids_brainage.image.network import WEIGHTS
from bids_brainage.image.template import DEFAULT
from bids_brainage.models.base import load_model
from bids_brainage.models.local import BINS
from bids_brainage.models.networks.inference import predict_whole
from bids_brainage.models.registry import PACKAGED
from bids_brainage.options import Options
from bids_brainage.reports.maps import layers
from bids_brainage.reports.participant import write_report
from bids_brainage.stats.voxel_bins import read_voxel_bins
from bids_brainage.workflows.node import node
from bids_brainage.workflows.predict import predict
from bids_brainage.workflows.run import find_tools, missing, plan_jobs
from bids_brainage.workflows.scan_maps import completed, promised, resolution

SCAN = Scan(Path("/data/sub-01/anat/sub-01_T1w.nii.gz"), {"sub": "01"}, Age(60.5, ""), "F")
REST = {"atlas": PACKAGED / "muse-atlas", "template": DEFAULT}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "local")


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    return write_maps(tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def model(bundle):
    return load_model(bundle)


@pytest.fixture(scope="module")
def made(bundle, maps, tmp_path_factory):
    """What the stage makes of one person of known age."""
    out = tmp_path_factory.mktemp("out")
    return predict((bundle.folder,), SCAN, PACKAGED / "normative", out=out, **REST, **maps)


def test_the_brain_age_is_the_mean_of_the_map(made, model):
    (row,) = read_tsv(made.brainage)
    ages = read(made.voxelwise["brainage_map:local"])
    assert ages.data.shape == model.brain.data.shape
    assert np.array_equal(ages.data > 0, model.brain.data)
    assert float(row["brain_age"]) == pytest.approx(ages.data[model.brain.data].mean(), abs=0.01)
    assert float(row["brain_age_low"]) < float(row["brain_age"]) < float(row["brain_age_high"])
    assert (row["training_data"], row["flags"]) == ("simulated", "n/a")
    assert ages.data[model.brain.data].std() > 0.1


def test_gaps_and_their_correction_add_up_at_each_voxel(made, model):
    ages, gap, corrected, sd = (
        read(made.voxelwise[f"brainage_{kind}map:local"]).data[model.brain.data]
        for kind in ("", "gap_", "gap_corrected_", "sd_")
    )
    assert gap == pytest.approx(ages - 60.5, abs=0.011)
    assert corrected == pytest.approx(gap - 4, abs=0.011)
    assert sd.min() >= 0
    assert sd.mean() > 0.05


def test_the_sidecar_of_a_map_says_its_voxel_size(made):
    for name, path in made.voxelwise.items():
        if name.endswith("map:local"):
            size = read(path).grid.zooms
            assert read_json(sidecar_of(path))["Resolution"] == f"{size[0]:g} mm isotropic"
    assert resolution(np.diag([1.5, 1.5, 3, 1])) == "1.5 x 1.5 x 3 mm"


def test_means_of_regions_are_those_of_the_map(made):
    rows = read_tsv(made.voxelwise["brainage_regions:local"])
    assert len(rows) == 145
    there = [row for row in rows if row["voxels"] != "0"]
    assert len(there) > 100
    for row in there:
        assert float(row["gap"]) == pytest.approx(float(row["brain_age"]) - 60.5, abs=0.011)
        assert float(row["gap_corrected"]) == pytest.approx(float(row["gap"]) - 4, abs=0.011)
    assert {row["brain_age"] for row in rows if row["voxels"] == "0"} <= {"n/a"}


def test_the_same_maps_give_the_same_bytes(made, bundle, maps, tmp_path):
    again = predict((bundle.folder,), SCAN, PACKAGED / "normative", out=tmp_path, **REST, **maps)
    for name, path in made.voxelwise.items():
        before, after = path.read_bytes(), again.voxelwise[name].read_bytes()
        if path.suffix == ".gz":
            before, after = (read(p).data.tobytes() for p in (path, again.voxelwise[name]))
        assert before == after, name


def test_without_age_there_is_no_gap_and_without_sex_a_flag(bundle, maps, tmp_path):
    scan = replace(SCAN, age=Age(), sex=None)
    found = predict((bundle.folder,), scan, PACKAGED / "normative", out=tmp_path, **REST, **maps)
    assert set(found.voxelwise) == set(promised(bundle, Age())) == {
        f"brainage_{kind}:local" for kind in ("map", "sd_map", "regions", "map_figure")
    }  # fmt: skip
    assert read_tsv(found.brainage)[0]["flags"] == "sex_missing"
    assert {row["gap"] for row in read_tsv(found.voxelwise["brainage_regions:local"])} == {"n/a"}


def test_an_age_beyond_the_controls_is_flagged(model):
    ages = np.where(model.brain.data, np.float32(70), np.float32("nan"))
    maps = VoxelMaps(ages, None, model.brain.affine)
    bins = model.voxel_bins()
    assert completed(maps, Age(61, ""), bins)[1] == ()
    found, flags = completed(maps, Age(85, ""), bins)
    assert flags == ("age_outside_correction_range",)
    assert np.nanmax(np.abs(found["gap_corrected"] - (70 - 85 - 4))) < 0.01
    assert "gap_corrected" not in completed(maps, Age(85, ""), None)[0]


def test_sex_reaches_the_network(model, maps):
    women, men = (model.tensor(model.prepare({**maps, "sex": sex})) for sex in ("F", "M"))
    assert (women[0, 2].unique(), men[0, 2].unique()) == (-0.5, 0.5)
    assert not torch.equal(predict_whole(model.network, women), predict_whole(model.network, men))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "is not on the grid of model local; use the template"),
        (lambda data: np.where(data > 0.9, np.nan, data), "holds values that are no volumes"),
        (lambda data: data - 1, "holds values that are no volumes"),
        (lambda data: data * 0, "fill 0.3"),
        (lambda data: data * 40, "of the template's brain"),
    ],
)
def test_maps_that_cannot_be_are_refused(model, maps, tmp_path, spoil, words):
    image = read(maps["gm_modulated"])
    bad = save(tmp_path / "bad.nii.gz", spoil(image.data), image.affine)
    if words == "fill 0.3":
        words = "look at segmentation"
        other = read(maps["wm_modulated"])
        maps = maps | {"wm_modulated": save(tmp_path / "wm.nii.gz", other.data * 0, other.affine)}
    with pytest.raises(ScanError, match=words) as told:
        model.prepare({**maps, "gm_modulated": bad, "sex": "F"})
    assert str(told.value).startswith(str(bad))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("factor", "shift"), [(0.0, 0.0), (1.0, 500.0), (1.0, float("nan"))])
def test_a_map_that_is_no_brains_is_an_error(bundle, maps, factor, shift):
    model = load_model(bundle)
    with torch.no_grad():
        model.network.output.weight *= factor
        model.network.output.bias += shift
    with pytest.raises(ScanError, match="which is no brain's"):
        model.predict([model.prepare({**maps, "sex": "F"})])


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"maps": ["age"]}, "do not give the maps"),
        ({"arguments": ARGUMENTS | {"channels": 2}}, "not the weights of the architecture local"),
        ({"arguments": {"width": 2}}, "width"),
        ({"needs": ["gm_modulated", "wm_modulated"]}, "other inputs than it needs"),
        ({"prediction": {}}, "mean_age"),
        ({"standardised": True}, "reference.npz"),
        ({"prediction": CARD["prediction"] | {"dropped_from": 10}}, "dropped_from is 10"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(bundle, card, words):
    with pytest.raises(BundleError, match=words) as told:
        load_model(replace(bundle, card={**bundle.card, **card}))
    assert "\n" not in str(told.value)


def test_a_bundle_without_dropout_and_bins_gives_ages_alone(tmp_path, maps):
    prediction = CARD["prediction"] | {"samples": 0}
    bundle = make_bundle(tmp_path / "plain", bins=False, maps=["age"], prediction=prediction)
    found = predict((bundle.folder,), SCAN, PACKAGED / "normative", out=tmp_path, **REST, **maps)
    kinds = ("map", "gap_map", "regions", "map_figure")
    assert set(found.voxelwise) == {f"brainage_{kind}:local" for kind in kinds}


@pytest.mark.parametrize(
    ("card", "words"), [({"name": "my-local"}, "letters and digits alone"), ({"template": "X"}, "train it there")]
)
def test_maps_that_could_not_be_named_or_labelled_are_refused(bundle, card, words):
    with pytest.raises(BundleError, match=words):
        promised(replace(bundle, card={**bundle.card, **card}), Age())


def test_the_run_expects_the_maps_and_refuses_another_template(bundle, tmp_path):
    options = Options(tmp_path, tmp_path / "out", "participant", models=("local",), models_dir=bundle.folder.parent)
    (job,) = plan_jobs([SCAN], options, find_tools(options, None))
    assert set(promised(bundle, SCAN.age)) <= set(job.artefacts)
    assert path_for(SCAN, "brainage_gap_map:local", options.out_dir, DEFAULT) in missing(job, options)
    with pytest.raises(UsageError, match=f"model local was trained in {DEFAULT}"):
        find_tools(replace(options, template="MNI152NLin2009cAsym"), None)


def test_minimal_outputs_keep_the_maps_and_the_fingerprint(bundle, tmp_path):
    full = Options(tmp_path, tmp_path / "out", "participant", models=("local",), models_dir=bundle.folder.parent)
    tools = find_tools(full, None)
    (job,), (less,) = (plan_jobs([SCAN], o, tools) for o in (full, replace(full, minimal_outputs=True)))
    assert less.fingerprint == job.fingerprint
    left_out = {"t1w_preproc", "xfm_forward", "gm_modulated"}
    assert left_out <= set(job.artefacts)
    assert not left_out & set(less.artefacts)
    assert {*promised(bundle, SCAN.age), "figures", "quality", "brainage", "brainage_json"} <= set(less.artefacts)
    assert set(missing(less, full)) < set(missing(job, full))


def test_bins_of_another_mask_are_refused(bundle, tmp_path):
    with pytest.raises(BundleError, match="do not fit a mask"):
        read_voxel_bins(bundle.file(BINS), 5)
    assert load_file(bundle.file(WEIGHTS))
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS)
    changed = bundles.Bundle(tmp_path, bundle.card)
    with pytest.raises(BundleError, match="train it again"):
        load_model(changed)


def test_colours_of_gaps_are_symmetric_about_zero():
    rng = np.random.default_rng(0)
    gap = rng.normal(8, 2, (5, 5, 5)).astype(np.float32)
    first, second = layers({"age": gap + 60, "gap": gap, "sd": np.abs(gap)})
    assert (first.kind, first.low) == ("gap", -first.high)
    assert first.high > 8
    assert (second.kind, second.low) == ("sd", 0)
    (ages,) = layers({"age": gap + 60})
    assert (ages.kind, ages.colours) == ("age", "viridis")


def test_from_the_stage_through_nipype_to_the_derivatives_and_the_page(bundle, maps, tmp_path):
    from nipype.pipeline import engine as pe

    out = tmp_path / "out"
    stages = "bids_brainage.workflows"
    settings = {"scan": SCAN, "bundles": (bundle.folder,), "normative": PACKAGED / "normative", **REST}
    first = node(f"{stages}.predict:predict", "predict", mem_gb=3, artefacts=tuple(maps), constants=settings | maps)
    results = ("brainage", "contributions", "quality", "voxelwise")
    settings = {"scan": SCAN, "out_dir": out, "template": DEFAULT, "fingerprint": {"Input": "a"}}
    last = node(
        f"{stages}.publish:publish", "publish", mem_gb=1, artefacts=(*results, *maps), constants=settings | maps
    )
    workflow = pe.Workflow("w", base_dir=str(tmp_path / "work"))
    workflow.connect([(first, last, [(name, name) for name in results])])
    workflow.config["execution"] = {"remove_unnecessary_outputs": "false"}  # as the app has it
    workflow.run()
    for name in promised(bundle, SCAN.age):
        assert path_for(SCAN, name, out, DEFAULT).is_file()
    gap = out / "sub-01" / "anat" / f"sub-01_space-{DEFAULT}_desc-local_brainagegapmap.nii.gz"
    sidecar = json.loads(gap.with_name(gap.name.replace(".nii.gz", ".json")).read_text())
    assert (sidecar["Units"], sidecar["Model"], sidecar["TrainingData"]) == ("year", "local", "simulated people")
    assert sidecar["Sources"][0].endswith("label-GM_desc-modulated_probseg.nii.gz")
    html = write_report("01", [SCAN], out, DEFAULT).read_text(encoding="utf-8")
    assert html.count("trained on simulated people") >= 3
    assert 'alt="Model local. Gap between brain age and age' in html
