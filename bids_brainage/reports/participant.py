"""The page of one participant: each scan's brain ages, what limits trust in them, the pictures, and the methods."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from markupsafe import Markup, escape

from bids_brainage.bids.outputs import path_for
from bids_brainage.bids.tables import read_tsv
from bids_brainage.core.errors import BrainAgeError
from bids_brainage.core.files import read_json, write_text
from bids_brainage.core.quality import GATES
from bids_brainage.core.types import Scan
from bids_brainage.reports import svg
from bids_brainage.reports.maps import map_figures
from bids_brainage.reports.style import PALETTE, Banner, Section, page

COMPOSITES_FROM = 300
SHOWN_VOLUMES = (702, 701, 601, 604, 51, 52, 47, 48, 59, 60)
SIMULATED = "A model on this page was trained on simulated people: its numbers are no measurement of a person."
PICTURE = (
    "Head with the outline of the brain mask; every other slice with cerebrospinal fluid (blue), grey (green) and "
    "white matter (white). The person's left is on the left. Below, the registered brain under the outlines of the "
    "template's brain (orange) and white matter (pink)."
)


def page_of(subject: str, out_dir: Path) -> Path:
    """Where a participant's page belongs."""
    return out_dir / f"sub-{subject}.html"


def write_report(subject: str, scans: Sequence[Scan], out_dir: Path, template: str) -> Path:
    """Write ``sub-<label>.html`` from the derivatives of a participant's complete scans; the same bytes each time."""
    sections: list[Section] = []
    simulated = False
    for scan in scans:
        with _as_written(scan, out_dir, template):
            rows = read_tsv(path_for(scan, "brainage", out_dir, template))
            if not rows:
                raise LookupError("no row")
            simulated |= any(row["training_data"] == "simulated" for row in rows)
            sections.append(_scan_section(scan, rows, out_dir, template))
    if (out_dir / "logs" / "CITATION.md").is_file():
        with _as_written(scans[0], out_dir, template):
            sections.append(_methods(scans[0], out_dir, template))
    html = page(
        f"sub-{subject}",
        sections,
        lead=f"Brain age of {len(scans)} T1-weighted image{'s' if len(scans) > 1 else ''}. Not for clinical use.",
        banners=[Banner(SIMULATED)] if simulated else [],
        footer="Brain ages are not corrected for bias here; corrected gaps are in the group report.",
    )
    return write_text(page_of(subject, out_dir), html)


@contextmanager
def _as_written(scan: Scan, out_dir: Path, template: str) -> Iterator[None]:
    """Say which scan's tables somebody changed, so that a column is gone or a number is none."""
    try:
        yield
    except (LookupError, ValueError) as error:
        mark = path_for(scan, "brainage_json", out_dir, template)
        raise BrainAgeError(
            f"{mark.with_suffix('.tsv')}: this table or one beside it is not as it was written ({error!r}); remove "
            f"{mark.name} and run again to have the scan done anew"
        ) from None


def _scan_section(scan: Scan, rows: Sequence[Mapping[str, str]], out_dir: Path, template: str) -> Section:
    """One scan: numbers, flags, interval plot, picture, volumes."""
    parts = [_tiles(row) for row in rows]
    flags = dict.fromkeys(f for row in rows for f in row["flags"].split(",") if f != "n/a")
    if flags:
        shown = Markup("").join(Markup('<span class="flag">{}</span>').format(flag.replace("_", " ")) for flag in flags)
        parts.append(Markup("<p>{} {}</p>").format("Flags:", shown))
    notes = dict.fromkeys(row["note"] for row in rows if row["note"] != "n/a")
    parts += [Markup("<p>No gap: {}</p>").format(note) for note in notes]
    parts.append(_intervals(rows))
    picture = path_for(scan, "figures", out_dir, template)
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        image = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(PICTURE, data)
        parts.append(Markup("<figure>{}<figcaption><small>{}</small></figcaption></figure>").format(image, PICTURE))
    parts.append(map_figures(scan, rows, out_dir, template))
    measured = path_for(scan, "quality", out_dir, template)
    if measured.is_file():
        parts.append(quality(read_tsv(measured)))
    moved = path_for(scan, "contributions", out_dir, template)
    if moved.is_file():
        parts.append(contributions(read_tsv(moved)))
    volumes = path_for(scan, "muse_volumes", out_dir, template)
    if volumes.is_file():
        parts.append(_volumes(volumes))
    return Section(scan.stem, scan.stem, Markup("").join(parts))


