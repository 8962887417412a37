"""``brainage descriptor``: the app for Boutiques (https://boutiques.github.io), of the options that make the flags."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from bids_brainage import __version__
from bids_brainage.options import Level, fields, flag_name, kind
from bids_brainage.toolbox.docker import IMAGE

SCHEMA = "0.5"
TYPES = {Path: "File", str: "String", int: "Number", bool: "Flag"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of ``brainage descriptor``."""
    made = subparsers.add_parser("descriptor", help="print the Boutiques descriptor of the app")
    made.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print it."""
    print(json.dumps(descriptor(), indent=2))
    return 0


def descriptor() -> dict[str, Any]:
    """The descriptor (schema 0.5)."""
    inputs = [*_positional(), *map(_input, fields())]
    registry, _, image = IMAGE.partition("/")
    return {
        "name": "bids-brainage",
        "description": "Brain age from T1-weighted MRI: a BIDS dataset goes in, BIDS derivatives come out.",
        "tool-version": __version__,
        "schema-version": SCHEMA,
        "command-line": " ".join(["bids-brainage", *(one["value-key"] for one in inputs)]),
        "container-image": {"type": "docker", "index": registry, "image": image},
        "inputs": inputs,
        "output-files": [
            {
                "id": "results",
                "name": "Derivatives",
                "description": "BIDS derivative dataset: images, volumes, brain ages, reports.",
                "path-template": "[OUT_DIR]",
                "optional": False,
            },
            {
                "id": "group_table",
                "name": "Brain age of each scan",
                "description": "Of the group level.",
                "path-template": "[OUT_DIR]/group_scans.tsv",
                "optional": True,
            },
        ],
        "error-codes": [
            {"code": 1, "description": "Some scan failed; the others are complete."},
            {"code": 2, "description": "Bad usage, or a dataset that cannot be used."},
        ],
        "suggested-resources": {"cpu-cores": 1, "ram": 6, "walltime-estimate": 300},
        "tags": {"domain": ["neuroinformatics", "bids", "mri"]},
    }


def _positional() -> list[dict[str, Any]]:
    return [
        {
            "id": "bids_dir",
            "name": "Dataset",
            "description": "The BIDS dataset; never written to.",
            "type": "File",
            "optional": False,
            "value-key": "[BIDS_DIR]",
        },
        {
            "id": "out_dir",
            "name": "Output folder",
            "description": "Where the derivatives go.",
            "type": "String",
            "optional": False,
            "value-key": "[OUT_DIR]",
        },
        {
            "id": "level",
            "name": "Level",
            "description": "First 'participant', then 'group'.",
            "type": "String",
            "value-choices": list(Level.__args__),  # type: ignore[attr-defined]
            "optional": False,
            "value-key": "[LEVEL]",
        },
    ]


def _input(f: dataclasses.Field[Any]) -> dict[str, Any]:
    """One option; a folder that the app makes is text, for Boutiques checks that files exist."""
    value, several, choices = kind(f)
    made: dict[str, Any] = {
        "id": f.name,
        "name": flag_name(f.name),
        "description": f.metadata["help"].replace("%%", "%"),
        "type": "String" if f.metadata["made"] else TYPES[value],
        "optional": True,
        "command-line-flag": flag_name(f.name),
        "value-key": f"[{f.name.upper()}]",
    }
    made |= {"integer": True} if value is int else {}
    made |= {"list": True} if several else {}
    return made | ({"value-choices": list(choices)} if choices else {})
