"""The figures of the group report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bids_brainage.reports import svg
from bids_brainage.reports.style import INK, PALETTE, QUIET

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 2000
MOST_BARS = 400
FEWEST_IN_CURVE = 12
WIDTH, HEIGHT = 520, 390
BINS = 24
IDENTITY = ("dash", "#8794a3", "brain age = age")
Groups = Mapping[str, NDArray[np.bool_]]


class Plot(NamedTuple):
    """A figure with its words."""

    title: str
    caption: str
    svg: Markup
    legend: Markup


def colours(groups: Groups) -> dict[str, str]:
    """One colour a group, in order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(groups)}


def model_plots(rows: pd.DataFrame, groups: Groups, correction: Mapping[str, Any]) -> list[Plot]:
    """Figures of one model: age against brain age, gaps by group, gap against age before and after the correction.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of ``group_participants.tsv`` of one model.
    groups : mapping of str to bool array, shape (n_rows,)
        Who belongs to which group.
    correction
        ``Correction.to_dict()`` of the default form.
    """
    has_gap = np.isfinite(rows["gap"].to_numpy(float))
    if not has_gap.any():
        return []
    shown, kept = rows[has_gap], {name: mask[has_gap] for name, mask in groups.items() if mask[has_gap].any()}
    both = svg.limits(*(shown[name] for name in ("gap", "gap_corrected")))
    plots = [_age_plot(shown, kept, correction), _distributions(shown, kept)]
    for column, when in (("gap", "before"), ("gap_corrected", "after")):
        if np.isfinite(shown[column].to_numpy(float)).any():
            plots.append(_gap_plot(shown, kept, column, when, both))
    return plots


