"""Volumes of the 145 MUSE regions: the network and intensity say which structure, the atlas says which parcel of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bids_brainage.core.files import atomic, write_json
from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas, look_up, read_atlas, template_points
from bids_brainage.image.io import Volume, read, resample, save
from bids_brainage.image.masks import bounding_box
from bids_brainage.image.register import cropped
from bids_brainage.image.template import DEFAULT
from bids_brainage.image.tissue import classify

FLOOR = 1e-2
NETWORK_POWER = 0.75


class Volumes(NamedTuple):
    """Regional volumes and where the regions lie."""

    muse_volumes: Path
    muse_dseg: Path


def volumes(
    t1w_preproc: Path,
    icv_mask: Path,
    posteriors: Path,
    xfm_inverse: Path,
    *,
    atlas: Path,
    out: Path,
    template: str = DEFAULT,
) -> Volumes:
    """Measure the 145 MUSE regions and their composites, on the scale of DLMUSE on 2 mm scans.

    Parameters
    ----------
    t1w_preproc : Path
        Bias-corrected scan, native grid.
    icv_mask : Path
        Intracranial mask, native grid.
    posteriors : Path
        18 classes, 2 mm.
    xfm_inverse : Path
        Template to T1w: carries a native point to the template.
    atlas : Path
        Bundle of the atlas.
    template : str
        Space of the transform; where it is not the atlas's own, the two templates are registered.

    Returns
    -------
    Volumes
        ``muse_volumes``: TSV with ``index``, ``name``, ``volume_mm3`` and a JSON dictionary beside it;
        ``muse_dseg``: MUSE numbers on the native grid (uint8).

    Raises
    ------
    BundleError
        Where the bundle is damaged or no atlas.
    """
    chart = read_atlas(atlas)
    head = gather(read(t1w_preproc), read(icv_mask, np.uint8), read(posteriors))
    points = template_points(xfm_inverse, head.mask, template)
    found = fuse(look_up(chart, points), head.posterior, head.intensity, points).argmax(axis=1)
    grid = head.mask.grid
    measured = np.bincount(found, minlength=147)[: len(muse.regions())] * grid.voxel_volume
    values = calibrate(np.array([*measured, head.skull]), chart)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[head.mask.data] = np.array([*(region.number for region in muse.regions()), 0, 0], dtype=np.uint8)[found]
    native = resample(Volume(labels, grid.affine), head.native.grid, nearest=True)
    dseg = save(out / "muse_dseg.nii.gz", native, head.native.affine)
    return Volumes(write_table(out / "muse_volumes.tsv", values), dseg)


class Head(NamedTuple):
    """What the measurement sees of a scan: the intracranial voxels of the posteriors' grid.

    Attributes
    ----------
    mask : Volume
        bool, 2 mm.
    posterior : array of float32, (n, 18)
    intensity : array of float32, (n,)
    skull : float
        Volume of the intracranial mask, mm^3.
    native : Volume
        The scan.
    """

    mask: Volume
    posterior: NDArray[np.float32]
    intensity: NDArray[np.float32]
    skull: float
    native: Volume


def gather(scan: Volume, icv: Volume, posteriors: Volume) -> Head:
    """Bring scan and mask to the grid of the posteriors and keep what is within the skull."""
    mask = icv.data > 0
    box = bounding_box(mask, margin=4)
    inside = resample(cropped(Volume(mask.astype(np.float32), icv.affine), box), posteriors.grid) > 0.5
    skull = float(mask.sum() * icv.grid.voxel_volume)
    intensity = resample(cropped(scan, box), posteriors.grid)[inside]
    return Head(Volume(inside, posteriors.affine), posteriors.data[inside], intensity, skull, scan)


def fuse(
    prior: NDArray[np.float32],
    posterior: NDArray[np.float32],
    intensity: NDArray[np.float32],
    points: NDArray[np.float32],
) -> NDArray[np.float32]:
    r"""Region probabilities from the atlas, the network's classes and the scan's intensity.

    .. math:: p(r|v) = p_c(v)\, \frac{A_r(v)}{S_c(v)}, \qquad
        p_c(v) \propto S_c(v)\, q_c(v)^{3/4}\, \mathcal N(I(v); \mu_c, \sigma), \qquad S_c = \sum_{r \in c} A_r

    with the atlas :math:`A`, the network's posteriors :math:`q`, and :math:`c` the class of region :math:`r`;
    :math:`\mu_c` and :math:`\sigma` are this scan's, by expectation maximisation
    (:func:`bids_brainage.image.tissue.classify`). Atlas and network are given a floor, so that neither alone rules
    a structure out. Where the atlas has no parcel of a likely class, a voxel takes the shares of the nearest voxel
    that has one.

    Parameters
    ----------
    prior : array, (n, 147)
        Of :func:`bids_brainage.image.atlas.look_up`.
    posterior : array, (n, 18)
        The network's classes at the same voxels.
    intensity : array, (n,)
        The corrected scan there.
    points : array, (n, 3)
        Where the voxels lie, mm.

    Returns
    -------
    array, (n, 147)
        Rows sum to 1.
    """
    owner = muse.classes()
    number = posterior.shape[1]
    support = np.stack([prior[:, owner == c].sum(axis=1) for c in range(number)], axis=1)
    joint = (support + FLOOR) * (posterior + FLOOR) ** NETWORK_POWER
    likely = np.vstack([np.zeros(len(prior)), classify(intensity, joint[:, 1:].T)]).astype(np.float32)
    result = np.zeros_like(prior)
    for c in range(1, number):
        own = np.flatnonzero(owner == c)
        share = prior[:, own] + np.float32(1e-5)
        bare = support[:, c] < 1e-3
        lost = np.flatnonzero(bare & (likely[c] > 1e-3))
        if len(own) > 1 and lost.size and not bare.all():
            known = np.flatnonzero(~bare)
            share[lost] = share[known[cKDTree(points[known]).query(points[lost])[1]]]
        result[:, own] = likely[c][:, None] * share / share.sum(axis=1, keepdims=True)
    return result


def calibrate(measured: NDArray[np.float64], atlas: Atlas) -> dict[int, float]:
    r"""Volumes by MUSE number: :math:`\log V = a + b \log M` for regions and ICV, composites summed.

    Parameters
    ----------
    measured : array, (146,)
        145 regions and the ICV, mm^3.
    atlas : Atlas
        Holds the intercepts :math:`a` and slopes :math:`b`.
    """
    logarithm = np.log(np.maximum(measured, MINIMUM))
    scaled = np.exp(atlas.intercept.astype(np.float64) + atlas.slope.astype(np.float64) * logarithm)
    values = {region.number: float(v) for region, v in zip(muse.regions(), scaled, strict=False)}
    for composite in muse.composites():
        values[composite.number] = sum(values[member] for member in composite.members)
    values[muse.ICV] = float(scaled[-1])
    values[muse.CORTICAL_CSF] = max(values[muse.ICV] - values[muse.TOTAL_BRAIN], 0.0)
    return values


MINIMUM = 8.0
"""One voxel of 2 mm, mm^3: the least that is measured."""


def write_table(path: Path, values: dict[int, float]) -> Path:
    """Write volumes as TSV (``index``, ``name``, ``volume_mm3``), regions first, and a JSON dictionary beside it."""
    names = {region.number: region.name for region in muse.regions()}
    names |= {muse.ICV: "ICV", muse.TOTAL_BRAIN: "TotalBrain", muse.CORTICAL_CSF: "CorticalCSF"}
    names |= {composite.number: composite.name for composite in muse.composites()}
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
