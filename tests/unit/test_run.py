"""What stops a run before any work, and what each scan depends on."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_participant_report import ROW
from trees import make_dataset, t1w

from bids_brainage import cli
from bids_brainage.bids import outputs
from bids_brainage.bids.inputs import find_scans
from bids_brainage.bids.outputs import path_for
from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import write_json, write_text
from bids_brainage.core.types import Age, Scan
from bids_brainage.models.registry import PACKAGED
from bids_brainage.options import Options
from bids_brainage.reports import participant
from bids_brainage.reports.participant import write_report
from bids_brainage.workflows.fingerprint import fingerprint
from bids_brainage.workflows.job import Job
from bids_brainage.workflows.pages import write_reports
from bids_brainage.workflows.run import close, failure, find_tools, place_of_work


def call(tmp_path, *words):
    return cli.main(
        [str(tmp_path / "bids"), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work"), *words]
    )


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "bids", ["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/func/sub-02_task-x_bold.nii.gz"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--participant-label", "03"], "03"),
        (["--models", "rio"], "rio"),
        (["--models", "segment"], "gives no brain age"),
        (["--models", "normative"], "gives no brain age"),
        (["--template", "NoSuchTemplate"], "NoSuchTemplate"),
        (["--derivatives", "x=/nowhere"], "/nowhere"),
        (["-w", "{bids}/work"], "never written to"),
    ],
)
def test_what_cannot_run_is_said_in_one_line_with_exit_code_2(dataset, tmp_path, capsys, words, message):
    words = [word.format(bids=tmp_path / "bids") for word in words]
    assert call(tmp_path, "--skip-bids-validation", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if " E " in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list((tmp_path / "out").rglob("*_brainage.*"))


def test_a_dataset_without_t1w_is_unusable(tmp_path, capsys):
    make_dataset(tmp_path / "bids", ["sub-02/func/sub-02_task-x_bold.nii.gz"])
    assert call(tmp_path, "--skip-bids-validation") == 2
    assert "sub-02" in capsys.readouterr().err


def test_a_participant_without_t1w_is_named_and_no_failure(dataset, tmp_path, capsys):
    assert call(tmp_path, "--skip-bids-validation", "--participant-label", "02") == 0
    assert "sub-02" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(dataset, tmp_path, capsys):
    assert call(tmp_path, "--skip-bids-validation", "--dry-run") == 0
    assert "sub-01" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()


@pytest.mark.timeout(120)
def test_a_scan_without_a_result_is_not_read_to_plan(tmp_path, capsys):
    """It is of 8 TiB, all a hole: to read it takes hours."""
    make_dataset(tmp_path / "bids", ["sub-01/anat/sub-01_T1w.nii"])
    os.truncate(tmp_path / "bids/sub-01/anat/sub-01_T1w.nii", 8 << 40)
    assert call(tmp_path, "--skip-bids-validation", "--dry-run") == 0
    assert "no result yet" in capsys.readouterr().out
    assert call(tmp_path, "--skip-bids-validation", "--dry-run", "--force") == 0
    assert "--force" in capsys.readouterr().out


def test_cuda_without_a_gpu_is_an_error_before_any_work(dataset, tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert call(tmp_path, "--device", "cuda") == 2
    assert "no usable GPU" in capsys.readouterr().err


def test_a_failure_names_the_file_of_the_user():
    scan = Scan(Path("/data/sub-01_T1w.nii.gz"), {"sub": "01"}, Age())
    job = Job(scan, {}, "")
    assert failure(job, "/data/sub-01_T1w.nii.gz: is empty") == "/data/sub-01_T1w.nii.gz: is empty"
    working = "/scratch/bids_brainage_wf/sub_01/t1w_native.nii.gz"
    assert failure(job, f"{working}: no brain; x") == "/data/sub-01_T1w.nii.gz: no brain; x"
    masked = Job(replace(scan, mask=Path("/masks/m.nii.gz")), {}, "")
    assert failure(masked, "/masks/m.nii.gz: is empty") == "/masks/m.nii.gz: is empty"
    full = f"cannot write {working} (No space left on device); check space and permissions"
    assert failure(job, full) == f"/data/sub-01_T1w.nii.gz: {full}"
    assert failure(job, "ValueError: bad") == "/data/sub-01_T1w.nii.gz: ValueError: bad"


def test_a_page_is_written_where_it_is_not_there_and_told_where_it_cannot_be(tmp_path):
    options = Options(tmp_path / "bids", tmp_path / "out", "participant")
    scan = Scan(Path("/data/sub-01_T1w.nii.gz"), {"sub": "01"}, Age())
    for artefact, write in {"brainage": lambda p: write_tsv(p, [ROW], list(ROW)), "brainage_json": write_json}.items():
        path = path_for(scan, artefact, options.out_dir, options.template)
        write(path) if artefact == "brainage" else write(path, {"Fingerprint": {}})
    done = Job(scan, {}, "", ("brainage",))
    page = options.out_dir / "sub-01.html"
    assert write_reports([done], options) == []
    before = page.stat().st_mtime_ns
    assert write_reports([done], options) == []
    assert page.stat().st_mtime_ns == before
    page.unlink()
    page.mkdir()
    (line,) = write_reports([done], options)
    assert line == f"cannot write {page} (Is a directory); check space and permissions"
    assert close([done], [line], options) == 1


def test_a_result_depends_on_the_age_and_on_why_there_is_none(tmp_path):
    path = tmp_path / "x"
    path.write_text("")

    def mark(age):
        scan, options = Scan(path, {"sub": "01"}, age), Options(tmp_path, tmp_path, "participant")
        return fingerprint(scan, options, [], [], "")["Age"]

    assert mark(Age(60.5, "")) == "60.5"
    assert mark(Age(None, "age is missing")) != mark(Age(None, "age '89+' is censored"))


def test_options_that_are_lists_may_be_given_again_and_again(tmp_path):
    (tmp_path / "bids").mkdir()
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "participant"]
    options = cli.parse([*words, "--participant-label", "01", "02", "--participant-label", "03", "--models", "roi"])
    assert options.participant_label == ("01", "02", "03")
    assert options.models == ("roi",)


def test_folders_of_models_are_absolute_since_stages_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIDS_BRAINAGE_HOME", "home")
    (tmp_path / "models").mkdir()
    options = Options(Path("bids"), Path("out"), "participant", models_dir=Path("models"), nprocs=2)
    assert cli.resolved(options).models_dir == tmp_path / "models"
    assert cli.models_home() == tmp_path / "home"


def test_processes_are_as_many_as_asked_for_on_every_system(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cli.resolved(Options(tmp_path, tmp_path, "participant", nprocs=1)).nprocs == 1
    assert cli.resolved(Options(tmp_path, tmp_path, "participant")).nprocs == os.cpu_count()


def test_a_negative_seed_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "bids").mkdir()
    assert call(tmp_path, "--random-seed", "-1") == 2
    assert "--random-seed -1: must be at least 0" in capsys.readouterr().err


def test_datasets_that_share_a_work_folder_have_files_of_their_own(tmp_path):
    """In containers all have the same names: then the output folder itself tells them apart."""
    options = [Options(tmp_path / b, tmp_path / o, "participant", work_dir=tmp_path) for b in "ab" for o in "cd"]
    assert len({place_of_work(one) for one in options}) == 4
    one = options[0]
    one.out_dir.mkdir()
    before = place_of_work(one)
    assert place_of_work(one) == before
    one.out_dir.rename(tmp_path / "moved")
    one.out_dir.mkdir()
    assert place_of_work(one) != before


def test_the_page_keeps_sessions_that_were_not_asked_for(tmp_path):
    options = Options(
        make_dataset(tmp_path / "bids", [t1w("01", "a"), t1w("01", "b")]), tmp_path / "out", "participant"
    )
    scans = find_scans(options.bids_dir).scans
    for scan in scans:
        write_tsv(path_for(scan, "brainage", options.out_dir, options.template), [ROW], list(ROW))
        write_json(path_for(scan, "brainage_json", options.out_dir, options.template), {"Fingerprint": {}})
    chosen = [job for scan in scans if (job := Job(scan, {}, "redone", ("brainage",))).scan.session == "b"]
    assert write_reports(chosen, replace(options, session_label=("b",))) == []
    page = options.out_dir / "sub-01.html"
    assert "sub-01_ses-a" in page.read_text()
    assert "sub-01_ses-b" in page.read_text()
    page.unlink()  # as at the start of a run, in which session b then fails
    path_for(chosen[0].scan, "brainage", options.out_dir, options.template).unlink()
    assert write_reports(chosen, replace(options, session_label=("b",))) == []
    assert "sub-01_ses-a" in page.read_text()


def test_the_page_shows_a_session_that_another_process_finished_meanwhile(tmp_path, monkeypatch):
    bids = make_dataset(tmp_path / "bids", [t1w("01", "a"), t1w("01", "b"), t1w("02", "a")])
    options = Options(bids, tmp_path / "out", "participant", session_label=("a",))
    scans = {scan.stem: scan for scan in find_scans(bids).scans}

    def finish(scan):
        write_tsv(path_for(scan, "brainage", options.out_dir, options.template), [ROW], list(ROW))
        write_json(path_for(scan, "brainage_json", options.out_dir, options.template), {"Fingerprint": {}})

    def write_slowly(subject, *args):
        written.append(subject)
        page = write_report(subject, *args)
        finish(scans["sub-01_ses-b"])
        return page

    written = []
    monkeypatch.setattr(participant, "write_report", write_slowly)
    own = [scans["sub-01_ses-a"], scans["sub-02_ses-a"]]
    for scan in own:
        finish(scan)
    assert write_reports([Job(scan, {}, "redone", ("brainage",)) for scan in own], options) == []
    assert "sub-01_ses-b" in (options.out_dir / "sub-01.html").read_text()
    assert written == ["01", "02", "01"]


def test_an_atlas_of_another_network_is_refused(tmp_path):
    """Its calibration is that of the network that it was made with."""
    folder = tmp_path / "models" / "segment"
    shutil.copytree(PACKAGED / "segment", folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "description": "trained elsewhere"}))
    options = Options(tmp_path, tmp_path, "participant", models_dir=tmp_path / "models")
    with pytest.raises(UsageError, match="calibrated for another segmentation network"):
        find_tools(options, None)
    assert find_tools(replace(options, models_dir=None), None).segment.name == "segment"


def test_a_model_that_cannot_take_the_app_s_volumes_is_refused_before_anything_runs(tmp_path):
    folder = tmp_path / "models" / "mine"
    shutil.copytree(PACKAGED / "roi", folder)
    card = json.loads((folder / "model.json").read_text())
    card["arguments"]["converts_2mm"] = False
    (folder / "model.json").write_text(json.dumps({**card, "name": "mine"}))
    options = Options(tmp_path, tmp_path, "participant", models_dir=tmp_path / "models", models=("mine",))
    with pytest.raises(UsageError, match="--models mine: cannot take the app's volumes"):
        find_tools(options, None)


def test_what_an_earlier_run_said_of_a_scan_is_no_reason_of_this_one(tmp_path):
    from niworkflows.engine.workflows import LiterateWorkflow

    from bids_brainage.workflows import engine, scratch

    options = Options(tmp_path, tmp_path / "out", "participant", nipype_plugin="Linear", nprocs=1)
    job = Job(Scan(Path("/data/sub-01_T1w.nii.gz"), {"sub": "01"}, Age()), {}, "")
    old = scratch.folder_of(job, tmp_path) / "register" / "reason.txt"
    old.parent.mkdir(parents=True)
    old.write_text("No space left on device")
    empty = LiterateWorkflow("empty", base_dir=str(tmp_path))
    said = engine.run(empty, engine.plugin_of(empty, [job], options, tmp_path), [job], options, tmp_path)
    assert "No space left" not in said["sub-01"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plugin: Bogus", "Nipype has no plugin 'Bogus'"),
        ("plugin: 3", "Nipype has no plugin '3'"),
        ("plugin_args: [1]", "plugin_args must be names with values"),
        ("plugin_args: {n_procs: 0}", "plugin_args cannot be used"),
        ("plugin_args: {n_procs: two}", "plugin_args cannot be used"),
        ("plugin_args: {mp_context: bogus}", "plugin_args cannot be used"),
    ],
)
def test_a_plugin_that_cannot_be_is_refused_before_any_result_is_taken_back(tmp_path, text, words):
    from niworkflows.engine.workflows import LiterateWorkflow

    from bids_brainage.workflows import engine

    path = write_text(tmp_path / "plugin.yaml", text)
    options = Options(tmp_path, tmp_path / "out", "participant", nprocs=1, plugin_file=path)
    with pytest.raises(UsageError, match=rf"plugin\.yaml: {words}"):
        engine.plugin_of(LiterateWorkflow("empty", base_dir=str(tmp_path)), [], options, tmp_path)


def test_a_plugin_file_without_arguments_is_one(tmp_path):
    from niworkflows.engine.workflows import LiterateWorkflow

    from bids_brainage.workflows import engine

    path = write_text(tmp_path / "plugin.yaml", "plugin_args:\n")
    options = Options(tmp_path, tmp_path / "out", "participant", nprocs=1, plugin_file=path)
    _, arguments = engine.plugin_of(LiterateWorkflow("empty", base_dir=str(tmp_path)), [], options, tmp_path)
    assert arguments["n_procs"] == 1


def test_what_the_config_file_says_of_the_log_holds(tmp_path, capsys):
    (tmp_path / "c.toml").write_text("verbose = true\n")
    (tmp_path / "bids").mkdir()
    words = [str(tmp_path / "bids"), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    assert cli.main([*words, "--config", str(tmp_path / "c.toml")]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_result_depends_on_its_flags(tmp_path):
    """A variant that was the only reconstruction, until the plain one came."""
    scan = Scan(tmp_path / "x", {"sub": "01"}, Age(60.5, ""))
    options = Options(tmp_path, tmp_path, "participant")
    marks = [fingerprint(replace(scan, flags=flags), options, [], [], "") for flags in ((), ("rec_variant",))]
    assert marks[0] != marks[1]


@pytest.mark.parametrize("fault", ["closed", "file", "above"])
def test_a_folder_that_cannot_be_written_is_the_trouble_of_its_scan_alone(tmp_path, fault):
    scan = Scan(tmp_path / "sub-01_T1w.nii.gz", {"sub": "01"})
    folder = tmp_path / "out" / "sub-01" / "anat"
    assert outputs.unwritable(scan, tmp_path / "out") == ""
    assert not folder.exists()
    if fault == "file":
        folder.parent.mkdir(parents=True)
        folder.write_text("")
        assert outputs.unwritable(scan, tmp_path / "out") == f"{folder}: is a file where a folder must be; move it away"
        return
    folder.mkdir(parents=True)
    closed = folder if fault == "closed" else folder.parent
    closed.chmod(0)
    if os.access(closed, os.W_OK):
        closed.chmod(0o755)
        pytest.skip("this user may write everything")
    try:
        assert outputs.unwritable(scan, tmp_path / "out").startswith(f"{closed}: cannot be written")
        assert outputs.missing(scan, ["brainage"], tmp_path / "out", "T")
        assert outputs.reason_to_run(scan, ["brainage"], tmp_path / "out", "T", {}) == "no result yet"
    finally:
        closed.chmod(0o755)
