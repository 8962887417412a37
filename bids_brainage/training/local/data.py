"""Who trains a local model: modulated maps of derivatives with the ages of their people, and the parts of the split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlparse

import numpy as np

from bids_brainage.bids.ages import Register
from bids_brainage.bids.index import parse_name
from bids_brainage.bids.tables import is_missing, read_tsv, with_prefix
from bids_brainage.core.errors import UsageError
from bids_brainage.core.files import read_json
from bids_brainage.core.types import Sex
from bids_brainage.image.modulate import RESOLUTION

Part = Literal["train", "validation", "correction", "test"]

GM, WM = "label-GM_desc-modulated_probseg.nii.gz", "label-WM_desc-modulated_probseg.nii.gz"
TRUTH = "desc-truth_brainagemap.nii.gz"
MAPS = Path("derivatives") / "maps"
DESCRIPTION = "dataset_description.json"
TENTHS: dict[Part, int] = {"test": 1, "correction": 2, "validation": 1}
FOLDS = 10
CONTROLS = ("", "control")


@dataclass(frozen=True)
class LocalScan:
    """The maps of one scan and whose they are.

    Attributes
    ----------
    person : str
        Dataset and participant.
    name : str
        The scan's entities, for messages.
    gm, wm : Path
    truth : Path or None
        Map of the local age, where people are simulated.
    age : float
        Years.
    sex : {"F", "M"} or None
    study, site, group : str
        As ``participants.tsv`` has them, or empty; the study is told apart by dataset.
    """

    person: str
    name: str
    gm: Path
    wm: Path
    truth: Path | None
    age: float
    sex: Sex | None
    study: str = ""
    site: str = ""
    group: str = ""

    @property
    def is_control(self) -> bool:
        """Whether nothing says that this person has a disease."""
        return self.group.lower() in CONTROLS


class Found(NamedTuple):
    """Scans in order of dataset and name; who was left out and why; names of datasets; whether anybody is simulated."""

    scans: list[LocalScan]
    left_out: dict[str, str]
    datasets: list[str]
    simulated: bool


def find_scans(folders: Sequence[Path], *, template: str, resolution: float, truth: bool) -> Found:
    """All scans with modulated maps and an age.

    Parameters
    ----------
    folders : sequence of Path
        Derivatives of the app, or datasets of ``brainage simulate --maps-only``.
    template : str
        Space of the maps.
    resolution : float
        Voxel size of the model in mm: maps of this size are taken, or the app's, which are finer.
    truth : bool
        Whether each needs a map of its local age.

    Raises
    ------
    UsageError
        Where a folder holds no maps or no ``participants.tsv`` belongs to it, or one map of a scan is missing.
    """
    places = [Path(folder).resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise UsageError("--data: a folder stands there twice; name each once, or people would stand in two parts")
    found = Found([], {}, [], False)
    for number, place in enumerate(places):
        maps = place / MAPS if (place / MAPS).is_dir() else place
        root = people_of(maps)
        described = read_json(root / DESCRIPTION) if (root / DESCRIPTION).is_file() else {}
        found.datasets.append(title(described, place.name))
        found = found._replace(simulated=found.simulated or is_simulated(described))
        _add(found, _files(maps, template, resolution), root, f"{number}", truth)
    return found


def people_of(maps: Path) -> Path:
    """The dataset whose ``participants.tsv`` tells of the people in a folder of derivatives: itself, or its source.

    A source that is not named is the dataset in whose ``derivatives`` the folder stands.
    """
    described = read_json(maps / DESCRIPTION) if (maps / DESCRIPTION).is_file() else {}
    sources = [
        described.get("DatasetLinks", {}).get("raw"),
        *(s.get("URL") for s in described.get("SourceDatasets", [])),
    ]
    named = [urlparse(source) for source in sources if isinstance(source, str)]
    places = [maps, *(maps / unquote(url.path) for url in named if url.scheme in ("", "file"))]
    places += [maps.parents[1]] if maps.parent.name == "derivatives" else []
    for place in places:
        if (place / "participants.tsv").is_file():
            return place.resolve()
    raise UsageError(f"{maps}: no participants.tsv is there, nor in its source dataset; training needs the ages")


def title(description: dict[str, Any], name: str) -> str:
    """Name of a dataset and how it was made, as far as its description says; else the name of its folder."""
    made = [str(maker["Description"]) for maker in description.get("GeneratedBy", []) if maker.get("Description")]
    return " ".join([str(description.get("Name", name)), *(f"({how})" for how in made)])


def is_simulated(description: dict[str, Any]) -> bool:
    """Whether ``brainage simulate`` made a dataset."""
    makers = description.get("GeneratedBy", [])
    return any(str(maker.get("Description", "")).startswith("simulated") for maker in makers)


def _files(maps: Path, template: str, resolution: float) -> list[tuple[Path, dict[str, str]]]:
    """Grey matter maps on the grid, with their entities."""
    named = [(path, parse_name(path.name)) for path in sorted(maps.glob(f"sub-*/**/*_{GM}"))]
    wanted = [f"{size:g}".replace(".", "p") for size in (resolution, RESOLUTION)]
    for res in wanted:
        is_wanted = {"space": template, "res": res}.items()
        files = [(path, name.entities) for path, name in named if name and is_wanted <= name.entities.items()]
        if files:
            return files
    raise UsageError(
        f"{maps}: holds no modulated maps in {template} at {resolution:g} mm "
        f"(*_space-{template}_res-{wanted[0]}_{GM}); "
        "run the app with a model that needs them, or brainage simulate --maps-only"
    )


def _add(found: Found, files: list[tuple[Path, dict[str, str]]], root: Path, dataset: str, truth: bool) -> None:
    """Put the scans of one dataset where they belong."""
    register, told = Register(root), _columns(root / "participants.tsv")
    sessions: dict[str, set[str]] = {}
    for _, entities in files:
        sessions.setdefault(entities["sub"], set()).add(entities.get("ses", ""))
    for path, entities in files:
        subject, session = entities["sub"], entities.get("ses")
        name = re.split("_space-", path.name)[0]
        person = register.of(subject, session, len(sessions[subject]))
        if person.age.years is None:
            found.left_out[f"{dataset}/{name}"] = person.age.note
            continue
        row = told.get(f"sub-{subject}", {})
        wm, age_map = (path.with_name(path.name.replace(GM, other)) for other in (WM, TRUTH))
        for needed, is_needed in ((wm, True), (age_map, truth)):
            if is_needed and not needed.is_file():
                raise UsageError(f"{needed}: is missing beside {path.name}; make it again, or take the scan away")
        study = f"{dataset}:{row.get('study', '')}"
        found.scans.append(
            LocalScan(
                *(f"{dataset}/sub-{subject}", name, path, wm, age_map if age_map.is_file() else None),
                *(person.age.years, person.sex, study, row.get("site", ""), row.get("group", "")),
            )
        )


def _columns(path: Path) -> dict[str, dict[str, str]]:
    """Study, site and group of each participant, where a table has them."""
    rows = read_tsv(path)
    names = ("study", "site", "group")
    return {
        with_prefix(row["participant_id"], "sub"): {n: row[n] for n in names if n in row and not is_missing(row[n])}
        for row in rows
    }


def split(scans: Sequence[LocalScan], seed: int, fold: int = 0) -> dict[Part, list[LocalScan]]:
    """Train (6 of 10 people), validation (1), correction (2) and test (1), a person with all scans in one of them.

    Each ten neighbours in study, site and age make a stratum, so that small studies join others. The ten folds of a
    seed move the parts on by a tenth each: everybody is once in ``test``.

    Raises
    ------
    UsageError
        Where there are fewer than ten people.
    """
    from sklearn.model_selection import StratifiedKFold

    first = first_scans(scans)
    if len(first) < FOLDS:
        raise UsageError(
            f"--data: {len(first)} people with maps and an age; ten at least are needed, hundreds are better"
        )
    ordered = sorted(first, key=lambda s: (s.study, s.site, s.age, s.person))
    strata = np.minimum(np.arange(len(ordered)) // FOLDS, len(ordered) // FOLDS - 1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(strata, strata)
    turns: list[Part] = [part for part, tenths in TENTHS.items() for _ in range(tenths)]
    turns += ["train"] * (FOLDS - len(turns))
    turns = turns[-fold:] + turns[:-fold]
    part_of = {ordered[i].person: part for part, (_, chosen) in zip(turns, folds, strict=True) for i in chosen}
    parts: dict[Part, list[LocalScan]] = {"train": [], "validation": [], "correction": [], "test": []}
    for scan in scans:
        parts[part_of[scan.person]].append(scan)
    return parts


def first_scans(scans: Iterable[LocalScan]) -> list[LocalScan]:
    """One scan of each person: figures count people."""
    found: dict[str, LocalScan] = {}
    for scan in scans:
        found.setdefault(scan.person, scan)
    return list(found.values())
