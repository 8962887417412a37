"""Small plots as SVG text: sharp in print, styled by the page, and of a size that does not grow with the people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44
HEXAGONS_ACROSS = 42
SHADES = 7


@dataclass(frozen=True)
class Frame:
    """The plotting area: size in pixels, ranges of both axes in data units."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = LEFT

    def x(self, values: ArrayLike) -> Array:
        """Pixels from the left."""
        low, high = self.x_range
        return self.left + (np.asarray(values, float) - low) / (high - low) * (self.width - self.left - RIGHT)

    def y(self, values: ArrayLike) -> Array:
        """Pixels from the top."""
        low, high = self.y_range
        return TOP + (high - np.asarray(values, float)) / (high - low) * (self.height - TOP - BOTTOM)


def figure(frame: Frame, parts: Iterable[str], description: str) -> Markup:
    """An ``<svg>`` of all parts; the description is what a screen reader says."""
    head = (
        f'<svg class="plot" viewBox="0 0 {frame.width} {frame.height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    )
    return Markup(head + f"<title>{escape(description)}</title>" + "".join(parts) + "</svg>")  # noqa: S704 - parts are ours


def axes(
    frame: Frame, x_label: str, y_label: str = "", *, y_ticks: bool = True, x_names: Sequence[str] | None = None
) -> str:
    """Grid, ticks and labels; ``x_names`` stand at 0, 1, 2, ... in place of numbers."""
    left, right = frame.left, frame.width - RIGHT
    bottom = frame.height - BOTTOM
    made = []
    named = {tick: _shown(tick) for tick in ticks(frame.x_range, (right - left) / 80)}
    for tick, name in (named if x_names is None else dict(enumerate(x_names))).items():
        at = float(frame.x(tick))
        made.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        made.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(name)}</text>')
    for tick in ticks(frame.y_range, (bottom - TOP) / 50) if y_ticks else []:
        at = float(frame.y(tick))
        made.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        made.append(f'<text class="tick" x="{left - 7}" y="{at + 3.5:.1f}" text-anchor="end">{_shown(tick)}</text>')
    made.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    made.append(text((left + right) / 2, frame.height - 8, x_label, "label", "middle"))
    if y_label:
        turned = f'transform="translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)"'
        made.append(f'<text class="label" {turned} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(made)


def ticks(limits: tuple[float, float], about: float) -> list[float]:
    """Round values within limits, about so many."""
    span = limits[1] - limits[0]
    rough = span / max(about, 1.0)
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= rough * 0.999), default=10)
    first = int(np.ceil(limits[0] / step - 1e-9))
    last = int(np.floor(limits[1] / step + 1e-9))
    return [i * step for i in range(first, last + 1)]


def _shown(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def points(frame: Frame, x: ArrayLike, y: ArrayLike, colour: str, size: float = 5.0) -> str:
    """Dots, as one path."""
    drawn = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(frame.x(x).tolist(), frame.y(y).tolist(), strict=True))
    return f'<path class="dots" stroke="{colour}" stroke-width="{size:g}" d="{drawn}"/>' if drawn else ""


def strip(frame: Frame, x: ArrayLike, height: float, colour: str) -> str:
    """Dots along one height, in pixels from the top."""
    drawn = "".join(f"M{a:.1f} {height:.1f}h0" for a in frame.x(x).tolist())
    return f'<path class="dots" stroke="{colour}" stroke-width="8" d="{drawn}"/>' if drawn else ""


def bars(frame: Frame, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str) -> str:
    """Thin vertical intervals, as one path."""
    columns = (frame.x(x).tolist(), frame.y(low).tolist(), frame.y(high).tolist())
    drawn = "".join(
        f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(*columns, strict=True) if a == a and b == b and c == c
    )
    return f'<path class="bars" stroke="{colour}" d="{drawn}"/>' if drawn else ""


