"""``brainage genmind``: reference people, and what is done with them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ACTIONS = ("harmonize", "import_")


def add_parser(subparsers: Any) -> None:
    """Add ``genmind`` with its actions; each module adds its own arguments and sets ``run``."""
    made = subparsers.add_parser(
        "genmind", help="reference people: harmonise to them, import them", description=__doc__
    )
    actions = made.add_subparsers(required=True, metavar="ACTION")
    for action in ACTIONS:
        import_module(f"{__name__}.{action}").add_parser(actions)
