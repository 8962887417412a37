"""The model that reference people are drawn from: by the name or folder of its bundle, or the first that there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bids_brainage.cohort.genmind import ARCHITECTURE, GenMIND
from bids_brainage.cohort.store import read_generator
from bids_brainage.core.bundle import CARD, Bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.models.registry import REFERENCE, find, first, verified

AUTO = "auto"


def reference(name: str, dirs: Sequence[Path]) -> tuple[Bundle, GenMIND]:
    """A bundle and the model in it.

    Parameters
    ----------
    name : str
        Its name, its folder, or ``auto``: the first reference that ``brainage genmind fit`` wrote or that ships.
    dirs : sequence of Path
        Folders of bundles, see :func:`bids_brainage.models.registry.search_path`.

    Raises
    ------
    BundleError
        Where there is none, it is damaged, or nobody can be drawn from it.
    """
    if name == AUTO:
        bundle = _first(dirs)
    elif (Path(name) / CARD).is_file():
        bundle = verified(Path(name))
    else:
        bundle = find(name, dirs)
    return bundle, read_generator(bundle)


def _first(dirs: Sequence[Path]) -> Bundle:
    found = first(REFERENCE, (ARCHITECTURE,), dirs)
    if found is None:
        looked = ", ".join(map(str, dirs))
        raise BundleError(
            f"no bundle is there to draw synthetic people from (looked in {looked}); "
            "make one by `brainage genmind fit` and give its folder"
        )
    return found
