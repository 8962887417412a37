"""A release of several files, of which no checksum is known: taken only where that is accepted, and kept unread."""

import json

import pickles
import pytest
from loopback import serving

from bids_brainage.core.bundle import load
from bids_brainage.core.files import sha256
from bids_brainage.models import releases
from bids_brainage.models.releases import read_files
from bids_brainage.toolbox import main

NAMES = ("kde_white_female.npz", "kde_black_male.npz")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDS_BRAINAGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def density(tmp_path):
    return pickles.write(tmp_path, pickles.contents(pickles.people()), NAMES[0])


def fetch(folder, address, *more, known=(None, None), **changes):
    entry = json.loads(releases.RELEASES.read_text())["genmind"]
    entry |= {"address": address, "files": dict(zip([f"model/{name}" for name in NAMES], known, strict=True))} | changes
    (folder / "releases.json").write_text(json.dumps({"genmind": entry}))
    options = ("--accept-licence", "--releases", str(folder / "releases.json"))
    return main(["models", "fetch", "genmind", *options, *map(str, more)])


def one_line(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("brainage: ")]
    return line


def test_files_without_checksum_must_be_accepted_and_are_recorded(density, home, tmp_path, capsys):
    with serving(density.read_bytes()) as server:
        assert fetch(tmp_path, server.address) == 2
        assert "no checksum of 2 files is known" in one_line(capsys)
        assert server.asked == []
        assert fetch(tmp_path, server.address, "--accept-unverified") == 0
        assert f"not compared with anything: model/{NAMES[1]} has sha256 {sha256(density)}" in capsys.readouterr().err
        assert fetch(tmp_path, server.address, "--accept-unverified") == 0
        assert len(server.asked) == 2
    found = load(home / "genmind")
    assert found.card["not_compared"] == [f"model/{name}" for name in NAMES]
    assert set(found.card["files"].values()) == {sha256(density)}
    assert [path.read_bytes() for path in read_files(home / "genmind").values()] == [density.read_bytes()] * 2
    assert not list((home / ".download").iterdir())
    capsys.readouterr()
    assert main(["genmind", "import", str(home / "genmind"), "--out", str(tmp_path / "made")]) == 0
    assert "White\tF\t40 centres" in capsys.readouterr().out
    assert main(["models", "verify"]) == 0
    assert main(["models", "list"]) == 0


def test_a_known_checksum_is_held(density, home, tmp_path, capsys):
    with serving(density.read_bytes()) as server:
        assert fetch(tmp_path, server.address, known=(sha256(density), "0" * 64)) == 2
        assert "its sha256 is" in one_line(capsys)
        assert not (home / "genmind").exists()
        assert fetch(tmp_path, server.address, known=(sha256(density),) * 2) == 0
    assert load(home / "genmind").card["not_compared"] == []


def test_a_cut_transfer_leaves_no_bundle(density, home, tmp_path, capsys):
    with serving(density.read_bytes()) as server:
        server.cut = 1000
        assert fetch(tmp_path, server.address, "--accept-unverified") == 2
        assert "run it again" in one_line(capsys)
        assert not (home / "genmind").exists()
        server.cut = None
        assert fetch(tmp_path, server.address, "--accept-unverified") == 0
        assert server.asked[1] == "bytes=1000-"


def test_a_folder_of_files_needs_no_network(density, home, tmp_path, capsys):
    more = ("--accept-unverified", "--from", tmp_path)
    assert fetch(tmp_path, "http://127.0.0.1:9/", *more) == 2
    assert f"{NAMES[1]}: is not there" in one_line(capsys)
    (tmp_path / NAMES[1]).write_bytes(density.read_bytes())
    assert fetch(tmp_path, "http://127.0.0.1:9/", *more) == 0
    assert density.is_file()


@pytest.mark.parametrize("files", [{}, {"../x": None}, {"/x": None}, {"a/x": None, "b/x": None}, {"x": "short"}, [1]])
def test_a_list_of_files_that_is_none_is_refused(home, tmp_path, capsys, files):
    assert fetch(tmp_path, "http://127.0.0.1:9/", files=files) == 2
    assert "is not complete" in one_line(capsys)


def test_what_ships_is_pinned():
    shipped = releases.read_releases()["genmind"]
    assert shipped.address.startswith("https://huggingface.co/spaces/rongguangw/GenMIND/resolve/d1546dc01cf44842a2b3")
    assert len(shipped.files) == 8
    assert len(shipped.unverified) == 8