def _cloud(frame: svg.Frame, x: Any, y: Any, groups: Groups) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Dots by group, or hexagons and a trend by group where there are many."""
    parts: list[str] = []
    trends: list[str] = []
    keys = []
    dense = len(x) > MOST_POINTS
    if dense:
        parts.append(svg.density(frame, x, y))
        keys.append(("bar", INK, "people, darker for more"))
    for name, colour in colours(groups).items():
        chosen = groups[name]
        if not dense:
            parts.append(
                svg.points(frame, x[chosen], y[chosen], colour, 8 if len(x) < 60 else 5.5 if len(x) < 500 else 4)
            )
            keys.append(("dot", colour, name))
        elif len(groups) > 1:
            trend = _binned(x[chosen], y[chosen])
            parts.append(svg.line(frame, *trend, "halo"))
            trends.append(svg.line(frame, *trend, "trend", colour))
            keys.append(("line", colour, f"{name}, mean by age"))
    return parts + trends, keys


def _age_plot(rows: pd.DataFrame, groups: Groups, correction: Mapping[str, Any]) -> Plot:
    x, y = rows["age"].to_numpy(float), rows["brain_age"].to_numpy(float)
    low, high = rows["brain_age_low"].to_numpy(float), rows["brain_age_high"].to_numpy(float)
    few = len(x) <= MOST_BARS
    frame = svg.Frame(WIDTH, HEIGHT, svg.limits(x), svg.limits(y, *((low, high) if few else ())))
    parts, keys = [svg.axes(frame, "age, years", "brain age, years")], []
    cloud, cloud_keys = _cloud(frame, x, y, groups)
    if np.isfinite(low).any() and few:
        for name, colour in colours(groups).items():
            chosen = groups[name]
            parts.append(svg.bars(frame, x[chosen], low[chosen], high[chosen], colour))
        keys.append(("bar", QUIET, "prediction intervals"))
    elif np.isfinite(low).any():
        cloud += [svg.line(frame, *_binned(x, bound), "bound") for bound in (low, high)]
        keys.append(("dash", "#4a5866", "mean bounds of the prediction intervals"))
    ends = np.array(frame.x_range)
    parts += [*cloud, svg.line(frame, ends, ends, "identity")]
    if correction["slope"] is not None:
        at = np.array([correction["age_min"], correction["age_max"]])
        parts.append(svg.line(frame, at, correction["slope"] * at + correction["intercept"], "fit"))
        keys.append(("line", INK, "fit on the controls"))
    drawn = svg.figure(frame, _clipped(frame, parts), f"Brain age against age of {len(x)} people and sessions")
    return Plot("Brain age against age", "Uncorrected", drawn, svg.legend([*cloud_keys, IDENTITY, *keys]))


def _gap_plot(rows: pd.DataFrame, groups: Groups, column: str, when: str, y_range: tuple[float, float]) -> Plot:
    known = np.isfinite(rows[column].to_numpy(float))
    x, y = rows["age"].to_numpy(float)[known], rows[column].to_numpy(float)[known]
    kept = {name: mask[known] for name, mask in groups.items()}
    frame = svg.Frame(WIDTH, HEIGHT - 60, svg.limits(rows["age"]), y_range)
    cloud, keys = _cloud(frame, x, y, kept)
    zero = svg.line(frame, np.array(frame.x_range), np.zeros(2), "identity")
    parts = [svg.axes(frame, "age, years", "gap, years"), *cloud, zero]
    words = "uncorrected" if when == "before" else "corrected, controls cross-fitted"
    drawn = svg.figure(
        frame, _clipped(frame, parts), f"Gap against age {when} the correction, {len(x)} people and sessions"
    )
    return Plot(f"Gap against age, {when} the correction", words.capitalize(), drawn, svg.legend(keys))


def _distributions(rows: pd.DataFrame, groups: Groups) -> Plot:
    """One ridge a group: raw dashed, corrected filled, a tick at each mean."""
    raw, corrected = rows["gap"].to_numpy(float), rows["gap_corrected"].to_numpy(float)
    step = max(46, min(130, int((HEIGHT - svg.TOP - svg.BOTTOM) / len(groups))))
    height = step * len(groups) + svg.TOP + svg.BOTTOM
    frame = svg.Frame(WIDTH, height, svg.limits(raw, corrected, pad=0.08), (0.0, 1.0), left=16)
    grid = np.linspace(*frame.x_range, 240)
    parts = [svg.axes(frame, "gap, years", y_ticks=False)]
    parts.append(f'<path class="identity" d="M{float(frame.x(0)):.1f} {svg.TOP}V{height - svg.BOTTOM}"/>')
    for i, (name, colour) in enumerate(colours(groups).items()):
        base = svg.TOP + step * (i + 1)
        n = int(groups[name].sum())
        curves = {}
        for kind, values in (("raw", raw[groups[name]]), ("ridge", corrected[groups[name]])):
            known = values[np.isfinite(values)]
            if len(known) >= FEWEST_IN_CURVE:
                curves[kind] = (svg.smooth_density(known, grid), float(known.mean()))
            else:
                height_of = base - step * (0.42 if kind == "raw" else 0.16)
                parts.append(svg.strip(frame, known, height_of, "#77838f" if kind == "raw" else colour))
        parts += _ridge(frame, grid, curves, base, step * 0.82, colour)
        parts.append(svg.text(18, base - step + 18, name, "rowname"))
        parts.append(svg.text(18, base - step + 33, f"n = {n:,}", "rowcount"))
    drawn = svg.figure(frame, parts, "Distributions of the gap by group, raw and corrected")
    keys = [("dash", "#77838f", "raw"), ("bar", INK, "corrected"), ("line", INK, "mean, corrected")]
    return Plot(
        "Gaps by group",
        f"Raw and corrected; dots where there are fewer than {FEWEST_IN_CURVE} people",
        drawn,
        svg.legend(keys),
    )


def _ridge(
    frame: svg.Frame, grid: Any, curves: Mapping[str, tuple[Any, float]], base: float, room: float, colour: str
) -> list[str]:
    top = max((float(density.max()) for density, _ in curves.values()), default=1.0)
    x, made = frame.x(grid), []
    for kind, (density, mean) in curves.items():
        y = base - density / top * room
        inner = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
        if kind == "raw":
            made.append(f'<polyline class="raw" points="{inner}"/>')
            continue
        ring = f"{x[0]:.1f},{base} {inner} {x[-1]:.1f},{base}"
        made.append(f'<polygon class="ridge" fill="{colour}" stroke="{colour}" points="{ring}"/>')
        at = float(frame.x(mean))
        made.append(f'<path class="trend" stroke="{colour}" d="M{at:.1f} {base}V{base - room:.1f}"/>')
    return made


def _binned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of x and y in bins of equal numbers of people, without missing values."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    order = np.argsort(x, kind="stable")
    several = [part for part in np.array_split(order, min(BINS, max(len(order) // 5, 1))) if len(part)]
    return np.array([x[part].mean() for part in several]), np.array([y[part].mean() for part in several])


def _clipped(frame: svg.Frame, parts: list[str]) -> list[str]:
    """Axes as they are; all that follows held inside the plotting area."""
    left, width, height = frame.left, frame.width - frame.left - svg.RIGHT, frame.height - svg.TOP - svg.BOTTOM
    box = f'x="{left}" y="{svg.TOP}" width="{width}" height="{height}" viewBox="{left} {svg.TOP} {width} {height}"'
    return [parts[0], f"<svg {box}>", *parts[1:], "</svg>"]
