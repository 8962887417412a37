"""By which version, models and template the results of a group were made: ages of several are not to be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bids_brainage.core.files import shortened

SAME_FOR_ALL = ("Version", "Template")
OF_A_BUNDLE = ("Model ", "Tool ")
UNKNOWN = (("Version", "unknown"),)

Maker = tuple[tuple[str, str], ...]
Makers = Mapping[str, Mapping[str, int]]


def maker(mark: Path) -> Maker:
    """What the ``_brainage.json`` of a result says of its version, models and template; that it is unknown, else."""
    try:
        said = json.loads(mark.read_bytes())["Fingerprint"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return UNKNOWN
    return tuple((key, str(value)) for key, value in said if key in SAME_FOR_ALL or key.startswith(OF_A_BUNDLE))


def counted(makers: Mapping[Maker, int]) -> dict[str, dict[str, int]]:
    """How many results are of which version, of which content of each model, and so on; the most frequent first."""
    found: dict[str, Counter[str]] = {}
    for entries, count in makers.items():
        for key, value in entries:
            found.setdefault(key, Counter())[value] += count
    return {key: dict(sorted(values.items(), key=lambda one: (-one[1], one[0]))) for key, values in found.items()}


def mixed(makers: Makers) -> str:
    """What differs among the results, in words; empty where nothing does.

    Examples
    --------
    >>> mixed({"Version": {"0.2.0": 15, "0.1.0": 2}, "Model roi": {"ab12": 17}})
    'Version 0.2.0 in 15, 0.1.0 in 2'
    """
    several = {key: values for key, values in makers.items() if len(values) > 1}
    return "; ".join(
        f"{key} " + ", ".join(f"{shortened(value)} in {count:,}" for value, count in values.items())
        for key, values in several.items()
    )
