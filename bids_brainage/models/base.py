"""The contract of a model, and how a bundle becomes one.

A new model is one file here, ``bids_brainage/models/<architecture>.py`` with one subclass of :class:`Model`, and one
bundle whose card names that architecture.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bids_brainage.core.bundle import Bundle
from bids_brainage.core.errors import BundleError
from bids_brainage.core.quality import Measure
from bids_brainage.core.types import Age, Prediction, Sex
from bids_brainage.stats.voxel_bins import VoxelBins

if TYPE_CHECKING:
    from torch import nn

AGE_OUTSIDE_MODEL_RANGE = "age_outside_model_range"
BRAIN_AGE_OUTSIDE_TRAINING_RANGE = "brain_age_outside_training_range"

SEX_CODE: dict[Sex | None, float] = {"F": -0.5, "M": 0.5, None: 0.0}
SEX_MISSING = "sex_missing"

ARCHITECTURE = re.compile(r"[a-z0-9_]+")
NOT_ARCHITECTURES = frozenset({"base", "registry", "releases", "install"})

Inputs = TypeVar("Inputs")


class Contribution(NamedTuple):
    """How far one input moved a brain age.

    Attributes
    ----------
    number : int
        Of the region in the MUSE atlas; 0 for what is no region.
    name : str
        Region, or what else it is (``sex``).
    value : float
        Volume in mm^3 on the scale of the model's training; ``nan`` for what is no volume.
    years : float
        Added to the mean age of training; all contributions and that mean add up to the brain age.
    """

    number: int
    name: str
    value: float
    years: float


class Model(ABC, Generic[Inputs]):
    """A model of brain age, made from a verified bundle; ``Inputs`` is what it computes on.

    Parameters
    ----------
    bundle : Bundle
        Its card says what the model needs, the ages that it was trained on, and its architecture's arguments.

    Attributes
    ----------
    network : module or None
        Its passes go through :func:`bids_brainage.core.passes.through`, by which scans share a GPU.
    """

    network: nn.Module | None = None

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def to(self, device: str) -> Self:
        """Move the network, where there is one, to ``cpu``, ``cuda`` or ``cuda:N``; returns the model."""
        if self.network is not None:
            self.network.to(device)
        return self

    @property
    def name(self) -> str:
        """The name under which users choose it, and that stands in the tables."""
        return self.bundle.name

    @property
    def needs(self) -> frozenset[str]:
        """Artefacts, by name, that :meth:`prepare` reads."""
        return frozenset(self.bundle.card["needs"])

    @property
    def age_range(self) -> tuple[float, float] | None:
        """Youngest and oldest age in years for which the model holds, or ``None`` where the card is silent."""
        limits = self.bundle.card.get("age_range")
        return None if limits is None else (float(limits[0]), float(limits[1]))

    @property
    def training_data(self) -> Literal["real", "simulated"]:
        """Whether it was fitted on real people, or on simulated or synthetic ones, whom nobody scanned."""
        return "simulated" if self.bundle.card["training"].get("kind") in ("simulated", "synthetic") else "real"

    @abstractmethod
    def prepare(self, artefacts: Mapping[str, Any]) -> Inputs:
        """Turn one scan's artefacts into what the model computes on; training uses it too.

        Parameters
        ----------
        artefacts : mapping
            Path by artefact name, for all names in ``needs``; ``"sex"`` is ``"F"``, ``"M"`` or ``None``. It holds
            no age.

        Raises
        ------
        ScanError
            Where an artefact does not hold what the model needs.
        """

    @abstractmethod
    def predict(self, inputs: Sequence[Inputs]) -> list[Prediction]:
        """Brain age of each prepared scan, in order; never clipped to the range that was trained."""

    def explain(self, inputs: Sequence[Inputs]) -> list[list[Contribution]]:
        """What moved each brain age, and by how many years; empty lists where a model cannot say."""
        return [[] for _ in inputs]

    def measures(self, inputs: Sequence[Inputs]) -> list[list[Measure]]:
        """How far each scan lies from what the model was trained on; empty lists where a model cannot say."""
        return [[] for _ in inputs]

    def voxel_bins(self) -> VoxelBins | None:
        """Mean gaps of controls at each voxel of the model's maps, by age; ``None`` where there are none."""
        return None


def load_model(bundle: Bundle) -> Model[Any]:
    """Make the model of a bundle from the architecture that its card names.

    Raises
    ------
    BundleError
        Where this version has no such architecture, or the bundle does not fit it.
    """
    name = bundle.card["architecture"]
    if name not in architectures():
        known = ", ".join(architectures())
        raise BundleError(
            f"{bundle.folder}: no model has the architecture {str(name)[:40]!r} (there are: {known}); "
            "update the app or the bundle"
        )
    module = import_module(f"bids_brainage.models.{name}")
    made: Model[Any] = _model_class(module)(bundle)
    return made


