"""What is true of simulated scans, as a derivative dataset: label maps, volumes, local age, brain age."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bids_brainage import __version__
from bids_brainage.core.files import write_json, write_text
from bids_brainage.simulate import local
from bids_brainage.simulate.anatomy import REGIONS, Anatomy
from bids_brainage.simulate.deform import Array
from bids_brainage.simulate.files import save, table
from bids_brainage.simulate.maps import TissueMaps
from bids_brainage.simulate.person import Grown, Visit
from bids_brainage.simulate.scanner import Acquisition

Row = tuple[object, ...]

_YEARS = {"Units": "year"}
VOLUMES = ("participant_id", "session_id", "run", "brain_age", "index", "name", "volume_mm3", "planted")
AGES = ("participant_id", "session_id", "run", "age", "brain_age")
_AGES_COLUMNS = {
    "age": {"Description": "age of the person", **_YEARS},
    "brain_age": {"Description": "mean local age of the voxels of grey and white matter", **_YEARS},
}
SPACE = "MNI152NLin2009aSym"
"""Space of the tissue maps."""


class Truth:
    """Collects what is true of each scan; `finish` writes the tables.

    Parameters
    ----------
    folder : Path
        ``derivatives/truth`` of the dataset.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes: list[Row] = []
        self.ages: list[Row] = []

    def add(self, visit: Visit, scan: Acquisition, grown: Grown, base: Anatomy, orientation: str) -> None:
        """Write the maps of one scan and keep its rows."""
        stem = self.folder / visit.folder / f"{visit.stem}_desc-truth"
        save(stem.with_name(f"{stem.name}_dseg.nii.gz"), scan.labels, scan.affine, orientation)
        age = local.age_at(grown.local, scan.position, scan.labels, base)
        save(stem.with_name(f"{stem.name}_brainagemap.nii.gz"), age, scan.affine, orientation)
        write_json(stem.with_name(f"{stem.name}_brainagemap.json"), _sidecar(visit))
        person = visit.person
        who = _who(visit)
        self.ages.append((*who, visit.age, round(mean_age(age, scan), 3)))
        self.volumes += [
            (
                *who,
                round(visit.age + person.gap, 2),
                r.number,
                r.name,
                round(float(volume), 1),
                None if np.isnan(p) else round(float(p), 4),
            )
            for r, volume, p in zip(REGIONS, scan.volumes, grown.planted, strict=True)
        ]

    def finish(self) -> None:
        """Write what describes the folder, and the tables."""
        _describe(self.folder)
        table(self.folder / "volumes.tsv", VOLUMES, self.volumes)
        table(self.folder / "brainage.tsv", AGES, self.ages)


def mean_age(age: Array, scan: Acquisition) -> float:
    """Mean local age (years) of the voxels that are grey or white matter: the global brain age."""
    tissue = local.is_tissue()[scan.labels]
    return float(age[tissue].mean(dtype=np.float64)) if tissue.any() else float("nan")


def _sidecar(visit: Visit) -> dict[str, object]:
    """What was planted into one scan."""
    person = visit.person
    return {
        "Description": "local brain age; 0 outside the brain",
        "Units": "year",
        "Age": visit.age,
        "Gap": person.gap,
        "Offsets": dict(person.offsets),
        "FieldSD": person.field_sd,
        "FieldCorrelationLength": person.field_mm,
    }


def write_tissue_maps(folder: Path, visit: Visit, made: TissueMaps) -> Row:
    """Write the maps of one visit, and give its row of brainage.tsv."""
    stem = folder / visit.folder / f"{visit.stem}_space-{SPACE}_res-{made.affine[0, 0]:g}".replace(".", "p")
    for name, data in (("label-GM_desc-modulated_probseg", made.gm), ("label-WM_desc-modulated_probseg", made.wm)):
        save(stem.with_name(f"{stem.name}_{name}.nii.gz"), data, made.affine)
    save(stem.with_name(f"{stem.name}_desc-truth_brainagemap.nii.gz"), made.age_map, made.affine)
    write_json(stem.with_name(f"{stem.name}_desc-truth_brainagemap.json"), _sidecar(visit))
    tissue = (made.gm + made.wm) * (made.age_map != 0)
    mean = float(np.average(made.age_map, weights=tissue))
    return (*_who(visit), visit.age, round(mean, 3))


def describe_maps(folder: Path, rows: list[Row]) -> None:
    """Write what describes a folder of tissue maps, and the table of brain ages."""
    write_json(folder / "dataset_description.json", _description("Tissue maps of simulated people"))
    write_text(
        folder / "README",
        "Grey and white matter maps as the app would modulate them, made without an image; the local age at each\n"
        "place (desc-truth_brainagemap); and brainage.tsv with its mean over the tissue.\n",
    )
    write_text(folder / ".bidsignore", "brainage.tsv\nbrainage.json\n*_brainagemap.*\n*_probseg.*\n")
    table(folder / "brainage.tsv", AGES, rows)
    write_json(folder / "brainage.json", _AGES_COLUMNS)


def _who(visit: Visit) -> Row:
    """The first three columns of a row."""
    return (f"sub-{visit.person.label}", f"ses-{visit.session}" if visit.session else None, visit.run)


def _description(name: str) -> dict[str, object]:
    """``dataset_description.json`` of a derivative."""
    return {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [{"Name": "bids-brainage", "Version": __version__}],
        "SourceDatasets": [{"URL": "../../"}],
    }


def _describe(out: Path) -> None:
    """The files of the truth beside the images and the tables."""
    write_json(out / "dataset_description.json", _description("What is true of the simulated heads"))
    write_text(
        out / "README",
        "Label maps and maps of local age on the grid of each scan, brainage.tsv with the mean local age of grey and\n"
        "white matter, and volumes.tsv with what was planted.\n",
    )
    write_text(out / ".bidsignore", "volumes.tsv\nvolumes.json\nbrainage.tsv\nbrainage.json\n*_brainagemap.*\n")
    table(out / "desc-truth_dseg.tsv", ("index", "name"), ((r.number, r.name) for r in REGIONS))
    write_json(
        out / "volumes.json",
        {
            "brain_age": {"Description": "age whose atrophy was planted", **_YEARS},
            "index": {"Description": "number of the region in the label maps"},
            "name": {"Description": "name of the region; left is the person's left"},
            "volume_mm3": {"Description": "volume in this scan", "Units": "mm^3"},
            "planted": {
                "Description": "planted volume relative to the same anatomy at 40 years, differences between people"
                " apart; n/a for the fluid around the brain, which takes what is left"
            },
        },
    )
    write_json(out / "brainage.json", _AGES_COLUMNS)
