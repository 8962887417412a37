"""The BIDS validator on a dataset, without network: what it finds is told, and never stops a run.

A dataset that cannot be used at all is refused by :mod:`bids_brainage.bids.inputs`; errors of files that brain age does
not need (a missing task name, say) are no reason to give no result.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SHOWN = 5


class Issue(NamedTuple):
    """One finding of the validator."""

    code: str
    severity: str
    location: str
    message: str


class ValidatorError(Exception):
    """The validator is not there, did not end, or did not answer; the message says which."""


def validate(bids_dir: Path, timeout_s: float = 300.0) -> list[str]:
    """Check a dataset; returns lines for the log, none where there is nothing to say.

    Image headers are not read (each scan is checked when it is loaded), nor are folders that BIDS does not describe.
    """
    try:
        return summary(issues(bids_dir, timeout_s=timeout_s, options=("--ignoreNiftiHeaders", "--prune")))
    except ValidatorError as error:
        return [f"the dataset was not validated: {error}"]


def summary(found: Sequence[Issue]) -> list[str]:
    """Errors in a few lines: how many of each kind, with one place each."""
    counts = Counter(issue.code for issue in found if issue.severity == "error")
    if not counts:
        return []
    lines = [
        f"the BIDS validator reports {sum(counts.values())} errors; the run goes on (--skip-bids-validation: no check)"
    ]
    for code, number in counts.most_common(SHOWN):
        first = next(issue for issue in found if issue.code == code and issue.severity == "error")
        message = f": {first.message}" if first.message else ""
        lines.append(f"  {code} in {number} places, e.g. {first.location or 'the dataset'}{message}")
    if len(counts) > SHOWN:
        lines.append(f"  and {len(counts) - SHOWN} further kinds")
    return lines


def issues(folder: Path, *, timeout_s: float = 300.0, options: Sequence[str] = ()) -> list[Issue]:
    """Run ``bids-validator-deno`` on a dataset, raw or derivative, with leave to read files and nothing else.

    Raises
    ------
    ValidatorError
        Where it is not installed, takes longer than ``timeout_s`` seconds, or fails.
    """
    command = _command()
    with tempfile.TemporaryDirectory(prefix="bids-validator-") as cache:
        environment = {"DENO_DIR": cache, "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
        try:
            ended = subprocess.run(
                [*command, "--format", "json", "--ignoreWarnings", *options, str(Path(folder).absolute())],
                env=environment,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ValidatorError(f"the validator took longer than {timeout_s:g} s") from None
        except OSError as error:
            raise ValidatorError(f"the validator could not be started ({error.strerror})") from None
    try:
        listed = json.loads(ended.stdout)["issues"]["issues"]
    except (ValueError, KeyError, TypeError):
        said = (ended.stderr.strip().splitlines() or ["nothing was said"])[0]
        raise ValidatorError(f"the validator failed ({said[:200]})") from None
    return [_issue(entry) for entry in listed]


def _issue(entry: dict[str, str]) -> Issue:
    message = str(entry.get("issueMessage") or entry.get("subCode") or "")
    return Issue(
        entry["code"], entry.get("severity", "error"), entry.get("location", ""), " ".join(message.split())[:200]
    )


def _command() -> list[str]:
    """The validator's program, run with leave to read and without network (its own launcher allows it more)."""
    found = importlib.util.find_spec("bids_validator_deno")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("deno") is None:
        raise ValidatorError("bids-validator-deno is not installed")
    from deno import find_deno_bin

    script = Path(found.submodule_search_locations[0]) / "bids-validator.js"
    try:
        program = str(find_deno_bin())
    except FileNotFoundError:
        raise ValidatorError("deno is not installed") from None
    return [program, "run", "--no-prompt", "--no-remote", "--allow-read", "--allow-env", str(script)]
