"""Scales of MUSE volumes: those of scans segmented at 1 mm and at 2 mm differ by up to three SD of people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bids_brainage.bids.roi_tables import RoiTable, is_of_one_scan
from bids_brainage.bids.tables import dictionary
from bids_brainage.core.errors import UsageError
from bids_brainage.image import muse
from bids_brainage.models.base import load_model
from bids_brainage.models.registry import PACKAGED, find
from bids_brainage.models.roi import SCALE_1MM, SCALE_KEY, SCALES, RoiModel


def scale_of(path: Path) -> str:
    """The scale that the JSON beside a table states; 1 mm for tables that are not the app's and say nothing.

    Raises
    ------
    UsageError
        Where the JSON is damaged, or a table of the app has none.
    """
    beside = path.with_suffix(".json")
    found = dictionary(beside).get(SCALE_KEY)
    if found not in SCALES and is_of_one_scan(path):
        raise UsageError(f"{beside}: is not there, or does not say on which scale the volumes are; give --scale")
    return str(found) if found in SCALES else SCALE_1MM


def scale_of_bundle(card: Mapping[str, Any]) -> str:
    """The scale of the volumes that a generator draws: as its card says, else 1 mm."""
    return str(card.get("volume_scale", SCALE_1MM))


def on_scale(table: RoiTable, scale: str, wanted: str, path: Path) -> RoiTable:
    """A table of volumes on ``scale``, on the scale that is ``wanted``, by the conversion of the ``roi`` that ships.

    Composites are summed anew from their regions; volumes that are neither region, composite nor ICV are ``nan``.
    ``path`` is for messages.

    Raises
    ------
    UsageError
        From 1 mm to 2 mm, or where the intracranial volume, which the conversion needs, is not there.
    """
    if scale == wanted:
        return table
    if wanted != SCALE_1MM:
        raise UsageError(f"{path}: volumes are {scale}, those of the model {wanted}; use a model of these")
    if muse.ICV not in table.columns:
        raise UsageError(
            f"{path}: volumes are {scale}, and have no ICV (MUSE_{muse.ICV}), which their conversion needs; add it"
        )
    model = load_model(find("roi", [PACKAGED]))
    assert isinstance(model, RoiModel)  # noqa: S101 - the package's own
    values, icv = model.conversion(table.select(model.indices), table.select([muse.ICV])[:, 0])
    known = dict(zip(model.indices, values.T, strict=True)) | {muse.ICV: icv}
    for composite in muse.composites():
        if all(member in table.columns for member in composite.members):
            known[composite.number] = np.sum([known[member] for member in composite.members], axis=0)
    if muse.TOTAL_BRAIN in known:
        known[muse.CORTICAL_CSF] = np.maximum(icv - known[muse.TOTAL_BRAIN], 0)
    nothing = np.full(len(table.who), np.nan)
    return replace(table, volumes=np.column_stack([known.get(index, nothing) for index in table.columns]))
