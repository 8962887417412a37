"""Figures of matched controls, from plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bids_brainage.core.files import atomic
from bids_brainage.reports.style import INK, PALETTE, QUIET

BALANCED = 0.1


def love_plot(path: Path, covariates: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Path:
    """Draw absolute standardised mean differences before and after matching, the largest on top (Love 2004).

    Parameters
    ----------
    path : Path
        PNG, SVG or PDF by its suffix.
    covariates : sequence of str
    before, after : sequence of float
        Differences in SD, one a covariate; their signs do not matter.
    """
    from matplotlib.figure import Figure

    order = sorted(range(len(covariates)), key=lambda i: abs(before[i]))
    figure = Figure(figsize=(6, 1.4 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(order))
    axes.hlines(rows, [abs(before[i]) for i in order], [abs(after[i]) for i in order], color=QUIET, linewidth=1)
    axes.scatter([abs(before[i]) for i in order], rows, facecolors="none", edgecolors=INK, label="before matching")
    axes.scatter([abs(after[i]) for i in order], rows, color=PALETTE[0], label="after matching")
    axes.axvline(BALANCED, color=QUIET, linestyle="--", linewidth=1, label=f"{BALANCED:g}")
    axes.set_yticks(rows, [covariates[i] for i in order], parse_math=False)
    axes.set_xlabel("absolute standardised mean difference")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path
