"""The values that travel between stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sex = Literal["F", "M"]
FILES = {"Input": "path", "Mask": "mask", "Preprocessed": "preproc"}
"""Fields of :class:`Scan` whose content decides the result, by their names in its fingerprint."""
RAW = "raw"
"""What ``DatasetLinks`` calls the dataset itself."""


@dataclass(frozen=True)
class Age:
    """Chronological age in years at the scan, or why it is unknown.

    Attributes
    ----------
    years : float or None
        Age in years; ``None`` where it is missing or censored ("89+").
    note : str
        Why ``years`` is ``None``, or empty.
    """

    years: float | None = None
    note: str = "no age in sessions.tsv or participants.tsv"


@dataclass(frozen=True)
class Scan:
    """One T1w image with all that the dataset says about it.

    Attributes
    ----------
    path : Path
        The NIfTI file in the input dataset.
    entities : mapping of str to str
        BIDS entities in file order by their short names (``sub``, ``ses``, ``run``, ...), values as written
        in the file name (zero padding kept).
    age, sex
        From ``sessions.tsv``, then ``participants.tsv``.
    mask, preproc : Path or None
        A brain mask, or a preprocessed T1w, found in a given derivative dataset.
    preproc_stripped : bool
        Whether ``preproc`` is skull-stripped.
    flags : tuple of str
        What a reader must know of the input, e.g. ``contrast_enhanced``.
    """

    path: Path
    entities: Mapping[str, str]
    age: Age = field(default_factory=Age)
    sex: Sex | None = None
    mask: Path | None = None
    preproc: Path | None = None
    preproc_stripped: bool = False
    flags: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """All entities joined, without suffix: ``sub-01_ses-pre_run-02``."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    @property
    def files(self) -> dict[str, Path]:
        """The files whose content decides the result, by their names in its fingerprint."""
        given = {name: getattr(self, field) for name, field in FILES.items()}
        return {name: path for name, path in given.items() if path is not None}

    @property
    def subject(self) -> str:
        """The participant label without ``sub-``."""
        return self.entities["sub"]

    @property
    def session(self) -> str | None:
        """The session label without ``ses-``, or ``None``."""
        return self.entities.get("ses")


class VoxelMaps(NamedTuple):
    """What a model says of each voxel, on a grid of template space.

    Attributes
    ----------
    age : array of float32, (x, y, z)
        Brain age in years; ``nan`` outside the brain.
    sd : array of float32, (x, y, z), or None
        Its uncertainty (one SD) in years, where the model gives one.
    affine : array, (4, 4)
        From voxels to mm.
    """

    age: NDArray[np.float32]
    sd: NDArray[np.float32] | None
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What one model says of one scan; ages in years.

    Attributes
    ----------
    model : str
        Name of the bundle.
    brain_age, brain_age_low, brain_age_high : float
        Estimate and bounds of its 90 % prediction interval (``nan`` where the model gives none).
    flags : tuple of str
        E.g. ``age_outside_model_range``.
    training_data : {"real", "simulated"}
        What kind of people the model was fitted on.
    maps : VoxelMaps or None
        Voxelwise results, where the model gives any.
    """

    model: str
    brain_age: float
    brain_age_low: float = float("nan")
    brain_age_high: float = float("nan")
    flags: tuple[str, ...] = ()
    training_data: Literal["real", "simulated"] = "real"
    maps: VoxelMaps | None = None
