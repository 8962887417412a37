"""``fidelity.html``: synthetic people against real ones on one page; ``fidelity.json`` holds all its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bids_brainage.core.files import write_json, write_text
from bids_brainage.image.muse import regions
from bids_brainage.reports import svg
from bids_brainage.reports.plots import HEIGHT, WIDTH, Plot
from bids_brainage.reports.style import PALETTE, Banner, Section, environment, page

Rows = Sequence[Mapping[str, Any]]
BINS = 40
ROW = 34
CLASSIFIERS = {"linear SVM": PALETTE[0], "gradient boosting": PALETTE[1]}
SHOWN = 12


def write(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``fidelity.json`` and ``fidelity.html`` into a folder; returns the page.

    Parameters
    ----------
    summary : mapping
        Of :func:`bids_brainage.cohort.validation.validate`.
    """
    write_json(out / "fidelity.json", summary)
    return write_text(out / "fidelity.html", render(summary))


def render(summary: Mapping[str, Any]) -> str:
    """The page as HTML."""
    parts: Any = environment().get_template("fidelity.html.j2").module
    names = {region.number: region.name.replace("_", " ") for region in regions()}
    sections = [
        Section("overview", "Overview", parts.overview(summary, _significant(summary))),
        Section(
            "volumes", "Volume by volume", parts.volumes(summary, _volume_plots(summary), _largest(summary), names)
        ),
        Section(
            "together", "Together", parts.together(summary, [_discrimination_plot(summary)], _pairs(summary, names))
        ),
        Section(
            "covariates",
            "Age and categories",
            parts.covariates(summary["Covariates"], summary["GeneratorSawTheTested"]),
        ),
    ]
    if summary["Augmentation"] or summary["Gap"]:
        plots = _augmentation_plots(summary["Augmentation"])
        sections.append(Section("uses", "Uses", parts.uses(summary["Augmentation"], summary["Gap"], plots)))
    sections.append(
        Section("privacy", "Privacy", parts.privacy(summary["Privacy"], _privacy_plots(summary["Privacy"])))
    )
    sections.append(Section("methods", "Methods", parts.methods(summary)))
    people = summary["People"]
    lead = f"{people['Synthetic']['n']:,} synthetic people against {people['Real']['n']:,} real ones."
    footer = f"Made by bids-brainage {summary['Version']}; all numbers stand in fidelity.json."
    return page("Fidelity of synthetic people", sections, lead=lead, banners=banners(summary), footer=footer)


def banners(summary: Mapping[str, Any]) -> list[Banner]:
    """What a reader must know before anything else."""
    privacy = summary["Privacy"]
    made = [] if privacy["MayBeCalledPrivate"] else [Banner(privacy["Verdict"], bad=privacy["UpperBound"] is not None)]
    if privacy["ExactCopies"]:
        made.append(Banner(f"{privacy['ExactCopies']:,} synthetic people are exact copies of real ones.", bad=True))
    if summary["NegativeVolumes"]:
        n = summary["PeopleWithNegativeVolumes"]
        made.append(Banner(f"{n:,} synthetic people have a negative volume: no brain has one.", bad=True))
    if summary["GeneratorSawTheTested"]:
        text = (
            "Age and categories are tested on people whom the generator may have seen: what is trained on synthetic "
            "people then looks better than it is. Give people whom it did not see by --held-out."
        )
        made.append(Banner(text))
    if summary["Augmentation"].get("controls", "patients' table") != "patients' table":
        text = "Patients and controls of the classifiers come from different tables: an AUC may tell the source."
        text += " The generator may have seen these controls." if summary["GeneratorSawTheTested"] else ""
        made.append(Banner(text))
    return made


