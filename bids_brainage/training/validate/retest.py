"""People scanned twice: how far the same person's maps differ where nothing but the errors of the scan does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_brainage.stats.voxelwise import icc
from bids_brainage.training import evaluate
from bids_brainage.training.validate.table import Key, Row, reliability, without_interval


class Pairs:
    """Gaps of people scanned twice, by one model: the voxels on disk, the means in memory.

    Parameters
    ----------
    folder : Path
        Takes a file a person.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.means: list[tuple[float, float]] = []
        self.voxel_sd: list[float] = []
        folder.mkdir(parents=True)

    def add(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
        """Add a person: the gaps (years) at the voxels of the brain, shape (voxels,), of both scans."""
        np.save(self.folder / f"{len(self.means):05d}.npy", np.stack([first, second]))
        self.means.append((float(first.mean(dtype=np.float64)), float(second.mean(dtype=np.float64))))
        self.voxel_sd.append(float(np.sqrt(np.mean((first - second).astype(np.float64) ** 2) / 2)))

    def maps(self) -> Iterator[NDArray[np.float32]]:
        """Both scans of each person, shape (2, voxels)."""
        return (np.load(self.folder / f"{number:05d}.npy") for number in range(len(self.means)))

    def rows(self, bundle: str, generator: str, name: str, seed: int) -> list[Row]:
        """Within-person SD and ICC(2,1) of the global gap and of voxels; of the voxels' ICC the median, no interval."""
        found = reliability(bundle, generator, name, self.means, seed)
        sd = evaluate.mean(np.array(self.voxel_sd), seed)
        key = Key(bundle, generator, f"{name}_sd_voxel", "brain")
        found.append(Row(key, sd["value"], sd["low"], sd["high"], len(self.means)))
        median = float(np.nanmedian(icc(self.maps()).agreement))
        return [*found, without_interval(key._replace(quantity=f"{name}_icc_voxel_median"), median, len(self.means))]
