"""Whether a segmentation is borne out by the intensities, and what to try where it is not."""

from __future__ import annotations

import numpy as np

from bids_brainage.image import io
from bids_brainage.image.io import Volume

DARK = 0.05


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


def inverted(head: Volume) -> Volume:
    """A head with dark and bright exchanged; air, dark or bright, becomes 0."""
    data = head.data.max() - head.data
    if io.background(head.data) < DARK:
        data = np.where(head.data > DARK, data, 0)
    return Volume(np.asarray(data, dtype=np.float32), head.affine)
