"""The real app on simulated heads, run once for all end-to-end tests; no call may change the dataset."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_brainage.core.files import sha256


@dataclass(frozen=True)
class Run:
    """One call of the app: where it read and wrote, its exit code and what it said."""

    bids: Path
    out: Path
    work: Path
    code: int
    said: str


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    return {
        str(p.relative_to(folder)): (sha256(p), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()
    }


def app(bids: Path, out: Path, level: str, work: Path, *words: str) -> Run:
    """Call ``bids-brainage`` as a user does, in a process of its own; every file of the dataset stays as it was."""
    before = tree(bids)
    argv = [sys.executable, "-m", "bids_brainage.cli", str(bids), str(out), level, "-w", str(work), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=1800)
    assert tree(bids) == before
    return Run(bids, out, work, done.returncode, done.stderr + done.stdout)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A BIDS dataset of simulated people: four, one with two sessions, one with two runs."""
    from bids_brainage.simulate.cohort import simulate_dataset

    return simulate_dataset(tmp_path_factory.mktemp("simulated") / "bids", n=4, seed=0)


@pytest.fixture(scope="session")
def participant(simulated, tmp_path_factory):
    """The participant level on all of them."""
    root = tmp_path_factory.mktemp("app")
    return app(simulated, root / "out", "participant", root / "work", "--device", "cpu")


@pytest.fixture(scope="session")
def group(participant):
    """The group level after it."""
    return app(participant.bids, participant.out, "group", participant.work)