def _significant(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Regions that differ, of how many, by category."""
    found: dict[str, tuple[int, int]] = {}
    for row in summary["Univariate"]:
        differ, total = found.get(row["category"], (0, 0))
        found[row["category"]] = (differ + bool(row["significant"]), total + 1)
    return found


def _largest(summary: Mapping[str, Any]) -> Rows:
    return sorted(summary["Univariate"], key=lambda row: -abs(row["difference"] or 0.0))[:SHOWN]


def _pairs(summary: Mapping[str, Any], names: Mapping[int, str]) -> list[tuple[str, str, float, float]]:
    def told(key: str) -> str:
        return names.get(int(key), key) if key.isdigit() else {"icv": "ICV"}.get(key, key)

    return [(told(r["first"]), told(r["second"]), r["real"], r["synthetic"]) for r in summary["Correlations"]["worst"]]


def _colours(rows: Rows) -> dict[str, str]:
    names = dict.fromkeys(str(row["category"]) for row in rows)
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _values(rows: Rows, key: str, category: str) -> Any:
    return np.array([row[key] if row[key] is not None else np.nan for row in rows if row["category"] == category])


def _volume_plots(summary: Mapping[str, Any]) -> list[Plot]:
    """Differences of means as curves, and correlation with age of synthetic against real people."""
    return [_difference_plot(summary["Univariate"]), _trend_plot(summary["AgeTrends"])]


def _difference_plot(rows: Rows) -> Plot:
    colours = _colours(rows)
    values = {name: _values(rows, "difference", name) for name in colours}
    limits = svg.limits(*values.values(), pad=0.15, least=0.4)
    grid = np.linspace(*limits, 240)
    curves = {name: svg.smooth_density(v, grid) for name, v in values.items()}
    top = max(float(curve.max()) for curve in curves.values())
    frame = svg.Frame(WIDTH, HEIGHT, limits, (0.0, 1.08 * top), left=16)
    parts = [svg.axes(frame, "synthetic minus real, SD of real people, age taken out", y_ticks=False)]
    parts.append(_vertical(frame, 0.0))
    for name, colour in colours.items():
        ring = zip(frame.x(grid).tolist(), frame.y(curves[name]).tolist(), strict=True)
        inner = " ".join(f"{a:.1f},{b:.1f}" for a, b in ring)
        base = frame.height - svg.BOTTOM
        first, last = float(frame.x(grid[0])), float(frame.x(grid[-1]))
        parts.append(
            f'<polygon class="ridge" fill="{colour}" stroke="{colour}"'
            f' points="{first:.1f},{base} {inner} {last:.1f},{base}"/>'
        )
    drawn = svg.figure(frame, parts, "Distribution over regions of the difference of volumes")
    legend = svg.legend([("bar", colour, name) for name, colour in colours.items()])
    return Plot("Difference of each volume", "Distribution over regions; 0 is perfect", drawn, legend)


def _trend_plot(rows: Rows) -> Plot:
    colours = _colours(rows)
    both = [_values(rows, key, name) for name in colours for key in ("r_real", "r_synthetic")]
    limits = svg.limits(*both, least=0.4)
    frame = svg.Frame(WIDTH, HEIGHT, limits, limits)
    parts = [svg.axes(frame, "correlation with age, real people", "synthetic people")]
    parts.append(svg.line(frame, np.array(limits), np.array(limits), "identity"))
    for name, colour in colours.items():
        parts.append(svg.points(frame, _values(rows, "r_real", name), _values(rows, "r_synthetic", name), colour, 5.5))
    drawn = svg.figure(frame, parts, "Correlation of each volume with age, synthetic against real people")
    keys = [("dot", colour, name) for name, colour in colours.items()]
    legend = svg.legend([*keys, ("dash", "#8794a3", "the same")])
    return Plot("Ageing of each volume", "A dot a region; a wide kernel flattens the cloud", drawn, legend)


def _vertical(frame: svg.Frame, value: float) -> str:
    return f'<path class="identity" d="M{float(frame.x(value)):.1f} {svg.TOP}V{frame.height - svg.BOTTOM}"/>'


def _discrimination_plot(summary: Mapping[str, Any]) -> Plot:
    """One line a category and classifier: AUC with its interval."""
    rows = summary["Discrimination"]
    height = ROW * len(rows) + svg.TOP + svg.BOTTOM
    low, high = (pick(row[key] for row in rows) for pick, key in ((min, "low"), (max, "high")))
    frame = svg.Frame(WIDTH, height, (min(0.4, low - 0.02), max(0.7, high + 0.02)), (0.0, 1.0), left=160)
    parts = [svg.axes(frame, "AUC of real against synthetic", y_ticks=False), _vertical(frame, 0.5)]
    for i, row in enumerate(rows):
        at, colour = svg.TOP + ROW * (i + 0.5), CLASSIFIERS[row["classifier"]]
        first, last = frame.x([row["low"], row["high"]]).tolist()
        parts.append(f'<path class="trend" stroke="{colour}" d="M{first:.1f} {at}H{last:.1f}"/>')
        parts.append(svg.strip(frame, [row["auc"]], at, colour))
        if row["classifier"] == "linear SVM":
            parts.append(svg.text(8, at + ROW / 2 + 4, row["category"], "rowname"))
    drawn = svg.figure(frame, parts, "AUC of classifiers that tell real from synthetic people")
    legend = svg.legend([("line", colour, name) for name, colour in CLASSIFIERS.items()])
    return Plot("Can a classifier tell them apart?", "AUC with its 95 % interval; 0.5 is perfect", drawn, legend)


def _augmentation_plots(found: Mapping[str, Any]) -> list[Plot]:
    return [_augmentation_plot(name, rows) for name, rows in found.get("contrasts", {}).items()]


def _augmentation_plot(name: str, rows: Rows) -> Plot:
    few, many = rows[:-1], rows[-1]
    x = np.array([row["synthetic"] for row in few], dtype=float)
    y = [row["auc"] for row in few]
    spread = [row[key] for row in rows for key in ("low", "high")]
    frame = svg.Frame(WIDTH, HEIGHT - 60, svg.limits(x, pad=0.06), svg.limits(spread, least=0.05))
    parts = [svg.axes(frame, f"synthetic controls beside {few[0]['real']} real ones", "AUC")]
    ends = np.array(frame.x_range)
    parts.append(svg.line(frame, ends, np.full(2, many["auc"]), "identity"))
    parts += [svg.line(frame, x, [row[key] for row in few], "bound") for key in ("low", "high")]
    parts += [svg.line(frame, x, y, "trend", PALETTE[0]), svg.points(frame, x, y, PALETTE[0], 8)]
    drawn = svg.figure(frame, parts, f"AUC of {name} by the number of synthetic controls")
    legend = svg.legend(
        [
            ("line", PALETTE[0], "mean over splits"),
            ("dash", "#4a5866", "95 % of splits"),
            ("dash", "#8794a3", f"{many['real']} real controls, none synthetic"),
        ]
    )
    return Plot(name, f"Linear SVM, {rows[0]['patients']} patients", drawn, legend)


def _privacy_plots(found: Mapping[str, Any]) -> list[Plot]:
    rows = found["Attacks"].get("refitted")
    return [_membership_plot(rows, found["Generator"])] if rows else []


def _membership_plot(rows: Rows, generator: str) -> Plot:
    attacks = {str(row["attack"]): PALETTE[i] for i, row in enumerate(rows) if row["rows"] == rows[0]["rows"]}
    released = sorted({row["rows"] for row in rows})
    y_range = svg.limits([0.45, *(row["high"] for row in rows)], least=0.2)
    frame = svg.Frame(WIDTH, HEIGHT, (-0.4, len(released) - 0.6), y_range)
    parts = [svg.axes(frame, "rows released", "membership AUC", x_names=[f"{n:,}" for n in released])]
    ends = np.array(frame.x_range)
    parts += [svg.line(frame, ends, np.full(2, at), "identity") for at in (0.5, 0.6)]
    for i, (attack, colour) in enumerate(attacks.items()):
        some = [row for row in rows if row["attack"] == attack]
        x = np.arange(len(some)) + 0.12 * (i - (len(attacks) - 1) / 2)
        low, auc, high = ([row[key] for row in some] for key in ("low", "auc", "high"))
        parts.append(svg.bars(frame, x, low, high, colour).replace('class="bars"', 'class="trend"'))
        parts.append(svg.points(frame, x, auc, colour, 9))
    drawn = svg.figure(frame, parts, "Membership AUC by the number of rows released")
    legend = svg.legend(
        [*(("dot", c, a) for a, c in attacks.items()), ("dash", "#8794a3", "chance, and the limit 0.60")]
    )
    return Plot(f"Who trained the generator ({generator})?", "Mean AUC, 95 % interval over people", drawn, legend)
