"""Models from elsewhere: fetched and installed whole or not at all, and nothing in them is run."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from loopback import serving
from safetensors.torch import load_file
from test_archive import make_tar, make_zip
from test_bundle import CARD as ROI_CARD
from test_sfcn import CARD, bundle, made_state, published_shapes
from test_synthstrip import threshold_weights

from bids_brainage.core.bundle import load
from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import git_blob, sha256
from bids_brainage.models import install as installing
from bids_brainage.models import registry, releases
from bids_brainage.models.base import load_model
from bids_brainage.toolbox import main

DEPENDS = {"files", "licence", "name"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A released file: the published names under DataParallel's prefix, few channels."""
    state = OrderedDict((f"module.{name}", value) for name, value in made_state().items())
    torch.save(state, tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "weights.pt"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIDS_BRAINAGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def entry(weights: Path, address: str = "http://127.0.0.1:9/weights.pt", **changes: Any) -> dict[str, Any]:
    return {
        "address": address,
        "size": weights.stat().st_size,
        "sha256": sha256(weights),
        "licence": {"name": "MIT", "address": "https://opensource.org/license/mit", "osi": True},
        "reference": "a paper",
        "state": {"within": [], "prefix": "module."},
        "card": {key: value for key, value in CARD.items() if key not in DEPENDS},
    } | changes


def listed(folder: Path, **entries: dict[str, Any]) -> Path:
    (folder / "releases.json").write_text(json.dumps(entries))
    return folder / "releases.json"


def fetch(folder: Path, found: dict[str, Any], *more: str) -> int:
    return main(["models", "fetch", "mine", "--releases", str(listed(folder, mine=found)), *more])


def visible(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("*") if not path.name.startswith("."))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("brainage: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def server(weights: Path):
    with serving(weights.read_bytes()) as running:
        yield running


def test_a_fetched_model_is_a_bundle_that_works(weights, server, home, tmp_path, capsys):
    assert fetch(tmp_path, entry(weights, server.address)) == 0
    said = capsys.readouterr()
    assert said.out == f"mine\t{home / 'mine'}\n"
    assert "MIT (https://opensource.org/license/mit)" in said.err
    found = registry.find("mine", [home])
    assert found.card["licence"] == "MIT, https://opensource.org/license/mit"
    assert found.card["release"] == {"address": server.address, "digest": sha256(weights)}
    for name, value in load_file(found.file("model.safetensors")).items():
        assert torch.equal(value, made_state()[name])
    assert load_model(found).name == "mine"
    assert visible(home) == ["mine"]
    assert not list((home / ".download").iterdir())


def test_what_is_there_is_not_fetched_again(weights, server, home, tmp_path, capsys):
    found = entry(weights, server.address)
    assert [fetch(tmp_path, found), fetch(tmp_path, found)] == [0, 0]
    assert len(server.asked) == 1
    assert fetch(tmp_path, found, "--force") == 0
    assert len(server.asked) == 2
    assert fetch(tmp_path, entry(weights, "http://127.0.0.1:9/other")) == 2
    assert "another bundle is called 'mine'; --force" in one_line(capsys)


def test_the_same_file_gives_the_same_bundle(weights, home, tmp_path):
    digests = set()
    for place in ("a", "b"):
        more = ("--from", str(weights), "--models-dir", str(tmp_path / place))
        assert fetch(tmp_path, entry(weights), *more) == 0
        digests.add(load(tmp_path / place / "mine").digest)
    assert len(digests) == 1


def test_from_a_file_needs_no_network_and_keeps_the_file(weights, home, tmp_path):
    before = weights.read_bytes()
    assert fetch(tmp_path, entry(weights), "--from", str(weights)) == 0
    assert weights.read_bytes() == before
    assert visible(home) == ["mine"]


def test_a_cut_transfer_is_resumed_by_the_next_call(weights, server, home, tmp_path, capsys):
    server.cut = 5000
    assert fetch(tmp_path, entry(weights, server.address)) == 2
    assert "run it again to go on" in one_line(capsys)
    assert visible(home) == []
    server.cut = None
    assert fetch(tmp_path, entry(weights, server.address)) == 0
    assert server.asked == [None, "bytes=5000-"]
    assert "going on at byte 5000" in capsys.readouterr().err


@pytest.mark.parametrize("known_by", ["sha256", "git_blob"])
def test_a_wrong_file_is_removed(weights, home, tmp_path, capsys, known_by):
    with serving(weights.read_bytes()[:-1] + b"x") as other:
        checks = {"sha256": sha256(weights)} if known_by == "sha256" else {"git_blob": git_blob(weights)}
        found = {key: value for key, value in entry(weights, other.address).items() if key != "sha256"} | checks
        assert fetch(tmp_path, found) == 2
        assert f"its {known_by} is" in one_line(capsys)
        assert not list((home / ".download").iterdir())
        other.content = weights.read_bytes()
        assert fetch(tmp_path, found) == 0


def test_a_wrong_local_file_is_refused_and_kept(weights, home, tmp_path, capsys):
    found = entry(weights)
    weights.write_bytes(weights.read_bytes()[:-1])
    assert fetch(tmp_path, found, "--from", str(weights)) == 2
    assert "bytes, the released file" in one_line(capsys)
    assert weights.is_file()
    assert fetch(tmp_path, found, "--from", str(tmp_path / "absent")) == 2
    assert str(tmp_path / "absent") in one_line(capsys)


def test_another_licence_must_be_accepted(weights, home, tmp_path, capsys):
    found = entry(weights, licence={"name": "Own terms", "address": "https://x.org/terms", "osi": False})
    assert fetch(tmp_path, found, "--from", str(weights)) == 2
    assert "https://x.org/terms, then give --accept-licence" in one_line(capsys)
    assert not home.exists()
    assert fetch(tmp_path, found, "--from", str(weights), "--accept-licence") == 0


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_runs_code_is_refused(home, tmp_path, capsys, new):
    torch.save(
        {"module.x": torch.ones(1), "evil": Evil(tmp_path / "ran")},
        tmp_path / "w.pt",
        _use_new_zipfile_serialization=new,
    )
    assert fetch(tmp_path, entry(tmp_path / "w.pt"), "--from", str(tmp_path / "w.pt")) == 2
    assert "nothing in it was run" in one_line(capsys)
    assert not (tmp_path / "ran").exists()
    assert visible(home) == []
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def _renamed(state):
    return {name.replace("conv_0", "conv_x"): value for name, value in state.items()}


def _reshaped(state):
    return state | {"module.classifier.conv_6.bias": torch.ones(41)}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_renamed, "not the weights of the architecture sfcn"),
        (_reshaped, "not the weights of the architecture sfcn"),
        (lambda state: state | {"other": torch.ones(1)}, "does not begin with 'module.'"),
        (lambda state: {"state": state}, "holds no state dict"),
        (lambda state: [1, 2], "holds no state dict"),
        (lambda state: {}, "holds no state dict"),
    ],
)
def test_other_keys_or_shapes_are_refused(weights, home, tmp_path, capsys, change, what):
    torch.save(change(torch.load(weights, weights_only=True)), tmp_path / "other.pt")
    assert fetch(tmp_path, entry(tmp_path / "other.pt"), "--from", str(tmp_path / "other.pt")) == 2
    line = one_line(capsys)
    assert what in line
    assert str(tmp_path / "other.pt") in line
    assert visible(home) == []


