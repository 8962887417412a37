"""What a result depends on: a second run redoes a scan when this differs, and says why."""

from __future__ import annotations

from collections.abc import Iterable

from bids_brainage import __version__
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.stamps import checksum
from bids_brainage.core.types import Scan
from bids_brainage.options import Options


def fingerprint(
    scan: Scan, options: Options, models: Iterable[Bundle], tools: Iterable[Bundle], template: str
) -> dict[str, str]:
    """Flat description of everything that decides the result of one scan, but the content of its files (:func:`read`).

    Parameters
    ----------
    tools
        Bundles behind the stages (segmentation, atlas).
    template
        sha256 of the template's files.
    """
    return {
        **{f"Model {b.name}": b.digest for b in models},
        **{f"Tool {b.name}": b.digest for b in tools},
        "Template": f"{options.template} {template}",
        "RandomSeed": str(options.random_seed),
        "Age": scan.age.note if scan.age.years is None else str(scan.age.years),
        "Sex": str(scan.sex),
        "Flags": ",".join(scan.flags),
        "Version": __version__,
    }


def read(scan: Scan) -> tuple[dict[str, str], dict[str, str]]:
    """Checksums of a scan's files, and stamps by which to know them again (see :mod:`bids_brainage.core.stamps`).

    A file that cannot be read fails in the scan's first stage with a clear word.
    """
    found = {name: checksum(path) for name, path in scan.files.items()}
    return {name: known for name, (known, _) in found.items()}, {
        name: mark for name, (_, mark) in found.items() if mark
    }
