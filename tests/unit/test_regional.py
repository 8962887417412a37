"""Partial correlations against pingouin."""

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_brainage.stats.groups import pearson
from bids_brainage.stats.regional import partial_pearson


def sample(seed, n):
    rng = np.random.default_rng(seed)
    covariates = rng.normal(0, 1, (n, 2)) * [9, 1e5] + [60, 1.4e6]
    x = rng.normal(0, 4, n) + 0.1 * covariates[:, 0]
    return x, 900 - 10 * x + rng.normal(0, 30, n) + 1e-4 * covariates[:, 1], covariates


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40))
def test_partial_r_is_pingouin_s(seed, n):
    x, y, covariates = sample(seed, n)
    found = partial_pearson(x, y, covariates)
    frame = pd.DataFrame({"x": x, "y": y, "a": covariates[:, 0], "b": covariates[:, 1]})
    known = pingouin.partial_corr(frame, "x", "y", ["a", "b"]).iloc[0]
    assert found.r.value == pytest.approx(float(known["r"]), abs=1e-5)
    assert found.p == pytest.approx(float(known[next(c for c in known.index if c.startswith("p"))]), rel=1e-3, abs=1e-8)
    assert found.r.low < found.r.value < found.r.high
    plain = pearson(x, y)
    assert tuple(partial_pearson(x, y).r) == pytest.approx(tuple(plain), abs=1e-9)


def test_fisher_s_interval_holds_95_of_100():
    held = 0
    rng = np.random.default_rng(0)
    for _ in range(1000):
        z = rng.normal(0, 1, (25, 3))
        x, y = z @ [0.6, 0.8, 0], z @ [0.6, 0, 0.8]  # given the first, unrelated to each other
        low, high = partial_pearson(x, y, z[:, :1]).r[1:]
        held += low < 0 < high
    assert 925 <= held <= 975


def test_missing_people_are_left_out_and_too_few_give_no_number():
    x, y, covariates = sample(1, 12)
    x[3], covariates[5, 1] = np.nan, np.nan
    found = partial_pearson(x, y, covariates)
    keep = np.delete(np.arange(12), [3, 5])
    assert found.n == 10
    assert found == partial_pearson(x[keep], y[keep], covariates[keep])
    assert np.isnan(partial_pearson(x[:5], y[:5], covariates[:5]).r.value)
    assert np.isnan(partial_pearson(x[keep], np.ones(10)).r.value)
