"""The look of all report pages: one stylesheet and one frame, in ``templates``. A page asks for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PALETTE = ("#2563a8", "#d4761c", "#10837a", "#b0336f", "#7054b8", "#5f6b2d", "#8a5a44", "#5b6770")
INK, QUIET = "#1c2733", "#5d6b7a"


class Section(NamedTuple):
    """One part of a page: its anchor, its heading, and its HTML (text that is no :class:`Markup` is escaped)."""

    anchor: str
    title: str
    body: Markup | str


class Banner(NamedTuple):
    """A line that stands above all else; ``bad`` for what forbids an interpretation."""

    text: str
    bad: bool = False


@cache
def environment() -> Environment:
    """Templates of the package, everything escaped unless it is :class:`Markup`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page(
    title: str, sections: Sequence[Section], *, lead: str = "", banners: Iterable[Banner] = (), footer: str = ""
) -> str:
    """A whole HTML page, self-contained.

    Parameters
    ----------
    title, lead
        Heading and the sentence below it.
    sections
        Parts in order, with a list of links to them.
    banners
        Warnings above all parts.
    footer
        Last line.
    """
    template = environment().get_template("page.html.j2")
    return template.render(title=title, lead=lead, sections=sections, banners=list(banners), footer=footer)
