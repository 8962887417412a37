"""Matched synthetic controls on the page of the group: who was matched, how well, and which regions stand out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bids_brainage.reports.style import Section, environment


def sections(out_dir: Path, entry: Mapping[str, Any] | None) -> list[Section]:
    """The section of the controls; none where nobody asked for them.

    Parameters
    ----------
    out_dir : Path
        Where the figure of the balance lies.
    entry : mapping, optional
        ``SyntheticControls`` of ``group_summary.json``.
    """
    if entry is None:
        return []
    parts: Any = environment().get_template("synthetic.html.j2").module
    picture = base64.b64encode((out_dir / entry["Files"]["love_plot"]).read_bytes()).decode()
    words = "Absolute standardised mean differences of the covariates before and after matching"
    plot = Markup('<img alt="{}" src="data:image/png;base64,{}" width="600">').format(words, picture)
    return [Section("synthetic", "Regional volumes against synthetic controls", parts.synthetic(entry, plot))]
