"""The model that an action works with."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bids_brainage.cohort.genmind import GenMIND
    from bids_brainage.core.bundle import Bundle


def find_model(args: argparse.Namespace) -> tuple[Bundle, GenMIND]:
    """The bundle of ``args.model``, a folder or a name, and its model."""
    from bids_brainage.cohort.reference import reference
    from bids_brainage.models.registry import search_path

    home = os.environ.get("BIDS_BRAINAGE_HOME")
    return reference(args.model, search_path(args.models_dir, Path(home) if home else None))
