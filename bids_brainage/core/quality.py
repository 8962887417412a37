"""Quality gates: what is measured of every scan, and between which bounds it is trusted; all thresholds are here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

INF = math.inf


class Gate(NamedTuple):
    """Bounds of one measure, the unit, the flag that a scan beyond them gets, and what is measured."""

    low: float
    high: float
    unit: str
    flag: str
    meaning: str


GATES = {
    "brain_ml": Gate(700, 2000, "mL", "brain_volume_unusual", "Volume of the brain mask before the atlas refines it"),
    "icv_ml": Gate(900, 2300, "mL", "brain_volume_unusual", "Volume of the intracranial mask"),
    "brain_share": Gate(0.55, 0.97, "", "brain_volume_unusual", "Share of the intracranial mask that is brain"),
    "brain_elongation": Gate(1.2, 1.8, "", "brain_shape_unusual", "Longest over shortest principal axis of the brain"),
    "cut_cm2": Gate(0, 10, "cm^2", "brain_cut", "Largest section of the intracranial mask within 8 mm of a face of the "
                    "field of view (of the brain mask at the face itself where the scan came stripped)"),
    "contrast_explained": Gate(0.25, INF, "", "segmentation_uncertain", "Share of the intensity variance within the "
                               "skull that the segmented structures explain"),
    "mask_dice": Gate(0.8, INF, "", "mask_disagrees", "Dice of the mask that was given (or SynthStrip's) and the "
                      "network's"),
    "similarity": Gate(0.45, INF, "", "registration_uncertain", "Correlation of the registered brain and template"),
    "affine_determinant": Gate(0.42, 1.3, "", "registration_uncertain", "Volume of the scanned brain over the "
                               "template's, by the affine part of the registration"),
    "jacobian_low": Gate(0.1, INF, "", "registration_uncertain", "Lowest (0.1 %) volume change of the warp"),
    "jacobian_high": Gate(-INF, 10, "", "registration_uncertain", "Highest (99.9 %) volume change of the warp"),
    "white_over_grey": Gate(1.05, INF, "", "contrast_not_t1w", "Mean intensity of white matter over grey matter"),
    "tissue_contrast": Gate(1.0, INF, "SD", "low_contrast", "Difference of white and grey matter in SDs within them"),
    "regions_empty": Gate(-INF, 5, "", "regions_empty", "Regions of the atlas that hold not one voxel of 2 mm"),
    "regions_beyond": Gate(-INF, 30, "%", "volumes_beyond_reference", "Regions outside the centiles 0.5 to 99.5 of "
                           "healthy people of this age and sex"),
}  # fmt: skip


class Measure(NamedTuple):
    """What was measured, the bounds, and the flag if it lies beyond them."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    flag: str

    @property
    def raised(self) -> bool:
        """Whether it lies beyond the bounds, or is no number."""
        return not self.low <= self.value <= self.high


def judged(values: Mapping[str, float]) -> list[Measure]:
    """Measures by name beside their bounds, in the order of :data:`GATES`.

    Raises
    ------
    KeyError
        Where a measure has no gate.
    """
    unknown = set(values) - set(GATES)
    if unknown:
        raise KeyError(f"no gate for {', '.join(sorted(unknown))}")
    return [
        Measure(name, values[name], gate.low, gate.high, gate.unit, gate.flag)
        for name, gate in GATES.items()
        if name in values
    ]


def flags(measures: Iterable[Measure]) -> tuple[str, ...]:
    """The flags that are raised, each once."""
    return tuple(dict.fromkeys(one.flag for one in measures if one.raised))


def table() -> str:
    """The gates as a Markdown table, for the docs."""
    rows = (
        f"| `{name}` | {_bound(gate.low)} | {_bound(gate.high)} | {gate.unit} | `{gate.flag}` | {gate.meaning} |\n"
        for name, gate in GATES.items()
    )
    return "| measure | at least | at most | unit | flag beyond | what |\n|---|---|---|---|---|---|\n" + "".join(rows)


def _bound(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else ""
