"""``brainage predict``: brain age from a table of MUSE volumes that somebody already has."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bids_brainage.bids.roi_tables import RoiTable
    from bids_brainage.models.roi import RoiModel

UNUSABLE = "unusable"
SESSION = "session_id"
SCALES = ("dlmuse-1mm", "dlmuse-2mm")


def add_parser(subparsers: Any) -> None:
    """Add the command to the toolbox's parser."""
    parser = subparsers.add_parser(
        "predict",
        help="brain age from a table of MUSE volumes",
        description="Predict the brain age of each row of a table of MUSE volumes in mm^3 (TSV, CSV or parquet): "
        "columns MUSE_47, DL_MUSE_Volume_47, bare 47 or region names, with the ICV (702), participant_id or MRID, and "
        "age and sex where known; or of the app's own *_desc-muse_volumes.tsv. Ages are never shown to the model.",
    )
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="TSV: a row a person")
    parser.add_argument("--model", default="roi", metavar="NAME", help="a model of the roi kind (default: roi)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="folder with further bundles")
    add_scale(parser)
    parser.set_defaults(run=run)


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Add ``--scale``, of a table of volumes."""
    parser.add_argument(
        "--scale", choices=SCALES, help="voxel size of the scans that were segmented (default: 1 mm; the app's: 2 mm)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the table of brain ages; 1 where a row gave none."""
    from bids_brainage.bids import roi_tables
    from bids_brainage.bids.tables import write_tsv
    from bids_brainage.cohort.scales import scale_of
    from bids_brainage.core.errors import UsageError
    from bids_brainage.models.base import load_model
    from bids_brainage.models.registry import find, search_path
    from bids_brainage.models.roi import RoiModel
    from bids_brainage.workflows.predict import COLUMNS

    if args.out.resolve() == args.table.resolve():
        raise UsageError(f"{args.out}: is the table itself; give another file")
    home = os.environ.get("BIDS_BRAINAGE_HOME")
    model = load_model(find(args.model, search_path(args.models_dir, Path(home) if home else None)))
    if not isinstance(model, RoiModel):
        raise UsageError(f"--model {args.model}: does not predict from regional volumes; choose one that does")
    table = roi_tables.read(args.table)
    rows = predictions(model, table, args.scale or scale_of(args.table), args.table)
    sessions = table.others.get(SESSION)
    if sessions is not None:
        rows = [one | {SESSION: session or "n/a"} for one, session in zip(rows, sessions, strict=True)]
    write_tsv(args.out, rows, ["participant_id", *([SESSION] if sessions is not None else []), *COLUMNS])
    lost = [row["participant_id"] for row in rows if row["brain_age"] == "n/a"]
    print(f"{args.out}: brain age of {len(rows) - len(lost)} of {len(rows)} rows by {model.name}")
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        print(f"brainage: {len(lost)} rows without brain age ({shown}); see their note", file=sys.stderr)
    return 1 if lost else 0


def predictions(model: RoiModel, table: RoiTable, scale: str, path: Path) -> list[dict[str, Any]]:
    """One row a person, with the columns of the app's table of brain ages; ``path`` for messages.

    A row whose volumes cannot be used has no brain age, the flag ``unusable``, and a note that says why.
    """
    from bids_brainage.bids.roi_tables import check_share
    from bids_brainage.core.errors import UsageError
    from bids_brainage.models.base import age_flags
    from bids_brainage.models.roi import ICV
    from bids_brainage.workflows.predict import row

    absent = [index for index in (ICV, *model.indices) if index not in table.columns]
    if absent:
        raise UsageError(
            f"the table lacks {len(absent)} of the {len(model.indices) + 1} volumes of {model.name} "
            f"(MUSE {', '.join(map(str, absent[:5]))}{', ...' if len(absent) > 5 else ''}); add their columns"
        )
    volumes, icv = table.select(model.indices), table.select([ICV])[:, 0]
    check_share(path, volumes, icv)
    reasons = [unusable(*one, model.indices) for one in zip(volumes, icv, strict=True)]
    good = [n for n, reason in enumerate(reasons) if not reason]
    found = model.predict([model.inputs(volumes[n], icv[n], table.sex[n], scale) for n in good])
    rows = [nothing(model.name, table, n, reason) for n, reason in enumerate(reasons)]
    for n, prediction in zip(good, found, strict=True):
        flags = age_flags(model, table.age[n])
        rows[n] = {"participant_id": table.who[n], **row(prediction, table.age[n], table.sex[n], flags)}
    return rows


def unusable(volumes: Any, icv: float, indices: Sequence[int]) -> str:
    """Why a row gives no brain age, or empty."""
    import numpy as np

    from bids_brainage.models.roi import MOST_EMPTY

    if not (np.isfinite(icv) and icv > 0):
        return "the ICV is missing or not positive"
    bad = np.flatnonzero(~(np.isfinite(volumes) & (volumes >= 0)))
    if bad.size:
        return f"MUSE_{indices[int(bad[0])]} is missing or negative"
    empty = np.flatnonzero(volumes == 0)
    if empty.size > MOST_EMPTY:
        return f"{empty.size} regions are empty (MUSE_{indices[int(empty[0])]}, ...): the segmentation failed"
    return ""


def nothing(model: str, table: RoiTable, n: int, reason: str) -> dict[str, Any]:
    """A row without brain age."""
    from bids_brainage.workflows.predict import COLUMNS

    years = table.age[n].years
    return {
        "participant_id": table.who[n],
        **dict.fromkeys(COLUMNS, "n/a"),
        "model": model,
        "age": "n/a" if years is None else f"{years:g}",
        "sex": table.sex[n] or "n/a",
        "flags": UNUSABLE,
        "note": reason,
    }
