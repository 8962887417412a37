"""Shared fixtures: where the measurement data lies, if it is there."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans and tables beside the checkout; skips where it is absent."""
    if not (SHARED / "README.md").is_file():
        pytest.skip(f"needs the measurement data at {SHARED}, which is not part of the repository")
    return SHARED
