"""Volumes of the 145 MUSE regions: the network and intensity say which structure, the atlas says which parcel of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import atomic, write_json
from bids_brainage.image import muse
from bids_brainage.image.atlas import Atlas, look_up, read_atlas, template_points
from bids_brainage.image.calibration import logarithm
from bids_brainage.image.fusion import Head, fuse, fused_mask, gather, measured, spread, structure_prior
from bids_brainage.image.io import Volume, read, resample, save, save_probability
from bids_brainage.image.stripped import Cut, added_by, how_cut
from bids_brainage.image.template import DEFAULT


class Volumes(NamedTuple):
    """Regional volumes and where the regions lie."""

    muse_volumes: Path
    muse_dseg: Path
    brain_mask_fused: Path
    structure_prior: Path
    measures: Mapping[str, float]


def volumes(
    t1w_preproc: Path,
    brain_mask: Path,
    icv_mask: Path,
    posteriors: Path,
    posteriors_between: Path,
    xfm_inverse: Path,
    *,
    atlas: Path,
    out: Path,
    template: str = DEFAULT,
    given_mask: Path | None = None,
    synthstrip: Path | None = None,
    stripped: bool = False,
) -> Volumes:
    """Measure the 145 MUSE regions and their composites, on the scale of DLMUSE on 2 mm scans.

    Parameters
    ----------
    t1w_preproc : Path
        Bias-corrected scan, native grid.
    brain_mask, icv_mask : Path
        Brain and intracranial mask, native grid.
    posteriors, posteriors_between : Path
        18 classes, 2 mm, on grids half a voxel apart along each axis. Both are counted: where the voxels of one alone
        happen to lie moves the volumes of regions by 2 per cent and the brain age by a year.
    xfm_inverse : Path
        Template to T1w: carries a native point to the template.
    atlas : Path
        Bundle of the atlas.
    template : str
        Space of the transform; where it is not the atlas's own, the two templates are registered.
    given_mask, synthstrip : Path, optional
        Where either is there, ``brain_mask`` came from it and stays as it is.
    stripped : bool
        Whether the scan came without skull: its volumes are brought to what the whole head would have shown.

    Returns
    -------
    Volumes
        ``muse_volumes``: TSV with ``index``, ``name``, ``volume_mm3`` and a JSON dictionary beside it;
        ``muse_dseg``: MUSE numbers on the native grid (uint8); ``brain_mask_fused``: the brain by network and atlas
        together, native grid; ``structure_prior``: classes by network and atlas without intensity, on the grid of the
        posteriors; ``measures`` of :mod:`bids_brainage.core.quality`.

    Raises
    ------
    BundleError
        Where the bundle is damaged or no atlas.
    """
    chart = read_atlas(atlas)
    icv = read(icv_mask, np.uint8)
    seen = [read(posteriors), read(posteriors_between)]
    head = gather(read(t1w_preproc), icv, seen)
    points = template_points(xfm_inverse, head.masks, template)
    prior = look_up(chart, points)
    structures = structure_prior(prior, head.posterior)
    likely = fuse(prior, structures, head.intensity, points)
    found = measured(likely, head)
    cut = how_cut(head.native, head.skull, seen) if stripped else None
    brain = read(brain_mask, np.uint8).data > 0
    if given_mask is None and synthstrip is None:
        brain = fused_mask(likely, head, icv.grid, icv.data > 0)
    return Volumes(
        write_table(
            out / "muse_volumes.tsv",
            calibrate(np.array([*found, head.skull]), chart, float(head.native.grid.zooms.min()), cut),
        ),
        save(out / "muse_dseg.nii.gz", region_labels(likely, head), head.native.affine),
        save(out / "brain_mask_fused.nii.gz", brain, icv.affine, np.uint8),
        save_probability(out / "structure_prior.nii.gz", *spread(structures, head)[0]),
        {"regions_empty": float((found == 0).sum())},
    )


def region_labels(regions: NDArray[np.float32], head: Head) -> NDArray[np.uint8]:
    """MUSE number of the likeliest region at each voxel of the scan, 0 outside; ``regions`` of :func:`fuse`."""
    number = np.array([*(region.number for region in muse.regions()), 0, 0], dtype=np.uint8)
    labels = spread(number[regions.argmax(axis=1)], head)[0]
    return resample(Volume(labels.data.astype(np.uint8), labels.affine), head.native.grid, nearest=True)


def calibrate(measured: NDArray[np.float64], atlas: Atlas, edge: float, cut: Cut | None = None) -> dict[int, float]:
    r"""Volumes by MUSE number: :math:`\log V = a + b (\log M - s)` for regions and ICV, composites summed.

    Parameters
    ----------
    measured : array, (146,)
        145 regions and the ICV, mm^3.
    atlas : Atlas
        Holds the intercepts :math:`a`, the slopes :math:`b` and the shifts :math:`s` of stripped scans.
    edge : float
        Shortest edge of the scan's voxels, mm: :math:`a` and :math:`b` follow it. Slices that are thick along one axis
        alone, the usual clinical scan, do not do to volumes what large voxels do.
    cut : Cut, optional
        How a scan that came without skull was cut; :math:`s` is 0 where it was not.
    """
    added = 0 if cut is None else added_by(cut, atlas.shifts)
    scaled = atlas.lines.volumes(logarithm(measured) - added, edge)
    values = {region.number: float(v) for region, v in zip(muse.regions(), scaled, strict=False)}
    for composite in muse.composites():
        values[composite.number] = sum(values[member] for member in composite.members)
    values[muse.ICV] = float(scaled[-1])
    values[muse.CORTICAL_CSF] = max(values[muse.ICV] - values[muse.TOTAL_BRAIN], 0.0)
    return values


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
        "Description": "Volume, calibrated to DLMUSE on 2 mm scans, larger voxels by their shortest edge; composites "
        "are sums of regions, 702 is the intracranial mask, 600 is what it holds beside the brain",
        "Units": "mm^3",
    },
}
