"""What a user may get wrong: one line that names the file, an exit code that is not 0, and an untouched dataset."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from test_conform import store
from trees import make_dataset, snapshot, t1w, tsv, write

from bids_brainage import cli

NOBODY = 65534
FIXED = ["--skip-bids-validation", "--device", "cpu", "--nipype-plugin", "Linear"]


@pytest.fixture
def dataset(tmp_path):
    """Two scans without content, so that a run that gets as far as the scans ends soon."""
    return make_dataset(tmp_path / "bids", [t1w("01"), t1w("02")], participants=tsv("participant_id age", "01 5"))


@pytest.fixture
def errors(capsys):
    """Call the app in this process; gives its exit code and its error lines."""

    def call(bids: Path, out: Path, *words: object) -> tuple[int, list[str]]:
        work = [] if "-w" in words else ["-w", str(bids.parent / "work")]
        before = snapshot(bids)
        code = cli.main([str(bids), str(out), "participant", *FIXED, *work, *map(str, words)])
        assert snapshot(bids) == before
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, [line for line in said.splitlines() if " I " not in line]

    return call


@contextmanager
def full(folder: Path, size: str = "4k"):
    """A disk without room, mounted at a folder."""
    folder.mkdir(parents=True)
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root may mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """All that a run imports, which a user without rights may not read."""
    root = tmp_path_factory.mktemp("imported")
    bids = make_dataset(root / "bids", [t1w("01")], participants=tsv("participant_id age", "01 5"))
    cli.main([str(bids), str(root / "out"), "participant", *FIXED, "-w", str(root / "work")])


@pytest.fixture
def unprivileged(imported):
    """A folder of a user who may not do everything; the test goes on as that user."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=True)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("participants.tsv", "participant_id\tage\nsub-Müller\t6\n".encode("latin-1"), "line 2: is not UTF-8"),
        ("participants.tsv", b"participant_id\tage\nsub-01\t5\t6\n", "line 2: has 3 cells where the header has 2"),
        ("participants.tsv", b"/annex/objects/MD5E-s1--ab.tsv\n", "git-annex pointer without content"),
        ("participants.tsv", None, "cannot be read"),
        ("participants.json", b'{"age": {"Units": "years",}}', "not a readable JSON file"),
        ("participants.json", None, "not a readable JSON file"),
        ("dataset_description.json", b"{", "not a readable JSON file"),
        ("dataset_description.json", None, "is missing"),
    ],
)
def test_a_file_about_the_whole_dataset_stops_the_run(dataset, tmp_path, errors, name, content, said):
    path = dataset / name
    path.unlink(missing_ok=True)
    if content is None:
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    code, (line,) = errors(dataset, tmp_path / "out")
    assert code == 2
    assert f"{path}: " in line
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_bad_sessions_table_fails_its_participant_alone(tmp_path, errors):
    bids = make_dataset(tmp_path / "bids", [t1w("01", "a"), t1w("01", "b"), t1w("02")])
    table = write(bids / "sub-01" / "sub-01_sessions.tsv", "session_id\tage\nses-a\n")
    code, lines = errors(bids, tmp_path / "out")
    assert code == 1
    assert [str(table) in line for line in lines] == [True, True, False, False]
    assert "line 2: has 1 cells" in lines[0]
    assert "sub-02_T1w.nii.gz: the file is empty" in lines[2]
    assert "3 failed" in lines[3]


def test_a_sidecar_with_errors_is_no_reason_to_stop(dataset, tmp_path, errors):
    write(dataset / "sub-01" / "anat" / "sub-01_T1w.json", "{,")
    assert errors(dataset, tmp_path / "out", "--dry-run") == (0, [])


@pytest.mark.parametrize(
    ("out", "words", "said"),
    [
        ("bids", [], "same folder"),
        ("bids/sub-01", [], "inside the dataset"),
        ("bids/results", [], "inside the dataset"),
        ("bids/derivatives-of-mine", [], "inside the dataset"),
        (".", [], "the dataset lies inside"),
        ("out", ["--bids-database-dir", "{}/bids/index"], "inside the dataset"),
        ("out", ["--bids-database-dir", "{}/bids"], "inside the dataset"),
        ("out", ["-w", "{}/bids/work"], "inside the dataset"),
    ],
)
def test_nothing_is_written_into_the_dataset(dataset, tmp_path, errors, out, words, said):
    code, (line,) = errors(dataset, tmp_path / out, *(word.format(tmp_path) for word in words))
    assert code == 2
    assert said in line


