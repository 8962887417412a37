"""From a model's maps to files: ages, gaps and their correction, means over the MUSE regions, and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.bids.outputs import sidecar_of
from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.files import write_json
from bids_brainage.core.types import Age, Prediction, VoxelMaps
from bids_brainage.image.template import DEFAULT

if TYPE_CHECKING:
    from bids_brainage.models.base import Model
    from bids_brainage.stats.voxel_bins import VoxelBins

KINDS = {
    "age": "brainage_map",
    "sd": "brainage_sd_map",
    "gap": "brainage_gap_map",
    "gap_corrected": "brainage_gap_corrected_map",
}
REGIONS, FIGURE = "brainage_regions", "brainage_map_figure"
COLUMNS = {
    "brain_age": "age",
    "gap": "gap",
    "gap_corrected": "gap_corrected",
    "uncertainty": "sd",
}

Maps = Mapping[str, NDArray[np.float32]]


class Voxelwise(NamedTuple):
    """Files by artefact name (``<kind>:<model>``), and flags."""

    files: Mapping[str, Path]
    flags: tuple[str, ...] = ()


def promised(bundle: Bundle, age: Age) -> tuple[str, ...]:
    """Names of the artefacts that :func:`voxelwise` makes of a bundle's maps.

    Raises
    ------
    BundleError
        Where the model's name cannot stand in the name of a file, or its maps are not in the space of the atlas.
    """
    given = tuple(bundle.card.get("maps", ()))
    if not given:
        return ()
    if not bundle.name.isalnum():
        raise BundleError(
            f"{bundle.folder}: the name {bundle.name!r} stands in names of files; rename it, letters and digits alone"
        )
    if bundle.card.get("template") != DEFAULT:
        raise BundleError(
            f"{bundle.folder}: its maps are not in {DEFAULT}, where the regions are known; train it there"
        )
    kinds = [name for name in KINDS if name in given or (name == "gap" and age.years is not None)]
    known = [KINDS[name] for name in kinds if name != "gap_corrected" or age.years is not None]
    return tuple(f"{kind}:{bundle.name}" for kind in (*known, REGIONS, FIGURE))


def completed(maps: VoxelMaps, age: Age, bins: VoxelBins | None) -> tuple[Maps, tuple[str, ...]]:
    """All maps that can be made, ``nan`` outside the brain, and flags.

    Parameters
    ----------
    maps : VoxelMaps
        Of a model, which never sees the age.
    bins : VoxelBins or None
        Mean gaps of controls at the voxels that have an age, in C order.
    """
    from bids_brainage.stats.bias import OUTSIDE
    from bids_brainage.stats.voxel_bins import correct

    found = {"age": maps.age} | ({} if maps.sd is None else {"sd": maps.sd})
    if age.years is None:
        return found, ()
    found["gap"] = maps.age - np.float32(age.years)
    if bins is None:
        return found, ()
    brain = np.isfinite(maps.age)
    corrected = correct(bins, found["gap"][brain], age.years)
    found["gap_corrected"] = np.full_like(maps.age, np.nan)
    found["gap_corrected"][brain] = corrected.gap
    return found, (OUTSIDE,) if corrected.outside else ()


def voxelwise(
    model: Model[Any], prediction: Prediction, age: Age, *, atlas: Path | None, template: str, out: Path
) -> Voxelwise:
    """Write the maps of one prediction, their means over the MUSE regions, and a picture; nothing where it has none.

    Parameters
    ----------
    atlas : Path
        Bundle of the MUSE atlas.
    template : str
        Space of the maps.

    Raises
    ------
    BundleError
        Where the model gives other maps than its card says.
    """
    if prediction.maps is None:
        return Voxelwise({})
    if atlas is None:
        raise ValueError(f"model {prediction.model} gives maps: the atlas is needed")
    from bids_brainage.reports.maps import draw

    maps, flags = completed(prediction.maps, age, model.voxel_bins())
    name = prediction.model
    files = {f"{KINDS[kind]}:{name}": _save(out, kind, values, prediction) for kind, values in maps.items()}
    files[f"{REGIONS}:{name}"] = write_regions(maps, prediction.maps.affine, atlas, out / f"{name}_regions.tsv")
    files[f"{FIGURE}:{name}"] = draw(maps, prediction, template, out / f"{name}_maps.png")
    if set(files) != set(promised(model.bundle, age)):
        raise BundleError(
            f"{model.bundle.folder}: gives the maps {', '.join(maps)}, not those of its card; train it again"
        )
    return Voxelwise(files, flags)


def _save(out: Path, kind: str, values: NDArray[np.float32], prediction: Prediction) -> Path:
    """A map in years to two decimals, 0 outside the brain, and what its sidecar must say of the model."""
    from bids_brainage.image.io import save

    assert prediction.maps is not None  # noqa: S101 - only then there is something to save
    path = out / f"{prediction.model}_{kind}.nii.gz"
    affine = prediction.maps.affine
    said = {"Model": prediction.model, "TrainingData": f"{prediction.training_data} people"}
    write_json(sidecar_of(path), said | {"Resolution": resolution(affine)})
    return save(path, np.nan_to_num(np.round(values, 2), nan=0.0), affine, np.float32)


def resolution(affine: NDArray[np.float64]) -> str:
    """Voxel size as the sidecar says it.

    Examples
    --------
    >>> resolution(np.diag([3, 3, 3, 1]))
    '3 mm isotropic'
    """
    sizes = [f"{size:.4g}" for size in np.linalg.norm(affine[:3, :3], axis=0)]
    return f"{sizes[0]} mm isotropic" if len(set(sizes)) == 1 else f"{' x '.join(sizes)} mm"


def write_regions(maps: Maps, affine: NDArray[np.float64], atlas: Path, path: Path) -> Path:
    """A row a MUSE region: means of each map over its voxels."""
    from bids_brainage.image import muse
    from bids_brainage.image.atlas import read_atlas
    from bids_brainage.image.io import Volume
    from bids_brainage.image.regions import muse_labels, roi_means

    labels = muse_labels(read_atlas(atlas), Volume(maps["age"], affine).grid)
    means = {kind: roi_means(values, labels) for kind, values in maps.items()}
    row_of = {number: row for row, number in enumerate(means["age"].labels.tolist())}
    rows = []
    for region in muse.regions():
        row = row_of.get(region.number)
        found = {
            column: math.nan if row is None or kind not in means else round(float(means[kind].means[row]), 2)
            for column, kind in COLUMNS.items()
        }
        count = 0 if row is None else int(means["age"].voxels[row])
        rows.append({"index": region.number, "name": region.name, **found, "voxels": count})
    return write_tsv(path, rows, ["index", "name", *COLUMNS, "voxels"])
