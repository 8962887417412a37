"""The derivatives as a dataset: whether a folder can be one, and the files that describe it as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bids_brainage.bids.outputs import bidsignore
from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import make_writable, read_json, refresh
from bids_brainage.core.types import RAW

BIDS_VERSION = "1.10.0"
TOOL = "bids-brainage"


def check_out_dir(bids_dir: Path, out_dir: Path) -> None:
    """Make sure that results can go to a folder; it is made where it is not there.

    Raises
    ------
    UsageError
        Where it is the dataset itself, cannot be written, or holds another tool's results.
    """
    bids_dir, out_dir = Path(bids_dir).resolve(), Path(out_dir).resolve()
    if bids_dir == out_dir:
        raise UsageError(
            f"{out_dir}: is the dataset itself; give another output folder, e.g. {out_dir}/derivatives/{TOOL}"
        )
    description = out_dir / "dataset_description.json"
    if description.is_file() and _maker(description) != TOOL:
        raise UsageError(
            f"{description}: is not of {TOOL} ({_maker(description) or 'unknown'}); give an output folder of its own"
        )
    try:
        make_writable(out_dir)
    except OSError as error:
        raise UsageError(f"{out_dir}: cannot be written ({error.strerror}); give another output folder") from None


def _maker(description: Path) -> str:
    """Name of the tool that made a derivative dataset."""
    try:
        content = read_json(description)
        return str(content["GeneratedBy"][0]["Name"])
    except (BrainAgeError, LookupError, TypeError):
        return ""


def write_dataset_files(
    out_dir: Path,
    bids_dir: Path,
    version: str,
    *,
    container: Mapping[str, str] | None = None,
    derivatives: Mapping[str, Path] | None = None,
    tables: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Write what describes the derivatives as a whole; a file with the same content is left alone.

    Parameters
    ----------
    version : str
        Version of this package.
    container
        ``Type``, ``Tag`` and ``URI`` of the container that runs, if one does.
    derivatives
        Derivative datasets that are reused, by name.
    tables
        Further files at the root, by name, e.g. ``desc-muse_dseg.tsv``.

    Returns
    -------
    list of Path
        Files that were written.

    Raises
    ------
    UsageError
        See :func:`check_out_dir`.
    """
    check_out_dir(bids_dir, out_dir)
    description = _description(Path(out_dir).resolve(), Path(bids_dir).resolve(), version, container, derivatives or {})
    contents = {
        "dataset_description.json": json.dumps(description, indent=2, ensure_ascii=False) + "\n",
        ".bidsignore": bidsignore(),
        "README.md": _readme(version),
        **{name: Path(path).read_text(encoding="utf-8") for name, path in (tables or {}).items()},
    }
    return [Path(out_dir) / name for name, text in contents.items() if refresh(Path(out_dir) / name, text)]


def _description(
    out_dir: Path, bids_dir: Path, version: str, container: Mapping[str, str] | None, derivatives: Mapping[str, Path]
) -> dict[str, Any]:
    """Content of ``dataset_description.json``."""
    raw = read_json(bids_dir / "dataset_description.json")
    tool = {"Name": TOOL, "Version": version, **({"Container": dict(container)} if container else {})}
    links = {RAW: bids_dir, **{name: Path(path).resolve() for name, path in derivatives.items()}}
    uris = {name: _uri(path, out_dir) for name, path in links.items()}
    doi = raw.get("DatasetDOI")
    return {
        "Name": f"{TOOL} of {raw.get('Name', bids_dir.name)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [tool],
        "SourceDatasets": [{"URL": uris[RAW], **({"DOI": doi} if isinstance(doi, str) and doi else {})}],
        "DatasetLinks": uris,
    }


def _uri(path: Path, out_dir: Path) -> str:
    """A folder relative to the derivatives when they lie inside it, so that both can move; else as a file URI."""
    if path in out_dir.parents:
        return "/".join([".."] * len(out_dir.relative_to(path).parts))
    return "file://" + quote(path.as_posix())


def _readme(version: str) -> str:
    return (
        f"# Brain age of T1-weighted MRI\n\nWritten by {TOOL} {version}.\n\n"
        "- `sub-*/[ses-*/]anat/*_brainage.tsv`: brain age of each T1w image, a row a model;\n"
        "  columns are explained in the JSON beside it.\n"
        "- `*_desc-muse_volumes.tsv`: volumes of brain regions in cubic millimetres.\n"
        "- `sub-*.html`: a report a participant. `group_*.tsv` and `group.html`: the group level.\n"
        "- `logs/`: the methods text and what went wrong, if anything did.\n\n"
        "Gaps between brain age and age depend on age: use age as a covariate in any test of them.\n"
    )
