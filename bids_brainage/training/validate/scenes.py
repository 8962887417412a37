"""Simulated scans and what each model makes of them; models see the tissue maps and the sex, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import UsageError
from bids_brainage.image.io import Grid, Volume, refines, resample, same_grid, window
from bids_brainage.image.modulate import RESOLUTION
from bids_brainage.image.template import DEFAULT
from bids_brainage.models.local import LocalInputs, LocalModel
from bids_brainage.simulate.aging import Fractions, fractions
from bids_brainage.simulate.anatomy import Anatomy
from bids_brainage.simulate.maps import Scheme, Site, TissueMaps, Tissues, template_grid, tissue_maps, tissues
from bids_brainage.simulate.person import Person
from bids_brainage.training.local.store import ages_on

SPACINGS = (1.0, 4.0)
"""Voxel sizes at which tissue maps can be simulated, mm."""
_SHARES_MM = 4


class Scene(NamedTuple):
    """One simulated scan.

    Attributes
    ----------
    truth : float32 array, (x, y, z)
        Local age, years; 0 outside the brain.
    ages : list of float32 array, (x, y, z)
        What each model says, years; ``nan`` outside the brain.
    """

    truth: NDArray[np.float32]
    ages: list[NDArray[np.float32]]


class Stage(NamedTuple):
    """Where scans are made: a base anatomy and what is derived from it, and the models that see them."""

    tissues: Tissues
    shares: Fractions
    models: Sequence[LocalModel]

    def scene(self, person: Person, age: float, seed: int, scheme: Scheme, site: Site) -> Scene:
        """A scan of a person (age in years); ``seed`` draws the errors of registration and segmentation."""
        rng, grid = np.random.default_rng((seed, 6)), self.models[0].brain.grid
        spacing = made_at(grid)
        made = tissue_maps(person, age, self.tissues, self.shares, rng, spacing=spacing, site=site, scheme=scheme)
        truth = ages_on(grid, Volume(made.age_map, made.affine)).data
        return Scene(truth, [model.ages(inputs(model, made, person)) for model in self.models])


def stage(base: Anatomy, models: Sequence[LocalModel]) -> Stage:
    """A base anatomy made ready."""
    return Stage(tissues(base), fractions(base, _SHARES_MM), models)


def inputs(model: LocalModel, made: TissueMaps, person: Person) -> LocalInputs:
    """What a model is given of a simulated scan."""
    maps = [Volume(resample(Volume(part, made.affine), model.brain.grid), model.brain.affine) for part in made[:2]]
    parts = [window(part, model.window.start, model.window.shape).data for part in maps]
    return LocalInputs(np.stack(parts), person.sex, Path(f"simulated person {person.label}"))


def made_at(grid: Grid) -> float:
    """Voxel size (mm) of the maps that models of this grid are given: the app's, where the grid divides into it."""
    return RESOLUTION if refines(Grid(*template_grid(RESOLUTION)), grid) else round(float(grid.zooms[0]), 4)


def spacing_of(models: Sequence[LocalModel]) -> float:
    """Voxel size of the models' maps, mm."""
    return round(float(models[0].brain.grid.zooms[0]), 4)


def check(models: Sequence[LocalModel]) -> None:
    """Refuse models that simulated maps do not fit, or that cannot be compared voxel by voxel.

    Raises
    ------
    UsageError
        Where a model is of another template or voxel size, or the models' brains differ.
    """
    for model in models:
        template, spacing = model.bundle.card.get("template"), spacing_of([model])
        if template != DEFAULT or not SPACINGS[0] <= spacing <= SPACINGS[1]:
            raise UsageError(
                f"{model.bundle.folder}: is of {template} at {spacing:g} mm; people are simulated in {DEFAULT} at "
                f"{SPACINGS[0]:g} to {SPACINGS[1]:g} mm"
            )
        if not same_grid(model.brain.grid, Grid(*template_grid(spacing))):
            raise UsageError(f"{model.bundle.folder}: its grid is not the template's; train it again")
        if not np.array_equal(model.brain.data, models[0].brain.data):
            raise UsageError(f"{model.bundle.folder}: has another brain or voxel size; validate it by itself")
