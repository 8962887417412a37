"""Volumes of the 145 MUSE regions: the posteriors say which structure, the atlas says which parcel of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bids_brainage.core.bundle import load as load_bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.files import atomic, write_json
from bids_brainage.image import muse
from bids_brainage.image.io import Grid, Volume, read, read_grid, resample, save
from bids_brainage.image.register import displacement

FLOOR = 1e-3


class Atlas(NamedTuple):
    """Region probabilities in template space, the likeliest few a voxel.

    Attributes
    ----------
    grid : Grid
        Template grid.
    rows : array of int32, grid.shape
        Row of each voxel in the two tables below; -1 outside the atlas.
    labels : array of uint8, (n, k)
        Columns of :func:`muse.columns`.
    probabilities : array of float32, (n, k)
        They sum to 1.
    log_ratio : array of float32, (146,)
        Natural logarithm of measured over reference volume: 145 regions, then the ICV.
    """

    grid: Grid
    rows: NDArray[np.int32]
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    log_ratio: NDArray[np.float32]


class Volumes(NamedTuple):
    """Regional volumes and where the regions lie."""

    muse_volumes: Path
    muse_dseg: Path


def volumes(
    t1w_native: Path, icv_mask: Path, posteriors: Path, xfm_inverse: Path, *, atlas: Path, out: Path
) -> Volumes:
    """Measure the 145 MUSE regions and their composites, on the scale of DLMUSE.

    Parameters
    ----------
    t1w_native : Path
        Gives the native grid.
    icv_mask : Path
        Intracranial mask, native grid.
    posteriors : Path
        18 classes, 2 mm.
    xfm_inverse : Path
        Template to T1w: carries a native point to the template.
    atlas : Path
        Bundle of the atlas.

    Returns
    -------
    Volumes
        ``muse_volumes``: TSV with ``index``, ``name``, ``volume_mm3`` and a JSON dictionary beside it;
        ``muse_dseg``: MUSE numbers on the native grid (uint8).

    Raises
    ------
    BundleError
        Where the bundle is damaged or no MUSE atlas.
    """
    chart = read_atlas(atlas)
    classes, inside = read(posteriors), read(icv_mask, np.uint8)
    native = read_grid(t1w_native)
    head = resample(Volume((inside.data > 0).astype(np.float32), inside.affine), classes.grid) > 0.5
    points = template_points(xfm_inverse, classes.grid, head)
    found = fuse(look_up(chart, points), classes.data[head], points)
    measured = found.sum(axis=0, dtype=np.float64)[: len(muse.regions())] * classes.grid.voxel_volume
    skull = float((inside.data > 0).sum() * inside.grid.voxel_volume)
    values = calibrate(measured, skull, chart.log_ratio)
    labels = np.zeros(classes.grid.shape, dtype=np.uint8)
    numbers = np.array([*(region.index for region in muse.regions()), 0, 0], dtype=np.uint8)
    labels[head] = numbers[found.argmax(axis=1)]
    whole = resample(Volume(labels, classes.affine), native, nearest=True)
    dseg = save(out / "muse_dseg.nii.gz", whole, native.affine)
    return Volumes(write_table(out / "muse_volumes.tsv", values), dseg)


def read_atlas(folder: Path) -> Atlas:
    """Read and check the atlas of a bundle."""
    bundle = load_bundle(folder)
    if bundle.card["architecture"] != "atlas":
        raise BundleError(f"{folder}: is no MUSE atlas; give the bundle that `brainage train atlas` wrote")
    with np.load(bundle.file("atlas.npz"), allow_pickle=False) as stored:
        shape = tuple(int(size) for size in stored["shape"])
        covered = np.unpackbits(stored["covered"], count=int(np.prod(shape))).astype(bool)
        rows = np.where(covered, np.cumsum(covered) - 1, -1).astype(np.int32).reshape(shape)
        share = stored["probabilities"].astype(np.float32)
        return Atlas(
            Grid((shape[0], shape[1], shape[2]), stored["affine"]),
            rows,
            stored["labels"],
            share / share.sum(axis=1, keepdims=True),
            stored["log_ratio"].astype(np.float32),
        )


def template_points(xfm_inverse: Path, grid: Grid, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Where the true voxels of a head lie in the template: ``(n, 3)``, mm, RAS."""
    voxels = np.argwhere(inside)
    here = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.asarray(here + displacement(xfm_inverse, grid)[inside], dtype=np.float32)


