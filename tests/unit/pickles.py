"""Files of the form of the published GenMIND models, made by the installed libraries."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from bids_brainage.image.muse import regions

COLUMNS = [*(f"H_MUSE_Volume_{region.number}" for region in regions()), "Age"]
BANDWIDTH = 0.7


def people(n: int = 40, seed: int = 0) -> np.ndarray:
    """145 volumes and age, (n, 146)."""
    rng = np.random.default_rng(seed)
    return np.hstack([rng.normal(5000, 500, (n, 145)), rng.uniform(40, 90, (n, 1))])


def contents(values: np.ndarray, columns: Any = COLUMNS, **options: Any) -> dict[str, Any]:
    scaler = StandardScaler().fit(values)
    density = KernelDensity(bandwidth=BANDWIDTH, **options).fit(scaler.transform(values))
    return {"model": density, "scaler": scaler, "columns": columns}


def write(folder: Path, what: Any, name: str = "kde_white_female.npz", key: str = "model") -> Path:
    np.savez(folder / name, **{key: what})
    return folder / name
