"""What a validation leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_brainage.bids.tables import write_tsv
from bids_brainage.core.files import write_json
from bids_brainage.training.validate.figure import WARNING, draw, write_page
from bids_brainage.training.validate.run import Result
from bids_brainage.training.validate.table import COLUMNS

TABLE, DETAILS, PICTURE, PAGE = "validation.tsv", "validation.json", "validation.png", "validation.html"


def write(out: Path, found: Result, settings: Mapping[str, Any]) -> Path:
    """Write table, details, picture and page; the page last.

    Returns
    -------
    Path
        The page.
    """
    cells = [row.cells() for row in found.rows]
    write_tsv(out / TABLE, cells, COLUMNS)
    write_json(out / DETAILS, {"Description": WARNING, **settings, "figures": cells})
    picture = draw(found.rows, found.example, out / PICTURE)
    return write_page(found.rows, settings, picture, out / PAGE)