def line(frame: Frame, x: ArrayLike, y: ArrayLike, css: str, colour: str = "") -> str:
    """A polyline; points that are not numbers are left out."""
    pairs = [(a, b) for a, b in zip(frame.x(x).tolist(), frame.y(y).tolist(), strict=True) if a == a and b == b]
    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)
    style = f' stroke="{colour}"' if colour else ""
    return f'<polyline class="{css}"{style} points="{drawn}"/>' if len(pairs) > 1 else ""


def text(x: float, y: float, words: str, css: str, anchor: str = "start") -> str:
    """A word in pixels."""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def density(frame: Frame, x: ArrayLike, y: ArrayLike) -> str:
    """Hexagons shaded by the square root of their number of points; one path a shade."""
    px, py = frame.x(x), frame.y(y)
    inside = (px >= frame.left) & (px <= frame.width - RIGHT) & (py >= TOP) & (py <= frame.height - BOTTOM)
    width = (frame.width - frame.left - RIGHT) / HEXAGONS_ACROSS
    radius = width / np.sqrt(3)
    centres, counts = _hexagons(px[inside], py[inside], width, radius)
    if not len(counts):
        return ""
    shade = np.minimum((np.sqrt(counts / counts.max()) * SHADES).astype(int), SHADES - 1)
    turns = np.deg2rad(np.arange(30, 390, 60))
    corners = np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)
    made = []
    for level in np.unique(shade).tolist():
        rings = (centres[shade == level][:, None, :] + corners).tolist()
        drawn = "".join("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in ring) + "z" for ring in rings)
        made.append(f'<path class="hex{level}" d="{drawn}"/>')
    return "".join(made)


def _hexagons(px: Array, py: Array, width: float, radius: float) -> tuple[Array, NDArray[np.int64]]:
    """Centres, shape (n, 2), and counts of the hexagons that hold points: the nearer of two shifted lattices."""
    step = 3 * radius
    first = np.stack([np.round(px / width) * width, np.round(py / step) * step], axis=1)
    second = np.stack(
        [(np.floor(px / width) + 0.5) * width, (np.floor(py / step) + 0.5) * step],
        axis=1,
    )
    here = np.stack([px, py], axis=1)
    nearer = ((here - first) ** 2).sum(axis=1) <= ((here - second) ** 2).sum(axis=1)
    centres = np.where(nearer[:, None], first, second).round(3)
    unique, counts = np.unique(centres, axis=0, return_counts=True)
    return unique, counts


def limits(*values: ArrayLike, pad: float = 0.05, least: float = 2.0) -> tuple[float, float]:
    """Range of all finite values with some room, at least ``least`` wide; (0, 1) where there is none."""
    together = np.concatenate([np.asarray(v, float).ravel() for v in values])
    known = together[np.isfinite(together)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    room = max((high - low) * pad, (least - (high - low)) / 2, 1e-3)
    return low - room, high + room


def smooth_density(values: ArrayLike, grid: Array) -> Array:
    """Density on an even grid by a Gaussian kernel with Silverman's width, from a histogram: quick for any number."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    step = grid[1] - grid[0]
    spread = min(s for s in (known.std(), np.subtract(*np.percentile(known, (75, 25))) / 1.349, np.inf) if s > 0)
    sigma = max(0.9 * (spread if np.isfinite(spread) else step) * len(known) ** -0.2, step)
    edges = np.append(grid - step / 2, grid[-1] + step / 2)
    counts = np.histogram(known, edges)[0] / (len(known) * step)
    reach = np.arange(-int(4 * sigma / step) - 1, int(4 * sigma / step) + 2) * step
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    padded = np.pad(counts, len(reach) // 2)
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def legend(entries: Sequence[tuple[str, str, str]]) -> Markup:
    """A legend of (kind, colour, words); kinds are ``dot``, ``line``, ``dash``, ``bar``."""
    made = [
        f'<span class="key {kind}" style="--c:{escape(colour)}">{escape(words)}</span>'
        for kind, colour, words in entries
    ]
    return Markup('<p class="legend">' + "".join(made) + "</p>")  # noqa: S704 - escaped above
