"""Fitted harmonisations and imported densities on disk: a card and arrays as safetensors, no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_brainage.cohort import genmind
from bids_brainage.cohort.density import Density, least_of
from bids_brainage.cohort.gam import Spline
from bids_brainage.cohort.genmind import GenMIND
from bids_brainage.cohort.harmonize import Harmonisation
from bids_brainage.cohort.people import People
from bids_brainage.cohort.published import PublishedCategory
from bids_brainage.core import bundle
from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.files import atomic
from bids_brainage.models.roi import SCALE_1MM

ARRAYS = "arrays.safetensors"
HARMONISATION = "harmonisation"
PUBLISHED = "genmind-published"
UNSTATED = "not stated here: that of the data; state it before you share this bundle"
NOT_MEANT_FOR = ("clinical decisions",)
HARMONISED = ("ages", "alpha", "beta", "sigma", "gamma", "delta2")
PLAIN = ("method", "uses_icv", "reference", "indices", "sites", "controls")
OF_CATEGORY = ("centres", "mean", "scale")


def save(folder: Path, harmonisation: Harmonisation) -> Bundle:
    """Write a harmonisation into a new folder, whose name becomes the bundle's."""
    h = harmonisation
    arrays = {name: getattr(h, name) for name in HARMONISED} | ({"knots": h.spline.knots} if h.spline else {})
    return _write(
        folder,
        arrays,
        {
            "architecture": HARMONISATION,
            "description": f"{h.method} of {', '.join(h.sites)} to {h.reference} reference people, kept as they are",
            "training": {"kind": "real", "n": sum(h.controls)},
            "arguments": {name: getattr(h, name) for name in PLAIN},
            "notes": ["Holds for people measured at these sites as the controls were, within their ages."],
        },
    )


def load(folder: Path) -> Harmonisation:
    """Read a harmonisation.

    Raises
    ------
    BundleError
        Where the folder holds none, or it is damaged.
    """
    card, arrays = _read(folder, HARMONISATION)
    try:
        plain: dict[str, Any] = {
            name: tuple(v) if isinstance(v := card["arguments"][name], list) else v for name in PLAIN
        }
        found: dict[str, Any] = {name: arrays[name] for name in HARMONISED}
        spline = Spline(arrays["knots"]) if "knots" in arrays else None
        made = Harmonisation(**plain, **found, spline=spline)
        s, k = len(made.sites), len(made.indices)
        fits = all(getattr(made, name).shape == (s, k) for name in ("gamma", "delta2")) and made.ages.shape == (s, 2)
        if not fits or made.alpha.shape != (k,) or made.sigma.shape != (k,) or made.beta.shape[1:] != (k,):
            raise ValueError("shapes")
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder}: not a harmonisation ({error!r}); fit it again") from None
    return made


def save_published(
    folder: Path, categories: Sequence[PublishedCategory], dataset: People | None, sources: Mapping[str, str]
) -> Bundle:
    """Write imported densities and the dataset into a new folder; ``sources`` are the sha256 of the files by name."""
    arrays = {f"{c.race}_{c.sex}/{name}": getattr(c, name) for c in categories for name in OF_CATEGORY}
    described = [
        {"race": c.race, "sex": c.sex, "bandwidth": c.bandwidth, "indices": c.indices, "n": len(c.centres)}
        for c in categories
    ]
    people = {}
    if dataset is not None:
        arrays |= {"dataset/age": dataset.age, "dataset/volumes": dataset.volumes}
        people = {"who": dataset.who, "indices": dataset.indices} | {
            name: values.tolist() for name, values in dataset.categories.items()
        }
    return _write(
        folder,
        arrays,
        {
            "architecture": PUBLISHED,
            "description": "Kernel densities and synthetic people that the authors of GenMIND released",
            "volume_scale": SCALE_1MM,
            "training": {"kind": "real", "n": sum(len(c.centres) for c in categories), "sources": dict(sources)},
            "arguments": {"categories": described, "dataset": people},
            "notes": [
                "The centres of the kernels are people, z-scored: the bundle is as private as they are.",
                "There is no intracranial volume; the sum of the regions is none.",
            ],
        },
    )


def load_published(folder: Path) -> tuple[tuple[PublishedCategory, ...], People | None]:
    """Read what :func:`save_published` wrote.

    Raises
    ------
    BundleError
        Where the folder holds none, or it is damaged.
    """
    card, arrays = _read(folder, PUBLISHED)
    try:
        found = tuple(_category(entry, arrays) for entry in card["arguments"]["categories"])
        told = card["arguments"]["dataset"]
        if not told:
            return found, None
        categories = {name: np.array(told[name], dtype=str) for name in ("sex", "race")}
        volumes = (tuple(told["indices"]), arrays["dataset/volumes"])
        return found, People(tuple(told["who"]), arrays["dataset/age"], categories, *volumes)
    except (KeyError, TypeError) as error:
        raise BundleError(f"{folder}: not imported densities ({error!r}); import them again") from None


def read_generator(found: Bundle) -> GenMIND:
    """The model of a bundle that ``brainage genmind fit`` or ``import`` wrote.

    Raises
    ------
    BundleError
        Where it is another one, is damaged, or holds a dataset and no densities.
    """
    if found.card["architecture"] != PUBLISHED:
        return genmind.read(found)
    categories, _ = load_published(found.folder)
    if not categories:
        raise BundleError(f"{found.folder}: holds people and no densities; import kde_RACE_SEX.npz to draw from")
    return generator_of(categories)


def generator_of(categories: Sequence[PublishedCategory]) -> GenMIND:
    """Imported densities as a model with the published kernel; its regions in the order of their indices."""
    indices = tuple(sorted(categories[0].indices))
    densities: dict[genmind.Key, Density] = {}
    for c in categories:
        order = [*(c.indices.index(index) for index in indices), len(indices)]
        centres, mean, scale = c.centres[:, order], c.mean[order], c.scale[order]
        least = least_of(centres * scale + mean)
        shape = np.eye(len(order))
        densities[c.sex, c.race] = Density(centres, mean, scale, least, c.bandwidth, "published", shape)
    return GenMIND(("sex", "race"), indices, densities)


def _category(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> PublishedCategory:
    race, sex = entry["race"], entry["sex"]
    centres, mean, scale = (arrays[f"{race}_{sex}/{name}"] for name in OF_CATEGORY)
    return PublishedCategory(race, sex, tuple(entry["indices"]), centres, entry["bandwidth"], mean, scale)


def _write(folder: Path, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> Bundle:
    from safetensors.numpy import save as as_safetensors

    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / ARRAYS) as temporary:
        temporary.write_bytes(as_safetensors({name: np.ascontiguousarray(value) for name, value in arrays.items()}))
    common = {"name": folder.name, "version": "1", "role": "reference", "needs": [], "licence": UNSTATED}
    rest = {"metrics": {}, "not_meant_for": list(NOT_MEANT_FOR)}
    return bundle.save(folder, {**common, **card, **rest}, {ARRAYS: folder / ARRAYS})


def _read(folder: Path, architecture: str) -> tuple[Mapping[str, Any], dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found = bundle.load(folder)
    if found.card["architecture"] != architecture:
        raise BundleError(
            f"{folder}: is a bundle of {found.card['architecture']!r}, not {architecture!r}; give another"
        )
    try:
        return found.card, load_file(found.file(ARRAYS))
    except SafetensorError as error:
        raise BundleError(f"{folder / ARRAYS}: cannot be read ({error}); make it again") from None
