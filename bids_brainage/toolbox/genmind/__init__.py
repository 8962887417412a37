"""``brainage genmind``: reference people and synthetic controls."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ACTIONS = ("validate",)


def add_parser(subparsers: Any) -> None:
    """Add ``genmind`` with one subcommand for each action."""
    made = subparsers.add_parser("genmind", help="synthetic people and their proof", description=__doc__)
    actions = made.add_subparsers(required=True, metavar="ACTION")
    for action in ACTIONS:
        import_module(f"bids_brainage.toolbox.genmind.{action}").add_parser(actions)
