"""Brain masks and preprocessed T1w images of other tools, matched to a scan; where the match is not certain, none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bids_brainage.bids.index import Name, parse_name
from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import named, read_json
from bids_brainage.core.types import RAW, Scan

NATIVE = (None, "T1w", "orig", "individual", "scanner")
KINDS = {"mask": "brain mask", "preproc": "preprocessed T1w"}
OWN = ("desc", "label", "space")
RAW_T1W = re.compile(r"[^/:]+_T1w\.nii(?:\.gz)?")


class Reuse(NamedTuple):
    """What can be reused for a scan.

    Attributes
    ----------
    mask, preproc : Path or None
        Brain mask and preprocessed T1w in the scan's own space.
    stripped : bool
        Whether ``preproc`` is skull-stripped (``SkullStripped`` in its JSON file).
    notes : tuple of str
        What was there and could not be used, and why; what was not there.
    """

    mask: Path | None = None
    preproc: Path | None = None
    stripped: bool = False
    notes: tuple[str, ...] = ()


class _Candidate(NamedTuple):
    path: Path
    name: Name


def parse_derivatives(values: Sequence[str]) -> dict[str, Path]:
    """``("fmriprep=/x",)`` -> ``{"fmriprep": Path("/x")}``; a path alone is named after its folder.

    Raises
    ------
    UsageError
        Where a folder is not there, holds no participant, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for value in values:
        name, path = named(value)
        if not path.is_dir():
            raise UsageError(f"--derivatives {value}: there is no such folder; give NAME=PATH of a derivative dataset")
        if not any(path.glob("sub-*")):
            raise UsageError(f"--derivatives {value}: holds no sub-* folder; give the root of a derivative dataset")
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", name) or name in {*found, RAW}:
            raise UsageError(
                f"--derivatives {value}: the name {name!r} is empty, stands twice or is that of the dataset itself; "
                "give each a name of its own, NAME=PATH"
            )
        found[name] = path
    return found


class Finder:
    """Looks for masks and preprocessed images in derivative datasets, the first dataset that has one first.

    Parameters
    ----------
    derivatives
        Derivative datasets by name.
    everything
        Entities of every raw T1w image in the dataset: where a participant has several, an image of the merged
        anatomical reference belongs to none of them.
    """

    def __init__(self, derivatives: Mapping[str, Path], everything: Iterable[Mapping[str, str]]) -> None:
        self._derivatives = dict(derivatives)
        self._raw: dict[str, list[Mapping[str, str]]] = {}
        for entities in everything:
            self._raw.setdefault(entities["sub"], []).append(entities)

    def find(self, scan: Scan) -> Reuse:
        """Look for what belongs to one scan.

        A file belongs to it when its JSON file names the scan as its only raw source; or, where no source is named,
        when its entities are those of the scan, or fewer while the scan is the only T1w image of the session or
        participant that the file stands for. Nothing is taken where two files fit equally well.
        """
        chosen: dict[str, Path] = {}
        notes: list[str] = []
        for name, root in self._derivatives.items():
            candidates = list(_candidates(root, scan))
            for kind in KINDS:
                if kind not in chosen:
                    path, said = self._choose(scan, [c for c in candidates if _kind(c.name) == kind], kind)
                    notes += [f"{name}: {note}" for note in said]
                    if path is not None:
                        chosen[kind] = path
        if self._derivatives and not chosen and not notes:
            notes.append(f"nothing to reuse in {', '.join(self._derivatives)}")
        preproc = chosen.get("preproc")
        return Reuse(chosen.get("mask"), preproc, preproc is not None and _stripped(preproc), tuple(notes))

    def _choose(self, scan: Scan, candidates: Sequence[_Candidate], kind: str) -> tuple[Path | None, list[str]]:
        """The one candidate that belongs to the scan, and what is to be said of the others."""
        fitting, notes = [], []
        for candidate in candidates:
            reason = self._refused(scan, candidate)
            if not reason:
                fitting.append(candidate)
            elif reason != "another scan":
                notes.append(f"{candidate.path.name} is not used: {reason}")
        most = max((len(c.name.entities) for c in fitting), default=0)
        best = [c for c in fitting if len(c.name.entities) == most]
        if len(best) > 1:
            names = " and ".join(c.path.name for c in best)
            return None, [*notes, f"{names} both fit as {KINDS[kind]}; neither is used"]
        return (best[0].path, []) if best else (None, notes)

    def _refused(self, scan: Scan, candidate: _Candidate) -> str:
        """Why a file does not belong to the scan; empty where it does."""
        entities = {key: value for key, value in candidate.name.entities.items() if key not in OWN}
        if any(not _same(value, scan.entities.get(key)) for key, value in entities.items()):
            return "another scan"
        if not candidate.path.exists():
            return "it is a link to nowhere; get its content"
        sources = _raw_sources(candidate.path)
        if sources:
            if sources == {scan.path.name.partition(".")[0]}:
                return ""
            return f"it was made from {len(sources)} T1w images" if len(sources) > 1 else "another scan"
        scope = [e for e in self._raw.get(scan.subject, []) if "ses" not in entities or e.get("ses") == entities["ses"]]
        specific = len(entities) == len(scan.entities) and set(entities) - {"sub", "ses"}
        exact_session = len(entities) == len(scan.entities) and "ses" in entities and len(scope) == 1
        if specific or exact_session or len(scope) == 1:
            return ""
        return f"it names no source, and there are {len(scope)} T1w images that it could be made from"


