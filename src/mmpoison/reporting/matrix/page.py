"""Writes a matrix as tables, as a Markdown page with two heat maps, as one HTML page, and as Parquet."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mode
from typing import Any

from mmpoison.base.files import atomic_file
from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError
from mmpoison.records.matrix import MatrixCell, write_cells
from mmpoison.reporting import text as _text
from mmpoison.reporting.html import template
from mmpoison.reporting.matrix.findings import findings
from mmpoison.reporting.matrix.heat_map import heat_rows, write_heat_maps
from mmpoison.reporting.matrix.summary import ColumnSummary, MatrixSummary
from mmpoison.reporting.matrix.tables import anchor_of, matrix_tables
from mmpoison.reporting.table import cell_texts, markdown

PAGE, HTML, PARQUET = "matrix.md", "matrix.html", "matrix.parquet"


def write_matrix_pages(
    summary: MatrixSummary, cells: Sequence[MatrixCell], out: Path
) -> list[Path]:
    """Write the pages of a matrix into a folder, and return their paths.

    Args:
        summary: Of the pieces.
        cells: All measurements.
        out: The folder; files of an earlier call are replaced. Without matplotlib there are no SVG files.

    Raises:
        InputError: If `out` is a file.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file, a folder is needed: choose another --out")
    figures: list[tuple[str, Path]] = []
    try:
        figures = write_heat_maps(summary, out)
        missing = ""
    except InputError as error:
        missing = f"No heat maps: {error}\n\n"
    with atomic_file(out / PAGE) as temporary:
        temporary.write_text(_markdown_page(summary, figures, missing), encoding="utf-8")
    with atomic_file(out / HTML) as temporary:
        temporary.write_text(matrix_html(summary), encoding="utf-8")
    write_cells(out / PARQUET, cells, summary.facts.described)
    return [out / PAGE, out / HTML, out / PARQUET, *(path for _, path in figures)]


def matrix_html(summary: MatrixSummary) -> str:
    """Make the HTML page: one file, no script, no request, every string escaped."""
    first, second, *others = matrix_tables(summary)
    shown: dict[str, Any] = {
        "title": _title(summary),
        "lead": _lead(summary),
        "findings": findings(summary),
        "warnings": _warnings(summary),
        "maps": [
            {
                "title": table.title,
                "note": table.note,
                "columns": [column.name for column in table.columns],
                "rows": [
                    {"name": name, "cells": [asdict(cell) for cell in cells]}
                    for name, cells in heat_rows(summary, utility=utility)
                ],
            }
            for table, utility in ((first, False), (second, True))
        ],
        "tables": [
            {
                "title": table.title,
                "note": table.note,
                "anchor": anchor_of(table),
                "columns": [column.name for column in table.columns],
                "rows": [cell_texts(row, table.columns) for row in table.rows],
            }
            for table in others
        ],
        "commands": _commands(summary),
    }
    return template("matrix").render(**_text.clean(shown))


# -- texts ------------------------------------------------------------------------------------------------------------


def _title(summary: MatrixSummary) -> str:
    # `matrix-openmoji-both` is of the same data as `matrix`, trained otherwise
    variant = summary.facts.name.partition("-")[2]
    return f"Attacks against defences: {variant or summary.facts.data or summary.facts.name}"


def _lead(summary: MatrixSummary) -> str:
    counted = [row for row in summary.rows if row.counts and not row.clean]
    poisoned = [row for row in summary.rows if not row.clean]
    odd = _odd_columns(summary)
    usual = next(column for column in summary.columns if column not in odd)
    return (
        f"{'Most' if odd else 'All'} columns were measured on {_measured(usual)}; a piece is an attack with "
        f"a goal and a seed. The undefended attack succeeds at least {summary.facts.took:.0%} of the time in "
        f"{len(counted)} of {len(poisoned)} rows; only these rows are compared."
    )


def _odd_columns(summary: MatrixSummary) -> list[ColumnSummary]:
    """Return the columns that were not measured on the same pieces as most columns."""
    usual = mode(column.pieces for column in summary.columns)
    return [column for column in summary.columns if column.pieces != usual]


def _measured(column: ColumnSummary) -> str:
    seeds = f"{count_of(len(column.seeds), 'seed')} ({', '.join(map(str, column.seeds))})"
    return (
        f"{count_of(len(column.pieces), 'piece')} of {count_of(column.goals, 'goal')} and {seeds}"
    )


def _warnings(summary: MatrixSummary) -> list[str]:
    found = []
    if summary.facts.tuning:
        found.append(
            "These numbers are of the goal and seed on which settings are chosen: they are no result."
        )
    if any(column.goals < 6 or len(column.seeds) < 3 for column in summary.columns):
        found.append(
            "Fewer than 6 goals x 3 seeds: intervals are wide, and one goal gives no interval."
        )
    found += [
        f"{column.name} was measured on other pieces than most columns, {_measured(column)}: compare changes, not "
        "means."
        for column in _odd_columns(summary)
    ]
    return found


def _commands(summary: MatrixSummary) -> list[str]:
    name, _, data = summary.facts.name.partition("-")
    on = f" --on {shlex.quote(data)}" if data else ""
    return [
        f"mmpoison run {shlex.quote(name)}{on} --out DIR",
        f"mmpoison run {shlex.quote(name)}{on} --rows ROW --columns COLUMN --out DIR   # a part of it",
        "mmpoison report DIR   # these pages again",
    ]


def _markdown_page(
    summary: MatrixSummary, figures: Sequence[tuple[str, Path]], missing: str
) -> str:
    pictures = "".join(f"![{name}]({path.name})\n\n" for name, path in figures)
    warnings = "".join(f"**{line}**\n\n" for line in _warnings(summary))
    code = "\n".join(_commands(summary))
    said = "".join(f"{n}. {_text.visible(line)}\n" for n, line in enumerate(findings(summary), 1))
    said += "\n" if said else ""
    return (
        f"# {_text.visible(_title(summary))}\n\n{_lead(summary)}\n\n{warnings}{said}"
        f"```sh\n{code}\n```\n\n{missing}{pictures}"
        f"{markdown(matrix_tables(summary))}\n"
        f"Every measurement is in [{PARQUET}]({PARQUET}), a row a piece and column.\n"
    )
