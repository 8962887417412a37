"""What the dataset knows of the people with a result, and where the two do not meet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from bids_brainage.bids.ages import Register
from bids_brainage.bids.tables import but_for_zeros, is_there, join_people, meets_nobody, participants_frame, read_tsv
from bids_brainage.workflows.tables import PEOPLE

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("bids_brainage")
TOLD = ("participant_id", "session_id", "age", "sex")
YEARS_APART = 0.01


def joined(people: pd.DataFrame, bids_dir: Path, phenotype: Path | None, *, everybody: bool) -> pd.DataFrame:
    """``people`` with all own columns, and those of the dataset that have other names; the log says what is amiss.

    Where ``people`` are everybody with a result, it says also who of the tables has none.
    """
    known = participants_frame(bids_dir, phenotype)
    lost = meets_nobody(phenotype, people) if phenotype and everybody else []
    if lost:
        LOG.warning("%s: %d rows are of nobody with a result, e.g. %s", phenotype, len(lost), lost[0])
    if is_there(bids_dir / "participants.tsv"):
        listed = participants_frame(bids_dir) if phenotype else known
        for said in (*_unmet(people, listed, everybody), _aged(people, bids_dir)):
            if said:
                LOG.warning("%s: %s", bids_dir / "participants.tsv", said)
    own = _own(known, phenotype)
    if own:
        LOG.warning("%s: not taken from the dataset's tables; results have columns of that name", ", ".join(own))
    return join_people(people.reindex(columns=[*PEOPLE]), known)


def _own(known: pd.DataFrame, phenotype: Path | None) -> list[str]:
    """Columns that nobody should expect to be used: of names of results; age and sex of a phenotype table, too."""
    usual = set(TOLD)
    if phenotype:
        usual -= {"age", "sex"} & set(next(iter(read_tsv(phenotype)), {}))
    return [name for name in known.columns if name in PEOPLE and name not in usual]


def _unmet(people: pd.DataFrame, known: pd.DataFrame, everybody: bool) -> list[str]:
    """People with a result and no row, and those with a row and no result, in words."""
    measured, described = (list(dict.fromkeys(table["participant_id"])) for table in (people, known))
    without_row = [who for who in measured if who not in set(described)]
    without_result = [who for who in described if who not in set(measured)] if everybody else []
    said = []
    if without_row:
        found = but_for_zeros(without_row[0], described)
        hint = f" (there is {found}: were zeros lost?)" if found else ""
        said.append(
            f"{len(without_row):,} of {len(measured):,} people with a result have no row, e.g. {without_row[0]}{hint}"
        )
    if without_result:
        said.append(f"{len(without_result):,} of its people have no result, e.g. {without_result[0]}")
    return said


def _aged(people: pd.DataFrame, bids_dir: Path) -> str:
    """Whose age is another now than when the participant level ran, in words."""
    register = Register(bids_dir)
    rows = people[["participant_id", "session_id", "age"]].drop_duplicates()
    sessions = rows.groupby("participant_id")["session_id"].nunique()
    apart: dict[str, None] = {}
    for who, session, age in rows.itertuples(index=False):
        now = register.of(who.removeprefix("sub-"), session.removeprefix("ses-") or None, int(sessions[who])).age.years
        # an age of the participant may be that of another session: which had none before says nothing
        if now is not None and (not session if age != age else abs(now - age) > YEARS_APART):
            apart[who] = None
    if not apart:
        return ""
    return (
        f"{len(apart):,} people have another age there than in their results, e.g. {next(iter(apart))}; run the "
        "participant level again"
    )