def _candidates(root: Path, scan: Scan) -> Iterable[_Candidate]:
    """Masks and preprocessed images in native space, of the scan's session and of the participant; sorted."""
    subject = root / f"sub-{scan.subject}"
    places = [subject / "anat"] + ([subject / f"ses-{scan.session}" / "anat"] if scan.session else [])
    for path in (p for place in places if place.is_dir() for p in sorted(place.iterdir())):
        name = parse_name(path.name)
        if name is not None and name.extension in (".nii", ".nii.gz") and _kind(name):
            yield _Candidate(path, name)


def _kind(name: Name) -> str:
    """``mask`` or ``preproc``, or empty; images in another space are neither."""
    entities = name.entities
    if entities.get("space") not in NATIVE or "res" in entities or "den" in entities:
        return ""
    if name.suffix == "mask" and ("desc" in entities or "label" in entities):
        brain = {entities.get("desc", "brain"), entities.get("label", "brain").lower()} == {"brain"}
        return "mask" if brain else ""
    return "preproc" if name.suffix == "T1w" and entities.get("desc") == "preproc" else ""


def _same(one: str, other: str | None) -> bool:
    """Equal labels; ``1`` is ``01``."""
    return other is not None and (one == other or (one.isdecimal() and other.isdecimal() and int(one) == int(other)))


def _sidecar(path: Path) -> Mapping[str, Any]:
    json = path.with_name(path.name.partition(".")[0] + ".json")
    if not json.is_file():
        return {}
    try:
        content = read_json(json)
    except BrainAgeError as error:
        raise UsageError(str(error)) from None
    return content if isinstance(content, dict) else {}


def _raw_sources(path: Path, depth: int = 3) -> set[str]:
    """Stems of the raw T1w images that a file was made from, by its JSON file and those of its sources beside it."""
    sidecar = _sidecar(path)
    given = [s for key in ("Sources", "RawSources") for s in _texts(sidecar.get(key))]
    names = [match[0] for source in given if (match := RAW_T1W.search(source))]
    raw: set[str] = set()
    for name in names:
        parsed = parse_name(name)
        if parsed is not None and not {"desc", "space", "label"} & set(parsed.entities):
            raw.add(name.partition(".")[0])
        elif depth and name != path.name:
            raw |= _raw_sources(path.with_name(name), depth - 1)
    return raw


def _texts(value: Any) -> list[str]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _stripped(path: Path) -> bool:
    return _sidecar(path).get("SkullStripped") is True
