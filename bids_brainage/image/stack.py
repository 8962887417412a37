"""Maps of many people on one grid, kept on disk: a person at a time, or a chunk of voxels of all people at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_brainage.core.errors import ScanError
from bids_brainage.image.io import Grid, Volume, read, same_grid

CHUNK_BYTES = 32 * 2**20
MOST_VOXELS = 8192
LEAST_COVERED = 0.9


class Stack:
    """Values of people at the voxels that the maps of all of them hold; 4 bytes a person and voxel, in a nameless file.

    Parameters
    ----------
    folder : Path
        Where the file lies; it is gone with the process, however that ends.
    grid : Grid
        Of all maps.
    inside : array of bool, grid.shape
        Voxels to begin with; each person may take some away.
    """

    def __init__(self, folder: Path, grid: Grid, inside: NDArray[np.bool_]) -> None:
        self.grid, self.inside = grid, inside
        self.n = 0
        self._held = np.ones(int(inside.sum()), dtype=bool)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as the stack

    def append(self, data: NDArray, name: str) -> None:
        """Add a person: a map on the grid, in which what is not finite is not covered; ``name`` for messages.

        Raises
        ------
        ScanError
            Where it covers less than nine tenths of the voxels to begin with; nothing is added.
        """
        values = np.asarray(data, np.float32)[self.inside]
        known = np.isfinite(values)
        if known.mean() < LEAST_COVERED:
            raise ScanError(f"{name}: covers {100 * known.mean():.0f} % of what other maps cover; check the scan")
        self._file.write(values.tobytes())
        self._held &= known
        self.n += 1

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Voxels that all people cover, grid.shape."""
        found = np.zeros_like(self.inside)
        found[self.inside] = self._held
        return found

    @property
    def n_voxels(self) -> int:
        """Their number."""
        return int(self._held.sum())

    def _all(self) -> NDArray[np.float32]:
        """The file as an array, (people, voxels to begin with); map it anew for each use, so that pages are let go."""
        return np.memmap(self._file, dtype=np.float32, mode="r", shape=(self.n, len(self._held)))

    def rows(self, people: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The voxels of one person after the other, (voxels,)."""
        for person in people:
            yield np.asarray(self._all()[person])[self._held]

    def chunks(self, people: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """Some voxels of all these people after the other, (people, voxels of the chunk)."""
        size = min(MOST_VOXELS, max(1, CHUNK_BYTES // (4 * max(len(people), 1))))
        for start in range(0, len(self._held), size):
            here = self._held[start : start + size]
            if here.any():
                yield self._all()[np.asarray(people), start : start + size][:, here]

    def volume(self, values: NDArray) -> NDArray[np.float32]:
        """Values of the voxels, (voxels,), as a map on the grid; ``nan`` elsewhere."""
        made = np.full(self.grid.shape, np.nan, np.float32)
        made[self.mask] = values
        return made


def read_map(path: Path, grid: Grid | None = None) -> Volume:
    """Read a map of ages: ``nan`` where it is 0 or no number.

    Raises
    ------
    ScanError
        Where it cannot be read, is not 3D, lies on another grid than ``grid``, or holds nothing.
    """
    image = read(path)
    if image.data.ndim != 3:
        raise ScanError(f"{path}: is not 3D; run the participant level again")
    if grid is not None and not same_grid(image.grid, grid):
        raise ScanError(f"{path}: lies on another grid than the other maps; run the participant level again")
    known = np.isfinite(image.data) & (image.data != 0)
    if not known.any():
        raise ScanError(f"{path}: holds no value; run the participant level again")
    return Volume(np.where(known, image.data, np.float32(np.nan)), image.affine)
