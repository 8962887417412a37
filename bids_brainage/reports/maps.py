"""Pictures of maps of brain age over the template, and their place in the page of a participant."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bids_brainage.bids.outputs import path_for
from bids_brainage.core.files import atomic
from bids_brainage.core.types import Prediction, Scan
from bids_brainage.image.io import Grid, same_grid
from bids_brainage.image.masks import bounding_box
from bids_brainage.image.template import template as load_template
from bids_brainage.reports.figures import BACKGROUND

SHARES = {2: (0.3, 0.45, 0.6, 0.75), 1: (0.35, 0.6), 0: (0.4, 0.6)}
SMALLEST_RANGE = 5.0
INK = "#c6d0da"
TITLES = {
    "gap_corrected": "gap corrected for age bias, years",
    "gap": "gap, years",
    "age": "brain age, years",
    "sd": "uncertainty (SD), years",
}
SIMULATED = "trained on simulated people"


class Layer(NamedTuple):
    """One map to draw: its kind, its colours, and the years at their ends."""

    kind: str
    colours: str
    low: float
    high: float


def layers(maps: Mapping[str, NDArray[np.float32]]) -> list[Layer]:
    """What is drawn: the best gap there is, else the age, and the uncertainty; gaps get colours symmetric about 0."""
    main = next(kind for kind in TITLES if kind in maps)
    values = maps[main][np.isfinite(maps[main])]
    if main == "age":
        first = Layer(main, "viridis", *map(float, np.percentile(values, [2, 98])))
    else:
        reach = max(SMALLEST_RANGE, float(np.percentile(np.abs(values), 98)))
        first = Layer(main, "RdBu_r", -reach, reach)
    if "sd" not in maps:
        return [first]
    return [first, Layer("sd", "magma", 0.0, float(np.nanpercentile(maps["sd"], 98)) or 1.0)]


def draw(maps: Mapping[str, NDArray[np.float32]], prediction: Prediction, template: str, path: Path) -> Path:
    """Draw slices of the maps over the template's brain, a row a map; the person's left is on the left.

    Parameters
    ----------
    maps
        Years by kind (``age``, ``gap``, ``gap_corrected``, ``sd``), ``nan`` outside the brain.
    template : str
        Space of the maps.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    greys = LinearSegmentedColormap.from_list("greys", [BACKGROUND, "white"])
    assert prediction.maps is not None  # noqa: S101 - the caller has maps
    background = _background(template, Grid(maps["age"].shape, prediction.maps.affine))
    box = bounding_box(np.isfinite(maps["age"]), margin=2)
    background, maps = background[box], {kind: values[box] for kind, values in maps.items()}
    cuts = _cuts(np.isfinite(maps["age"]))
    chosen = layers(maps)
    canvas = Figure(figsize=(14, 1.9 * len(chosen) + 0.4), facecolor=BACKGROUND, dpi=80)
    axes = canvas.subplots(len(chosen), len(cuts), squeeze=False)
    canvas.subplots_adjust(left=0.01, right=0.96, top=0.93, bottom=0.02, wspace=0.03, hspace=0.05)
    for line, layer in zip(axes, chosen, strict=True):
        for place, (axis, index) in zip(line, cuts, strict=True):
            place.imshow(np.rot90(background.take(index, axis)), cmap=greys, vmin=0, vmax=1)
            plane = np.rot90(maps[layer.kind].take(index, axis))
            image = place.imshow(plane, cmap=layer.colours, vmin=layer.low, vmax=layer.high, alpha=0.85)
            place.set_axis_off()
        bar = canvas.colorbar(image, ax=list(line), fraction=0.015, pad=0.01)
        bar.set_label(TITLES[layer.kind], color=INK)
        bar.ax.tick_params(colors=INK)
    note = f" ({SIMULATED})" if prediction.training_data == "simulated" else ""
    canvas.text(0.01, 0.985, f"model {prediction.model}{note}", color=INK, va="top")
    with atomic(path) as temporary:
        canvas.savefig(temporary, facecolor=BACKGROUND, format="png", metadata={"Software": None})
    return path


def _background(template: str, grid: Grid) -> NDArray[np.float32]:
    """The template's brain on the grid of the maps; empty where the grid is not one of the template's."""
    head = load_template(template, float(grid.zooms.mean()))
    return head.t1w if same_grid(head.grid, grid) else np.zeros(grid.shape, np.float32)


def _cuts(brain: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Axis and index of each slice: axial, coronal, sagittal."""
    cuts = []
    for axis, shares in SHARES.items():
        along = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        cuts += [(axis, round(float(along[0] + share * (along[-1] - along[0])))) for share in shares]
    return cuts


def map_figures(scan: Scan, rows: Sequence[Mapping[str, Any]], out_dir: Path, template: str) -> Markup:
    """The pictures of all models that have maps, as figures of the page with their text."""
    parts = []
    for row in rows:
        picture = path_for(scan, f"brainage_map_figure:{row['model']}", out_dir, template)
        if picture.is_file():
            data = base64.b64encode(picture.read_bytes()).decode()
            text = caption(row)
            image = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(text, data)
            parts.append(Markup("<figure>{}<figcaption><small>{}</small></figcaption></figure>").format(image, text))
    return Markup("<h3>Where the brain looks older or younger</h3>") + Markup("").join(parts) if parts else Markup("")


def caption(row: Mapping[str, Any]) -> str:
    """What a picture shows, in words."""
    known = row["gap"] != "n/a"
    shown = (
        f"Gap between brain age and age at each voxel (mean {float(row['gap']):+.1f} years before any correction): red "
        "where the brain looks older, blue where younger"
        if known
        else "Brain age at each voxel; there is no gap without an age"
    )
    simulated = row["training_data"] == "simulated"
    note = f" The model was {SIMULATED}: the map is no measurement of a person." if simulated else ""
    return (
        f"Model {row['model']}. {shown}. Below it the uncertainty, where the model gives one: the SD of the ages under "
        "Monte Carlo dropout. Axial, coronal and sagittal slices over the template; the person's left is on the left."
        f"{note}"
    )
