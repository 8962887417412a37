"""Whether a segmentation is borne out by the intensities, and what to try where it is not."""

from __future__ import annotations

import numpy as np

from bids_brainage.image import io, masks
from bids_brainage.image.classes import NUMBER
from bids_brainage.image.io import Volume

DARK, BRIGHTEST = 0.05, 1.5  # of the 99th percentile of the foreground
BRIGHT_AIR = 0.6


def explained(classes: Volume, head: Volume) -> float:
    r"""Share of the intensity variance within the skull that the classes explain (:math:`\eta^2`), 0 to 1.

    .. math:: \eta^2 = \frac{\sum_c n_c (\mu_c - \mu)^2}{\sum_v (I(v) - \mu)^2}

    with the soft counts :math:`n_c` and means :math:`\mu_c` of the classes. Tissues differ in intensity in any scan
    that shows a brain; where the network sees a brain in noise, or takes one tissue for another, they do not.

    Parameters
    ----------
    classes : Volume
        Probabilities ``(x, y, z, classes)``, background first.
    head : Volume
        The scan that was segmented, any grid of the same world.

    Returns
    -------
    float
        0 where the classes leave nothing within the skull, or all of it has one intensity.
    """
    seen = io.resample(head, classes.grid)
    inside = classes.data[..., 0] < 0.5
    weight, intensity = classes.data[inside], seen[inside].astype(np.float64)
    if not len(intensity) or intensity.std() < 1e-6:
        return 0.0
    count = weight.sum(axis=0)
    mean = (weight * intensity[:, None]).sum(axis=0) / np.maximum(count, 1e-6)
    between = (count * (mean - intensity.mean()) ** 2).sum() / len(intensity)
    return float(min(1.0, between / intensity.var()))


def is_reversed(classes: Volume, head: Volume) -> bool:
    """Whether white matter is darker than cortex, and cortex darker than CSF: the reverse of a T1w image.

    Parameters
    ----------
    classes, head
        As of :func:`explained`.
    """
    seen = io.resample(head, classes.grid)
    tissues = [classes.data[..., NUMBER[name]] for name in ("cerebral_white_matter", "cerebral_cortex", "csf")]
    white, cortex, fluid = (float((one * seen).sum() / max(float(one.sum()), 1e-6)) for one in tissues)
    return white < cortex < fluid


def has_bright_air(scan: Volume) -> bool:
    """Whether the air around a head is bright in all corners: noise, as in the air of MP2RAGE, is so in some."""
    values = io.nonnegative(scan.data)
    corners = values[tuple(slice(None, None, size - 1) for size in values.shape)]
    return float(corners.min()) > BRIGHT_AIR * float(np.percentile(values[::4, ::4, ::4], 99))


def inverted(scan: Volume) -> Volume:
    """A scan with dark and bright exchanged; the air around the head, dark or bright, becomes 0, and no tissue does."""
    values = io.nonnegative(scan.data)
    level = float(np.percentile(values[values > 0], 99)) if (values > 0).any() else 1.0
    data = min(float(values.max()), BRIGHTEST * level) - values
    if io.background(values) < DARK * level:
        data = np.where(masks.fill_holes(values > DARK * level), np.maximum(data, DARK * level), 0)
    return Volume(np.maximum(data, 0).astype(np.float32), scan.affine)
