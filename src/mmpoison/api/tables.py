"""Tables of results as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mmpoison.reporting.table import Table, cell_texts
from mmpoison.reporting.text import visible


def html_tables(tables: Sequence[Table]) -> str:
    """Render tables as HTML, each under its title; every text in them is escaped."""
    return "".join(map(_html_table, tables))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(visible(column.name))}</th>" for column in table.columns)
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(text)}</td>" for text in cell_texts(row, table.columns))
        + "</tr>"
        for row in table.rows
    )
    note = f"<p><small>{escape(visible(table.note))}</small></p>" if table.note else ""
    return (
        f"<table><caption>{escape(visible(table.title))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"
    )
