"""What the stability benchmark found, as it is shown: a row a changed scan, Markdown tables, a table file, a figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, median

from bids_brainage.core.files import write_text

CLEAN = "clean"
LOWEST_DICE, LARGEST_AGE_CHANGE = 0.93, 2.0


@dataclass
class Row:
    """What one changed scan gave; changes are against the clean scan, ``None`` where there is no value."""

    scan: str
    change: str
    dice: float | None = None
    mask_ml: float | None = None
    age: float | None = None
    age_change: float | None = None
    region_change_percent: float | None = None
    icv_change_percent: float | None = None
    flags: str = ""
    message: str = ""

    @property
    def held(self) -> bool:
        """Whether there is a result, and it stayed within the limits."""
        steady = self.age_change is None or abs(self.age_change) <= LARGEST_AGE_CHANGE
        return not self.message and (self.dice is None or self.dice >= LOWEST_DICE) and steady


def markdown(rows: Sequence[Row]) -> str:
    """A table with a line for each change, then every result that is outside the limits or missing."""
    lines = [
        "| change | n | within limits | mask Dice mean | min | age change mean | mean absolute | max absolute "
        "| ROI volume change %, median | flags |",
        "|---" * 10 + "|",
    ]
    for name in dict.fromkeys(row.change for row in rows):
        own = [row for row in rows if row.change == name]
        dice = [row.dice for row in own if row.dice is not None]
        ages = [row.age_change for row in own if row.age_change is not None]
        regions = [row.region_change_percent for row in own if row.region_change_percent is not None]
        cells = [name, str(len(own)), str(sum(row.held for row in own))]
        cells += [shown(dice, fmean, ".3f"), shown(dice, min, ".3f")]
        cells += [shown(ages, fmean, "+.2f"), shown([abs(a) for a in ages], fmean, ".2f")]
        cells += [shown([abs(a) for a in ages], max, ".2f"), shown(regions, median, ".2f"), counted(own)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + outside(rows)


def shown(values: Sequence[float], summary, form: str) -> str:
    """A summary of values as text; empty without values."""
    return format(summary(values), form) if values else ""


def counted(rows: Iterable[Row]) -> str:
    """Flags of rows with how often each was raised, refusals among them."""
    every = [flag for row in rows for flag in (*row.flags.split(), *(["refused"] if row.message else []))]
    return ", ".join(f"{flag} {every.count(flag)}" for flag in sorted(set(every)))


def outside(rows: Sequence[Row]) -> str:
    """A table of every result that is missing or outside the limits."""
    bad = [row for row in rows if not row.held]
    if not bad:
        ages = any(row.age_change is not None for row in rows)
        told = f", every age is within {LARGEST_AGE_CHANGE:g} years" if ages else "; ages were not looked at"
        return f"Every mask has a Dice of {LOWEST_DICE} or more{told}.\n"
    lines = ["| outside the limits | change | Dice | mL | age change | flags | message |", "|---" * 7 + "|"]
    for row in bad:
        cells = (number(row.dice, ".3f"), number(row.mask_ml, ".0f"), number(row.age_change, "+.2f"))
        lines.append("| " + " | ".join((row.scan, row.change, *cells, row.flags, row.message.replace("|", "/"))) + " |")
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    """A value as text; empty where there is none."""
    return "" if value is None else format(value, form)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Every row as TSV."""
    names = [field.name for field in fields(Row)]
    lines = ["\t".join(names)]
    for row in rows:
        values = [getattr(row, name) for name in names]
        texts = ["n/a" if v in (None, "") else f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
        lines.append("\t".join(re.sub(r"\s+", " ", text) for text in texts))
    write_text(path, "\n".join(lines) + "\n")


def figure(path: Path, rows: Sequence[Row]) -> None:
    """Strip plots, one dot a scan: mask Dice and, where there are ages, age change, by change."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    changed = [row for row in rows if row.change != CLEAN]
    names = list(dict.fromkeys(row.change for row in changed))
    aged = any(row.age_change is not None for row in changed)
    size = (10 if aged else 6, 1.2 + 0.22 * len(names))
    drawn, axes = plt.subplots(1, 1 + aged, figsize=size, sharey=True, squeeze=False, layout="constrained")
    scans = list(dict.fromkeys(row.scan for row in changed))
    colours = plt.get_cmap("tab20")
    for axis, field in zip(axes[0], ("dice", "age_change"), strict=False):
        for k, scan in enumerate(scans):
            own = [(getattr(r, field), names.index(r.change)) for r in changed if r.scan == scan]
            dots = [(x, y + 0.5 * ((k + 0.5) / len(scans) - 0.5)) for x, y in own if x is not None]
            axis.scatter(*(zip(*dots, strict=True) if dots else ([], [])), s=14, color=colours(k % 20), label=scan)
        refused = [names.index(row.change) for row in changed if row.message]
        axis.scatter([0.01] * len(refused), refused, marker="x", color="crimson", transform=axis.get_yaxis_transform())
        axis.grid(axis="y", alpha=0.25)
    axes[0][0].axvline(LOWEST_DICE, color="grey", lw=0.8, ls="--")
    axes[0][0].set(xlabel="Dice with the clean scan's mask", yticks=range(len(names)), yticklabels=names)
    axes[0][0].invert_yaxis()
    if aged:
        for limit in (-LARGEST_AGE_CHANGE, 0, LARGEST_AGE_CHANGE):
            axes[0][1].axvline(limit, color="grey", lw=0.8, ls="-" if limit == 0 else "--")
        axes[0][1].set_xlabel("change of brain age, years")
    drawn.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7, frameon=False
    )
    drawn.savefig(path, dpi=110)
    plt.close(drawn)
