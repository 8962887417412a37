"""A second way to simulate tissue maps, on which no model is trained: tells how much figures rest on the first one.

People, volumes and local ages are the same; what is done to reach them, and what is seen of it, is not:

* aging sits at the rims of structures and moves along some axes more than along others (`aging.Growth`);
* registration is a free-form deformation (Rueckert et al. 1999, IEEE TMI 18): cubic B-splines on coarse control points,
  and an error of its own that has nothing to do with the deformation;
* segmentation reads one intensity: posteriors of three Gaussians (Ashburner & Friston 2005, NeuroImage 26, without its
  priors), so white matter that borders on fluid looks grey, as in T1w images.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bids_brainage.simulate.aging import Growth
from bids_brainage.simulate.deform import Array, noise
from bids_brainage.simulate.maps import Errors, Scheme, Site, classified

_CONTROL = (9.0, 18.0)
"""Least and most distance of control points, mm."""
_MISS_MM, _MISS_SD = 12.0, 0.3
"""Correlation length and SD of each component of the registration's own error, mm."""
_MEANS = (0.25, 0.62, 1.0)
"""Intensities of fluid, grey and white matter relative to white matter's."""
_SOFTNESS = 0.11
"""Standard deviation of each tissue's intensity, and, relative to it, how that varies from scan to scan (log)."""
_SOFTNESS_SD = 0.15


def free_form(rest: Array, spacing: float, rng: np.random.Generator, errors: Errors) -> Array:
    """What cubic B-splines hold of a displacement, and a smooth error; as `maps.smoothed`.

    Control points lie 9 to 18 mm apart; ``errors`` is not used.
    """
    ratio = rng.uniform(*_CONTROL) / spacing
    miss = np.stack([noise(rng, rest.shape[1:], _MISS_MM / spacing) for _ in rest])
    return np.stack([_splined(part, ratio) for part in rest]) + np.float32(_MISS_SD) * miss


def _splined(part: Array, ratio: float) -> Array:
    """A component on control points ``ratio`` nodes apart, and back."""
    low = ndimage.gaussian_filter(part, ratio / 3, mode="nearest", truncate=3)
    coarse = ndimage.zoom(low, [max(4, round(n / ratio)) / n for n in part.shape], order=1)
    back = [n / m for n, m in zip(part.shape, coarse.shape, strict=True)]
    return np.asarray(ndimage.zoom(coarse, back, order=3, mode="nearest"), np.float32)


def by_intensity(values: Array, site: Site, rng: np.random.Generator, errors: Errors) -> tuple[Array, Array]:
    """Grey and white matter as the posteriors of an intensity that mixes the tissues; as `maps.classified`."""
    grey, white = classified(values, site, rng, errors)
    fluid = np.clip(1 - grey - white, 0, 1)
    total = fluid + grey + white
    intensity = sum(np.float32(m) * part for m, part in zip(_MEANS, (fluid, grey, white), strict=True)) / total
    width = np.float32(_SOFTNESS * np.exp(_SOFTNESS_SD * rng.standard_normal()))
    likelihood = [np.exp(-(((intensity - np.float32(m)) / width) ** 2) / 2) for m in _MEANS]
    _, grey, white = np.stack(likelihood) / np.sum(likelihood, axis=0)
    return grey.astype(np.float32), white.astype(np.float32)


SECOND = Scheme(Growth((0.6, 1.0, 1.6), 1.0), free_form, by_intensity)
