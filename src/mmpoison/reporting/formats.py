"""Formats tables for other programs: Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence

from mmpoison.reporting.table import Cell, Compared, Link, Table, cell_texts, markdown
from mmpoison.reporting.text import visible
from mmpoison.statistics import Summary

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "≈": r"$\approx$",
    "–": "--",
    "\N{NO-BREAK SPACE}": "~",
}
"""Characters that LaTeX reads as commands or has no glyph for; triangles need amssymb."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs text that starts with one of these as a formula."""


def latex(tables: Sequence[Table]) -> str:
    """Format tables for LaTeX (booktabs, amssymb), each as a `table` captioned with its title."""
    return "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    kinds = "".join("l" if table.is_text(n) else "r" for n in range(len(table.columns)))
    header = " & ".join(_in_latex(column.name) for column in table.columns)
    rows = [
        f"  {' & '.join(map(_in_latex, cell_texts(row, table.columns)))} \\\\" for row in table.rows
    ]
    note = [f"\n\\smallskip\n{{\\footnotesize {_in_latex(table.note)}}}"] if table.note else []
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_in_latex(table.title)}}}",
        f"\\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        f"  {header} \\\\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in visible(text))


def csv_text(tables: Sequence[Table]) -> str:
    """Format tables as one CSV, with a title column and the columns of all tables.

    A number over seeds takes four columns: the mean under the column's name, then ` sd`, ` low`
    and ` high`. Numbers have full precision. Cells are empty in columns that a table lacks.
    """
    rows = [
        {"table": _in_csv(table.title), **_csv_row(table, row)}
        for table in tables
        for row in table.rows
    ]
    names = dict.fromkeys(["table", *(c.name for t in tables for c in t.columns[:1])])
    names |= dict.fromkeys(name for row in rows for name in row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _csv_row(table: Table, row: Sequence[Cell]) -> dict[str, object]:
    values: dict[str, object] = {}
    for column, cell in zip(table.columns, row, strict=True):
        name = _in_csv(column.name)
        for part, value in _csv_parts(cell).items():
            values[f"{name} {part}" if part else name] = value
    return values


def _csv_parts(cell: Cell) -> dict[str, object]:
    """Return the values of one cell by the suffix of their column name.

    >>> _csv_parts(Summary(2, 0.5, 0.1, 0.3, 0.7)), _csv_parts((0.1, 0.2)), _csv_parts(None)
    ({'': 0.5, 'sd': 0.1, 'low': 0.3, 'high': 0.7}, {'low': 0.1, 'high': 0.2}, {'': ''})
    """
    if isinstance(cell, Compared):
        paper = {} if cell.reference is None else {"paper": cell.reference}
        return {**_csv_parts(cell.measured), **paper}
    if isinstance(cell, Summary):
        if cell.sd is None:
            return {"": cell.mean}
        return {"": cell.mean, "sd": cell.sd, "low": cell.low, "high": cell.high}
    if isinstance(cell, tuple):
        return {"low": cell[0], "high": cell[1]}
    if isinstance(cell, Link):
        cell = cell.text
    return {"": "" if cell is None else _in_csv(cell) if isinstance(cell, str) else cell}


def _in_csv(text: str) -> str:
    """Make external text safe: drop control characters and quote spreadsheet formulas."""
    plain = visible(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def _json(tables: Sequence[Table]) -> str:
    return json.dumps([table.to_json() for table in tables], indent=2)


WRITERS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": csv_text,
    "json": _json,
}
"""Functions that format tables, by format name."""
