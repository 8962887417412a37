"""Where bundles are found, and which there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bids_brainage.core.bundle import CARD, Bundle, load
from bids_brainage.core.errors import BrainAgeError, BundleError
from bids_brainage.core.files import read_json

PACKAGED = Path(__file__).resolve().parents[1] / "data" / "bundles"
BRAIN_AGE, REFERENCE = "brain_age", "reference"
ROLE_OF_ARCHITECTURE = {"segment": "segmentation", "synthstrip": "segmentation", "atlas": "atlas"}


def search_path(models_dir: Path | None = None, home: Path | None = None) -> list[Path]:
    """Folders whose subfolders are bundles; where a name stands twice, the first counts.

    Parameters
    ----------
    models_dir : Path, optional
        The folder that the user gave.
    home : Path, optional
        The app's home (``BIDS_BRAINAGE_HOME``), whose ``models`` folder holds installed bundles.

    Returns
    -------
    list of Path
        The user's folder, the home's, and last the package's own.
    """
    places = [models_dir, home / "models" if home else None, PACKAGED]
    return [Path(place) for place in places if place is not None]


def role(bundle: Bundle) -> str:
    """``brain_age``, ``segmentation``, ``atlas`` or ``reference``: from the card, or by its architecture."""
    return str(bundle.card.get("role", ROLE_OF_ARCHITECTURE.get(str(bundle.card["architecture"]), BRAIN_AGE)))


def folders(dirs: Sequence[Path]) -> dict[str, Path]:
    """Folder of each bundle by the name on its card, in search order; nothing is verified.

    Of several in one place, a copy that was kept for instance, the one whose folder bears the name counts.
    """
    found: dict[str, Path] = {}
    for place in dirs:
        for folder in sorted(_candidates([place]), key=lambda folder: _name(folder) != folder.name):
            found.setdefault(_name(folder), folder)
    return found


def find(name: str, dirs: Sequence[Path]) -> Bundle:
    """Find a bundle by its name and verify it.

    Raises
    ------
    BundleError
        Where no folder holds it (the message lists what there is and suggests near names), or it is damaged.
    """
    there = folders(dirs)
    if name in there:
        return verified(there[name])
    near = get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(sorted(there)) or "none"
    looked = ", ".join(map(str, dirs))
    raise BundleError(f"{name}: no bundle has this name; {hint}there are: {listed} (looked in {looked})")


def available(dirs: Sequence[Path]) -> list[Bundle]:
    """All bundles that give a brain age, verified, in search order.

    Raises
    ------
    BundleError
        Where one of them is damaged.
    """
    return [bundle for bundle in every(dirs) if role(bundle) == BRAIN_AGE]


def first(wanted: str, architectures: Collection[str], dirs: Sequence[Path]) -> Bundle | None:
    """The first bundle of a role and of one of these architectures, verified; cards that cannot be read are passed."""
    for folder in folders(dirs).values():
        card = _card(folder)
        if card.get("role") == wanted and card.get("architecture") in architectures:
            return verified(folder)
    return None


def every(dirs: Sequence[Path]) -> list[Bundle]:
    """All bundles, whatever they are for, verified, in search order."""
    return [verified(folder) for folder in folders(dirs).values()]


def verified(folder: Path) -> Bundle:
    """Load a bundle and check every file; whatever is wrong with it is a one-line :class:`BundleError`."""
    try:
        return load(folder)
    except BundleError:
        raise
    except (BrainAgeError, TypeError, AttributeError, KeyError) as error:
        raise BundleError(f"{folder / CARD}: not a model card ({error}); install the bundle again") from None


def _candidates(dirs: Sequence[Path]) -> Iterator[Path]:
    for place in dirs:
        if place.is_dir():
            yield from sorted(card.parent for card in place.glob(f"*/{CARD}"))


def _name(folder: Path) -> str:
    """The name on the card; the folder's own where the card cannot be read, so that asking for it tells why."""
    return str(_card(folder).get("name", folder.name))


def _card(folder: Path) -> dict[str, Any]:
    """The card as it stands; empty where it cannot be read."""
    try:
        card = read_json(folder / CARD)
    except BrainAgeError:
        return {}
    return card if isinstance(card, dict) else {}
