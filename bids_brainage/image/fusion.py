"""Network and atlas together: which structure and which region each voxel within the skull is.

The network's posteriors say what this head looks like, the registered atlas says where in a brain this is, the
intensities decide between tissues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bids_brainage.image import masks, muse
from bids_brainage.image.io import Grid, Volume, empty, mean_on, resample
from bids_brainage.image.masks import bounding_box
from bids_brainage.image.register import cropped
from bids_brainage.image.tissue import classify

FLOOR = 1e-2
NOWHERE, RARELY = 2e-2, 1e-4
NETWORK_POWER = 0.75
BRAIN_SHARE = 0.32
CSF, REST = 145, 146


class Head(NamedTuple):
    """What the measurement sees of a scan: the intracranial voxels of the grids of the posteriors.

    Attributes
    ----------
    masks : tuple of Volume
        bool, 2 mm; the ``n`` voxels are those of the first, then those of the next.
    posterior : array of float32, (n, 18)
    intensity : array of float32, (n,)
    skull : float
        Volume of the whole intracranial mask, mm^3.
    native : Volume
        The scan.
    """

    masks: tuple[Volume, ...]
    posterior: NDArray[np.float32]
    intensity: NDArray[np.float32]
    skull: float
    native: Volume

    @property
    def voxel(self) -> float:
        """What each voxel counts for, mm^3."""
        return self.masks[0].grid.voxel_volume / len(self.masks)


def gather(scan: Volume, icv: Volume, posteriors: Sequence[Volume]) -> Head:
    """Bring scan and mask to the grids of the posteriors and keep what is within the skull and was not stripped."""
    mask = icv.data > 0
    box = bounding_box(mask, margin=4)
    seen = cropped(Volume((mask & ~empty(scan, mask)).astype(np.float32), icv.affine), box)
    brain = cropped(scan, box)
    pairs = [(one, resample(seen, one.grid) > 0.5) for one in posteriors]
    return Head(
        tuple(Volume(inside, one.affine) for one, inside in pairs),
        np.concatenate([one.data[inside] for one, inside in pairs]),
        np.concatenate([resample(brain, one.grid, cubic=True)[inside] for one, inside in pairs]),
        float(mask.sum() * icv.grid.voxel_volume),
        scan,
    )


def structure_prior(prior: NDArray[np.float32], posterior: NDArray[np.float32]) -> NDArray[np.float32]:
    r"""Probabilities of the classes from atlas and network: :math:`(S_c + f)(q_c + f)^{3/4}`, scaled to sum 1.

    Both are given a floor :math:`f`, so that neither alone rules a structure out; where neither sees it, it hardly is.

    Parameters
    ----------
    prior : array, (n, 147)
        Of :func:`bids_brainage.image.atlas.look_up`.
    posterior : array, (n, 18)
        The network's classes at the same voxels.

    Returns
    -------
    array, (n, 18)
    """
    owner = muse.classes()
    support = np.stack([prior[:, owner == c].sum(axis=1) for c in range(posterior.shape[1])], axis=1)
    joint = (support + FLOOR) * (posterior + FLOOR) ** NETWORK_POWER
    joint[np.maximum(support, posterior) < NOWHERE] *= RARELY
    return np.asarray(joint / joint.sum(axis=1, keepdims=True), dtype=np.float32)


def fuse(
    prior: NDArray[np.float32],
    structures: NDArray[np.float32],
    intensity: NDArray[np.float32],
    points: NDArray[np.float32],
) -> NDArray[np.float32]:
    r"""Region probabilities from the atlas, the network's classes and the scan's intensity.

    .. math:: p(r|v) = p_c(v)\, \frac{A_r(v)}{S_c(v)}, \qquad
        p_c(v) \propto S_c(v)\, q_c(v)^{3/4}\, \mathcal N(I(v); \mu_c, \sigma), \qquad S_c = \sum_{r \in c} A_r

    with the atlas :math:`A`, the network's posteriors :math:`q`, and :math:`c` the class of region :math:`r`;
    :math:`\mu_c` and :math:`\sigma` are this scan's, by expectation maximisation
    (:func:`bids_brainage.image.tissue.classify`). Where the atlas has no parcel of a likely class, a
    voxel takes the shares of the nearest voxel that has one.

    Parameters
    ----------
    prior : array, (n, 147)
        Of :func:`bids_brainage.image.atlas.look_up`.
    structures : array, (n, 18)
        Of :func:`structure_prior`, of the same atlas at the same voxels.
    intensity : array, (n,)
        The corrected scan there.
    points : array, (n, 3)
        Where the voxels lie, mm.

    Returns
    -------
    array, (n, 147)
        Rows sum to 1.
    """
    owner = muse.classes()
    number = structures.shape[1]
    likely = np.vstack([np.zeros(len(prior)), classify(intensity, structures[:, 1:].T)]).astype(np.float32)
    result = np.zeros_like(prior)
    for c in range(1, number):
        own = np.flatnonzero(owner == c)
        share = prior[:, own] + np.float32(1e-5)
        bare = prior[:, own].sum(axis=1) < 1e-3
        lost = np.flatnonzero(bare & (likely[c] > 1e-3))
        if len(own) > 1 and lost.size and not bare.all():
            known = np.flatnonzero(~bare)
            share[lost] = share[known[cKDTree(points[known]).query(points[lost])[1]]]
        result[:, own] = likely[c][:, None] * share / share.sum(axis=1, keepdims=True)
    return result


def measured(regions: NDArray[np.float32], head: Head) -> NDArray[np.float64]:
    """Volumes of the 145 regions, mm^3, not calibrated: each voxel counts for its likeliest region by :func:`fuse`."""
    return np.asarray(np.bincount(regions.argmax(axis=1), minlength=147)[:CSF] * head.voxel)


def fused_mask(regions: NDArray[np.float32], head: Head, grid: Grid, icv: masks.Mask) -> masks.Mask:
    """The brain: where its regions together are likelier than :data:`BRAIN_SHARE`, on ``grid``, within the skull.

    Parameters
    ----------
    regions : array, (n, 147)
        Of :func:`fuse`.
    """
    share = mean_on(grid, spread(1 - regions[:, CSF] - regions[:, REST], head))
    return np.asarray(masks.solid(share > BRAIN_SHARE) & icv)


def spread(values: NDArray[np.float32], head: Head) -> tuple[Volume, ...]:
    """Values of the voxels within the skull, ``(n,)`` or ``(n, k)``, on their grids; 0 elsewhere."""
    images, first = [], 0
    for mask in head.masks:
        last = first + int(mask.data.sum())
        image = np.zeros((*mask.data.shape, *values.shape[1:]), np.float32)
        image[mask.data] = values[first:last]
        images.append(Volume(image, mask.affine))
        first = last
    return tuple(images)
