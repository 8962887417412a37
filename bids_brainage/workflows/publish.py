"""Move what one scan's stages made to its final names; the table's JSON comes last and marks the scan complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bids_brainage.bids import outputs
from bids_brainage.core.files import read_json
from bids_brainage.core.flags import FLAGS
from bids_brainage.core.quality import GATES
from bids_brainage.core.types import Scan
from bids_brainage.workflows.predict import COLUMNS, EXPLAINED, QUALITY
from bids_brainage.workflows.tables import IN_YEARS, YEARS

UNITS = {**dict.fromkeys((*IN_YEARS, "years"), YEARS), "volume_mm3": "mm^3", "centile": "percent"}


class Published(NamedTuple):
    """All files written."""

    written: tuple[Path, ...]


def publish(
    scan: Scan,
    out_dir: Path,
    template: str,
    fingerprint: Mapping[str, Any],
    *,
    out: Path,
    stamps: Mapping[str, str] | None = None,
    minimal: bool = False,
    voxelwise: Mapping[str, Path] | None = None,
    **artefacts: Any,
) -> Published:
    """Copy each artefact under its derivative name, with its sidecar, atomically; a JSON that a stage wrote is kept.

    Parameters
    ----------
    out_dir : Path
        Root of the derivatives.
    fingerprint
        What the result depends on (see :mod:`bids_brainage.workflows.fingerprint`).
    stamps
        By what the files behind the fingerprint are known (see :mod:`bids_brainage.core.stamps`).
    minimal
        Whether images and transforms that lead to the results are left out (see :func:`.outputs.results`).
    voxelwise
        Files of each model, by ``<artefact>:<model>``.
    artefacts
        Files by artefact name; values that are not files are passed over.
    """
    files = {name: path for name, path in artefacts.items() if isinstance(path, Path)} | dict(voxelwise or {})
    files = {name: files[name] for name in outputs.results(files)} if minimal else files
    own = {name: read_json(beside) for name, path in files.items() if (beside := outputs.sidecar_of(path)).is_file()}
    columns, explained, measured = (_described(meanings) for meanings in (COLUMNS, EXPLAINED, QUALITY))
    columns["flags"]["Levels"] = FLAGS
    measured["measure"]["Levels"] = {name: gate.meaning for name, gate in GATES.items()}
    metadata = {
        **own,
        "contributions": explained,
        "quality": measured,
        "brainage": {**columns, "Fingerprint": dict(fingerprint), "Stamps": dict(stamps or {})},
    }
    return Published(tuple(outputs.publish(scan, files, out_dir, template, metadata)))


def _described(meanings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Columns of a table for its JSON, with their units."""
    return {
        name: {"Description": meaning, **({"Units": UNITS[name]} if name in UNITS else {})}
        for name, meaning in meanings.items()
    }
