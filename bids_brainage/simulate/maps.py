r"""Grey and white matter maps of simulated people in template space, without an image and without a registration.

With :math:`\psi` from the person's head to the base anatomy and :math:`\phi` from the template to the head as a
registration found it, the modulated map of a tissue with share :math:`p` in the base anatomy is

.. math:: m(y) = p(\psi(\phi(y)))\, \det \nabla\phi(y) / \det A

as the app makes it (``image.modulate``; Good et al. 2001, NeuroImage 14), A being the affine part. A registration
recovers a part of the deformation: its affine part is the linear fit of the true one over the brain, with a small
random error; the rest is smoothed by a Gaussian of random width. Segmentation errs by shifting and blurring borders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_brainage.core.errors import UsageError
from bids_brainage.simulate import local
from bids_brainage.simulate.aging import EVEN, Fractions, Growth, fractions
from bids_brainage.simulate.anatomy import REGIONS, Anatomy
from bids_brainage.simulate.deform import Array, Warp, apply, jacobian, nearest, nodes, sample
from bids_brainage.simulate.person import Person, grown, shape_of

WHITE = ("cerebral_white_matter", "ventral_dc", "brainstem", "cerebellar_white_matter")
"""Kinds that count as white matter; all other tissue is grey."""
FWHM = 4.0
"""Smoothing of the maps, mm."""
_FIELD_OF_VIEW = (197, 233, 189)
_CENTRE = (0.0, -18.0, 22.0)
"""Extent and middle of MNI152NLin2009aSym's grid, mm."""
_COARSE = 3.0
"""Spacing of the deformations, mm; at 4 the maps hold 2 % too much grey matter, at 3 under 1 %."""
_ITERATIONS = 15


class Site(NamedTuple):
    """How a site's scans are segmented, relative to the truth.

    Attributes
    ----------
    inner, outer : float
        Shift of the border of white and grey matter, and of that of tissue and fluid, outwards, mm.
    blur : float
        Standard deviation of the partial volume, mm.
    """

    inner: float = 0.0
    outer: float = 0.0
    blur: float = 0.8


class Errors(NamedTuple):
    """How much registration and segmentation vary from scan to scan.

    Attributes
    ----------
    smoothing : tuple of float
        Least and most standard deviation of the Gaussian that the recovered deformation has passed, mm.
    affine : float
        Standard deviation of the elements of the affine part's relative error.
    border : float
        Standard deviation of the shift of each border, mm.
    """

    smoothing: tuple[float, float] = (1.0, 5.0)
    affine: float = 0.01
    border: float = 0.1


Recover = Callable[[Array, float, np.random.Generator, Errors], Array]
"""What a registration finds of a displacement beyond its affine part (3 x X x Y x Z, mm; nodes so many mm apart)."""
Classify = Callable[[Array, Site, np.random.Generator, Errors], tuple[Array, Array]]
"""Grey and white matter as a segmentation finds them; the first argument is as of `classified`."""


class Tissues(NamedTuple):
    """The tissues of a base anatomy.

    Attributes
    ----------
    anatomy : Anatomy
    values : float32 array, 4 x X x Y x Z
        Shares of grey and white matter, and the slopes (per mm) of white matter and of all tissue.
    labels : uint8 array, X x Y x Z
        Number of the region that fills most of each cell.
    origin, spacing
        Position of the first cell and distance between them, mm.
    """

    anatomy: Anatomy
    values: Array
    labels: NDArray[np.uint8]
    origin: NDArray[np.float64]
    spacing: float


class TissueMaps(NamedTuple):
    """Modulated, smoothed maps, the local age (years, 0 outside the brain), all float32, and the grid's affine."""

    gm: Array
    wm: Array
    age_map: Array
    affine: NDArray[np.float64]


def tissues(anatomy: Anatomy, spacing: int = 2) -> Tissues:
    """Tissue shares of a base anatomy on a grid of ``spacing`` mm, a multiple of its voxel size."""
    shares = fractions(anatomy, spacing)
    grey, white = (sum_of(shares, kind_is_white) for kind_is_white in (False, True))
    slopes = [np.linalg.norm(np.gradient(v, spacing), axis=0) for v in (white, grey + white)]
    numbers = np.array([r.number for r in REGIONS], np.uint8)
    labels = np.where(shares.values.sum(0) > 0.5, numbers[shares.values.argmax(0)], 0).astype(np.uint8)
    return Tissues(anatomy, np.stack([grey, white, *slopes]).astype(np.float32), labels, shares.origin, shares.spacing)


def sum_of(shares: Fractions, white: bool) -> Array:
    """Share of white or of grey matter in each cell."""
    tissue = local.is_tissue()
    rows = [i for i, r in enumerate(REGIONS) if tissue[r.number] and (r.kind in WHITE) == white]
    return np.asarray(shares.values[rows].sum(0))


