"""The BIDS filter file, in the form that fMRIPrep made known: which T1w images are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_brainage.bids.index import parse_name
from bids_brainage.core.errors import UsageError

SHORT = {
    "subject": "sub",
    "session": "ses",
    "sample": "sample",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "staining": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "flip": "flip",
    "inv": "inv",
    "inversion": "inv",
    "mt": "mt",
    "mtransfer": "mt",
    "part": "part",
    "proc": "proc",
    "processing": "proc",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "resolution": "res",
    "density": "den",
    "label": "label",
    "description": "desc",
    "suffix": "suffix",
    "datatype": "datatype",
    "extension": "extension",
}
KNOWN = {**SHORT, **{short: short for short in SHORT.values()}}
INDICES = ("run", "echo", "flip", "inv", "split", "chunk")
QUERY = re.compile(r"(?:bids\.layout\.)?Query\.(NONE|ANY|REQUIRED|OPTIONAL)")
MODALITIES = frozenset(
    {"t1w", "t2w", "flair", "bold", "sbref", "fmap", "dwi", "asl", "m0scan", "pet", "roi", "megre", "anat", "t2star"}
)


@dataclass(frozen=True)
class Filter:
    """Which images are taken: short entity name -> values of which one must fit.

    A value is text, a number, ``None`` (the entity must be absent), ``"*"`` (present), or ``...`` (either).
    """

    entities: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    regex: bool = False

    def keeps(self, entities: Mapping[str, str], path: Path) -> bool:
        """Whether an image is taken."""
        name = parse_name(path.name)
        parts = {"suffix": name.suffix, "extension": name.extension, "datatype": path.parent.name} if name else {}
        known = {**entities, **parts}
        return all(any(self._fits(key, known.get(key), v) for v in values) for key, values in self.entities.items())

    def _fits(self, key: str, written: str | None, value: Any) -> bool:
        if value is ...:
            return True
        if value is None or written is None:
            return value is None and written is None
        if value == "*":
            return True
        if self.regex and isinstance(value, str):
            return re.search(value, written) is not None
        return _same(key, written, value)


def _same(key: str, written: str, value: Any) -> bool:
    """Whether a label as written is the one asked for; ``1`` is ``01`` for indices, and for any number in the JSON."""
    wanted = str(value).removeprefix(f"{key}-")
    if key == "extension":
        return written == "." + wanted.lstrip(".")
    by_number = key in INDICES or not isinstance(value, str)
    return written == wanted or (
        by_number and written.isdecimal() and wanted.isdecimal() and int(written) == int(wanted)
    )


def read_filter(content: Mapping[str, Any] | None) -> Filter:
    """Read the content of a filter file.

    Parameters
    ----------
    content
        ``{"t1w": {entity: value or list of values}}``; entities by their long or short names, ``null`` for "absent",
        ``"*"`` for "present", pybids' ``Query.NONE``, ``Query.ANY``, and ``regex_search``. What it says of other
        modalities is passed over.

    Raises
    ------
    UsageError
        Where it is not of this form, or names something that is no entity.
    """
    if content is None:
        return Filter()
    form = 'write {"t1w": {"acquisition": "mprage"}}'
    if not isinstance(content, Mapping) or not all(isinstance(value, Mapping) for value in content.values()):
        raise UsageError(f"BIDS filter: is not a JSON object of modalities; {form}")
    strange = [key for key in content if key.lower() not in MODALITIES]
    if strange:
        raise UsageError(f"BIDS filter: {strange[0]!r} is no modality; {form}")
    query = next((dict(value) for key, value in content.items() if key.lower() == "t1w"), {})
    regex = bool(query.pop("regex_search", False))
    unknown = [key for key in query if key not in KNOWN]
    if unknown:
        raise UsageError(f"BIDS filter: t1w: {unknown[0]!r} is no entity; known are {', '.join(sorted(SHORT))}")
    entities = {KNOWN[key]: tuple(map(_value, v if isinstance(v, list) else [v])) for key, v in query.items()}
    for value in (v for values in entities.values() for v in values if regex and isinstance(v, str)):
        try:
            re.compile(value)
        except re.error as error:
            raise UsageError(f"BIDS filter: t1w: {value!r} is no regular expression ({error}); correct it") from None
    return Filter(entities, regex)


def _value(value: Any) -> Any:
    if (value is not None and not isinstance(value, str | int)) or isinstance(value, bool):
        raise UsageError(f"BIDS filter: t1w: {value!r} is no text, number or null; correct it")
    named = QUERY.fullmatch(value) if isinstance(value, str) else None
    return {"NONE": None, "OPTIONAL": ..., "ANY": "*", "REQUIRED": "*"}[named[1]] if named else value
