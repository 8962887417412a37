"""A BIDS dataset to :class:`~bids_brainage.core.types.Scan` values: one per T1w image, every entity as written."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bids_brainage.bids import reuse
from bids_brainage.bids.ages import Register
from bids_brainage.bids.filters import Filter, read_filter
from bids_brainage.bids.index import (
    NOWHERE,
    Folders,
    folders,
    parse_name,
    sessions_in,
    t1w_files,
    unlistable,
)
from bids_brainage.bids.tables import ANNEX_POINTER, NO_CONTENT
from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import read_json
from bids_brainage.core.types import Scan

OTHER_PARTS = {"phase": "phase", "real": "real part", "imag": "imaginary part"}
DERIVED = ("space", "res", "den", "label", "desc", "hemi", "atlas", "seg", "scale")
CONTRAST = "contrast_enhanced"
REC_VARIANT = "rec_variant"


class Dataset(NamedTuple):
    """What a dataset holds.

    Attributes
    ----------
    scans : list of Scan
        In the order of their paths.
    skipped : list of (str, str)
        Participants without a T1w image, and images that are none to predict from; each with the reason.
    broken : list of (Path, str)
        T1w images that should give a result and cannot be read, or whose ``sessions.tsv`` cannot; each with the reason.
    notes : list of (str, str)
        Participant or scan, and what was not clear: sex codes, derivatives that could not be reused.
    """

    scans: list[Scan]
    skipped: list[tuple[str, str]]
    broken: list[tuple[Path, str]]
    notes: list[tuple[str, str]]


class _Image(NamedTuple):
    """A T1w file on its way to a scan."""

    path: Path
    entities: dict[str, str]


def find_scans(
    bids_dir: Path,
    *,
    participant_label: Sequence[str] = (),
    session_label: Sequence[str] = (),
    bids_filter: Mapping[str, Any] | None = None,
    database_dir: Path | None = None,
    derivatives: Mapping[str, Path] | None = None,
) -> Dataset:
    """Find every T1w image of a dataset with the age and sex of its person. Nothing is written into the dataset.

    Images with ``part-phase``, ``part-real`` or ``part-imag``, and derivatives, are skipped. An image with ``ce-`` is
    flagged ``contrast_enhanced``. Images that differ by ``rec-`` alone are reconstructions of one acquisition: each is
    a scan, and all but one (the one without ``rec-``, else the first by name) are flagged ``rec_variant``; an average
    over runs counts one of them (see :func:`acquisition`).

    Parameters
    ----------
    participant_label, session_label
        Labels with or without ``sub-`` and ``ses-``; empty for all.
    bids_filter
        As in fMRIPrep: ``{"t1w": {"acquisition": "mprage", "session": ["pre"], "reconstruction": null}}``.
    database_dir
        Where a saved index is kept (see :func:`bids_brainage.bids.index.t1w_files`).
    derivatives
        Derivative datasets by name, in which masks and preprocessed images are looked for.

    Raises
    ------
    UsageError
        Where the dataset, a label, the filter or a table cannot be used.
    """
    root = Path(bids_dir).absolute()
    kind = check_dataset(root)
    there = folders(root)
    subjects = _subjects(root, there, participant_label)
    looked = {subject: sessions_in(root / f"sub-{subject}") for subject in subjects}
    sessions = {subject: found.labels for subject, found in looked.items()}
    wanted = _sessions(root, sessions, session_label)
    choice = _Choice(root, frozenset(subjects), wanted, read_filter(bids_filter))
    images, skipped, broken = _sort(root, t1w_files(root, sessions, database_dir, chosen=bool(participant_label)))
    if kind == "derivative" and not images and not broken:
        what = "is a derivative dataset without a raw T1w image"
        raise UsageError(f"{root}: {what}; give the raw dataset, and this one by --derivatives NAME=PATH")
    kept = [image for image in images if choice.takes(image.path)]
    scans, unclear, notes = _complete(root, kept, images, sessions, derivatives or {})
    broken = [(path, fault) for path, fault in broken if choice.takes(path)] + unclear
    found = {choice.subject(p) for p in (*(i.path for i in kept), *dict(broken))}
    lost = [(path, NOWHERE) for of in looked.values() for path in of.lost_of(wanted) if choice.may_hold(path)]
    empty, unreadable = _without(choice, there, found | {choice.subject(path) for path, _ in lost})
    return Dataset(scans, empty + skipped, broken + unreadable + lost, notes)


class _Choice(NamedTuple):
    """What was asked for."""

    root: Path
    subjects: frozenset[str]
    sessions: frozenset[str]
    filter: Filter

    def subject(self, path: Path) -> str:
        """Label of the participant in whose folder a file lies."""
        return path.relative_to(self.root).parts[0].removeprefix("sub-")

    def takes(self, path: Path) -> bool:
        """Whether an image is of a chosen session and passes the filter."""
        name = parse_name(path.name)
        entities = name.entities if name else {}
        of_session = not self.sessions or entities.get("ses") in self.sessions
        return of_session and self.filter.keeps(entities, path)

    def may_hold(self, folder: Path) -> bool:
        """Whether a session's folder may hold what the filter wants, by its session alone."""
        if "ses" not in self.filter.entities:
            return True
        named = [part.removeprefix("ses-") for part in folder.parts if part.startswith("ses-")]
        by_session = dataclasses.replace(self.filter, entities={"ses": self.filter.entities["ses"]})
        return by_session.keeps({"ses": named[0]} if named else {}, folder)