def test_derivatives_of_the_dataset_are_its_own(dataset):
    cli.parse([str(dataset), str(dataset / "derivatives" / "bids-brainage"), "participant"])


def test_a_scan_that_may_not_be_read_fails_alone(unprivileged, errors):
    bids = make_dataset(unprivileged / "bids", [t1w("01"), t1w("02")])
    (bids / t1w("01")).write_bytes(b"x" * 3000)
    (bids / t1w("01")).chmod(0)
    code, lines = errors(bids, unprivileged / "out")
    assert code == 1
    assert "sub-01_T1w.nii.gz: cannot be read (Permission denied); check its permissions" in lines[0]
    assert "sub-02_T1w.nii.gz: the file is empty" in lines[1]
    assert "2 failed" in lines[2]


@pytest.mark.parametrize(
    ("locked", "mode"),
    [
        *product(["out", "out/logs", "out/sub-01/anat", "work"], [0o000, 0o555]),
        *product(["bids", "bids/participants.tsv"], [0o000]),
    ],
)
def test_what_is_locked_is_one_line(unprivileged, errors, locked, mode):
    bids = make_dataset(unprivileged / "bids", [t1w("01")], participants=tsv("participant_id age", "01 5"))
    for name in ("logs", "sub-01/anat"):
        (unprivileged / "out" / name).mkdir(parents=True)
    (unprivileged / "work").mkdir()
    (unprivileged / "out" / "sub-01" / "anat" / "sub-01_brainage.json").write_text("{}")
    (unprivileged / locked).chmod(mode)
    try:
        code, (line,) = errors(bids, unprivileged / "out")
    finally:
        (unprivileged / locked).chmod(0o755)
    assert code == 2
    assert str(unprivileged / locked) in line


@pytest.mark.parametrize("which", ["out", "work", "index"])
def test_a_full_disk_is_told_as_such(dataset, tmp_path, errors, which):
    with full(tmp_path / which):
        words = ["--bids-database-dir", tmp_path / "index"] if which == "index" else []
        code, lines = errors(dataset, tmp_path / "out", *words)
        assert not [p for p in (tmp_path / which).rglob("*") if p.name.startswith(".") and p.name != ".bidsignore"]
    assert code == (1 if which == "work" else 2)
    told = [line for line in lines if "scans are complete" not in line]
    assert all("No space left on device" in line or "disk is full" in line for line in told)
    assert all(str(tmp_path / which) in line for line in told)


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_a_disk_that_fills_up_on_the_way_is_told_by_the_app(tmp_path, plugin):
    """A limit on the size of files does what a full disk does, and needs no rights."""
    bids = make_dataset(tmp_path / "bids", [t1w("02")])
    noise = np.random.default_rng(0).normal(size=(80, 80, 80)).astype(np.float32)
    store(write(bids / t1w("01"), ""), noise)
    argv = [sys.executable, "-m", "bids_brainage.cli", str(bids), str(tmp_path / "out"), "participant"]
    argv += ["-w", str(tmp_path / "work"), "--skip-bids-validation", "--device", "cpu", "--nprocs", "1"]
    limited = ["bash", "-c", 'ulimit -f 500; exec "$@"', "bash", *argv, "--nipype-plugin", plugin]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in done.stderr.splitlines() if " I " not in line]
    assert done.returncode == 1, done.stderr
    assert len(lines) == 3, done.stderr
    assert f"{bids / t1w('01')}: cannot write {tmp_path / 'work'}" in lines[0]
    assert "(File too large); check space and permissions" in lines[0]
    assert f"{bids / t1w('02')}: the file is empty" in lines[1]
    assert not list((tmp_path / "work").rglob("*t1w_native*"))
    assert not list((tmp_path / "out").rglob("*_brainage.*"))
