"""Template spaces: MNI152NLin2009aSym as nilearn ships it, any other through TemplateFlow."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import BrainAgeError, UsageError
from bids_brainage.core.files import sha256, sha256_of
from bids_brainage.image.io import Grid, Volume, read, resample, spaced

DEFAULT = "MNI152NLin2009aSym"


class Template(NamedTuple):
    """A template on one grid (RAS).

    Attributes
    ----------
    name : str
        TemplateFlow's name of the space.
    grid : Grid
        Where its voxels lie.
    t1w : array of float32
        Brain only, 0 to 1.
    mask : array of bool
        Its brain.
    gm, wm : arrays of float32
        Probabilities of grey and white matter.
    """

    name: str
    grid: Grid
    t1w: NDArray[np.float32]
    mask: NDArray[np.bool_]
    gm: NDArray[np.float32]
    wm: NDArray[np.float32]


def template(name: str = DEFAULT, resolution: float = 1.0) -> Template:
    """The brain of a template space on an isotropic grid.

    Parameters
    ----------
    name : str
        ``MNI152NLin2009aSym`` needs nothing but nilearn; others come from TemplateFlow's cache, or its server.
    resolution : float
        Voxel size in mm. The grid keeps the centre of the 1 mm grid, so a symmetric template stays symmetric.

    Raises
    ------
    UsageError
        Where the template is neither in TemplateFlow's cache nor can be fetched.
    """
    t1w, gm, wm = _nilearn() if name == DEFAULT else _templateflow(name)
    grid = t1w.grid if np.allclose(t1w.grid.zooms, resolution, atol=1e-3) else spaced(t1w.grid, resolution)
    brain, grey, white = (np.clip(resample(part, grid), 0, 1) for part in (t1w, gm, wm))
    return Template(name, grid, brain, brain > 0.05, grey, white)


def _nilearn() -> tuple[Volume, Volume, Volume]:
    """The three 1 mm images that nilearn ships."""
    images = [read(path) for path in _nilearn_files()]
    t1w, gm, wm = (Volume(image.data / image.data.max(), image.affine) for image in images)
    return t1w, gm, wm


def _nilearn_files() -> list[Path]:
    """Head, grey and white matter, as files: importing nilearn takes longer than all else here."""
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise UsageError(f"template {DEFAULT}: nilearn, which ships it, is not installed; install bids-brainage again")
    folder = Path(package.origin).parent / "datasets" / "data"
    paths = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: nilearn's template is not there; install the nilearn of constraints.txt")
    return paths


def _templateflow(name: str) -> tuple[Volume, Volume, Volume]:
    head = read(_fetch(name, suffix="T1w", desc=None))
    mask = resample(read(_fetch(name, suffix="mask", desc="brain")), head.grid) > 0.5
    brain = head.data * mask
    t1w = Volume(np.clip(brain / np.percentile(brain[mask], 99.5), 0, 1).astype(np.float32), head.affine)
    tissues = _tissues(name)
    if tissues:
        gm, wm = (read(path) for path in tissues)
    else:
        gm, wm = (Volume(part, head.affine) for part in _classes(t1w.data, mask))
    return t1w, gm, wm


def _tissues(name: str) -> list[Path]:
    """Files of grey and white matter of a template; none where TemplateFlow lists none of it."""
    found = [_find(name, suffix="probseg", label=label) for label in ("GM", "WM")]
    return [path for path in found if path is not None] if None not in found else []


def _fetch(name: str, **query: str | None) -> Path:
    """Path of a file that a template must have."""
    path = _find(name, **query)
    if path is None:
        raise UsageError(f"template {name}: TemplateFlow has no {query} file of it; use another template")
    return path


def _find(name: str, **query: str | None) -> Path | None:
    """Path of one file of a template at the finest resolution that TemplateFlow has; ``None`` where it lists none.

    Raises
    ------
    UsageError
        Where it lists one that is neither in the cache nor can be fetched.
    """
    advice = "fetch it where there is a network (templateflow.api.get), or use the default template"
    try:
        from templateflow import api

        found = [api.get(name, resolution=resolution, extension=".nii.gz", **query) for resolution in (1, 2)]
        files = [path for item in found for path in (item if isinstance(item, list) else [item])]
        usable = [Path(path) for path in files if Path(path).is_file() and Path(path).stat().st_size > 0]
    except Exception as error:
        raise UsageError(
            f"template {name}: not in TemplateFlow's cache and not to be had ({error}); {advice}"
        ) from error
    if files and not usable:
        raise UsageError(f"template {name}: its {query} file is not in TemplateFlow's cache; {advice}")
    return usable[0] if usable else None


def _classes(t1w: NDArray, mask: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grey and white matter memberships from intensity alone: three means, linear between neighbouring ones."""
    values = t1w[mask]
    if values.size == 0:
        raise BrainAgeError("template: its brain mask is empty; use another template")
    means = np.percentile(values, [10, 50, 90])
    for _ in range(30):
        nearest = np.abs(values[:, None] - means).argmin(axis=1)
        means = np.array([values[nearest == k].mean() if (nearest == k).any() else means[k] for k in range(3)])
    white = np.clip((t1w - means[1]) / (means[2] - means[1]), 0, 1)
    fluid = np.clip((means[1] - t1w) / (means[1] - means[0]), 0, 1)
    grey = np.clip(1 - white - fluid, 0, 1)
    return (grey * mask).astype(np.float32), (white * mask).astype(np.float32)


def template_digest(name: str = DEFAULT) -> str:
    """sha256 of the files behind a template: another release of it gives other results."""
    if name == DEFAULT:
        files = _nilearn_files()
    else:
        files = [_fetch(name, suffix="T1w", desc=None), _fetch(name, suffix="mask", desc="brain"), *_tissues(name)]
    return sha256_of({path.name: sha256(path) for path in files})
