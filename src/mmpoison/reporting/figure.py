"""Creates figures of matplotlib in one style; templates, charts and tables of pages."""

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

from mmpoison.base.extras import require
from mmpoison.base.files import atomic_file
from mmpoison.reporting import text as _text
from mmpoison.reporting.summary import goal_title
from mmpoison.reporting.table import Table, cell_texts


def canvas(panels: int) -> tuple[Any, list[Any]]:
    """Make a figure with panels side by side.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    require("matplotlib.figure", "figures need matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it has state of the whole process, and needs a screen
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


DARK = "@media (prefers-color-scheme: dark) {%s {filter: invert(.9) hue-rotate(180deg)}}"
"""Makes the paper of an SVG dark and its ink light; colours keep their hue."""


def save(figure: Any, target: Path) -> Path:
    """Write a figure whole or not at all, in the format of the file's ending; an SVG has a dark form."""
    from matplotlib import rc_context

    # the same figure is the same file: no date, no version, no random names
    metadata: dict[str, Any] = {"Date" if target.suffix == ".svg" else "Software": None}
    with atomic_file(target) as temporary, rc_context({"svg.hashsalt": "mmpoison"}):
        figure.savefig(temporary, format=target.suffix[1:], dpi=150, metadata=metadata)
        if target.suffix == ".svg":
            photos = any(one.get_array().ndim == 3 for axis in figure.axes for one in axis.images)
            # what is inverted twice stays as it is
            dark = DARK % ("svg, image" if photos else "svg")
            text = temporary.read_text(encoding="utf-8")
            temporary.write_text(text.replace("</style>", f"{dark}</style>", 1), encoding="utf-8")
    return target


# -- HTML of pages and notebooks: every string in it is escaped, and a picture is in the page itself.


_PICTURE = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


@cache
def template(name: str, package: str = "mmpoison.reporting") -> Template:
    """Load the template of a page, with the ways to write numbers as filters.

    Args:
        name: Its file in the folder `templates` of a package, without `.html.j2`.
        package: The package; what its template extends or imports may be mmpoison's.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("mmpoison.reporting")]),
        autoescape=True,  # always: the templates' names end in .j2, by which no default would do it
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
    """Return the digest by which a Content-Security-Policy allows one script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@dataclass(frozen=True)
class Series:
    """One row of a chart of dots, or one line of a chart of lines; numbers are in percent of the drawing.

    Attributes:
        name: What it is of.
        points: Place from the left, and share; a dot has one, at 0.
        interval: Its ends; empty where it is not known.
        marked: Whether it has the colour of the attack.
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
    """Make one series of a chart from shares; none where no share is known.

    Args:
        name: What it is of.
        points: Place from the left and share, both in [0, 1]; what is not in it is left out.
        ends: Of the 95% interval.
        marked: Whether it has the colour of the attack.
    """
    known = [
        (round(100 * place, 2), round(100 * share, 2))
        for place, share in points
        if share is not None and 0 <= share <= 1
    ]
    interval = [round(100 * min(max(end, 0.0), 1.0), 2) for end in ends if end is not None]
    return [Series(_text.visible(name), known, interval, marked)] if known else []


def pictures_inside(sources: Mapping[str, object]) -> dict[str, str]:
    """Keep only pictures that are embedded in the page: any other would cause a request."""
    return {
        name: source
        for name, source in sources.items()
        if isinstance(source, str) and _PICTURE.fullmatch(source)
    }


def html_tables(tables: Sequence[Table]) -> str:
    """Write tables as HTML for a notebook, each under its title; every text in them is escaped."""
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
