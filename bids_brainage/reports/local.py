"""Local brain age on the page of the group: maps over the template, and the regions that differ most."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bids_brainage.core.errors import BrainAgeError
from bids_brainage.image.io import Volume, read, resample
from bids_brainage.image.template import template
from bids_brainage.reports.style import Section, environment

SLICES = 8
GROUND, INK = "#10141a", "#c8d1da"


def sections(out_dir: Path, models: Mapping[str, Any]) -> list[Section]:
    """A section for each model with maps.

    Parameters
    ----------
    out_dir : Path
        Where the maps of the group level lie.
    models : mapping
        ``LocalBrainAge`` of ``group_summary.json``.
    """
    parts: Any = environment().get_template("local.html.j2").module
    made = []
    for index, (model, entry) in enumerate(models.items()):
        figures = [_figure(out_dir, contrast, entry["Space"]) for contrast in entry["Contrasts"]]
        if entry.get("Reliability"):
            figures.append(_reliability(out_dir, entry))
        made.append(Section(f"local-{index}", f"Local brain age, {model}", parts.local(entry, figures)))
    return made


def _figure(out_dir: Path, contrast: Mapping[str, Any], space: str) -> dict[str, Any]:
    """Draw the z of a contrast, with lines around what passes the permutation threshold."""
    threshold = contrast["ThresholdZ"]["Permutation"]
    lines = "no |z| has p < 0.05 corrected" if threshold is None else f"lines: |z| of {threshold:.2f} and more"
    caption = f"z of {contrast['Contrast']} ({contrast['Model']}); {lines}"
    caption += "" if threshold is None else ", p < 0.05 corrected"
    image = read(out_dir / contrast["Files"]["z"])
    return {
        "title": contrast["Contrast"],
        "caption": caption,
        "image": _embedded(image, space, "z", caption, threshold),
    }


def _reliability(out_dir: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    found = entry["Reliability"]
    caption = f"ICC(2,1) of {found['People']} people, {found['Measurements']} {found['Measurement']}s each"
    image = read(out_dir / found["Files"][0])
    return {"title": "Reliability", "caption": caption, "image": _embedded(image, entry["Space"], "ICC(2,1)", caption)}


def _embedded(image: Volume, space: str, unit: str, words: str, threshold: float | None = None) -> Markup:
    picture = base64.b64encode(draw(image, underlay(image, space), unit, threshold)).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(f"Axial slices: {words}", picture)


def underlay(image: Volume, space: str) -> NDArray[np.float32] | None:
    """The template's brain on the grid of a map, 0 to 1; ``None`` where the template is not to be had."""
    try:
        brain = template(space, float(image.grid.zooms.mean()))
    except BrainAgeError:
        return None
    return resample(Volume(brain.t1w, brain.grid.affine), image.grid)


def draw(image: Volume, brain: NDArray[np.float32] | None, unit: str, threshold: float | None = None) -> bytes:
    """PNG of axial slices of a map over a brain; the left of the picture is the person's left.

    Parameters
    ----------
    image : Volume
        ``nan`` where there is nothing to show; colours are symmetric about 0.
    brain : array, shape of the map, optional
        0 to 1.
    unit : str
        Beside the colour bar.
    threshold : float, optional
        Lines where the size of the map reaches it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    known = np.isfinite(image.data)
    along = np.flatnonzero(known.any(axis=(0, 1))) if known.any() else np.arange(image.data.shape[2])
    where = np.linspace(along[0], along[-1], SLICES + 2).round().astype(int)[1:-1]
    top = float(np.percentile(np.abs(image.data[known]), 99.9)) if known.any() else 1.0
    scale = Normalize(-top or -1.0, top or 1.0)
    canvas = Figure(figsize=(14, 2.5), facecolor=GROUND, dpi=80)
    axes = canvas.subplots(1, SLICES)
    for axis, z in zip(axes, where, strict=True):
        plane = np.rot90(image.data[..., z])
        if brain is not None:
            axis.imshow(np.rot90(brain[..., z]), cmap="gray", vmin=0, vmax=1)
        axis.imshow(np.ma.masked_invalid(plane), cmap="RdBu_r", norm=scale, alpha=0.75, interpolation="nearest")
        size = np.nan_to_num(np.abs(plane))
        if threshold is not None and (size >= threshold).any():
            axis.contour(size, [threshold], colors=["#ffd54a"], linewidths=0.9)
        height = (image.affine @ [0, 0, z, 1])[2]
        axis.set_title(f"z = {height:.0f} mm".replace("-", "\N{MINUS SIGN}"), color=INK, fontsize=9)
        axis.set_axis_off()
    bar = canvas.colorbar(ScalarMappable(scale, "RdBu_r"), ax=axes.tolist(), fraction=0.012, pad=0.01)
    bar.set_label(unit, color=INK)
    bar.ax.tick_params(colors=INK)
    buffer = io.BytesIO()
    canvas.savefig(buffer, facecolor=GROUND, format="png", metadata={"Software": None})
    return buffer.getvalue()
