"""``brainage brainlife``: one task of brainlife.io, from its ``config.json`` to its ``product.json``.

brainlife (Hayashi et al. 2024, Nature Methods) starts an app in a task folder that holds ``config.json``: paths of the
inputs by name, the user's settings, and in ``_inputs`` what is known of each input. It shows what ``product.json`` has
under ``brainlife``: messages, and graphs for plotly.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import copy, read_json, write_json, write_text

SHOWN_REGIONS = 15


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Arguments of ``brainage brainlife``."""
    made = subparsers.add_parser("brainlife", help="run one task of brainlife.io in its folder")
    made.add_argument("config", type=Path, nargs="?", default=Path("config.json"), help="default: %(default)s")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write ``bids``, ``output`` and ``product.json`` beside the configuration; returns the app's exit code."""
    config = read_json(args.config)
    if not isinstance(config, dict):
        raise UsageError(f"{args.config}: is not a JSON object; correct it")
    home = args.config.resolve().parent
    out = home / "output"
    write_bids(config, home, home / "bids")
    argv = [sys.executable, "-m", "bids_brainage.cli", str(home / "bids"), str(out), "participant"]
    argv += ["-w", str(home / "work"), "--models", *models(config), "--skip-bids-validation"]
    code = subprocess.run(argv, check=False).returncode
    if code == 0:
        write_json(home / "product.json", product(out))
    return code


def models(config: Mapping[str, Any]) -> list[str]:
    """Names of the models: a list, or in one text, as the platform's form gives it; ``roi`` where there are none.

    Examples
    --------
    >>> models({"models": "roi, local"})
    ['roi', 'local']
    """
    asked = config.get("models") or "roi"
    if isinstance(asked, str):
        return asked.replace(",", " ").split()
    if not isinstance(asked, list):
        raise UsageError(f"config.json: 'models' ({asked!r}) is no list of names and no text; correct it")
    return [str(name) for name in asked]


def write_bids(config: Mapping[str, Any], home: Path, bids: Path) -> Path:
    """The task's T1w image as a BIDS dataset of one person; returns the image.

    Parameters
    ----------
    config
        ``t1``: path relative to ``home``; ``age`` (years) and ``sex``, where known; ``_inputs`` names the subject.

    Raises
    ------
    UsageError
        Where there is no image.
    """
    source = home / str(config.get("t1") or "")
    if not source.is_file() or not source.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"{home / 'config.json'}: 't1' ({config.get('t1')}) is no NIfTI file; give a T1w image")
    subject = re.sub("[^A-Za-z0-9]", "", _subject(config)) or "01"
    age, sex = config.get("age"), config.get("sex")
    name = f"sub-{subject}"
    write_json(bids / "dataset_description.json", {"Name": "brainlife task", "BIDSVersion": "1.10.0"})
    write_text(bids / "README", "One T1w image of a task of brainlife.io.\n")
    write_json(bids / "participants.json", {"age": {"Description": "Age at the scan", "Units": "years"}})
    row = "\t".join(" ".join(str(value).split()) if value not in (None, "") else "n/a" for value in (age, sex))
    write_text(bids / "participants.tsv", f"participant_id\tage\tsex\n{name}\t{row}\n")
    return copy(source, bids / name / "anat" / f"{name}_T1w{'.nii.gz' if source.name.endswith('.gz') else '.nii'}")


def _subject(config: Mapping[str, Any]) -> str:
    """The subject that the platform names for the T1w image; empty where it names none."""
    inputs = config.get("_inputs")
    for one in inputs if isinstance(inputs, list) else []:
        if isinstance(one, dict) and one.get("id") == "t1" and isinstance(one.get("meta"), dict):
            return str(one["meta"].get("subject") or "")
    return ""


def product(out: Path) -> dict[str, Any]:
    """What brainlife shows and keeps of a finished run: a message and a row a model, and two graphs."""
    from bids_brainage.bids.tables import read_tsv

    rows = [row for path in sorted(out.rglob("*_brainage.tsv")) for row in read_tsv(path)]
    parts = [row for path in sorted(out.rglob("*_contributions.tsv")) for row in read_tsv(path)]
    shown: list[dict[str, Any]] = [{"type": _colour(row), "msg": _sentence(row)} for row in rows]
    shown.append(_graph("Brain age by model", _ages(rows), {"yaxis": {"title": "years"}}))
    if parts:
        title = f"Regions that moved the brain age most ({parts[0]['model']})"
        layout = {"xaxis": {"title": "years"}, "margin": {"l": 180}}
        shown.append(_graph(title, _regions([one for one in parts if one["model"] == parts[0]["model"]]), layout))
    keep = ("brain_age", "brain_age_low", "brain_age_high", "age", "gap")
    kept = {row["model"]: {**{k: _number(row[k]) for k in keep}, "flags": _flags(row)} for row in rows}
    return {"brainlife": shown, "brain_age": kept}


def _sentence(row: Mapping[str, str]) -> str:
    interval = f" (90 % interval {row['brain_age_low']} to {row['brain_age_high']})"
    text = (
        f"Brain age {row['brain_age']} years{interval if row['brain_age_low'] != 'n/a' else ''} by model {row['model']}"
    )
    text += f", gap {row['gap']} years at the age of {row['age']}" if row["gap"] != "n/a" else ""
    return f"{text}. {'Flags: ' + ', '.join(_flags(row)) + '. ' if _flags(row) else ''}Not for clinical use."


def _colour(row: Mapping[str, str]) -> str:
    return "warning" if _flags(row) else "success"


def _flags(row: Mapping[str, str]) -> list[str]:
    return [] if row["flags"] == "n/a" else row["flags"].split(",")


def _number(text: str) -> float | None:
    return None if text == "n/a" else float(text)


def _graph(name: str, data: list[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    return {"type": "plotly", "name": name, "data": data, "layout": {"title": name, **layout}}


def _ages(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Brain ages with their intervals, and the age."""
    models, ages = [row["model"] for row in rows], [float(row["brain_age"]) for row in rows]
    above, below = (
        [abs((_number(row[k]) or age) - age) for row, age in zip(rows, ages, strict=True)]
        for k in ("brain_age_high", "brain_age_low")
    )
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    known = [_number(row["age"]) for row in rows]
    made = [{"type": "scatter", "mode": "markers", "name": "brain age", "x": models, "y": ages, "error_y": error}]
    return [*made, {"type": "scatter", "mode": "markers", "name": "age", "x": models, "y": known}]


def _regions(parts: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The largest contributions, largest on top."""
    most = sorted(parts, key=lambda row: abs(float(row["years"])))[-SHOWN_REGIONS:]
    years = [float(row["years"]) for row in most]
    return [{"type": "bar", "orientation": "h", "x": years, "y": [row["name"] for row in most]}]
