"""Base anatomies from segmentations of real heads: aseg-like label maps and MUSE segmentations.

A map is brought to template space by a rotation from the centres of its regions (Kabsch 1976, Acta Cryst. A32), and a
shift and a scale of each axis from the brain's centre and spread; skull and face are built around (`head`). People of
any age can be bases: each region is first brought to the share of the skull's inside that it has in the template.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Sex
from bids_brainage.simulate import aging, head
from bids_brainage.simulate.anatomy import CSF, EXTENT, ORIGIN, REGIONS, Anatomy, world
from bids_brainage.simulate.deform import Warp
from bids_brainage.simulate.lobes import LOBES, lobe_at
from bids_brainage.simulate.local import is_brain

_OUTSIDE = (1, 46, 69)
"""MUSE's labels of fluid outside the brain."""
_ASEG = {2, 3, 41, 42}
_MUSE = {47, 48, 59, 60, 81, 82, 142, 143}
"""Labels that tell the two numberings apart."""
_LIMBIC = {  # as lobes, counted from 1
    "AnteriorCingulate": 1,
    "MiddleCingulate": 1,
    "BasalForebrain": 1,
    "Entorhinal": 2,
    "Parahippocampal": 2,
    "PosteriorCingulate": 3,
}
_LEAST = 50.0
"""Least volume of a region, mm^3."""
_LARGEST_CHANGE = 3.0


class Reference(NamedTuple):
    """The template's anatomy: centres of the regions (n x 3, mm), their volumes, centre and spread of the brain."""

    centres: NDArray[np.float64]
    volumes: NDArray[np.float64]
    middle: NDArray[np.float64]
    spread: NDArray[np.float64]


def find(folder: Path) -> list[Path]:
    """The label maps of a folder and its subfolders (``*.nii``, ``*.nii.gz``), by name.

    Raises
    ------
    UsageError
        Where there is none.
    """
    found = sorted(p for p in Path(folder).rglob("*.nii*") if p.name.endswith((".nii", ".nii.gz")) and p.is_file())
    if not found:
        raise UsageError(f"{folder}: holds no label map (*.nii.gz); give a folder of aseg-like or MUSE segmentations")
    return found


def read_base(
    path: Path,
    reference: Reference,
    step: int = 1,
    *,
    affine: NDArray[np.float64] | None = None,
    to_template: Warp | None = None,
) -> Anatomy:
    """A label map as a base anatomy.

    Parameters
    ----------
    path : Path
        Aseg-like labels (``data/head_labels.tsv``) or MUSE's (``data/muse_rois.tsv``).
    reference : Reference
        Of the template's anatomy.
    step : int
        Voxel size, mm: 1, or 2 for quick tests.
    affine : 4 x 4 array, optional
        From the head's space to the template's, mm; found from regions and extents where it is not given.
    to_template : Warp, optional
        What leads on from there, where a registration found it.

    Raises
    ------
    UsageError
        Where the file cannot be read, has neither numbering, or lacks a region.
    """
    values, to_world = _read(path)
    is_muse = _numbering(path, values)
    table, lobes = muse_tables() if is_muse else (aseg_table(), None)
    native = table[np.clip(values, 0, len(table) - 1)]
    _complete(path, native, abs(float(np.linalg.det(to_world[:3, :3]))))
    found = align(native, to_world, reference) if affine is None else affine
    pull = np.asarray(np.linalg.inv(found @ to_world), np.float64)
    labels = _pulled(native, pull, step)
    xyz = world(labels.shape, step)
    lobe = None if lobes is None else _lobes(_pulled(lobes[values], pull, step), xyz)
    whole = head.surround(_sided(labels, xyz[0]), labels > 0, xyz, step)
    made = Anatomy(whole, step, lobe, to_template)
    return Anatomy(whole, step, lobe, to_template, _standard(reference_of(made).volumes, reference.volumes))


def of_age(base: Anatomy, age: float, sex: Sex) -> Anatomy:
    """The same anatomy as that of a person whose age is known: the published curves lead from there.

    What else distinguishes this person stays, where without an age each region is brought to its share in the template.
    """
    factors = [np.nan if r.number == CSF else 1 / aging.expected(r.kind, age, sex) for r in REGIONS]
    return replace(base, standard=np.array(factors))


def reference_of(base: Anatomy) -> Reference:
    """Centres and volumes of the regions of an anatomy on the base grid."""
    affine = np.diag([base.step, base.step, base.step, 1.0])
    affine[:3, 3] = ORIGIN
    return _measured(base.labels, affine)


