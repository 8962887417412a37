"""Results to BIDS derivatives: every name from ``derivatives.json``, sidecars beside, each file whole or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import copy, read_json, shortened, sweep, write_json
from bids_brainage.core.stamps import recalled
from bids_brainage.core.types import FILES, Scan

MARK = "brainage_json"
DATED = ("Fingerprint", "Stamps")


@cache
def _table() -> Mapping[str, Any]:
    return json.loads(resources.files(__package__).joinpath("derivatives.json").read_text(encoding="utf-8"))


def _entry(artefact: str) -> Mapping[str, Any]:
    """What the table says of an artefact, or of its kind where each model has its own (``<kind>:<model>``)."""
    entry: Mapping[str, Any] = _table()["artefacts"][_kind(artefact)]
    return entry


def _kind(artefact: str) -> str:
    return artefact.partition(":")[0]


def artefact_names() -> tuple[str, ...]:
    """Names of all artefacts that are written to the derivatives."""
    return tuple(_table()["artefacts"])


def path_for(scan: Scan, artefact: str, out_dir: Path, template: str) -> Path:
    """Where an artefact of a scan belongs.

    Parameters
    ----------
    artefact : str
        A name of :func:`artefact_names`, with ``:<model>`` after it where each model has its own.
    template : str
        Name of the template space.

    Raises
    ------
    KeyError
        Where no such artefact is written.
    """
    entry = _entry(artefact)
    name = f"{scan.stem}_{entry['name'].format(template=template, model=artefact.partition(':')[2])}"
    if entry.get("folder") == "figures":
        return Path(out_dir) / f"sub-{scan.subject}" / "figures" / name
    return Path(out_dir) / _folder(scan) / name


def group_file(kind: str, out_dir: Path, **entities: str) -> tuple[Path, dict[str, Any]]:
    """Where a result of the group level belongs, and what its sidecar says of it at least."""
    entry = _table()["group"][kind]
    return Path(out_dir) / entry["name"].format(**entities), dict(entry["metadata"])


def entity(text: str) -> str:
    """A text as the value of a BIDS entity: its letters and digits.

    Examples
    --------
    >>> entity("early MCI (2)")
    'earlyMCI2'
    """
    return re.sub("[^A-Za-z0-9]", "", text) or "unnamed"


def group_kinds() -> tuple[str, ...]:
    """Kinds of :func:`group_file`."""
    return tuple(_table()["group"])


def _folder(scan: Scan) -> str:
    return "/".join([f"sub-{scan.subject}", *([f"ses-{scan.session}"] if scan.session else []), "anat"])


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a data file."""
    return path.with_name(path.name.partition(".")[0] + ".json")


def _has_sidecar(artefact: str) -> bool:
    return bool(_entry(artefact).get("sidecar", True))


def results(artefacts: Iterable[str]) -> tuple[str, ...]:
    """Those artefacts that ``--minimal-outputs`` keeps: all but images and transforms that lead to others.

    Working files, which ``derivatives.json`` does not have, are none of them.

    Examples
    --------
    >>> results(["t1w_preproc", "xfm_forward", "muse_volumes", "brainage_map:local", "posteriors"])
    ('muse_volumes', 'brainage_map:local')
    """
    known = _table()["artefacts"]
    return tuple(name for name in artefacts if _kind(name) in known and not _entry(name).get("intermediate", False))


def _written(artefacts: Iterable[str]) -> list[str]:
    """Those artefacts that have a place in the derivatives; the others are working files, or a better one is there."""
    kinds = list(_table()["artefacts"])
    there = [name for name in dict.fromkeys(artefacts) if _kind(name) in kinds]
    replaced = {MARK, *(_entry(name).get("instead_of") for name in there)}
    return sorted((name for name in there if name not in replaced), key=lambda name: kinds.index(_kind(name)))


def expected(scan: Scan, artefacts: Iterable[str], out_dir: Path, template: str) -> list[Path]:
    """Every file that must be there when a scan is complete, data and sidecars; working files are none of them."""
    paths = []
    for name in _written(artefacts):
        path = path_for(scan, name, out_dir, template)
        paths += [path, sidecar_of(path)] if _has_sidecar(name) else [path]
    return paths


def missing(scan: Scan, artefacts: Iterable[str], out_dir: Path, template: str) -> list[Path]:
    """Expected files that are not there, or empty."""
    return [path for path in expected(scan, artefacts, out_dir, template) if not _holds(path)]


