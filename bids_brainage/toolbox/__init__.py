"""``brainage``: the commands around the app, one small file each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bids_brainage import __version__
from bids_brainage.core.errors import BrainAgeError, in_a_line
from bids_brainage.options import dashed

COMMANDS = (
    *("demo", "selftest", "predict", "simulate", "train", "validate", "genmind", "models"),
    *("slurm", "descriptor", "brainlife"),
)


def parser() -> argparse.ArgumentParser:
    """All commands; each module adds its own arguments and sets ``run``."""
    made = argparse.ArgumentParser(prog="brainage", description="The toolbox of bids-brainage.")
    made.add_argument("--version", action="version", version=f"brainage {__version__}")
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        import_module(f"bids_brainage.toolbox.{command}").add_parser(subparsers)
    return made


def show_log() -> None:
    """Let a long command say where it stands, on standard error."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``brainage``; returns the exit code."""
    made = parser()
    args, rest = made.parse_known_args(argv)
    if rest and "app_options" not in args:
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    args.app_options = dashed(rest)
    try:
        code: int = args.run(args)
        return code
    except BrainAgeError as error:
        print(f"brainage: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"brainage: {in_a_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("brainage: stopped", file=sys.stderr)
        return 130
