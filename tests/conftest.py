"""Shared fixtures: where the measurement data lies, if it is there."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# no property is false because a machine is slow
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans and tables beside the checkout; skips where it is absent."""
    if not (SHARED / "README.md").is_file():
        pytest.skip(f"needs the measurement data at {SHARED}, which is not part of the repository")
    return SHARED


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Leave the app's logger as it was: running the app within a test gives it a handler and stops propagation."""
    log = logging.getLogger("bids_brainage")
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
