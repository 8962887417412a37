"""Bundles: what is damaged, missing or foreign is refused with one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_brainage.core.bundle import Bundle, load, save
from bids_brainage.core.errors import BrainAgeError, BundleError
from bids_brainage.core.types import Age
from bids_brainage.models import base, registry

CARD: dict[str, Any] = {
    "name": "mine",
    "architecture": "roi",
    "version": "1.0.0",
    "needs": ["muse_volumes", "sex"],
    "training": {"kind": "simulated"},
    "licence": "Apache-2.0",
    "metrics": {},
    "not_meant_for": [],
    "age_range": [20.0, 75.0],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    (made / "features.tsv").write_text("index\n4\n")
    save(made, CARD)
    return made


def edit(folder: Path, **changes: Any) -> Bundle:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))
    return load(folder)


def test_digest_changes_with_any_file(folder: Path) -> None:
    before = load(folder).digest
    (folder / "features.tsv").write_text("index\n11\n")
    assert save(folder, CARD).digest != before


def _truncate(folder: Path) -> None:
    (folder / "features.tsv").write_bytes((folder / "features.tsv").read_bytes()[:-1])


def _tamper(folder: Path) -> None:
    data = bytearray((folder / "features.tsv").read_bytes())
    data[0] ^= 1
    (folder / "features.tsv").write_bytes(bytes(data))


def _card(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.json").write_text(text)

    return write


def _without(key: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        card = json.loads((folder / "model.json").read_text())
        del card[key]
        (folder / "model.json").write_text(json.dumps(card))

    return write


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _tamper,
        lambda folder: (folder / "features.tsv").unlink(),
        lambda folder: (folder / "model.json").unlink(),
        _card('{"name": "mine", '),
        _card("3"),
        _card('["name"]'),
        _card(json.dumps(CARD | {"files": ["features.tsv"]})),
        _card(json.dumps(CARD | {"files": {"../features.tsv": "0"}})),
        _without("licence"),
        _without("files"),
    ],
)
def test_damaged_bundle_is_refused_with_one_line(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(BundleError) as error:
        registry.verified(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["os", "../x", "base", "registry", "__init__", "", "roi.py", "bids_brainage.models.roi", "ROI", ["roi"], None],
)
def test_architecture_that_is_no_model_of_the_package_is_refused(folder: Path, name: Any) -> None:
    with pytest.raises(BundleError, match="no model has the architecture") as error:
        base.load_model(edit(folder, architecture=name))
    assert "\n" not in str(error.value)


def test_bundle_that_does_not_fit_its_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle of the roi architecture"):
        base.load_model(load(folder))


def test_every_architecture_has_exactly_one_model() -> None:
    from importlib import import_module

    assert "roi" in base.architectures()
    for name in base.architectures():
        assert issubclass(base._model_class(import_module(f"bids_brainage.models.{name}")), base.Model)


class Constant(base.Model[None]):
    """Says 50 of everyone."""

    def prepare(self, artefacts: Any) -> None:
        return None

    def predict(self, inputs: Any) -> list[Any]:
        return []


def test_card_speaks_through_the_model(folder: Path) -> None:
    model = Constant(load(folder))
    assert (model.name, model.needs, model.age_range) == ("mine", frozenset({"muse_volumes", "sex"}), (20.0, 75.0))
    assert model.training_data == "simulated"


@pytest.mark.parametrize(
    ("age", "flags"),
    [
        (Age(19.99), ("age_outside_model_range",)),
        (Age(20.0), ()),
        (Age(75.0), ()),
        (Age(75.01), ("age_outside_model_range",)),
        (Age(None, "censored"), ()),
        (Age(float("nan")), ()),
    ],
)
def test_age_flags(folder: Path, age: Age, flags: tuple[str, ...]) -> None:
    assert base.age_flags(Constant(load(folder)), age) == flags


def test_no_age_flag_where_the_card_gives_no_range(folder: Path) -> None:
    assert base.age_flags(Constant(edit(folder, age_range=None)), Age(150.0)) == ()


def test_a_bundle_error_is_an_expected_error() -> None:
    assert issubclass(BundleError, BrainAgeError)
