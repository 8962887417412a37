"""Names, sidecars and completeness of the derivatives, judged by the BIDS validator."""

import hashlib
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
from trees import make_dataset, snapshot, t1w, tiny_nifti, write

from bids_brainage.bids import derivative, outputs
from bids_brainage.bids.inputs import find_scans
from bids_brainage.bids.tables import write_tsv
from bids_brainage.bids.validate import issues
from bids_brainage.core.errors import UsageError
from bids_brainage.core.stamps import stamp
from bids_brainage.core.types import Scan
from bids_brainage.workflows.publish import publish as publish_stage

TEMPLATE = "MNI152NLin2009aSym"
SETTINGS = {"Version": "0.1"}
FINGERPRINT = SETTINGS | {"Input": hashlib.sha256(b"").hexdigest()}
EACH_MODEL = tuple(name for name in outputs.artefact_names() if "{model}" in outputs._entry(name)["name"])
ALL = tuple(
    f"{name}:local" if name in EACH_MODEL else name for name in outputs.artefact_names() if name != "brainage_json"
)

TABLES = ("brainage", "contributions", "measures", "regions", "volumes")
MAPS = ("brainagemap", "brainagesdmap", "brainagegapmap", "brainagegapcorrectedmap")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    files = [t1w("01", "pre", "acq-x_run-02"), t1w("01", "post"), t1w("02", rest="ce-gd_rec-norm_part-mag")]
    return make_dataset(tmp_path / "ds", files)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """One file for each artefact, and two working files."""
    files = {}
    for name in ALL:
        end = outputs.path_for(Scan(Path("x"), {"sub": "1"}), name, tmp_path, TEMPLATE).name.partition(".")[2]
        path = tmp_path / "work" / f"{name}.{end}"
        if end == "nii.gz":
            tiny_nifti(path, "uint8" if name.endswith(("mask", "dseg")) else "float32")
        elif end == "tsv":
            write_tsv(path, [{"model": "roi", "brain_age": 50.0}], ["model", "brain_age"])
        else:
            write(path, "x")
        files[name] = path
    return {
        **files,
        "posteriors": tiny_nifti(tmp_path / "work/p.nii.gz"),
        "t1w_native": tiny_nifti(tmp_path / "work/n.nii.gz"),
    }


def publish(scan: Scan, made: dict[str, Path], out: Path, fingerprint: dict[str, str] = FINGERPRINT) -> list[Path]:
    columns = {
        "model": {"Description": "Name of the model"},
        "brain_age": {"Description": "Brain age", "Units": "year"},
    }
    return outputs.publish(scan, made, out, TEMPLATE, {"brainage": {**columns, "Fingerprint": fingerprint}})


