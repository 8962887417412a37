"""Where bundles are found, and what is said when they are not."""

import json
from pathlib import Path

import pytest
from test_bundle import CARD

from bids_brainage.core.bundle import save
from bids_brainage.core.errors import BundleError
from bids_brainage.models import registry
from bids_brainage.toolbox import main


def bundle(place: Path, name: str, **card: object) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "weights.tsv").write_text(f"{place} {name}\n")
    save(folder, CARD | {"name": name} | card)
    return folder


def test_search_path_ends_in_the_package(tmp_path: Path) -> None:
    assert registry.search_path() == [registry.PACKAGED]
    assert registry.search_path(tmp_path, Path("/home/x")) == [tmp_path, Path("/home/x/models"), registry.PACKAGED]


def test_first_place_wins(tmp_path: Path) -> None:
    first = bundle(tmp_path / "a", "mine")
    bundle(tmp_path / "b", "mine")
    found = registry.find("mine", [tmp_path / "absent", tmp_path / "a", tmp_path / "b"])
    assert found.folder == first
    assert len(registry.every([tmp_path / "a", tmp_path / "b"])) == 1


def test_first_of_a_role_and_architecture_is_found_and_damaged_neighbours_are_passed(tmp_path: Path) -> None:
    (bundle(tmp_path / "a", "broken") / "model.json").write_text("{")
    bundle(tmp_path / "a", "other", role="reference", architecture="normative")
    bundle(tmp_path / "a", "age", role="brain_age", architecture="genmind")
    wanted = bundle(tmp_path / "b", "x", role="reference", architecture="genmind")
    bundle(tmp_path / "b", "y", role="reference", architecture="genmind")
    found = registry.first("reference", {"genmind"}, [tmp_path / "a", tmp_path / "b"])
    assert found is not None
    assert found.folder == wanted
    assert registry.first("reference", {"genmind"}, [tmp_path / "a"]) is None


def test_name_is_the_card_s_and_not_the_folder_s(tmp_path: Path) -> None:
    bundle(tmp_path, "mine").rename(tmp_path / "renamed")
    assert registry.find("mine", [tmp_path]).folder.name == "renamed"
    with pytest.raises(BundleError):
        registry.find("renamed", [tmp_path])


@pytest.mark.parametrize("kept", ["backup-mine", "z-mine"])
def test_a_copy_that_was_kept_beside_a_bundle_is_not_taken_for_it(tmp_path: Path, kept: str) -> None:
    bundle(tmp_path, "mine").rename(tmp_path / kept)
    new = bundle(tmp_path, "mine", version="2.0.0")
    assert registry.find("mine", [tmp_path]).folder == new


def test_unknown_name_lists_what_is_there_and_suggests(tmp_path: Path) -> None:
    bundle(tmp_path, "mine")
    bundle(tmp_path, "other")
    with pytest.raises(BundleError, match=r"did you mean 'mine'\? there are: mine, other") as error:
        registry.find("mien", [tmp_path])
    assert "\n" not in str(error.value)
    with pytest.raises(BundleError, match="there are: none"):
        registry.find("mine", [tmp_path / "absent"])


def test_damaged_neighbour_does_not_hide_a_sound_bundle(tmp_path: Path) -> None:
    bundle(tmp_path, "mine")
    (bundle(tmp_path, "broken") / "model.json").write_text("{")
    (bundle(tmp_path, "tampered") / "weights.tsv").write_text("else\n")
    assert registry.find("mine", [tmp_path]).name == "mine"
    for name in ("broken", "tampered"):
        with pytest.raises(BundleError, match=name):
            registry.find(name, [tmp_path])
    with pytest.raises(BundleError):
        registry.available([tmp_path])


def test_roles(tmp_path: Path) -> None:
    bundle(tmp_path, "mine")
    bundle(tmp_path, "net", architecture="segment")
    bundle(tmp_path, "regions", architecture="atlas")
    bundle(tmp_path, "stated", architecture="new", role="segmentation")
    roles = {b.name: registry.role(b) for b in registry.every([tmp_path])}
    assert roles == {"mine": "brain_age", "net": "segmentation", "regions": "atlas", "stated": "segmentation"}
    assert [b.name for b in registry.available([tmp_path])] == ["mine"]


def test_everything_that_ships_is_sound_and_says_where_it_comes_from() -> None:
    for found in registry.every(registry.search_path()):
        assert found.folder.name == found.name
        assert found.card["licence"]
        assert found.card["training"]
    roi = registry.find("roi", registry.search_path())
    assert registry.role(roi) == "brain_age"
    assert {"LICENSE.txt", "CC-BY-SA-3.0.txt", "SBIA-1.1.txt"} <= set(roi.card["files"])
    assert "creativecommons.org/licenses/by-sa/3.0" in roi.file("LICENSE.txt").read_text()


def test_models_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDS_BRAINAGE_HOME", str(tmp_path))
    bundle(tmp_path / "models", "mine")
    assert main(["models", "list"]) == 0
    assert {line.split("\t")[0] for line in capsys.readouterr().out.splitlines()} >= {"mine", "roi"}
    assert main(["models", "show", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine"
    assert main(["models", "show", "roi"]) == 0
    assert "ages that it is for: 24.62-74.99 years" in capsys.readouterr().out
    assert main(["models", "verify"]) == 0
    (tmp_path / "models" / "mine" / "weights.tsv").write_text("else\n")
    capsys.readouterr()
    assert main(["models", "verify"]) == 1
    assert "mine\tDAMAGED" in capsys.readouterr().out
    assert main(["models", "show", "min"]) == 2
    assert "did you mean 'mine'?" in capsys.readouterr().err
