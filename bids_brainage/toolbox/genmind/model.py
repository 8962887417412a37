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
    from bids_brainage.cohort.reference import reference
    from bids_brainage.models.registry import search_path

    home = os.environ.get("BIDS_BRAINAGE_HOME")
    return reference(args.model, search_path(args.models_dir, Path(home) if home else None))