def test_whole_tree_is_valid_bids(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_tsv(tmp_path / "labels.tsv", [{"index": 4, "name": "3rd Ventricle"}], ["index", "name"])
    tables = {"desc-muse_dseg.tsv": tmp_path / "labels.tsv"}
    container = {"Type": "docker", "Tag": "bids-brainage:0.1"}
    prep = make_dataset(tmp_path / "prep", kind="derivative")
    derivative.write_dataset_files(
        out, dataset, "0.1", container=container, derivatives={"fmriprep": prep}, tables=tables
    )
    for scan in find_scans(dataset).scans:
        publish(scan, made, out)
        write(out / f"sub-{scan.subject}.html", "<html></html>")
    for name in ("group.html", "group_scans.tsv", "group_scans.json", "group_participants.tsv", "logs/CITATION.md"):
        write(out / name, "x\n")
    assert issues(out) == []


def test_ignored_are_only_what_bids_has_no_name_for(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    own = {f"*_{suffix}.{end}" for suffix in TABLES for end in ("json", "tsv")} | {f"*_{suffix}.*" for suffix in MAPS}
    rest = {"*_xfm.*", "*.html", "figures", "logs", "group_*.json", "group_*.tsv", "group_*.nii.gz", "group_*.png"}
    assert set(outputs.bidsignore().split()) == own | rest
    out = tmp_path / "out"
    derivative.write_dataset_files(out, dataset, "0.1")
    publish(find_scans(dataset).scans[0], made, out)
    (out / ".bidsignore").unlink()
    flagged = {Path(issue.location).name.rpartition("_")[2] for issue in issues(out) if issue.code == "NOT_INCLUDED"}
    tables = {f"{suffix}.{end}" for suffix in TABLES for end in ("json", "tsv")}
    maps = {f"{suffix}.{end}" for suffix in MAPS for end in ("json", "nii.gz")}
    assert flagged <= tables | maps | {"xfm.h5", "xfm.json", "figures", "brainagemap.png"}
    assert {"brainage.tsv", "volumes.tsv", "xfm.h5"} <= flagged


def test_names_keep_all_entities(dataset: Path) -> None:
    scan = next(s for s in find_scans(dataset).scans if s.session == "pre")
    folder = Path("out/sub-01/ses-pre/anat")
    names = {name: outputs.path_for(scan, name, Path("out"), TEMPLATE) for name in outputs.artefact_names()}
    stem = "sub-01_ses-pre_acq-x_run-02"
    assert names["t1w_preproc"] == folder / f"{stem}_desc-preproc_T1w.nii.gz"
    assert names["xfm_forward"] == folder / f"{stem}_from-T1w_to-{TEMPLATE}_mode-image_xfm.h5"
    assert names["gm_modulated"] == folder / f"{stem}_space-{TEMPLATE}_res-1p5_label-GM_desc-modulated_probseg.nii.gz"
    assert names["brainage_json"] == folder / f"{stem}_brainage.json"
    assert names["figures"] == Path("out/sub-01/figures") / f"{stem}_desc-brainage_T1w.png"
    assert names.pop("brain_mask_fused") == names["brain_mask"]
    assert len(set(names.values())) == len(names)
    with pytest.raises(KeyError):
        outputs.path_for(scan, "posteriors", Path("out"), TEMPLATE)


def test_sidecars_say_where_things_come_from(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    scan = find_scans(dataset).scans[2]
    publish(scan, made, tmp_path / "out")

    def sidecar(name: str) -> dict:
        return json.loads(outputs.sidecar_of(outputs.path_for(scan, name, tmp_path / "out", TEMPLATE)).read_text())

    raw = "bids:raw:sub-02/anat/sub-02_ce-gd_rec-norm_part-mag_T1w.nii.gz"
    assert sidecar("t1w_preproc") == {"SkullStripped": False, "SpatialReference": raw, "Sources": [raw]}
    mni = sidecar("t1w_mni")
    assert mni["SkullStripped"] is True
    assert mni["Resolution"] == "1 mm isotropic"
    assert mni["SpatialReference"].startswith("https://")
    assert mni["Sources"][0] == "bids::sub-02/anat/sub-02_ce-gd_rec-norm_part-mag_desc-preproc_T1w.nii.gz"
    assert sidecar("muse_volumes")["volume_mm3"]["Units"] == "mm^3"
    assert sidecar("brain_mask")["Type"] == "Brain"
    assert sidecar("xfm_forward")["Description"].endswith(f"to {TEMPLATE}")
    assert sidecar("brainage")["Fingerprint"] == FINGERPRINT


def test_sources_that_were_not_made_give_way_to_the_scan(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    scan = find_scans(dataset).scans[0]
    written = outputs.publish(
        scan, {"probseg_gm": made["probseg_gm"]}, tmp_path / "out", "Other", {"probseg_gm": {"Manual": None}}
    )
    content = json.loads(written[1].read_text())
    assert content["Sources"] == [outputs.raw_uri(scan)]
    assert "Manual" not in content


def test_mark_comes_last_and_everything_expected_is_there(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    assert outputs.reason_to_run(scan, made, out, TEMPLATE, SETTINGS) == "no result yet"
    written = publish(scan, made, out)
    assert written[-1] == outputs.path_for(scan, "brainage_json", out, TEMPLATE)
    assert sorted(written) == sorted(outputs.expected(scan, made, out, TEMPLATE))
    assert len(written) == 2 * len(ALL) - 4  # two figures have no sidecar, the fused mask replaces the other
    assert outputs.complete(scan, made, out, TEMPLATE)
    assert outputs.reason_to_run(scan, made, out, TEMPLATE, SETTINGS) == ""


@pytest.mark.parametrize("position", range(0, 2 * len(ALL) - 4, 3))
def test_any_missing_or_empty_file_is_noticed(
    dataset: Path, made: dict[str, Path], tmp_path: Path, position: int
) -> None:
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    path = publish(scan, made, out)[position]
    path.unlink()
    assert outputs.missing(scan, made, out, TEMPLATE) == [path]
    assert path.name in outputs.reason_to_run(scan, made, out, TEMPLATE, SETTINGS)
    path.touch()
    assert not outputs.complete(scan, made, out, TEMPLATE)


def test_failed_publication_leaves_no_mark(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    publish(scan, made, out)
    made["muse_volumes"].unlink()
    with pytest.raises(FileNotFoundError):
        publish(scan, made, out)
    assert not outputs.path_for(scan, "brainage_json", out, TEMPLATE).exists()
    assert [p.name for p in out.rglob(".*")] == []


def test_a_scan_is_read_only_where_its_stamp_or_its_settings_do_not_decide(
    dataset: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    """The checksum in the result is a wrong one: whoever reads the scan says so."""
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    wrong = SETTINGS | {"Input": "b" * 64}
    scan.path.write_text("content")
    artefacts = [name for name in made if ":" not in name]
    for stamps, said in ((None, "Input was bbbbbbbb, is ed7002b4"), ({"Input": stamp(scan.path)}, "")):
        publish_stage(scan, out, TEMPLATE, wrong, stamps=stamps, out=tmp_path, **{n: made[n] for n in artefacts})
        assert outputs.reason_to_run(scan, artefacts, out, TEMPLATE, SETTINGS) == said
    assert outputs.reason_to_run(scan, artefacts, out, TEMPLATE, {"Version": "0.2"}) == "Version was 0.1, is 0.2"
    masked = replace(scan, mask=made["brain_mask"])
    assert outputs.reason_to_run(masked, artefacts, out, TEMPLATE, SETTINGS) == "Mask is new"
    os.utime(scan.path)
    assert "Input was" in outputs.reason_to_run(scan, artefacts, out, TEMPLATE, SETTINGS)


def test_fingerprints_are_compared_in_words(tmp_path: Path) -> None:
    old = {"Version": "0.1", "Input": "a" * 64, "Mask": "x"}
    assert outputs.difference(old, dict(reversed(old.items()))) == ""
    said = outputs.difference(old, {"Version": "0.2", "Input": "b" * 64, "Seed": "1"})
    assert said == "Version was 0.1, is 0.2; Input was aaaaaaaa, is bbbbbbbb; Mask is gone; Seed is new"
    assert outputs.difference({}, old) == "the result has no fingerprint"
    for content in ("{", "[]", {}, {"Fingerprint": 3}):
        assert outputs.read_fingerprint(write(tmp_path / "f.json", content)) == {}
    assert outputs.read_fingerprint(tmp_path / "none.json") == {}
    assert outputs.read_fingerprint(write(tmp_path / "f.json", {"Fingerprint": old})) == old


def test_dataset_files_are_written_once(dataset: Path, tmp_path: Path) -> None:
    out = dataset / "derivatives" / "bids-brainage"
    assert len(derivative.write_dataset_files(out, dataset, "0.1")) == 3
    before = snapshot(out)
    assert derivative.write_dataset_files(out, dataset, "0.1") == []
    after = snapshot(out)
    assert {k: v for k, v in after.items() if k != "."} == {k: v for k, v in before.items() if k != "."}
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "bids-brainage", "Version": "0.1"}]
    assert description["DatasetLinks"] == {"raw": "../.."}
    assert derivative.write_dataset_files(out, dataset, "0.2")


def test_doi_of_the_source_is_kept(dataset: Path, tmp_path: Path) -> None:
    write(dataset / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.1/x"})
    derivative.write_dataset_files(tmp_path / "out", dataset, "0.1")
    description = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert description["SourceDatasets"] == [{"URL": dataset.as_uri(), "DOI": "doi:10.1/x"}]


def _describe(arguments: tuple[Path, Path, str]) -> None:
    derivative.write_dataset_files(*arguments)


def test_eight_processes_at_once(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.map(_describe, [(out, dataset, "0.1")] * 32, chunksize=1)
    assert sorted(p.name for p in out.iterdir()) == [".bidsignore", "README.md", "dataset_description.json"]
    assert derivative.write_dataset_files(out, dataset, "0.1") == []


def test_output_folders_that_are_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    for same in (dataset, tmp_path / "link", dataset / "sub-01" / ".."):
        with pytest.raises(UsageError, match="dataset itself"):
            derivative.check_out_dir(dataset, same)
    with pytest.raises(UsageError, match="fMRIPrep"):
        derivative.check_out_dir(dataset, make_dataset(tmp_path / "prep", kind="derivative"))
    with pytest.raises(UsageError, match="own"):
        derivative.check_out_dir(dataset, make_dataset(tmp_path / "other raw"))
    write(tmp_path / "file", "")
    with pytest.raises(UsageError, match="cannot be written"):
        derivative.check_out_dir(dataset, tmp_path / "file" / "out")
    derivative.check_out_dir(dataset, tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []


def test_folder_that_is_read_only(dataset: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a file system that nobody can write to")
    with pytest.raises(UsageError, match="cannot be written"):
        derivative.check_out_dir(dataset, Path("/proc/self/out"))


def test_the_fused_mask_goes_before_the_networks(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    target = outputs.path_for(scan, "brain_mask", out, TEMPLATE)
    alone = {name: path for name, path in made.items() if name != "brain_mask_fused"}
    for name in ("brain_mask", "brain_mask_fused"):
        made[name].write_bytes(name.encode())
    publish(scan, alone, out)
    assert target.read_bytes() == b"brain_mask"
    publish(scan, made, out)
    assert target.read_bytes() == b"brain_mask_fused"
    tissue = json.loads(outputs.sidecar_of(outputs.path_for(scan, "dseg", out, TEMPLATE)).read_text())
    assert any(source.endswith("_desc-brain_mask.nii.gz") for source in tissue["Sources"])


def images(folder: Path) -> set[str]:
    """What kinds of images and transforms lie in a folder."""
    return {p.name.split("_")[-1].partition(".")[0] for end in ("nii.gz", "h5") for p in folder.rglob(f"*.{end}")}


def publish_minimal(scan: Scan, made: dict[str, Path], out: Path) -> tuple[Path, ...]:
    each = {name: path for name, path in made.items() if ":" in name}
    rest = {name: path for name, path in made.items() if ":" not in name}
    return publish_stage(scan, out, TEMPLATE, FINGERPRINT, out=out, minimal=True, voxelwise=each, **rest).written


def test_minimal_outputs_are_results_alone_and_valid(dataset: Path, made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    derivative.write_dataset_files(out, dataset, "0.1")
    for scan in find_scans(dataset).scans:
        written = publish_minimal(scan, made, out)
        assert written[-1] == outputs.path_for(scan, "brainage_json", out, TEMPLATE)
        assert sorted(written) == sorted(outputs.expected(scan, outputs.results(made), out, TEMPLATE))
    assert images(out) == set(MAPS)
    tables = {path.name.split("_")[-1] for path in out.rglob("*.tsv")}
    assert tables == {f"{suffix}.tsv" for suffix in TABLES}
    for path in out.rglob("sub-*.json"):
        assert all("_desc-preproc_" not in source for source in json.loads(path.read_text()).get("Sources", []))
    assert issues(out) == []


def test_a_run_with_all_outputs_after_a_minimal_one_is_due_and_not_the_other_way(
    dataset: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    scan, out = find_scans(dataset).scans[0], tmp_path / "out"
    publish_minimal(scan, made, out)
    minimal = outputs.results(made)
    assert outputs.reason_to_run(scan, minimal, out, TEMPLATE, SETTINGS) == ""
    assert outputs.reason_to_run(scan, made, out, TEMPLATE, SETTINGS).startswith("missing: ")
    publish(scan, made, out)
    assert outputs.reason_to_run(scan, minimal, out, TEMPLATE, SETTINGS) == ""


def test_a_scan_that_is_to_be_done_again_leaves_nothing_of_the_old_result(
    dataset: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    """Neither what minimal outputs lack, nor what another model, template or age gave, nor the page."""
    first, other, *_ = find_scans(dataset).scans
    out = tmp_path / "out"
    for scan in (first, other):
        publish(scan, made, out)
        write(out / f"sub-{scan.subject}.html", "old")
    before = {path for path in out.rglob("*") if f"{other.stem}_" in path.name}
    maps = [outputs.path_for(first, f"brainage_gap_map:{model}", out, t) for model in "ab" for t in (TEMPLATE, "Other")]
    for path in maps:
        write(path, "x")
        write(outputs.sidecar_of(path), "{}")
    outputs.begin([first], out)
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(f"{first.stem}_")]
    assert {path for path in out.rglob("*") if f"{other.stem}_" in path.name} == before
    assert not (out / f"sub-{first.subject}.html").exists()
    publish_minimal(first, made, out)
    assert images(out / f"sub-{first.subject}" / f"ses-{first.session}") == set(MAPS)
