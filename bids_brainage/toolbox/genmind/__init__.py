"""``brainage genmind``: reference people by kernel densities: fit, draw, match, harmonise, import, validate."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ACTIONS = ("fit", "sample", "match", "harmonize", "import_", "validate")


def add_parser(subparsers: Any) -> None:
    """Add ``genmind``; each module of this package adds its own action."""
    made = subparsers.add_parser("genmind", help="synthetic reference people and matched controls", description=__doc__)
    actions = made.add_subparsers(required=True, metavar="ACTION")
    for action in ACTIONS:
        import_module(f"{__name__}.{action}").add_parser(actions)
