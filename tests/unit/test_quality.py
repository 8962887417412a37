"""What is measured of a scan stands beside its bounds, and a value beyond them raises its flag."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.core import quality
from bids_brainage.core.flags import FLAGS
from bids_brainage.core.quality import GATES
from bids_brainage.workflows.predict import QUALITY, quality_row, reference_share


def test_every_gate_has_a_flag_that_is_explained():
    assert {gate.flag for gate in GATES.values()} <= set(FLAGS)


@given(st.sampled_from(sorted(GATES)), st.floats(allow_nan=True, allow_infinity=True))
def test_a_value_raises_its_flag_exactly_where_it_is_beyond_its_bounds(name, value):
    gate = GATES[name]
    (one,) = quality.judged({name: value})
    assert one.raised == (math.isnan(value) or value < gate.low or value > gate.high)
    assert quality.flags([one]) == ((gate.flag,) if one.raised else ())
    shown = quality_row(one)
    assert set(shown) == set(QUALITY)
    assert shown["flag"] == (gate.flag if one.raised else "n/a")
    assert (shown["value"] == "n/a") == (not math.isfinite(value))


def test_a_flag_of_two_measures_is_raised_once_and_the_order_is_that_of_the_table():
    found = quality.judged({"icv_ml": 100.0, "brain_ml": 100.0})
    assert [one.name for one in found] == ["brain_ml", "icv_ml"]
    assert quality.flags(found) == ("brain_volume_unusual",)


def test_a_measure_without_a_gate_is_refused():
    with pytest.raises(KeyError, match="no gate for weight"):
        quality.judged({"weight": 1.0})


def test_the_share_beyond_the_reference_counts_each_region_with_a_centile_once():
    rows = [{"index": i, "centile": c} for i, c in enumerate(["0", "50", "100", "n/a", "99"])]
    assert reference_share([*rows, *rows]) == {"regions_beyond": 50.0}
    assert reference_share(rows[3:4]) == {}