def align(labels: NDArray[np.uint8], to_world: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    """Affine (4 x 4, mm) from a head's space to the template's.

    Parameters
    ----------
    labels : uint8 array
        In the numbers of `REGIONS`; regions on the midline may bear the number of either side.
    to_world : 4 x 4 array
    reference : Reference
    """
    here = _measured(labels, to_world)
    weight = np.where([r.number == CSF for r in REGIONS], 0.0, 1.0)[:, None]
    a, b = (weight * (m.centres - (weight * m.centres).sum(0) / weight.sum()) for m in (here, reference))
    u, _, vt = np.linalg.svd(a.T @ b)
    rotation = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    turned = np.eye(4)
    turned[:3, :3] = rotation
    upright = _measured(labels, turned @ to_world)
    scale = reference.spread / upright.spread
    stretched = np.diag([*scale, 1.0])
    stretched[:3, 3] = reference.middle - scale * upright.middle
    return np.asarray(stretched @ turned)


def aseg_table() -> NDArray[np.uint8]:
    """Number in `REGIONS` of each label of a whole-head map, 0 for what is not inside the skull."""
    table = np.zeros(1024, np.uint8)
    for row in _rows("head_labels.tsv"):
        table[int(row["label"])] = _number(row["class"], row["hemisphere"])
    return table


def muse_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Number in `REGIONS`, and lobe (from 1 in the order of `LOBES`; 0: none), of each of 256 MUSE labels.

    Lobes are those of MUSE's composites; their limbic regions are shared out as in `lobes`.
    """
    table, lobe = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    table[list(_OUTSIDE)] = CSF
    members = {row["name"].lower(): row["members"].split() for row in _rows("muse_composites.tsv")}
    of_number = {int(n): k for k, name in enumerate(LOBES, 1) for n in members[name]}
    for row in _rows("muse_rois.tsv"):
        number = int(row["index"])
        table[number] = _number(row["class"], row["side"])
        limbic = (k for start, k in _LIMBIC.items() if row["name"].startswith(start))
        lobe[number] = of_number.get(number, next(limbic, 0))
    return table, lobe


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("bids_brainage.data").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def _number(kind: str, side: str) -> int:
    """Number of a region by class and side (L, R, n/a: the left one's where there are two); 0 for background."""
    names = {r.name: r.number for r in REGIONS}
    return names.get(kind, names.get(f"{'right' if side == 'R' else 'left'}_{kind}", 0))


def _read(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels in RAS order and their affine."""
    import nibabel as nib

    try:
        image = nib.as_closest_canonical(nib.load(path))
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())}); give NIfTI label maps") from None
    if values.ndim != 3 or not np.array_equal(values, np.rint(values)):
        raise UsageError(f"{path}: is no label map (3D, whole numbers); give aseg-like or MUSE segmentations")
    return values.astype(np.int64), np.asarray(image.affine, np.float64)


def _numbering(path: Path, values: NDArray[np.int64]) -> bool:
    """Whether a map is numbered as MUSE's (else as aseg)."""
    found = set(np.unique(values).tolist())
    if found >= _ASEG:
        return False
    if found >= _MUSE and max(found) < 256:
        return True
    raise UsageError(f"{path}: its labels are neither aseg's nor MUSE's; give whole segmentations of one of them")


def _complete(path: Path, labels: NDArray[np.uint8], voxel: float) -> None:
    """Refuse a map that lacks a region."""
    volume = np.bincount(labels.ravel(), minlength=256) * voxel
    lacking = [r.name for r in REGIONS if volume[r.number] < _LEAST]
    if lacking:
        raise UsageError(f"{path}: has no {lacking[0]}; give a segmentation with all regions, or remove the file")


def _measured(labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> Reference:
    """Centres, volumes and spread in the space that the affine leads to."""
    index = np.argwhere(labels > 0)
    number = labels[labels > 0]
    points = np.asarray(index @ affine[:3, :3].T + affine[:3, 3], np.float64)
    count = np.bincount(number, minlength=256)
    sums = np.stack([np.bincount(number, points[:, a], 256) for a in range(3)], axis=1)
    rows = [r.number for r in REGIONS]
    brain = points[is_brain()[number]]
    volumes = count[rows] * abs(float(np.linalg.det(affine[:3, :3])))
    centres = np.asarray(sums[rows] / np.maximum(count[rows], 1)[:, None], np.float64)
    return Reference(centres, np.asarray(volumes, np.float64), brain.mean(0), brain.std(0))


def _pulled(labels: NDArray[np.uint8], pull: NDArray[np.float64], step: int) -> NDArray[np.uint8]:
    """A label map on the base grid; ``pull`` leads from template positions to its voxels."""
    shape = tuple(extent // step + 1 for extent in EXTENT)
    offset = pull[:3, :3] @ ORIGIN + pull[:3, 3]
    return np.asarray(ndi.affine_transform(labels, pull[:3, :3] * step, offset, shape, order=0), np.uint8)


def _sided(labels: NDArray[np.uint8], x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What a map counts to no side (vermis, corpus callosum) on the side where it lies, in place.

    Labels across the midline change sides as well, by which left is x < 0 as in the template.
    """
    left = {r.kind: r.number for r in REGIONS if r.name.startswith("left_")}
    right = {r.kind: r.number for r in REGIONS if r.name.startswith("right_")}
    near = np.abs(x) < 12
    for kind in ("cerebral_white_matter", "cerebellar_cortex"):
        here = near & ((labels == left[kind]) | (labels == right[kind]))
        labels[here & (x > 0)] = right[kind]
        labels[here & (x <= 0)] = left[kind]
    return labels


def _lobes(lobe: NDArray[np.uint8], xyz: tuple[head.Array, head.Array, head.Array]) -> NDArray[np.uint8]:
    """Lobes with those that the parcellation leaves open filled in by the surfaces; ``lobe`` counts from 1."""
    return np.where(lobe == 0, lobe_at(*xyz), lobe - 1).astype(np.uint8)


def _standard(volumes: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors that give the regions their share in the template; ``nan`` for the fluid."""
    factors = (wanted / wanted.sum()) / (volumes / volumes.sum())
    factors = np.clip(factors, 1 / _LARGEST_CHANGE, _LARGEST_CHANGE)
    factors[[r.number == CSF for r in REGIONS]] = np.nan
    return np.asarray(factors)
