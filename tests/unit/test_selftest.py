"""The self-test sees what differs, and says it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_brainage.toolbox import selftest

STORED = {
    "sub-1": {
        "scan: mean intensity": 100.0, "volume: brain, mL": 1200.0, "region: Hippocampus_R, mm3": 3500.0,
        "region: Fornix_R, mm3": 90.0, "age: roi": 61.0, "age: local": 58.0,
    }
}  # fmt: skip


def changed(name, value):
    return {"sub-1": {**STORED["sub-1"], name: value}}


def test_equal_results_pass():
    found = selftest.compare(STORED, STORED)
    assert {one.share for one in found} == {0.0}
    assert selftest.told(found)[-1].startswith("all 6 values are within their tolerance")


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("scan: mean intensity", 100.05, 100.2),
        ("volume: brain, mL", 1220.0, 1230.0),
        ("region: Hippocampus_R, mm3", 3750.0, 3800.0),
        ("region: Fornix_R, mm3", 140.0, 160.0),
        ("age: roi", 61.9, 62.1),
        ("age: roi", 60.1, math.nan),
        ("age: local", 59.9, 60.1),
    ],
)
def test_each_kind_of_value_has_its_tolerance(name, within, beyond):
    assert max(one.share for one in selftest.compare(STORED, changed(name, within))) <= 1
    found = selftest.compare(STORED, changed(name, beyond))
    assert [one.name for one in found if one.share > 1] == [name]
    assert any(line.startswith("differs") and name in line for line in selftest.told(found))
    assert "1 of 6 values differ: do not trust" in selftest.told(found)[-1]


def test_a_missing_scan_or_value_differs():
    assert all(one.share == math.inf for one in selftest.compare(STORED, {}))


@given(st.floats(0, 200))
def test_the_share_is_that_of_the_tolerance(age):
    (one,) = (d for d in selftest.compare(STORED, changed("age: roi", age)) if d.name == "age: roi")
    assert one.share == pytest.approx(abs(age - 61.0))
