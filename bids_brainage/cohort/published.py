"""The GenMIND models and dataset that their authors released, read as plain arrays.

One ``.npz`` a category (``kde_white_female.npz``, ...), each with a pickled dictionary of a scikit-learn KernelDensity,
its StandardScaler and the names of their columns; ``col_dict.npz`` with other names of the columns; and a table of
synthetic people. The pickles are read by :mod:`bids_brainage.cohort.unpickle`, which runs nothing of them.

Published by https://huggingface.co/spaces/rongguangw/GenMIND. The centres of such a density are the z-scored people
whom it was fitted on: it is data, not only a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from bids_brainage.bids.region_names import index_of
from bids_brainage.bids.roi_tables import load as load_table
from bids_brainage.cohort.people import People
from bids_brainage.cohort.unpickle import Made, NotPlainError, array, number, pickled
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Sex

FloatArray = NDArray[np.float64]

FILE = re.compile(r"kde_(white|black|asian)_(female|male)\.npz", re.IGNORECASE)
NAMES = "col_dict.npz"
SEX: Mapping[str, Sex] = {"female": "F", "male": "M"}
REGIONS = 145
MEAN_AGES = (15.0, 100.0)
AGE = "age"
TREES = {
    (f"sklearn.neighbors.{module}", name)
    for module, tree in (("_kd_tree", "KDTree"), ("_ball_tree", "BallTree"))
    for name in (tree, f"{tree}64", "newObj")
}
METRICS = {("sklearn.metrics._dist_metrics", f"EuclideanDistance{kind}") for kind in ("", "64")}
DENSITY = ("sklearn.neighbors._kde", "KernelDensity")
SCALER = ("sklearn.preprocessing._data", "StandardScaler")
INDEX = {("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.base", "Index"), ("pandas", "Index")}
ADMITTED = frozenset({DENSITY, SCALER, ("sklearn.metrics._dist_metrics", "newObj")} | TREES | METRICS | INDEX)


@dataclass(frozen=True)
class PublishedCategory:
    """The density of one race and sex.

    Attributes
    ----------
    race : str
        ``White``, ``Black`` or ``Asian``.
    sex : {"F", "M"}
    indices : tuple of int
        MUSE indices of the k volumes.
    centres : array, shape (n, k + 1)
        Of the Gaussian kernels, z-scores: the volumes in the order of ``indices``, then age.
    bandwidth : float
        SD of the kernels, in z-scores.
    mean, scale : array, shape (k + 1,)
        mm^3, and years for age: value = mean + scale * z.
    """

    race: str
    sex: Sex
    indices: tuple[int, ...]
    centres: FloatArray
    bandwidth: float
    mean: FloatArray
    scale: FloatArray


def read_published(files: Sequence[Path]) -> tuple[PublishedCategory, ...]:
    """Read released densities, with ``col_dict.npz`` among the files where the names of columns need it.

    Raises
    ------
    UsageError
        Where a file is not called as the released ones, a category comes twice, or a file does not hold what it should.
    """
    other_names: dict[str, str] = {}
    for path in files:
        if path.name == NAMES:
            other_names = read_names(path)
    found = [read_category(path, other_names) for path in files if path.name != NAMES]
    names = [(category.race, category.sex) for category in found]
    if len(set(names)) < len(names):
        raise UsageError(f"{files[0].parent}: one category comes twice; give each once")
    return tuple(found)


def read_names(path: Path) -> dict[str, str]:
    """Another name by name, of ``col_dict.npz``.

    Raises
    ------
    UsageError
        Where it does not hold that.
    """
    found = pickled(path, "dict", INDEX)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{path}: holds no dictionary of names under 'dict'; give the released {NAMES}")
    return found


def read_category(path: Path, other_names: Mapping[str, str]) -> PublishedCategory:
    """Read the density of one category.

    Raises
    ------
    UsageError
        As :func:`read_published`.
    """
    named = FILE.fullmatch(path.name)
    if named is None:
        raise UsageError(f"{path}: is not called kde_RACE_SEX.npz, so its race and sex are not known; keep its name")
    content = pickled(path, "model", ADMITTED)
    try:
        columns = _texts(_dictionary(content)["columns"])
        centres, bandwidth = _density(content["model"])
        mean, scale = _scaler(content["scaler"])
        order, indices = _order(columns, other_names)
        _check(columns, centres, bandwidth, mean, scale, order)
    except (NotPlainError, KeyError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{path}: {reason}; give a released density") from None
    return PublishedCategory(
        named[1].capitalize(), SEX[named[2].lower()], indices, centres[:, order], bandwidth, mean[order], scale[order]
    )


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotPlainError("holds no dictionary")
    return value


def _state(value: Any, kind: tuple[str, str]) -> dict[str, Any]:
    """The attributes of an object of a class."""
    if not isinstance(value, Made) or value.maker.pair != kind or not isinstance(value.state, dict):
        raise NotPlainError(f"has something else where a {kind[1]} is expected")
    return value.state


def _density(value: Any) -> tuple[FloatArray, float]:
    """Centres and bandwidth of a Gaussian KernelDensity whose people all count alike."""
    state = _state(value, DENSITY)
    if (state["kernel"], state["metric"]) != ("gaussian", "euclidean"):
        raise NotPlainError("has a density that is not Gaussian and Euclidean")
    tree = state["tree_"]
    if not isinstance(tree, Made) or tree.maker.name != "newObj" or not isinstance(tree.state, tuple):
        raise NotPlainError("has something else where a tree is expected")
    if isinstance(tree.state[-1], Made) and tree.state[-1].maker.name == "_reconstruct":
        raise NotPlainError("has a density with weights, which is not admitted")
    return _floats(tree.state[0]), number(state.get("bandwidth_", state["bandwidth"]))


def _scaler(value: Any) -> tuple[FloatArray, FloatArray]:
    state = _state(value, SCALER)
    return _floats(state["mean_"]), _floats(state["scale_"])


def _floats(value: Any) -> FloatArray:
    found = array(value)
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise NotPlainError("has an array that is not of finite numbers")
    return found.astype(np.float64)


def _texts(value: Any) -> list[str]:
    """Texts in a list, an array or an index of pandas."""
    if isinstance(value, Made) and value.maker.name == "_new_Index" and isinstance(value.arguments[-1], dict):
        value = value.arguments[-1]["data"]
    found = list(value) if isinstance(value, list | tuple) else array(value).ravel().tolist()
    if not all(isinstance(text, str) for text in found):
        raise NotPlainError("has names of columns that are no texts")
    return found


def _order(columns: Sequence[str], other_names: Mapping[str, str]) -> tuple[list[int], tuple[int, ...]]:
    """Places of the columns with age last, and the MUSE index of each but that."""
    ages = [place for place, name in enumerate(columns) if name.lower().removeprefix("h_") == AGE]
    regions = [place for place in range(len(columns)) if place not in ages]
    indices = [index_of(columns[place], other_names) for place in regions]
    unknown = [columns[place] for place, index in zip(regions, indices, strict=True) if index is None]
    if unknown:
        raise NotPlainError(f"has columns that are no MUSE region ({', '.join(unknown[:3])}); give {NAMES} with it")
    known = tuple(index for index in indices if index is not None)
    if len(ages) != 1 or len(set(known)) != REGIONS or len(known) != REGIONS:
        raise NotPlainError(f"has {len(set(known))} regions and {len(ages)} ages, where {REGIONS} and one are expected")
    return [*regions, *ages], known


def _check(
    columns: Sequence[str], centres: FloatArray, bandwidth: float, mean: FloatArray, scale: FloatArray, order: list[int]
) -> None:
    """What would make nonsense of the density."""
    k = len(columns)
    if centres.ndim != 2 or centres.shape[1] != k or mean.shape != (k,) or scale.shape != (k,) or not len(centres):
        raise NotPlainError("has a density, a scaler and columns that do not fit each other")
    if not 0 < bandwidth < np.inf or (scale <= 0).any():
        raise NotPlainError("has a bandwidth or a scale that is not positive")
    if not MEAN_AGES[0] <= mean[order[-1]] <= MEAN_AGES[1]:
        raise NotPlainError(f"has a mean age of {mean[order[-1]]:g} years")


def read_dataset(path: Path) -> People:
    """Read the table of synthetic people: ``SampleID``, ``Sex``, ``Race``, ``Age`` and 145 volumes, CSV.

    They have no intracranial volume. Volumes below zero, which a Gaussian kernel makes, stay as they are.

    Raises
    ------
    UsageError
        Where it cannot be read, a column is missing or unknown, or a value is no number.
    """
    frame = load_table(path)
    named = {str(name).lower(): str(name) for name in frame}
    if absent := [name for name in ("sampleid", "sex", "race", AGE) if name not in named]:
        raise UsageError(f"{path}: lacks column {', '.join(absent)}; give the released dataset")
    own = [named[name] for name in ("sampleid", "sex", "race", AGE)]
    regions = [str(name) for name in frame if str(name) not in own]
    try:
        order, indices = _order([*regions, own[-1]], {})
        values = frame[[[*regions, own[-1]][place] for place in order]].to_numpy(dtype=str).astype(np.float64)
    except (NotPlainError, ValueError) as error:
        raise UsageError(f"{path}: {error}; give the released dataset") from None
    sex = frame[own[1]].to_numpy(dtype=str)
    if not np.isfinite(values).all() or not set(sex.tolist()) <= set(get_args(Sex)):
        raise UsageError(f"{path}: has a value that is no number, or a sex other than F and M; get it again")
    return People(
        tuple(frame[own[0]].astype(str)),
        values[:, -1],
        {"sex": sex, "race": frame[own[2]].to_numpy(dtype=str)},
        indices,
        values[:, :-1],
    )