def _tiles(row: Mapping[str, str]) -> Markup:
    """The numbers of one model, large."""
    tiles = {
        f"brain age, model {row['model']}": f"{_rounded(row['brain_age'])} y",
        "90 % prediction interval": " to ".join(_rounded(row[k]) for k in ("brain_age_low", "brain_age_high")),
        "age": row["age"] if row["age"] == "n/a" else f"{row['age']} y",
        "gap (brain age minus age)": row["gap"] if row["gap"] == "n/a" else f"{float(row['gap']):+.1f} y",
        "sex": row["sex"],
    }
    cells = (Markup('<div class="tile"><b>{}</b><span>{}</span></div>').format(v, k) for k, v in tiles.items())
    return Markup('<div class="tiles">{}</div>').format(Markup("").join(cells))


def _rounded(years: str) -> str:
    return years if years == "n/a" else f"{float(years):.1f}"


def _intervals(rows: Sequence[Mapping[str, str]]) -> Markup:
    """Prediction and interval of each model as a dot on a bar, the person's age as a dashed line."""
    bounds = ("brain_age_low", "brain_age_high", "brain_age")
    low, high = svg.limits([float(r[k]) for r in rows for k in bounds if r[k] != "n/a"])
    ages = [float(r["age"]) for r in rows if r["age"] != "n/a"]
    low, high = min([low, *(a - 2 for a in ages)]), max([high, *(a + 2 for a in ages)])
    left, width, step = 110, 960, 34
    height = 26 + step * len(rows) + 40

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 30)

    base = height - 40
    drawn = []
    for tick in svg.ticks((low, high), 8):
        drawn.append(f'<path class="grid" d="M{x(tick):.1f} 10V{base}"/>')
        drawn.append(svg.text(x(tick), base + 18, f"{tick:g}", "tick", "middle"))
    for i, row in enumerate(rows):
        y = 30 + step * i
        colour = PALETTE[i % len(PALETTE)]
        a, b, c = (x(float(row[k] if row[k] != "n/a" else row["brain_age"])) for k in bounds)
        drawn.append(svg.text(left - 14, y + 4, row["model"], "rowname", "end"))
        drawn.append(f'<path d="M{a:.1f} {y}H{b:.1f}" stroke="{colour}" stroke-width="7" stroke-opacity=".28"/>')
        drawn.append(f'<circle cx="{c:.1f}" cy="{y}" r="6" fill="{colour}"/>')
    for age in dict.fromkeys(ages):
        drawn.append(f'<path class="identity" d="M{x(age):.1f} 10V{base}"/>')
        drawn.append(svg.text(x(age) + 5, 18, f"age {age:g}", "tick"))
    drawn.append(svg.text((left + width) / 2, height - 4, "years", "label", "middle"))
    title = "Brain age and 90 % prediction interval of each model, with the age"
    inside = f"<title>{escape(title)}</title>{''.join(drawn)}"
    return Markup('<figure><svg class="plot" role="img" viewBox="0 0 {} {}">{}</svg></figure>').format(
        width, height, Markup(inside)  # noqa: S704 - numbers and escaped names
    )  # fmt: skip


def quality(rows: Sequence[Mapping[str, str]]) -> Markup:
    """What was measured of the scan, beside the bounds within which it is trusted."""
    lines = []
    for row in rows:
        bounds = _bounds(row["low"], row["high"])
        raised = row["flag"] != "n/a"
        meaning = GATES[row["measure"]].meaning if row["measure"] in GATES else DEVIATION.format(row["measure"])
        mark = Markup('<span class="flag">{}</span>').format(row["flag"].replace("_", " ")) if raised else "passed"
        unit = "" if row["unit"] == "n/a" else f" {row['unit']}"
        lines.append(
            Markup('<tr><td class="t w">{}</td><td>{}{}</td><td>{}</td><td class="t">{}</td></tr>').format(
                meaning, row["value"], unit, bounds, mark
            )
        )
    count = sum(row["flag"] != "n/a" for row in rows)
    title = Markup("<h3>Quality: {}</h3>").format(
        "all measures within their bounds" if not count else f"{count} of {len(rows)} measures beyond their bounds"
    )
    head = Markup("<thead><tr><th>measure</th><th>value</th><th>bounds</th><th></th></tr></thead>")
    table = Markup('<div class="scroll"><table>{}<tbody>{}</tbody></table></div>').format(head, Markup("").join(lines))
    return Markup("{}<details{}><summary>All measures</summary>{}</details>").format(
        title, Markup(" open") if count else "", table
    )


def _bounds(low: str, high: str) -> str:
    """Two bounds, either of which may be n/a, in words."""
    match low == "n/a", high == "n/a":
        case False, False:
            return f"{low} to {high}"
        case False, True:
            return f"at least {low}"
        case True, False:
            return f"at most {high}"
    return ""


DEVIATION = "Largest deviation of a volume or the ICV from the mean of training ({})"