def look_up(atlas: Atlas, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of the 147 columns at points of the template, linear between its voxels; rows sum to 1."""
    to_voxel = np.linalg.inv(atlas.grid.affine)
    where = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    where = np.clip(where, 0, np.array(atlas.grid.shape) - 1.001)
    corner = np.floor(where).astype(np.int32)
    part = (where - corner).astype(np.float32)
    result = np.zeros((len(points), 147), dtype=np.float32)
    for step in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(step, part, 1 - part), axis=1)
        row = atlas.rows[tuple((corner + step).T)]
        outside = row < 0
        result[outside, 146] += weight[outside]
        known = np.flatnonzero(~outside)
        for rank in range(atlas.labels.shape[1]):
            label = atlas.labels[row[known], rank]
            result[known, label] += weight[known] * atlas.probabilities[row[known], rank]
    return result


def fuse(
    prior: NDArray[np.float32], posterior: NDArray[np.float32], points: NDArray[np.float32]
) -> NDArray[np.float32]:
    r"""Region probabilities from the atlas and the network's classes.

    .. math:: p(r|v) = \frac{q_c(v)\, S_c(v)}{\sum_k q_k(v)\, S_k(v)}\cdot\frac{A_r(v)}{S_c(v)},
        \qquad S_c = \sum_{r \in c} A_r

    with the atlas :math:`A`, the posteriors :math:`q` and :math:`c` the class of region :math:`r`; both are given a
    floor, so that neither alone rules a structure out. Where the atlas has no parcel of a likely class, the voxel
    takes the shares of the nearest voxel that has one.

    Parameters
    ----------
    prior : array, (n, 147)
        Of :func:`look_up`.
    posterior : array, (n, 18)
        The network's classes at the same voxels.
    points : array, (n, 3)
        Where the voxels lie, mm.

    Returns
    -------
    array, (n, 147)
        Rows sum to 1.
    """
    owner = muse.classes()
    support = np.stack([prior[:, owner == c].sum(axis=1) for c in range(posterior.shape[1])], axis=1)
    joint = (support + FLOOR) * (posterior + FLOOR)
    joint[:, 0] = 0
    joint /= joint.sum(axis=1, keepdims=True)
    result = np.zeros_like(prior)
    for c in range(1, posterior.shape[1]):
        own = np.flatnonzero(owner == c)
        share = prior[:, own] + np.float32(FLOOR / 100)
        bare = support[:, c] < FLOOR
        lost = np.flatnonzero(bare & (joint[:, c] > FLOOR))
        if len(own) > 1 and lost.size and not bare.all():
            known = np.flatnonzero(~bare)
            share[lost] = share[known[cKDTree(points[known]).query(points[lost])[1]]]
        result[:, own] = joint[:, c, None] * share / share.sum(axis=1, keepdims=True)
    return result


def calibrate(measured: NDArray[np.float64], skull: float, log_ratio: NDArray[np.float32]) -> dict[int, float]:
    """Volumes by MUSE number (mm^3): regions and ICV divided by the atlas's ratios, composites summed."""
    scaled = np.maximum(measured, 1.0) / np.exp(log_ratio[:-1].astype(np.float64))
    values = {region.index: float(v) for region, v in zip(muse.regions(), scaled, strict=True)}
    for composite in muse.composites():
        values[composite.index] = sum(values[member] for member in composite.members)
    values[muse.ICV] = skull / float(np.exp(log_ratio[-1]))
    values[muse.CORTICAL_CSF] = max(values[muse.ICV] - values[muse.TOTAL_BRAIN], 0.0)
    return values


def write_table(path: Path, values: dict[int, float]) -> Path:
    """Write volumes as TSV (``index``, ``name``, ``volume_mm3``), single regions first, and a JSON dictionary beside it."""
    names = {region.index: region.name for region in muse.regions()}
    names |= {muse.ICV: "ICV", muse.TOTAL_BRAIN: "TotalBrain", muse.CORTICAL_CSF: "CorticalCSF"}
    names |= {composite.index: composite.name for composite in muse.composites()}
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "name", "volume_mm3"])
        writer.writerows([index, name, f"{values[index]:.1f}"] for index, name in names.items())
    write_json(path.with_suffix(".json"), DICTIONARY)
    return path


DICTIONARY = {
    "VolumeScale": "dlmuse-2mm",
    "index": {"Description": "Number of the region or composite in the MUSE atlas (Doshi et al. 2016)"},
    "name": {"Description": "Name of the region; _R and _L are the person's right and left"},
    "volume_mm3": {
        "Description": "Volume, calibrated to DLMUSE on 2 mm scans; composites are sums of regions, 702 is the "
        "intracranial mask, 600 is what it holds beside the brain",
        "Units": "mm^3",
    },
}
