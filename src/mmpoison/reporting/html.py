"""HTML of pages and notebooks: every string in it is escaped, and a picture is in the page itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mmpoison.reporting import text as _text
from mmpoison.reporting.summary import goal_title
from mmpoison.reporting.table import Table, cell_texts

_PICTURE = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


@cache
def template(name: str, package: str = "mmpoison.reporting") -> Template:
    """Load a template of a package, with the ways to write numbers as filters."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,  # always: the templates' names end in .j2, by which no default would do it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in ("decimal", "short", "count", "percent", "seconds"):
        environment.filters[each] = getattr(_text, each)
    environment.filters["number"] = _text.as_number
    environment.filters["goal_title"] = goal_title
    return environment.get_template(f"{name}.html.j2")


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