def contributions(rows: Sequence[Mapping[str, str]]) -> Markup:
    """The regions that moved each model's brain age most, as bars to either side of the mean age of training."""
    models = dict.fromkeys(row["model"] for row in rows)
    drawn = [_bars(model, [row for row in rows if row["model"] == model]) for model in models]
    if not drawn:
        return Markup("")
    return Markup("<h3>What moved the brain age</h3>{}<p><small>{}</small></p>").format(Markup("").join(drawn), MOVED)


MOVED = (
    "Years that a region's volume, relative to the intracranial volume, adds to the mean age of training. They are "
    "weights in a sum: neighbours share and suppress each other's weight, so none is the effect of a region. Centile: "
    "share of healthy people of this age and sex whose region is smaller; it is off by about 10 points a region, more "
    "where the head is small or large."
)
SHOWN_REGIONS = 12
LETTER_PX = 8.4  # of names, bold at 13 px, on average


def _named(row: Mapping[str, str]) -> str:
    """A region with its centile, where it has one."""
    centile = row.get("centile", "n/a")
    return row["name"] if centile == "n/a" else f"{row['name']} (centile {centile})"


def _bars(model: str, rows: Sequence[Mapping[str, str]]) -> Markup:
    """The largest contributions to one brain age, and all others together."""
    order = sorted(rows, key=lambda row: -abs(float(row["years"])))
    shown = [(_named(row), float(row["years"])) for row in order[:SHOWN_REGIONS]]
    rest = sum(float(row["years"]) for row in order[SHOWN_REGIONS:])
    shown.append((f"{max(0, len(order) - SHOWN_REGIONS)} others together", rest))
    left, width, step = 20 + round(LETTER_PX * max(len(name) for name, _ in shown)), 960, 22
    height = 20 + step * len(shown) + 40
    low, high = svg.limits([0.0, *(years for _, years in shown)])

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 60)

    base = height - 40
    parts = [f'<path class="grid" d="M{x(tick):.1f} 10V{base}"/>' for tick in svg.ticks((low, high), 7)]
    parts += [svg.text(x(tick), base + 18, f"{tick:g}", "tick", "middle") for tick in svg.ticks((low, high), 7)]
    for i, (name, years) in enumerate(shown):
        y, colour = 20 + step * i, PALETTE[0 if years < 0 else 1]
        start, end = sorted((x(0.0), x(years)))
        parts.append(svg.text(left - 10, y + 5, name, "rowname", "end"))
        parts.append(f'<rect x="{start:.1f}" y="{y - 6}" width="{end - start:.1f}" height="12" fill="{colour}"/>')
        parts.append(svg.text(end + 5, y + 4, f"{years:+.1f}", "tick"))
    parts.append(f'<path class="identity" d="M{x(0.0):.1f} 10V{base}"/>')
    parts.append(svg.text((left + width) / 2, height - 4, "years", "label", "middle"))
    inside = f"<title>{escape(f'Contributions to the brain age of model {model}')}</title>{''.join(parts)}"
    return Markup('<figure><svg class="plot" role="img" viewBox="0 0 {} {}">{}</svg></figure>').format(
        width, height, Markup(inside)  # noqa: S704 - numbers and escaped names
    )  # fmt: skip


def _volumes(path: Path) -> Markup:
    """The volumes that people look for first."""
    by_index = {int(row["index"]): row for row in read_tsv(path)}
    chosen = [by_index[i] for i in SHOWN_VOLUMES if i in by_index]
    lines = (
        Markup('<tr><td class="t">{}</td><td>{:,.1f}</td></tr>').format(row["name"], float(row["volume_mm3"]) / 1000)
        for row in chosen
    )
    head = Markup('<thead><tr><th class="t">region</th><th>volume, mL</th></tr></thead>')
    caption = Markup("<caption>Some of the {} regional volumes in {}</caption>").format(
        sum(i < COMPOSITES_FROM for i in by_index), path.name
    )
    return Markup('<h3>Volumes</h3><div class="scroll"><table>{}{}<tbody>{}</tbody></table></div>').format(
        caption, head, Markup("").join(lines)
    )


def _methods(scan: Scan, out_dir: Path, template: str) -> Section:
    """The methods text, and what the result depends on."""
    text = (out_dir / "logs" / "CITATION.md").read_text(encoding="utf-8").partition("\n\n")[2]
    paragraphs = Markup("").join(Markup("<p>{}</p>").format(p) for p in text.strip().split("\n\n"))
    mark = read_json(path_for(scan, "brainage_json", out_dir, template))["Fingerprint"]
    lines = Markup("").join(
        Markup('<tr><td class="t">{}</td><td class="t w"><code>{}</code></td></tr>').format(k, v)
        for k, v in mark.items()
        if k not in ("Age", "Sex")
    )
    table = Markup('<h3>Versions and checksums ({})</h3><div class="scroll"><table>{}</table></div>').format(
        scan.stem, lines
    )
    return Section("methods", "Methods", paragraphs + table)
