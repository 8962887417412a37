"""Fixtures of several modules."""

import pytest

from bids_brainage.simulate import aging, anatomy


@pytest.fixture(scope="session")
def base() -> anatomy.Anatomy:
    """The base head at 2 mm, made once."""
    return anatomy.build(2)


@pytest.fixture(scope="session")
def shares(base: anatomy.Anatomy) -> aging.Fractions:
    """Shares of its regions in cells of 4 mm."""
    return aging.fractions(base, 4)
