"""A bundle: a folder with ``model.json`` (the card) and the files it names, each with its sha256.

Weights are safetensors, tables are TSV, arrays are npz read without pickle: reading a bundle runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import BrainAgeError, BundleError
from bids_brainage.core.files import read_json, sha256, sha256_of, write_json

CARD = "model.json"
REQUIRED = ("name", "architecture", "version", "needs", "training", "licence", "metrics", "not_meant_for", "files")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes
    ----------
    folder : Path
        Where it lies.
    card : mapping
        ``model.json``: ``name``, ``architecture``, ``version``, ``needs`` (artefacts by name), ``training``
        (data, kind ``real``, ``simulated`` or ``synthetic``, seed, command), ``licence``, ``metrics``,
        ``not_meant_for``, ``files`` (name -> sha256), and what the architecture wants.
    """

    folder: Path
    card: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name under which users choose it."""
        return str(self.card["name"])

    @property
    def digest(self) -> str:
        """sha256 of the card, which holds the sha256 of every file: identifies the whole bundle."""
        return sha256_of(self.card)

    def file(self, name: str) -> Path:
        """Path of a file that the card lists."""
        if name not in self.card["files"]:
            raise BundleError(f"{self.folder}: the card lists no file {name!r}; use a bundle made for this version")
        return self.folder / name


def load(folder: Path) -> Bundle:
    """Read a bundle and check every file against its sha256.

    Raises
    ------
    BundleError
        Where the card or a file is missing, damaged, or does not match its sha256.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise BundleError(f"{folder}: holds no {CARD}; give a folder that `brainage train` wrote")
    try:
        card = read_json(folder / CARD)
    except BrainAgeError as error:
        raise BundleError(str(error)) from None
    if not isinstance(card, dict) or not isinstance(card.get("files", {}), dict):
        raise BundleError(f"{folder / CARD}: is no model card; give a folder that `brainage train` wrote")
    missing = [key for key in REQUIRED if key not in card]
    if missing:
        raise BundleError(f"{folder / CARD}: lacks {', '.join(missing)}; use a complete model card")
    for name, expected in card["files"].items():
        path = folder / name
        if Path(name).name != name:
            raise BundleError(f"{folder / CARD}: file name {name!r} leaves the bundle; it is refused")
        if not path.is_file():
            raise BundleError(f"{path}: named by the card but missing; install the bundle again")
        if sha256(path) != expected:
            raise BundleError(f"{path}: its sha256 differs from the card's; install the bundle again")
    return Bundle(folder, card)


def save(folder: Path, card: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> Bundle:
    """Complete a card with the sha256 of ``files`` (default: all beside the card), write it last, and load it."""
    folder = Path(folder)
    named = files or {path.name: path for path in sorted(folder.iterdir()) if path.name != CARD}
    write_json(folder / CARD, {**card, "files": {name: sha256(path) for name, path in named.items()}})
    return load(folder)