def architectures() -> tuple[str, ...]:
    """Names of the architectures that this version has: the modules beside this one."""
    here = [str(Path(__file__).parent)]
    names = (module.name for module in pkgutil.iter_modules(here) if not module.ispkg)
    return tuple(sorted(n for n in names if ARCHITECTURE.fullmatch(n) and n not in NOT_ARCHITECTURES))


def _model_class(module: Any) -> type[Model[Any]]:
    """``MODEL`` of a module, or the one subclass of :class:`Model` that it defines."""
    chosen = getattr(module, "MODEL", None)
    if chosen is not None:
        return chosen
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    found = [c for c in own if issubclass(c, Model) and not inspect.isabstract(c)]
    if len(found) != 1:
        raise BundleError(f"{module.__name__}: defines {len(found)} models; name one of them MODEL")
    return found[0]


def age_flags(model: Model[Any], age: Age) -> tuple[str, ...]:
    """``age_outside_model_range`` where the chronological age is known and the model was not made for it.

    The caller who knows the age calls this; the model itself never sees it.
    """
    if model.age_range is None or age.years is None or math.isnan(age.years):
        return ()
    low, high = model.age_range
    return () if low <= age.years <= high else (AGE_OUTSIDE_MODEL_RANGE,)


def conformal_half_width(residuals: ArrayLike, coverage: float = 0.9) -> float:
    """Half width of a prediction interval from residuals of people who were left out.

    The ``ceil((n + 1) * coverage)``-th smallest absolute residual. For a new person exchangeable with them,
    ``prediction +- half width`` covers the age with at least ``coverage`` when the residuals come from one fixed
    model; with out-of-fold residuals this holds approximately (Barber et al. 2021, Annals of Statistics 49:486-507).

    Parameters
    ----------
    residuals : array-like, shape (n,)
        Predicted minus true age, in years.
    coverage : float
        Between 0 and 1, both excluded.

    Returns
    -------
    float
        In years; infinite where ``n`` is too small to promise the coverage.

    Raises
    ------
    ValueError
        Where there are no residuals, one is not finite, or the coverage is not between 0 and 1.
    """
    sizes = np.sort(np.abs(np.asarray(residuals, dtype=float)).ravel())
    if not sizes.size or not np.isfinite(sizes).all() or not 0 < coverage < 1:
        raise ValueError("finite residuals and a coverage between 0 and 1 are needed")
    rank = math.ceil(round((sizes.size + 1) * coverage, 9))
    return float(sizes[rank - 1]) if rank <= sizes.size else math.inf


class LocalConformal:
    """Prediction intervals from residuals of people who were left out, wider where residuals are larger.

    Half width at prediction p: ``q s(p)``. ``s`` is the mean absolute residual with Gaussian weights in predicted age
    (Nadaraya-Watson), and ``q`` the conformal quantile of ``|r_i| / s_-i(p_i)``, each person left out of the scale
    that divides their own residual: the normalised conformal interval of Lei et al. (2018), Journal of the American
    Statistical Association 113:1094-1111, section 5.2. The true age takes no part.

    Parameters
    ----------
    predicted, residual : array-like, shape (n,)
        Years, of people whom the model did not see.
    coverage : float
        Between 0 and 1, both excluded.
    bandwidth : float
        SD of the weights in years; infinite for one width everywhere.
    """

    def __init__(self, predicted: ArrayLike, residual: ArrayLike, coverage: float, bandwidth: float) -> None:
        self._predicted, self._size = np.asarray(predicted, float), np.abs(np.asarray(residual, float))
        self._bandwidth = bandwidth
        conformal_half_width(self._size, coverage)
        if self._predicted.shape != self._size.shape or not np.isfinite(self._predicted).all() or not bandwidth > 0:
            raise ValueError("a finite prediction for each residual and a bandwidth above 0 are needed")
        own = self._local_mean(self._predicted, leave_out_own=True) if self._size.size > 1 else self._size
        self._factor = conformal_half_width(self._size / np.maximum(own, 1e-9), coverage)

    def half_width(self, predicted: ArrayLike) -> NDArray[np.float64]:
        """Half width in years at each predicted age, in its shape; infinite where there were too few people."""
        return self._factor * self._local_mean(np.asarray(predicted, float))

    def _local_mean(self, at: NDArray[np.float64], leave_out_own: bool = False) -> NDArray[np.float64]:
        exponent = -0.5 * ((at[..., None] - self._predicted) / self._bandwidth) ** 2
        if leave_out_own:
            np.fill_diagonal(exponent, -np.inf)
        weight = np.exp(exponent - exponent.max(axis=-1, keepdims=True))
        return np.asarray(weight @ self._size / weight.sum(axis=-1))