def _without(choice: _Choice, there: Folders, found: set[str]) -> tuple[list[tuple[str, str]], list[tuple[Path, str]]]:
    """Chosen participants without an image: those who have none, and folders that cannot be read."""
    empty, unreadable = [], []
    links = {path.name.removeprefix("sub-") for path in there.dangling}
    reason = "no T1w image" + (
        " among the chosen sessions and filters" if choice.sessions or choice.filter.entities else ""
    )
    for subject in sorted(choice.subjects - found):
        folder = choice.root / f"sub-{subject}"
        fault = NOWHERE if subject in links else unlistable(folder)
        if fault:
            unreadable.append((folder, fault))
        else:
            empty.append((folder.name, reason))
    return empty, unreadable


def acquisition(stem: str) -> str:
    """A scan's stem without ``rec-``: the same for all reconstructions of one acquisition.

    Examples
    --------
    >>> acquisition("sub-01_acq-mprage_rec-norm_run-1")
    'sub-01_acq-mprage_run-1'
    """
    return "_".join(part for part in stem.split("_") if not part.startswith("rec-"))


def check_dataset(root: Path) -> str:
    """Make sure that a folder is a BIDS dataset; returns its ``DatasetType``.

    Raises
    ------
    UsageError
        Where the folder or its ``dataset_description.json`` is missing or unreadable.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; give the BIDS dataset")
    path = root / "dataset_description.json"
    if not path.is_file():
        raise UsageError(
            f'{path}: is missing; give the root of a BIDS dataset, or write {{"Name": "...", "BIDSVersion": "1.10.0"}}'
        )
    try:
        description = read_json(path)
    except BrainAgeError as error:
        raise UsageError(str(error)) from None
    if not isinstance(description, dict):
        raise UsageError(f"{path}: is not a JSON object; correct it")
    return str(description.get("DatasetType", "raw"))


def _subjects(root: Path, there: Folders, wanted: Sequence[str]) -> list[str]:
    """Labels of the chosen participants, in order."""
    known = sorted({*there.subjects, *(p.name.removeprefix("sub-") for p in there.dangling)})
    if not known:
        raise UsageError(f"{root}: holds no sub-* folder; give the root of a BIDS dataset")
    labels = [label.removeprefix("sub-") for label in wanted]
    _all_known("--participant-label", labels, known, root)
    return [label for label in known if not labels or label in labels]


def _sessions(root: Path, there: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> frozenset[str]:
    """Labels of the chosen sessions; empty for all."""
    labels = [label.removeprefix("ses-") for label in wanted]
    _all_known("--session-label", labels, sorted({label for of_one in there.values() for label in of_one}), root)
    return frozenset(labels)


def _all_known(option: str, labels: Iterable[str], known: Sequence[str], root: Path) -> None:
    absent = [label for label in labels if label not in known]
    if absent:
        shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
        raise UsageError(f"{option} {' '.join(absent)}: not in {root}; there are: {shown or 'none'}")


def _sort(root: Path, files: Iterable[Path]) -> tuple[list[_Image], list[tuple[str, str]], list[tuple[Path, str]]]:
    """Images to predict from, files that are none (with the reason), and those that cannot be read."""
    images: dict[str, _Image] = {}
    skipped, broken = [], []
    for path in files:
        shown = path.relative_to(root).as_posix()
        name = parse_name(path.name)
        reason = "is not a BIDS name" if name is None else _not_for_prediction(name.entities)
        if name is None or reason:
            skipped.append((shown, reason))
            continue
        fault = _misplaced(path.relative_to(root), name.entities) or _unreadable(path)
        stem = path.name.partition(".")[0]
        if fault:
            broken.append((path, fault))
        elif stem in images:
            twins = sorted((images[stem].path, path), key=lambda p: p.suffix != ".gz")
            images[stem] = _Image(twins[0], name.entities)
            skipped.append((twins[1].relative_to(root).as_posix(), f"{twins[0].name} has the same name and is taken"))
        else:
            images[stem] = _Image(path, name.entities)
    return sorted(images.values()), skipped, broken


def _not_for_prediction(entities: Mapping[str, str]) -> str:
    part = OTHER_PARTS.get(entities.get("part", "mag"))
    if part:
        return f"is a {part} image, not a magnitude"
    derived = [f"{key}-{entities[key]}" for key in DERIVED if key in entities]
    return f"is a derivative ({', '.join(derived)}), not a raw image" if derived else ""


def _misplaced(path: Path, entities: Mapping[str, str]) -> str:
    """Why a file's name contradicts its folders."""
    place = list(path.parts[:-2])
    said = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    return (
        "" if place == said else f"its name says {' '.join(said)} but it lies in {'/'.join(place)}; rename or move it"
    )


