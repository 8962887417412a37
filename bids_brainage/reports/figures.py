"""Pictures of one scan: the head with its brain mask and tissues, and the brain on the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.files import atomic
from bids_brainage.image.io import read, read_grid
from bids_brainage.image.template import DEFAULT
from bids_brainage.image.template import template as load_template

SLICES = 7
BACKGROUND, MASK_COLOUR, INNER_COLOUR = "#10141a", "#ffb454", "#ff6b9d"
TISSUE_COLOURS = {1: "#7ee787", 2: "#f2f2f2", 3: "#58a6ff"}


class Figures(NamedTuple):
    """One PNG."""

    figures: Path


def figures(
    t1w_native: Path,
    *,
    out: Path,
    template: str = DEFAULT,
    t1w_preproc: Path | None = None,
    brain_mask: Path | None = None,
    brain_mask_fused: Path | None = None,
    dseg: Path | None = None,
    t1w_mni: Path | None = None,
) -> Figures:
    """Draw what there is: T1w with the outline of the brain mask, tissues as colours, and the normalised brain.

    Parameters
    ----------
    t1w_native, t1w_preproc, brain_mask, dseg
        Images on one RAS grid; ``brain_mask_fused`` goes before ``brain_mask``.
    t1w_mni
        The brain in template space; it is drawn under the outlines of the template's brain and white matter.
    template : str
        Name of the template space.
    """
    head = read(t1w_preproc or t1w_native).data
    zooms = tuple(read_grid(t1w_native).zooms)
    brain = brain_mask_fused or brain_mask
    mask = read(brain).data > 0 if brain else None
    rows: list[tuple[str, NDArray[Any], tuple[float, ...], NDArray[Any] | None, NDArray[Any] | None]] = []
    labels = read(dseg).data if dseg else None
    for axis in range(3):
        rows.append((("sagittal", "coronal", "axial")[axis], *_planes(head, zooms, axis, mask, labels)))
    if t1w_mni is not None:
        normalised, reference = read(t1w_mni), load_template(template, 1.0)
        outlines = reference.mask + (reference.wm > 0.5).astype(np.uint8)
        rows.append(("on the template", *_planes(normalised.data, tuple(normalised.grid.zooms), 2, outlines, None)))
    path = out / "figures.png"
    _draw(rows, path)
    return Figures(path)


def _planes(
    image: NDArray[Any], zooms: tuple[float, ...], axis: int, mask: NDArray[Any] | None, labels: NDArray[Any] | None
) -> tuple[Any, ...]:
    """Slices at even steps through the brain along one axis, upright, with their in-plane aspect."""
    inside = mask > 0 if mask is not None and mask.any() else image > np.percentile(image, 60)
    along = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    where = np.linspace(along[0], along[-1], SLICES + 2).round().astype(int)[1:-1]
    plane = [a for a in range(3) if a != axis]
    aspect = (zooms[plane[1]], zooms[plane[0]])
    top = float(np.percentile(image[inside], 99.5)) or 1.0
    scaled = np.clip(image / top, 0, 1)

    def cut(volume: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if volume is None else np.stack([np.rot90(volume.take(i, axis)) for i in where])

    return cut(scaled), aspect, cut(mask), cut(labels)


def _draw(rows: list[Any], path: Path) -> None:
    """A dark mosaic, one row an orientation; the left of the picture is the person's left."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(14, 2.15 * len(rows)), facecolor=BACKGROUND, dpi=80)
    axes = canvas.subplots(len(rows), SLICES, squeeze=False)
    tissue_map = mpl.colors.ListedColormap(["#00000000", *TISSUE_COLOURS.values()])
    for line, (title, planes, aspect, mask, labels) in zip(axes, rows, strict=True):
        for i, (axis, plane) in enumerate(zip(line, planes, strict=True)):
            ratio = aspect[0] / aspect[1]
            axis.imshow(plane, cmap="gray", vmin=0, vmax=1, aspect=ratio, interpolation="bilinear")
            if labels is not None and i % 2:
                axis.imshow(
                    labels[i], cmap=tissue_map, vmin=0, vmax=3, alpha=0.45, aspect=ratio, interpolation="nearest"
                )
            if mask is not None and mask[i].any():
                axis.contour(mask[i].astype(float), [0.5, 1.5], colors=[MASK_COLOUR, INNER_COLOUR], linewidths=0.9)
            axis.set_axis_off()
        line[0].text(
            -0.04, 0.5, title, color="#9aa7b5", rotation=90, va="center", ha="right", transform=line[0].transAxes
        )
    canvas.subplots_adjust(left=0.03, right=0.995, top=0.99, bottom=0.01, wspace=0.02, hspace=0.03)
    with atomic(path) as temporary:
        canvas.savefig(temporary, facecolor=BACKGROUND, format="png", metadata={"Software": None})
