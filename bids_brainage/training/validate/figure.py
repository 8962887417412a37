"""The picture and the page of a validation."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_brainage.core.files import atomic, write_text
from bids_brainage.image.masks import bounding_box
from bids_brainage.reports.style import PALETTE, QUIET, Banner, Section, page
from bids_brainage.training.validate.measures import SHELLS
from bids_brainage.training.validate.run import PLANTED, Example
from bids_brainage.training.validate.table import Row, side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WARNING = "All figures are of simulated people: they say nothing of how well a model does on anybody who was scanned."
_LINES = {"standard": "-", "second": "--"}
_CUTS = (0.35, 0.5, 0.65)


def draw(rows: Sequence[Row], example: Example | None, path: Path) -> Path:
    """Planted against recovered years by region, leakage by shell, and one counterfactual as slices (PNG)."""
    from matplotlib.figure import Figure

    bundles = [name for name in dict.fromkeys(row.key.bundle for row in rows) if name != PLANTED]
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(bundles)}
    regions = list(dict.fromkeys(row.key.region for row in rows if row.key.quantity == "slope_inside"))
    canvas = Figure(figsize=(13, 7), dpi=80, layout="constrained")
    grid = canvas.add_gridspec(2, 1, height_ratios=(1.9, 1))
    top, bottom = (canvas.add_subfigure(grid[row, 0]) for row in range(2))
    axes = top.subplots(2, max(1, len(regions)), squeeze=False, sharey="row")
    for column, region in enumerate(regions):
        _recovered(axes[0, column], [r for r in rows if r.key.region == region], region, colours)
        _leakage(axes[1, column], [r for r in rows if r.key.region == region], colours)
    axes[0, 0].set_ylabel("mean change inside, years")
    axes[1, 0].set_ylabel("change / years planted")
    if axes[0, 0].has_data():
        axes[0, 0].legend(fontsize=7, frameon=False)
    top.suptitle("Simulated people: solid, simulated as for training; dashed, by the second generator", fontsize=10)
    if example:
        _slices(bottom, example)
    with atomic(path) as temporary:
        canvas.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _recovered(axis: Axes, rows: Sequence[Row], region: str, colours: Mapping[str, str]) -> None:
    """Recovered against planted years, a line a bundle and generator."""
    found: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
    for row in rows:
        name, _, offset = row.key.quantity.partition(" ")
        if name == "change_inside" and row.value is not None:
            found.setdefault(row.key[:2], []).append((float(offset), row))
    for (bundle, generator), points in found.items():
        points.sort(key=lambda point: point[0])
        years, several = [p[0] for p in points], [p[1] for p in points]
        label = bundle if generator == "standard" else None
        _line(axis, years, several, {"color": colours[bundle], "ls": _LINES[generator], "label": label})
    axis.axline((0, 0), slope=1, color=QUIET, lw=0.8, ls=":")
    axis.set_title(region, fontsize=9)
    axis.set_xlabel("years planted", fontsize=8)


def _leakage(axis: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """Share of the planted years that is found inside, and in each shell."""
    wanted = ["slope_inside", *(f"leakage {shell}" for shell in SHELLS)]
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row.key.quantity in wanted and row.value is not None:
            found.setdefault(row.key[:2], {})[row.key.quantity] = row
    for (bundle, generator), by_zone in found.items():
        places = [i for i, zone in enumerate(wanted) if zone in by_zone]
        several = [by_zone[wanted[i]] for i in places]
        _line(axis, places, several, {"color": colours[bundle], "ls": _LINES[generator]})
    axis.axhline(0, color=QUIET, lw=0.8, ls=":")
    axis.set_xticks(range(len(wanted)), ["inside", *SHELLS], fontsize=6)


def _line(axis: Axes, x: Sequence[float], rows: Sequence[Row], style: Mapping[str, Any]) -> None:
    """Values with their intervals."""
    value = np.array([row.value for row in rows], float)
    bounds = np.array(
        [[v if b is None else b for b in (row.low, row.high)] for row, v in zip(rows, value, strict=True)]
    )
    axis.errorbar(x, value, yerr=np.abs(bounds.T - value), marker="o", ms=3, lw=1.2, capsize=2, **style)


def _slices(canvas: Any, example: Example) -> None:
    """What was planted and what each model found, a row each, in axial slices through the region."""
    box = bounding_box(np.isfinite(example.planted), margin=2)
    maps = {"planted": example.planted, **example.changes}
    reach = max(1.0, float(np.nanmax(np.abs(example.planted))))
    where = np.flatnonzero((np.nan_to_num(example.planted[box]) > reach / 2).any(axis=(0, 1)))
    cuts = [int(where[int(share * (len(where) - 1))]) for share in _CUTS]
    axes = canvas.subplots(1, len(maps) * len(cuts), squeeze=False)[0]
    for k, (name, values) in enumerate(maps.items()):
        for axis, cut in zip(axes[k * len(cuts) :], cuts, strict=False):
            plane = np.rot90(values[box][:, :, cut])
            image = axis.imshow(plane, cmap="RdBu_r", vmin=-reach, vmax=reach)
            axis.set_axis_off()
        axes[k * len(cuts)].set_title(name, fontsize=9, loc="left")
    canvas.colorbar(image, ax=list(axes), fraction=0.02, label="change, years")
    canvas.suptitle(example.title, fontsize=10)


def write_page(rows: Sequence[Row], settings: Mapping[str, Any], picture: Path, path: Path) -> Path:
    """One HTML page: the picture, and the figures with a column a bundle."""
    from markupsafe import Markup

    headings, lines = side_by_side(rows)
    encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    image = Markup('<img alt="Planted and recovered years of simulated people" src="data:image/png;base64,{}">')
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in line))
        for line in lines
    )
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in headings)
    table = Markup(
        '<div class="scroll"><table class="sortable"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    )
    told = Markup("").join(Markup("<li>{}: {}</li>").format(name, value) for name, value in settings.items())
    sections = [
        Section("picture", "Planted and recovered years", image.format(encoded)),
        Section("figures", "Figures of simulated people, with 95 % intervals over people", table.format(head, cells)),
        Section("settings", "How they were made", Markup("<ul>{}</ul>").format(told)),
    ]
    return write_text(path, page("Local brain age on simulated people", sections, banners=[Banner(WARNING, True)]))