def test_a_damaged_file_of_the_right_checksum_is_refused(home, tmp_path, capsys):
    (tmp_path / "w.pt").write_bytes(b"\x80\x02hello")
    assert fetch(tmp_path, entry(tmp_path / "w.pt"), "--from", str(tmp_path / "w.pt")) == 2
    assert "is damaged" in one_line(capsys)


@pytest.mark.parametrize("code", [404, 503])
def test_a_server_error_is_one_line(weights, server, home, tmp_path, capsys, code):
    server.code = code
    assert fetch(tmp_path, entry(weights, server.address)) == 2
    assert f"answered {code}" in one_line(capsys)


def test_no_network_is_one_line(weights, home, tmp_path, capsys):
    assert fetch(tmp_path, entry(weights)) == 2
    assert "cannot be reached" in one_line(capsys)


def test_a_place_that_cannot_be_written_is_one_line(weights, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    more = ("--from", str(weights), "--models-dir", str(tmp_path / "file" / "models"))
    assert fetch(tmp_path, entry(weights), *more) == 2
    assert "cannot be written" in one_line(capsys)


def test_no_place_is_one_line(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BIDS_BRAINAGE_HOME", raising=False)
    assert fetch(tmp_path, entry(weights)) == 2
    assert "--models-dir" in one_line(capsys)


CALL = "import sys; from bids_brainage.toolbox import main; sys.exit(main(sys.argv[1:]))"
LIMITED = """
import resource, sys
from bids_brainage.toolbox import main
import torch, safetensors.torch, bids_brainage.models.sfcn
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [3000, 10000])
def test_a_full_disk_leaves_no_bundle(weights, server, home, tmp_path, limit):
    """While the file comes in (3000 bytes), and while the bundle is written."""
    found = listed(tmp_path, mine=entry(weights, server.address))
    more = [] if limit == 3000 else ["--from", str(weights)]
    command = [sys.executable, "-c", LIMITED, str(limit), "models", "fetch", "mine", "--releases", str(found), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert visible(home) == []
    assert not (home / ".staging").exists()
    assert fetch(tmp_path, entry(weights, server.address)) == 0


def test_two_processes_at_once_fetch_once(weights, server, home, tmp_path):
    found = listed(tmp_path, mine=entry(weights, server.address))
    command = [sys.executable, "-c", CALL, "models", "fetch", "mine", "--releases", str(found)]
    home.mkdir(parents=True)
    with FileLock(home / ".lock"):
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for one in both:
            assert any("waiting for another process" in line for line in one.stderr)
        assert visible(home) == []
    assert [one.wait(timeout=60) for one in both] == [0, 0]
    assert len(server.asked) == 1
    assert load(home / "mine")
    assert visible(home) == ["mine"]


def test_a_killed_fetch_leaves_no_bundle_and_is_resumed(weights, server, home, tmp_path):
    found = listed(tmp_path, mine=entry(weights, server.address))
    command = [sys.executable, "-c", CALL, "models", "fetch", "mine", "--releases", str(found)]
    server.pause = 4000
    with subprocess.Popen(command) as one:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size for p in home.glob(".download/*.part")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(one.pid, 9)
    assert visible(home) == []
    server.pause = None
    assert fetch(tmp_path, entry(weights, server.address)) == 0
    assert visible(home) == ["mine"]


def test_the_releases_that_ship_are_complete():
    shipped = releases.read_releases()
    assert set(shipped) == {"sfcn", "synthstrip", "genmind"}
    assert shipped["synthstrip"].size == 30851709
    assert not shipped["synthstrip"].osi
    assert "4e56dc1522ac89caadc5c6fc779799ee58c23adc" in shipped["sfcn"].address
    for release in shipped.values():
        assert release.address.startswith("https://")
        assert set(load.__globals__["REQUIRED"]) - {"files"} <= set(release.full_card())


@pytest.mark.parametrize("name", ["sfcn", "synthstrip"])
def test_the_entry_that_ships_takes_a_file_of_the_published_names(name, home, tmp_path):
    """All of the shipped entry but address and checksum, on made weights of the published names and shapes."""
    made = {
        "sfcn": {f"module.{key}": torch.zeros(shape) for key, shape in published_shapes().items()},
        "synthstrip": {"epoch": 3, "model_state_dict": threshold_weights(), "optimizer_state_dict": {"state": {}}},
    }
    torch.save(made[name], tmp_path / "w.pt")
    shipped = json.loads(releases.RELEASES.read_text())[name]
    known = {"size": (tmp_path / "w.pt").stat().st_size, "git_blob": git_blob(tmp_path / "w.pt"), "sha256": None}
    path = listed(tmp_path, **{name: shipped | known})
    argv = ["models", "fetch", name, "--accept-licence", "--releases", str(path), "--from", str(tmp_path / "w.pt")]
    assert main(argv) == 0
    found = registry.find(name, [home])
    assert registry.role(found) == {"sfcn": "brain_age", "synthstrip": "segmentation"}[name]


@pytest.mark.parametrize(
    "change",
    [{"sha256": None}, {"sha256": "../x"}, {"licence": None}, {"state": {}}, {"card": None, "reference": None}],
)
def test_an_entry_that_is_not_complete_is_refused(weights, home, tmp_path, capsys, change):
    found = {key: value for key, value in (entry(weights) | change).items() if value is not None}
    assert fetch(tmp_path, found) == 2
    assert "is not complete" in one_line(capsys)


def test_an_unknown_release_is_refused_and_all_are_listed(home, capsys):
    assert main(["models", "fetch", "nothing"]) == 2
    assert "there are: genmind, sfcn, synthstrip" in one_line(capsys)
    assert main(["models", "fetch"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["sfcn", "synthstrip", "genmind"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = bundle(tmp_path / "source", made_state(), name="mine")
    (made / "unlisted.py").write_text("raise SystemExit")
    return made


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_install(source, home, tmp_path, capsys, kind):
    members = {f"any/{path.name}": path.read_bytes() for path in source.iterdir()}
    makers = {"zip": make_zip, "tar.gz": make_tar}
    given = makers[kind](tmp_path / f"a.{kind}", members) if kind in makers else source
    assert main(["models", "install", str(given)]) == 0
    assert load_model(registry.find("mine", [home])).name == "mine"
    assert visible(home / "mine") == ["model.json", "model.safetensors"]
    assert main(["models", "install", str(given)]) == 2
    assert "another bundle is called 'mine'" in one_line(capsys)
    (home / "mine").rename(home / "elsewhere")
    assert main(["models", "install", str(given), "--force"]) == 0
    assert visible(home) == ["mine"]


def test_a_bundle_that_would_hide_one_that_ships_needs_force(source, home, capsys):
    card = json.loads((source / "model.json").read_text())
    (source / "model.json").write_text(json.dumps(card | {"name": "roi"}))
    assert main(["models", "install", str(source)]) == 2
    assert "another bundle is called 'roi'" in one_line(capsys)
    assert main(["models", "install", str(source), "--force"]) == 0


def test_a_tampered_bundle_is_refused(source, home, capsys):
    path = source / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert main(["models", "install", str(source)]) == 2
    line = one_line(capsys)
    assert "its sha256 differs" in line
    assert f"{source}: model.safetensors" in line
    assert visible(home) == []


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "x" * 65])
def test_a_name_that_leaves_is_refused(source, home, tmp_path, capsys, name):
    card = json.loads((source / "model.json").read_text())
    (source / "model.json").write_text(json.dumps(card | {"name": name}))
    assert main(["models", "install", str(source)]) == 2
    assert "is no name for a bundle" in one_line(capsys)
    assert visible(home) == []


def test_an_unknown_architecture_is_refused(tmp_path, home, capsys):
    made = bundle(tmp_path / "source", made_state(), name="mine", architecture="other")
    assert main(["models", "install", str(made)]) == 2
    assert "no model has the architecture 'other'" in one_line(capsys)


def test_what_stands_in_the_way_is_not_touched(source, home, capsys):
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "notes.txt").write_text("mine")
    assert main(["models", "install", str(source), "--force"]) == 2
    assert "move it away" in one_line(capsys)
    assert (home / "mine" / "notes.txt").read_text() == "mine"


def test_the_old_bundle_comes_back_where_the_new_one_cannot_be_named(tmp_path):
    old, aside = tmp_path / "old", tmp_path / "aside"
    old.mkdir()
    with pytest.raises(FileNotFoundError):
        installing._exchange(tmp_path / "absent", tmp_path / "target", old, aside)
    assert old.is_dir()
    assert not aside.exists()


@pytest.mark.parametrize("name", ["roi", "normative", "muse-atlas", "segment"])
def test_a_copy_of_what_ships_can_be_installed(name, tmp_path):
    place = tmp_path / "models"
    done = installing.install(registry.PACKAGED / name, place, [place], print)
    assert done.digest == load(registry.PACKAGED / name).digest


def test_another_card_of_a_known_architecture_is_refused(tmp_path, home, capsys):
    made = bundle(tmp_path / "source", made_state(), **(ROI_CARD | {"name": "mine"}))
    assert main(["models", "install", str(made)]) == 2
    assert "roi architecture" in one_line(capsys)


def test_a_release_without_a_file_is_an_expected_error(tmp_path):
    with pytest.raises(BrainAgeError, match="absent"):
        releases.read_releases(tmp_path / "absent.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="no list of releases"):
        releases.read_releases(tmp_path / "list.json")