def template_grid(spacing: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of the template's grid at a voxel size (mm), as the app lays it."""
    x, y, z = (int(np.ceil(extent / spacing - 1e-3)) for extent in _FIELD_OF_VIEW)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.array(_CENTRE) - spacing * (np.array((x, y, z)) - 1) / 2
    return (x, y, z), affine


def tissue_maps(
    person: Person,
    age: float,
    base: Tissues,
    shares: Fractions,
    rng: np.random.Generator,
    *,
    spacing: float = 2.0,
    site: Site = Site(),  # noqa: B008
    errors: Errors = Errors(),  # noqa: B008
    scheme: Scheme | None = None,
) -> TissueMaps:
    """What the app would make of a person's scan: modulated grey and white matter; and the local age at each place.

    Parameters
    ----------
    person : Person
    age : float
        Years.
    base : Tissues
    shares : Fractions
        Of the same anatomy; cells of 4 mm do.
    rng : Generator
        Draws the errors of registration and segmentation.
    spacing : float
        Voxel size, mm: 1 to 4.
    site : Site
    errors : Errors
    scheme : Scheme, optional
        How aging, registration and segmentation work; `STANDARD` where it is not given.

    Raises
    ------
    UsageError
        Where the voxel size makes no sense, or the person's offsets name no region.
    """
    if not 1 <= spacing <= 4:
        raise UsageError(f"maps at {spacing} mm: give a voxel size of 1 to 4 mm")
    scheme = scheme or STANDARD
    aged = grown(person, age, base.anatomy, shares, divided=True, growth=scheme.growth)
    to_base, to_template = pull_backs(person, aged.warp, base, shares)
    found, affine_volume = registered(to_template, base, rng, errors, scheme.recover)
    shape, affine = template_grid(spacing)
    points = nodes(shape, affine[:3, 3], spacing)
    volume = sample(jacobian(found)[None], found.origin, found.spacing, points)[0] / np.float32(affine_volume)
    places = apply(to_base, apply(found, points))
    grey, white = scheme.classify(sample(base.values, base.origin, base.spacing, places), site, rng, errors)
    sigma = np.hypot(FWHM / np.sqrt(8 * np.log(2)), site.blur) / spacing
    gm, wm = (ndimage.gaussian_filter(part * volume, sigma, mode="constant", truncate=3) for part in (grey, white))
    labels = nearest(base.labels, base.origin, base.spacing, places)
    return TissueMaps(gm, wm, local.age_at(aged.local, places, labels, base.anatomy), affine)


def pull_backs(person: Person, aged: Warp, base: Tissues, shares: Fractions) -> tuple[Warp, Warp]:
    """From the person's head, its linear part taken out, to the base anatomy, and on to the template's space."""
    shape, affine = template_grid(_COARSE)
    start = nodes(shape, affine[:3, 3], _COARSE)
    end = apply(aged, apply(shape_of(person, shares)[1], start))
    to_base = Warp(end - start, affine[:3, 3], _COARSE)
    if base.anatomy.to_template is None:
        return to_base, to_base
    return to_base, to_base._replace(displacement=apply(base.anatomy.to_template, end) - start)


def inverse(warp: Warp) -> Warp:
    """The inverse map on the same nodes, by damped fixed-point iteration."""
    goal = nodes(warp.displacement.shape[1:], warp.origin, warp.spacing)
    points = goal - warp.displacement
    for _ in range(_ITERATIONS):
        points = points - np.float32(0.8) * (apply(warp, points) - goal)
    return warp._replace(displacement=points - goal)


def smoothed(rest: Array, spacing: float, rng: np.random.Generator, errors: Errors) -> Array:
    """A displacement after a Gaussian of random width."""
    sigma = rng.uniform(*errors.smoothing) / spacing
    return np.stack([ndimage.gaussian_filter(part, sigma, mode="nearest", truncate=3) for part in rest])


def registered(
    true: Warp, base: Tissues, rng: np.random.Generator, errors: Errors, recover: Recover = smoothed
) -> tuple[Warp, float]:
    """The template-to-head map that a registration finds where ``true`` leads back, and its affine part's determinant.

    Returns
    -------
    Warp
        Affine part, and what ``recover`` leaves of the rest.
    float
        Determinant of the affine part with the error of its estimate.
    """
    exact = inverse(true)
    points = nodes(exact.displacement.shape[1:], exact.origin, exact.spacing)
    brain = local.is_brain()[nearest(base.labels, base.origin, base.spacing, points)]
    design = np.vstack([points[:, brain], np.ones((1, int(brain.sum())), np.float32)]).T.astype(np.float64)
    fit = np.linalg.lstsq(design, exact.displacement[:, brain].T.astype(np.float64), rcond=None)[0]
    linear = np.einsum("ab,bxyz->axyz", fit[:3].T.astype(np.float32), points)
    linear += fit[3].astype(np.float32)[:, None, None, None]
    rest = recover(exact.displacement - linear, exact.spacing, rng, errors)
    matrix = (np.eye(3) + fit[:3].T) @ (np.eye(3) + errors.affine * rng.standard_normal((3, 3)))
    return exact._replace(displacement=linear + rest), float(np.linalg.det(matrix))


def classified(values: Array, site: Site, rng: np.random.Generator, errors: Errors) -> tuple[Array, Array]:
    """Grey and white matter with the borders shifted; ``values`` as in `Tissues`, at any places."""
    inner, outer = (np.float32(shift + errors.border * rng.standard_normal()) for shift in (site.inner, site.outer))
    grey, white, inner_slope, outer_slope = values
    moved = inner * inner_slope
    return np.clip(grey - moved + outer * outer_slope, 0, 1), np.clip(white + moved, 0, 1)


class Scheme(NamedTuple):
    """How people age, and how registration and segmentation err."""

    growth: Growth = EVEN
    recover: Recover = smoothed
    classify: Classify = classified


STANDARD = Scheme()
