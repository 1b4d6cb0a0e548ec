"""Matplotlib figures in one style; templates, charts and tables for HTML pages."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from mmpoison.base import text as _text
from mmpoison.base.extras import require
from mmpoison.base.files import atomic_file
from mmpoison.reporting.summary import goal_title
from mmpoison.reporting.table import Table, cell_texts


def canvas(panels: int) -> tuple[Any, list[Any]]:
    """Create a figure and its panels, side by side.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    require("matplotlib.figure", "figures need matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps global state and may need a display
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


DARK = "@media (prefers-color-scheme: dark) {%s {filter: invert(.9) hue-rotate(180deg)}}"
"""Inverts the brightness of an SVG in dark mode; colours keep their hue."""


def save(figure: Any, target: Path) -> Path:
    """Write a figure atomically, in the format of its extension; an SVG adapts to dark mode."""
    from matplotlib import rc_context

    # the same figure gives the same file: no date, version or random ids
    metadata: dict[str, Any] = {"Date" if target.suffix == ".svg" else "Software": None}
    with atomic_file(target) as temporary, rc_context({"svg.hashsalt": "mmpoison"}):
        figure.savefig(temporary, format=target.suffix[1:], dpi=150, metadata=metadata)
        if target.suffix == ".svg":
            photos = any(one.get_array().ndim == 3 for axis in figure.axes for one in axis.images)
            # photos are inverted twice, so they keep their colours
            dark = DARK % ("svg, image" if photos else "svg")
            text = temporary.read_text(encoding="utf-8")
            temporary.write_text(text.replace("</style>", f"{dark}</style>", 1), encoding="utf-8")
    return target


# -- HTML for pages and notebooks: every string is escaped, and pictures are embedded.


_PICTURE = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


@cache
def template(name: str, package: str = "mmpoison.reporting") -> Template:
    """Load a page template, with number formatters as filters.

    Args:
        name: File name in the package's folder `templates`, without `.html.j2`.
        package: The package. Its templates may also extend or import mmpoison's.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("mmpoison.reporting")]),
        autoescape=True,  # set explicitly: jinja2's own selection does not escape .j2 files
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in ("decimal", "short", "count", "percent", "seconds"):
        environment.filters[each] = getattr(_text, each)
    environment.filters["sha256"] = _sha256
    environment.filters["goal_title"] = goal_title
    return environment.get_template(f"{name}.html.j2")


def _sha256(script: str) -> str:
    """Return the digest that allows one script in a Content-Security-Policy."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@dataclass(frozen=True)
class Series:
    """One row of a dot chart, or one line of a line chart, in percent of the drawing's size.

    Attributes:
        name: The label.
        points: Horizontal position and share of each point; a dot has one point, at position 0.
        interval: Ends of the 95% interval; empty if unknown.
        marked: Whether it is drawn in the attack's colour.
    """

    name: str
    points: list[tuple[float, float]]
    interval: list[float]
    marked: bool = False


def series(
    name: str,
    points: Iterable[tuple[float, float | None]],
    ends: Iterable[float | None] = (),
    *,
    marked: bool = False,
) -> list[Series]:
    """Make one chart series from shares; return an empty list if no share is known.

    Args:
        name: The label.
        points: Horizontal position and share, both in [0, 1]; points with other shares are dropped.
        ends: Ends of the 95% interval.
        marked: Whether it is drawn in the attack's colour.
    """
    known = [
        (round(100 * place, 2), round(100 * share, 2))
        for place, share in points
        if share is not None and 0 <= share <= 1
    ]
    interval = [round(100 * min(max(end, 0.0), 1.0), 2) for end in ends if end is not None]
    return [Series(_text.visible(name), known, interval, marked)] if known else []


def pictures_inside(sources: Mapping[str, object]) -> dict[str, str]:
    """Keep only pictures given as data URLs: any other would cause a request."""
    return {
        name: source
        for name, source in sources.items()
        if isinstance(source, str) and _PICTURE.fullmatch(source)
    }


def html_tables(tables: Sequence[Table]) -> str:
    """Format tables as HTML for a notebook, each with its title; all text is escaped."""
    return "".join(map(_html_table, tables))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(_text.visible(column.name))}</th>" for column in table.columns)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(text)}</td>" for text in cell_texts(row, table.columns))
        + "</tr>"
        for row in table.rows
    )
    note = f"<p><small>{escape(_text.visible(table.note))}</small></p>" if table.note else ""
    return (
        f"<table><caption>{escape(_text.visible(table.title))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
    )
