"""The model that an action works with."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

DEFAULT = "genmind-reference"
"""The reference people that ship."""

if TYPE_CHECKING:
    from bids_brainage.cohort.genmind import GenMIND
    from bids_brainage.core.bundle import Bundle


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that :func:`find_model` reads."""
    told = "bundle that fit or import wrote: its name or folder (default: %(default)s, which ships)"
    parser.add_argument("model", nargs="?", default=DEFAULT, metavar="MODEL", help=told)
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="folder with further bundles")


def find_model(args: argparse.Namespace) -> tuple[Bundle, GenMIND]:
    """The bundle of ``args.model``, a folder or a name, and its model."""
    from bids_brainage.cohort.store import read_generator
    from bids_brainage.core.bundle import CARD
    from bids_brainage.models.registry import find, search_path, verified

    home = os.environ.get("BIDS_BRAINAGE_HOME")
    folder = Path(args.model)
    bundle = (
        verified(folder)
        if (folder / CARD).is_file()
        else find(args.model, search_path(args.models_dir, Path(home) if home else None))
    )
    return bundle, read_generator(bundle)
