"""``brainage genmind import``: make a bundle of the models and the dataset that GenMIND's authors released."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bids_brainage.core.errors import UsageError


def add_parser(actions: Any) -> None:
    """Add ``import``."""
    made = actions.add_parser("import", help="read the released GenMIND models, running nothing", description=__doc__)
    made.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="kde_RACE_SEX.npz, col_dict.npz, genmind_dataset.csv, or a folder of them",
    )
    made.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="new folder")
    made.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import the files and print a line a category."""
    from bids_brainage.cohort.published import NAMES, read_dataset, read_published
    from bids_brainage.cohort.store import save_published
    from bids_brainage.core.files import sha256
    from bids_brainage.training.card import free, writing

    files = [path for given in args.files for path in _released(given)]
    if absent := [path for path in files if not path.is_file()]:
        raise UsageError(f"{absent[0]}: no such file; give the released files")
    tables = [path for path in files if path.suffix == ".csv"]
    if len(tables) > 1:
        raise UsageError(f"{tables[1]}: a second table; give one")
    densities = [path for path in files if path not in tables]
    if not tables and {path.name for path in densities} <= {NAMES}:
        raise UsageError(
            f"{args.files[0]}: is or holds no density and no dataset; give kde_RACE_SEX.npz or the dataset"
        )
    out = free(args.out)
    categories = read_published(densities)
    dataset = read_dataset(tables[0]) if tables else None
    with writing(out) as folder:
        save_published(folder, categories, dataset, {path.name: sha256(path) for path in files})
    for category in categories:
        print(f"{category.race}\t{category.sex}\t{len(category.centres)} centres\tbandwidth {category.bandwidth:g}")
    if dataset is not None:
        print(f"dataset\t{len(dataset)} people")
    return 0


def _released(given: Path) -> list[Path]:
    """The released files of a folder, or the one that was given."""
    return sorted([*given.glob("*.npz"), *given.glob("*.csv")]) if given.is_dir() else [given]