def _unreadable(path: Path) -> str:
    """Why a file cannot be read here: a dangling link, a pointer of git-annex, or no permission."""
    try:
        if not path.exists():
            return "is a link to nowhere; get its content, e.g. by `datalad get`"
        with path.open("rb") as stream:
            if stream.read(len(ANNEX_POINTER)) == ANNEX_POINTER:
                return NO_CONTENT
    except OSError as error:
        return f"cannot be read ({error.strerror}); check its permissions"
    return ""


def _complete(
    root: Path,
    kept: Sequence[_Image],
    images: Sequence[_Image],
    sessions: Mapping[str, Sequence[str]],
    derivatives: Mapping[str, Path],
) -> tuple[list[Scan], list[tuple[Path, str]], list[tuple[str, str]]]:
    """Add age, sex, flags and what can be reused to each image; those without a readable table come second."""
    register, finder = Register(root), reuse.Finder(derivatives, [image.entities for image in images])
    main = _main_reconstructions(images)
    scans, unclear, notes = [], [], dict[tuple[str, str], None]()
    for path, entities in kept:
        subject = entities["sub"]
        try:
            person = register.of(subject, entities.get("ses"), len(sessions[subject]))
        except UsageError as error:
            unclear.append((path, f"its age cannot be read: {error}"))
            continue
        flags = (CONTRAST,) * ("ce" in entities) + (REC_VARIANT,) * (path not in main) + person.flags
        scan = Scan(path, entities, person.age, person.sex, flags=flags)
        try:
            found = finder.find(scan)
        except (UsageError, OSError) as error:
            unclear.append((path, f"what --derivatives has of it cannot be read: {error}"))
            continue
        scans.append(dataclasses.replace(scan, mask=found.mask, preproc=found.preproc, preproc_stripped=found.stripped))
        if person.sex_note:
            notes[f"sub-{subject}", person.sex_note] = None
        notes.update(dict.fromkeys((scan.stem, note) for note in found.notes))
    return scans, unclear, list(notes)


def _main_reconstructions(images: Iterable[_Image]) -> set[Path]:
    """Of each acquisition the image that stands for it."""
    main: dict[tuple[tuple[str, str], ...], _Image] = {}
    for image in sorted(images, key=lambda i: ("rec" in i.entities, i.path)):
        main.setdefault(tuple((k, v) for k, v in image.entities.items() if k != "rec"), image)
    return {image.path for image in main.values()}


def summary(dataset: Dataset) -> str:
    """One line: how many scans, people and sessions.

    Examples
    --------
    >>> summary(Dataset([], [], [], []))
    '0 T1w images of 0 participants'
    """
    people = Counter(scan.subject for scan in dataset.scans)
    return f"{len(dataset.scans)} T1w images of {len(people)} participants"
