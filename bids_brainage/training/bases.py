"""Base anatomies of simulated people, registered to the template as the app registers a scan.

`simulate` knows nothing of registration, for it is there to judge it; what leads from a base anatomy to the template is
handed to it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bids_brainage.bids.ages import Register
from bids_brainage.bids.index import parse_name
from bids_brainage.core.errors import UsageError
from bids_brainage.core.types import Sex
from bids_brainage.image.io import Grid, Volume
from bids_brainage.image.register import Channels, align, displacement
from bids_brainage.image.template import DEFAULT
from bids_brainage.image.template import template as load_template
from bids_brainage.simulate.aging import Fractions, fractions
from bids_brainage.simulate.anatomy import REGIONS, Anatomy, build
from bids_brainage.simulate.bases import find, of_age, read_base, reference_of
from bids_brainage.simulate.deform import Warp
from bids_brainage.simulate.maps import sum_of
from bids_brainage.training.local.data import people_of

LOG = logging.getLogger("bids_brainage")
WORKING_MM, FIELD_MM = 2, 3.0
WHITEST = max(region.t1 for region in REGIONS)


def registered_bases(folder: Path, step: int = 1) -> Iterator[Anatomy]:
    """The same as of :func:`aged_bases`, each with its way to the template: what tissue maps are made from.

    Raises
    ------
    ScanError
        Where one cannot be registered.
    """
    total = len(find(folder))
    for number, base in enumerate(aged_bases(folder, step), start=1):
        yield replace(base, to_template=to_template(base))
        LOG.info("base anatomy %d of %d registered to %s", number, total, DEFAULT)


def aged_bases(folder: Path, step: int = 1) -> Iterator[Anatomy]:
    """The label maps of a folder as base anatomies of known age, where that is known.

    Ages and sex come from the ``participants.tsv`` of the dataset that the folder is, or is a derivative of. An anatomy
    of unknown age has its regions brought to their share in the template first.

    Parameters
    ----------
    folder : Path
    step : int
        Voxel size, mm: 1, or 2 for quick tests.

    Raises
    ------
    UsageError
        As of `simulate.bases.find` and `simulate.bases.read_base`.
    """
    reference, register = reference_of(build(2)), _register(folder)
    for path in find(folder):
        base = read_base(path, reference, step)
        age, sex = _known(path, register)
        yield of_age(base, age, sex) if age is not None and sex is not None else base


def _register(folder: Path) -> Register | None:
    try:
        return Register(people_of(folder))
    except UsageError:
        return None


def _known(path: Path, register: Register | None) -> tuple[float | None, Sex | None]:
    """Age and sex of whose label map it is, by the entities of its name."""
    name = parse_name(path.name)
    if register is None or name is None:
        return None, None
    person = register.of(name.entities["sub"], name.entities.get("ses"), 1)
    return person.age.years, person.sex


def to_template(base: Anatomy) -> Warp:
    """The map from positions in a base anatomy to the template's space, mm, that the app's registration finds."""
    shares = fractions(base, WORKING_MM)
    with tempfile.TemporaryDirectory() as scratch:
        _, inverse = align(load_template(DEFAULT, WORKING_MM), channels(shares), Path(scratch))
        field = displacement(inverse, _grid(shares, FIELD_MM))
    return Warp(np.ascontiguousarray(np.moveaxis(field, -1, 0)), shares.origin, FIELD_MM)


def channels(shares: Fractions) -> Channels:
    """A brain without noise: mean T1w intensities and shares of grey and white matter."""
    t1w = np.tensordot(np.array([region.t1 / WHITEST for region in REGIONS], np.float32), shares.values, axes=1)
    parts = (t1w, sum_of(shares, white=False), sum_of(shares, white=True))
    affine = _grid(shares, shares.spacing).affine
    return Channels(*(Volume(np.asarray(part, np.float32), affine) for part in parts))


def _grid(shares: Fractions, spacing: float) -> Grid:
    """The box of the shares in voxels of ``spacing`` mm."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = shares.origin
    x, y, z = (int(np.ceil((size - 1) * shares.spacing / spacing)) + 1 for size in shares.values.shape[1:])
    return Grid((x, y, z), affine)
