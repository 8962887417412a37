"""Makes the tables that the group level reads, and reads those that it writes."""

import csv
from pathlib import Path

COLUMNS = (
    "model",
    "brain_age",
    "brain_age_low",
    "brain_age_high",
    "age",
    "gap",
    "sex",
    "flags",
    "note",
    "training_data",
)


def write_scan(out: Path, stem: str, brain_age, age=None, *, width=9.0, **further):
    """One table of the participant level, with a row a model where ``brain_age`` is a mapping."""
    entities = dict(part.split("-") for part in stem.split("_"))
    folder = out / f"sub-{entities['sub']}" / (f"ses-{entities['ses']}" if "ses" in entities else "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS)]
    for model, value in (brain_age if isinstance(brain_age, dict) else {"roi": brain_age}).items():
        row = dict.fromkeys(COLUMNS, "n/a") | {"model": model, "sex": "F", "training_data": "real"}
        if value is not None:
            row |= {"brain_age": value, "brain_age_low": value - width, "brain_age_high": value + width}
        row |= ({} if age is None else {"age": age}) | further
        lines.append("\t".join(str(row[name]) for name in COLUMNS))
    path = folder / f"{stem}_brainage.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_people(bids: Path, text: str):
    bids.mkdir(parents=True, exist_ok=True)
    (bids / "participants.tsv").write_text(text.replace(" ", "\t") + "\n")


def rows_of(path: Path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def number(text: str) -> float:
    return float("nan") if text == "n/a" else float(text)
