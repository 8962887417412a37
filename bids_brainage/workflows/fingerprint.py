"""What a result depends on: a second run redoes a scan when this differs, and says why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bids_brainage import __version__
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.files import sha256
from bids_brainage.core.types import Scan
from bids_brainage.options import Options


def fingerprint(
    scan: Scan, options: Options, models: Iterable[Bundle], tools: Iterable[Bundle], template: str
) -> dict[str, str]:
    """Flat description of everything that decides the result of one scan.

    Parameters
    ----------
    tools
        Bundles behind the stages (segmentation, atlas).
    template
        sha256 of the template's files.
    """
    reused = {"Mask": scan.mask, "Preprocessed": scan.preproc}
    return {
        "Input": _content(scan.path),
        **{name: _content(path) for name, path in reused.items() if path is not None},
        **{f"Model {b.name}": b.digest for b in models},
        **{f"Tool {b.name}": b.digest for b in tools},
        "Template": f"{options.template} {template}",
        "RandomSeed": str(options.random_seed),
        "Age": scan.age.note if scan.age.years is None else str(scan.age.years),
        "Sex": str(scan.sex),
        "Version": __version__,
    }


def _content(path: Path) -> str:
    """sha256 of a file, or why it cannot be read: such a scan fails in its first stage with a clear word."""
    try:
        return sha256(path)
    except OSError as error:
        return f"unreadable ({error.strerror})"