def _holds(path: Path) -> bool:
    """Whether a file is there with something in it; what cannot be reached is not."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def complete(scan: Scan, artefacts: Iterable[str], out_dir: Path, template: str) -> bool:
    """Whether every expected file is there."""
    return not missing(scan, artefacts, out_dir, template)


def reason_to_run(
    scan: Scan, artefacts: Iterable[str], out_dir: Path, template: str, fingerprint: Mapping[str, Any]
) -> str:
    """Why a scan has to be (re)done, in words; empty where all is there under the same fingerprint.

    ``fingerprint`` is without the scan's files: those are held against their checksums last, and read only where they
    are not known by the stamps in the result.
    """
    mark = path_for(scan, MARK, out_dir, template)
    if not _holds(mark):
        return "no result yet"
    absent = missing(scan, artefacts, out_dir, template)
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        return f"missing: {', '.join(path.name for path in absent[:3])}{more}"
    old, stamps = read_fingerprint(mark), _entry_of(mark, "Stamps")
    said = difference({key: value for key, value in old.items() if key not in FILES}, fingerprint)
    if said:
        return said
    sums = {key: recalled(path, old.get(key, ""), stamps.get(key, "")) for key, path in scan.files.items()}
    return difference(old, {**sums, **fingerprint})


def unwritable(scan: Scan, out_dir: Path) -> str:
    """Why the results of a scan could not be written, or empty: folders of another user, files in their place."""
    for folder in (Path(out_dir) / _folder(scan), Path(out_dir) / f"sub-{scan.subject}" / "figures"):
        there = next(path for path in (folder, *folder.parents) if _is_there(path))
        if not there.is_dir():
            return f"{there}: is a file where a folder must be; move it away"
        if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            return f"{there}: cannot be written; give yourself permission, or another output folder"
    return ""


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def begin(scans: Iterable[Scan], out_dir: Path) -> None:
    """Take the results of scans that are to be done back, and what a killed run left half-written.

    All of it goes, also what is of another model or template than the new one, and the participant's page: nothing
    may stand beside the new result that was made of another image or with another age.
    """
    pages = set()
    for scan in scans:
        _take_back(scan, out_dir)
        pages.add(f"sub-{scan.subject}.html")
    sweep(Path(out_dir), *pages)


def _take_back(scan: Scan, out_dir: Path) -> None:
    for mark in (MARK, "brainage"):
        path_for(scan, mark, out_dir, "").unlink(missing_ok=True)
    for name in artefact_names():
        pattern = path_for(scan, f"{name}:*", out_dir, "*")
        for path in pattern.parent.glob(pattern.name):
            path.unlink(missing_ok=True)
            sidecar_of(path).unlink(missing_ok=True)
    (Path(out_dir) / f"sub-{scan.subject}.html").unlink(missing_ok=True)
    for folder in (Path(out_dir) / _folder(scan), Path(out_dir) / f"sub-{scan.subject}" / "figures"):
        sweep(folder, f"{scan.stem}_")


def read_fingerprint(path: Path) -> dict[str, Any]:
    """The fingerprint in a ``_brainage.json``; empty where there is none or the file cannot be read."""
    return _entry_of(path, "Fingerprint")


def _entry_of(path: Path, key: str) -> dict[str, Any]:
    """An object in a JSON file; empty where there is none or the file cannot be read."""
    try:
        content = read_json(path)
    except BrainAgeError:
        return {}
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which entries of two fingerprints differ, in words; empty where none does.

    Examples
    --------
    >>> difference({"Version": "0.1", "Sex": "F"}, {"Version": "0.2", "Sex": "F"})
    'Version was 0.1, is 0.2'
    """
    if not old and new:
        return "the result has no fingerprint"
    words = []
    for key in dict.fromkeys((*old, *new)):
        if key not in old:
            words.append(f"{key} is new")
        elif key not in new:
            words.append(f"{key} is gone")
        elif old[key] != new[key]:
            words.append(f"{key} was {shortened(old[key])}, is {shortened(new[key])}")
    return "; ".join(words)


def publish(
    scan: Scan,
    artefacts: Mapping[str, Path],
    out_dir: Path,
    template: str,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Copy artefacts to their names, each atomically and with its sidecar; ``_brainage.json`` comes last.

    An earlier ``_brainage.json`` is removed first, so that it only ever stands where everything is in place.

    Parameters
    ----------
    artefacts
        Files by artefact name. Working files (names that ``derivatives.json`` does not have) are passed over.
    metadata
        Further content of sidecars by artefact name, over what ``derivatives.json`` says; ``None`` removes a key.

    Returns
    -------
    list of Path
        All files written, in order.
    """
    names = _written(artefacts)
    path_for(scan, MARK, out_dir, template).unlink(missing_ok=True)
    written = []
    for name in names:
        target = path_for(scan, name, out_dir, template)
        written.append(copy(Path(artefacts[name]), target))
        if _has_sidecar(name):
            content = _sidecar(scan, name, names, template, (metadata or {}).get(name, {}))
            written.append(write_json(sidecar_of(target), content))
    return written


def _sidecar(scan: Scan, artefact: str, names: Iterable[str], template: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of one artefact: the template of ``derivatives.json``, its sources, and what the caller adds."""
    entry = _entry(artefact)
    raw = raw_uri(scan)
    own = {name: f"bids::{path_for(scan, name, Path(), template).as_posix()}" for name in names}
    own |= {_entry(name).get("instead_of", name): uri for name, uri in own.items()}
    sources = dict.fromkeys(own.get(name, raw) for name in entry["sources"])
    values = {"raw": raw, "template": template, "reference": _reference(template)}
    content = {k: v.format_map(values) if isinstance(v, str) else v for k, v in entry["metadata"].items()}
    if scan.preproc_stripped and "SkullStripped" in content:
        content["SkullStripped"] = True
    content = {k: v for k, v in {**content, "Sources": list(sources), **more}.items() if v not in (None, "")}
    return {**{k: v for k, v in content.items() if k not in DATED}, **{k: content[k] for k in DATED if k in content}}


def raw_uri(scan: Scan) -> str:
    """BIDS URI of the scan in the dataset that ``DatasetLinks`` calls ``raw``."""
    return f"bids:raw:{_folder(scan)}/{scan.path.name}"


def _reference(template: str) -> str:
    """Where a template is described; empty where its name alone must do."""
    return next((url for name, url in _table()["references"].items() if template.startswith(name)), "")


def bidsignore() -> str:
    """Content of ``.bidsignore``: what BIDS has no name for."""
    return "\n".join(_table()["own"]) + "\n"
