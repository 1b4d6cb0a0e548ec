"""Writes a matrix as tables, as a Markdown page with two heat maps, as one HTML page, and as Parquet."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError
from mmpoison.records.matrix import CLEAN_MODEL, UNDEFENDED, MatrixCell, write_cells
from mmpoison.reporting import text as _text
from mmpoison.reporting.figure import canvas, save
from mmpoison.reporting.html import template
from mmpoison.reporting.matrix.findings import findings
from mmpoison.reporting.matrix.pooled import interval
from mmpoison.reporting.matrix.published import compare_claims
from mmpoison.reporting.matrix.summary import CellSummary, MatrixSummary, RowSummary
from mmpoison.reporting.table import Cell, Column, Link, Table, cell_texts, markdown
from mmpoison.statistics import Estimate

PAGE, HTML, PARQUET = "matrix.md", "matrix.html", "matrix.parquet"
SUCCESS_MAP, UTILITY_MAP = "attack-success.svg", "utility-lost.svg"
DID_NOT_TAKE = "did not take"
NOT_POSSIBLE = "not possible"
FULL_LOSS = 0.2
"""The utility lost that has the darkest colour."""

_FILTER_COLUMNS = (
    ("AUROC", "auroc"),
    ("AP", "average_precision"),
    ("at 0.1%", "recall_01"),
    ("at 1%", "recall_1"),
    ("at 2%", "recall_2"),
    ("at 5%", "recall_5"),
    ("own cut", "caught"),
    ("clean lost", "clean_lost"),
    ("goals found", "alarms"),
)


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map: its text, how dark it is in [0, 1], and where it leads."""

    text: str
    shade: float | None
    address: str


def matrix_tables(summary: MatrixSummary, *, short: bool = False) -> list[Table]:
    """Make the tables of a matrix.

    Args:
        summary: Of the pieces.
        short: Only attack success, utility and ranking.
    """
    tables = [_success_table(summary), _utility_table(summary), _ranking_table(summary)]
    if short:
        return tables
    if claims := _claim_table(summary):
        tables.append(claims)
    tables += [_attack_table(summary), _column_table(summary)]
    if summary.filters:
        tables.append(_filter_table(summary))
    if summary.scans:
        tables.append(_scan_table(summary))
    for row in summary.rows:
        tables += [_row_table(row), _piece_table(row, summary)]
    return tables


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
        figures = _write_heat_maps(summary, out)
        missing = ""
    except InputError as error:
        missing = f"No heat maps: {error}\n\n"
    with atomic_file(out / PAGE) as temporary:
        temporary.write_text(_markdown_page(summary, figures, missing), encoding="utf-8")
    with atomic_file(out / HTML) as temporary:
        temporary.write_text(matrix_html(summary), encoding="utf-8")
    write_cells(out / PARQUET, cells)
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
                    for name, cells in _heat_rows(summary, utility=utility)
                ],
            }
            for table, utility in ((first, False), (second, True))
        ],
        "tables": [
            {
                "title": table.title,
                "note": table.note,
                "anchor": _anchor_of(table),
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
    return f"Attacks against defences: {summary.facts.name}"


def _lead(summary: MatrixSummary) -> str:
    counted = [row for row in summary.rows if row.counts and not row.clean]
    poisoned = [row for row in summary.rows if not row.clean]
    return (
        f"{summary.goals} goals x {len(summary.seeds)} seeds ({', '.join(map(str, summary.seeds))}), the same for each "
        f"attack and defence. The undefended attack succeeds at least {summary.facts.took:.0%} of the time in "
        f"{len(counted)} of {len(poisoned)} rows; only these rows are compared."
    )


def _warnings(summary: MatrixSummary) -> list[str]:
    found = []
    if summary.facts.tuning:
        found.append(
            "These numbers are of the goal and seed on which settings are chosen: they are no result."
        )
    if summary.goals < 6 or len(summary.seeds) < 3:
        found.append(
            "Fewer than 6 goals x 3 seeds: intervals are wide, and one goal gives no interval."
        )
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


# -- tables -----------------------------------------------------------------------------------------------------------


def _success_table(summary: MatrixSummary) -> Table:
    columns = [column.name for column in summary.defended]
    return Table(
        "Attack success after each defence",
        (Column("Attack"), *(Column(name, 2) for name in columns)),
        tuple(
            (row.name, *(Link(*_success(row, name)) for name in columns))
            for row in summary.rows
            if not row.clean
        ),
        "Share of the attacker's queries that find a target image among the first 10, or find it with the trigger. "
        f"`{UNDEFENDED}` is the poisoned model without a defence.",
    )


def _success(row: RowSummary, column: str) -> tuple[str, str]:
    """Return the text of a cell and where it leads."""
    address = f"#pieces-{_slug(row.name)}"
    found = row.cells.get(column)
    if found is None or not found.pieces:
        return (NOT_POSSIBLE if found is not None and found.notes else _text.ABSENT), address
    if not row.counts and column not in (UNDEFENDED, CLEAN_MODEL):
        return DID_NOT_TAKE, address
    return (_text.ABSENT if found.success is None else f"{found.success.value:.2f}"), address


def _utility_table(summary: MatrixSummary) -> Table:
    columns = [c.name for c in summary.defended if c.name != UNDEFENDED]
    return Table(
        "Utility lost by each defence",
        (Column("Attack"), *(Column(name) for name in columns)),
        tuple(
            (
                row.name,
                *(
                    Link(_signed(_lost(row, name)), f"#pieces-{_slug(row.name)}")
                    for name in columns
                ),
            )
            for row in summary.rows
        ),
        "Mean Hit@10 of image and text retrieval: the undefended model less the defended one, by the same goals and "
        "seeds.",
    )


def _lost(row: RowSummary, column: str) -> Estimate | None:
    found = row.cells.get(column)
    return found.lost if found is not None else None


def _ranking_table(summary: MatrixSummary) -> Table:
    rows = [(row.name, _groups(row.ranking)) for row in summary.rows if row.ranking]
    return Table(
        "Which defences differ",
        (Column("Attack"), Column("From the best on")),
        (("all that count", _groups(summary.ranking)), *rows),
        "Defences of one group do not differ: the 95% interval of the paired difference from the first of the group "
        "contains 0. Goals are clusters; the intervals hold for all pairs of a line together (Bonferroni).",
    )


def _groups(ranking: Sequence[Sequence[str]]) -> str:
    return "; ".join(f"{n}. {', '.join(group)}" for n, group in enumerate(ranking, 1)) or "–"


def _claim_table(summary: MatrixSummary) -> Table | None:
    compared = compare_claims(summary)
    if not compared:
        return None
    return Table(
        "What the papers of the defences claim",
        (Column("Paper"), Column("claim"), Column("here"), Column("measured"), Column("agrees if")),
        tuple(
            (
                one.source,
                one.claim,
                f"{one.verdict}: {one.reason}" if one.reason else one.verdict,
                one.measured,
                one.rule,
            )
            for one in compared
        ),
        "By the 95% interval, goals as clusters; undecided where the interval holds both answers.",
    )


def _attack_table(summary: MatrixSummary) -> Table:
    return Table(
        "The attacks",
        (
            Column("Attack"),
            Column("registered as"),
            Column("carrier"),
            Column("surrogate"),
            Column("poisoned pairs"),
            Column("of the set"),
            Column("succeeds"),
            Column("counts"),
        ),
        tuple(
            (
                row.name,
                row.attack,
                row.carrier,
                row.surrogate,
                _span(row.poisoned_pairs),
                _share(row),
                interval(row.cells[UNDEFENDED].success, share=True)
                if UNDEFENDED in row.cells
                else None,
                "yes" if row.counts else f"no: {DID_NOT_TAKE}",
            )
            for row in summary.rows
            if not row.clean
        ),
        "Undefended, with the 95% interval over goals. The surrogate is the model that the attacker knows.",
    )


def _share(row: RowSummary) -> str | None:
    if row.poisoned_pairs is None or row.training_pairs is None:
        return None
    return _text.percent(row.poisoned_pairs[1] / row.training_pairs[1])


def _column_table(summary: MatrixSummary) -> Table:
    return Table(
        "The defences",
        (
            Column("Defence"),
            Column("registered as"),
            Column("acts"),
            Column("needs"),
            Column("seconds", 1),
            Column("utility lost"),
            Column("without poison"),
        ),
        tuple(
            (
                column.name,
                column.method,
                column.kind,
                column.needs or "nothing",
                column.seconds,
                interval(column.lost, 3),
                interval(column.lost_clean, 3),
            )
            for column in summary.columns
        ),
        "Seconds of the defence and its training, means over pieces; compare them within one machine only. None of "
        "them knows the goal or the trigger. Every trained model has as many optimiser steps as the undefended one: "
        "the places of dropped pairs are filled with pairs that stayed. Repairs share their clean pairs and steps.",
    )


def _filter_table(summary: MatrixSummary) -> Table:
    clean = {row.name for row in summary.rows if row.clean}
    return Table(
        "Filters",
        (
            Column("Filter"),
            Column("Attack"),
            *(Column(name, 2 if key != "clean_lost" else 4) for name, key in _FILTER_COLUMNS),
        ),
        tuple(
            (
                one.column,
                f"{one.row} (no poison)" if one.row in clean else one.row,
                *(one.numbers[key] for _, key in _FILTER_COLUMNS),
            )
            for one in summary.filters
        ),
        "Share of the poisoned pairs caught where a given share of the clean pairs is lost, and at the defence's own "
        "cut, with what that loses. Without poison, what is lost and found are false alarms.",
    )


def _scan_table(summary: MatrixSummary) -> Table:
    clean = {row.name for row in summary.rows if row.clean}
    return Table(
        "Scans of the undefended model",
        (
            Column("Scan"),
            Column("Attack"),
            Column("findings at 1%", 2),
            Column("goal first", 2),
            Column("smallest p", 4),
        ),
        tuple(
            (
                one.column,
                f"{one.row} (no poison)" if one.row in clean else one.row,
                *(one.numbers[key] for key in ("alarms", "named", "p_value")),
            )
            for one in summary.scans
        ),
    )


def _row_table(row: RowSummary) -> Table:
    return Table(
        f"{row.name}: each defence",
        (
            Column("Defence"),
            Column("success"),
            Column("change"),
            Column("utility lost"),
            Column("pieces"),
            Column("notes"),
        ),
        tuple(
            (
                name,
                interval(cell.success, share=True),
                None if name == UNDEFENDED else interval(cell.change),
                None if name == UNDEFENDED else interval(cell.lost, 3),
                cell.pieces,
                _notes(cell),
            )
            for name, cell in row.cells.items()
        ),
        "Means over goals and seeds with 95% intervals, goals as clusters. Change: against the undefended model.",
    )


def _notes(cell: CellSummary) -> str:
    more = f" (and {len(cell.notes) - 1} others)" if len(cell.notes) > 1 else ""
    return f"{cell.notes[0][:160]}{more}" if cell.notes else ""


def _piece_table(row: RowSummary, summary: MatrixSummary) -> Table:
    names = [column.name for column in summary.defended]
    rows: list[tuple[Cell, ...]] = []
    for place, ((goal, seed), cells) in enumerate(row.pieces.items()):
        shown = [cells[name] for name in names if name in cells]
        goals = next((cell.goals for cell in shown if cell.goals), goal) or "no goal"
        anchor = f"pieces-{_slug(row.name)}" if place == 0 else ""
        found = [cells[name].success if name in cells else None for name in names]
        if row.clean:
            found = [cells[name].utility if name in cells else None for name in names]
        rows.append((Link(goals, anchor=anchor), seed, *found))
    what = "utility" if row.clean else "attack success"
    return Table(
        f"{row.name}: {what} of each piece",
        (Column("Goal"), Column("Seed"), *(Column(name, 3) for name in names)),
        tuple(rows),
    )


def _anchor_of(table: Table) -> str:
    """Return the name by which the cells of the maps lead to a table."""
    cell = table.rows[0][0] if table.rows else None
    return cell.anchor if isinstance(cell, Link) else ""


def _signed(estimate: Estimate | None) -> str:
    return _text.ABSENT if estimate is None else f"{estimate.value:+.3f}"


def _span(ends: tuple[int, int] | None) -> str | None:
    if ends is None:
        return None
    low, high = map(_text.count, ends)
    return low if low == high else f"{low} to {high}"


def _slug(name: str) -> str:
    """Make a name of an anchor.

    >>> _slug('II own "x"')
    'ii-own-x'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


# -- heat maps --------------------------------------------------------------------------------------------------------


def _heat_rows(summary: MatrixSummary, *, utility: bool) -> list[tuple[str, list[HeatCell]]]:
    rows: list[tuple[str, list[HeatCell]]] = []
    for row in summary.rows:
        address = f"#pieces-{_slug(row.name)}"
        if utility:
            names = [c.name for c in summary.defended if c.name != UNDEFENDED]
            losses = [_lost(row, name) for name in names]
            cells = [HeatCell(_signed(one), _shade(one, FULL_LOSS), address) for one in losses]
        elif row.clean:
            continue
        else:
            cells = []
            for column in summary.defended:
                shown, _ = _success(row, column.name)
                known = row.cells[column.name].success if shown[0].isdigit() else None
                cells.append(HeatCell(shown, _shade(known, 1.0), address))
        rows.append((row.name, cells))
    return rows


def _shade(estimate: Estimate | None, full: float) -> float | None:
    return None if estimate is None else round(min(max(estimate.value / full, 0.0), 1.0), 3)


def _write_heat_maps(summary: MatrixSummary, out: Path) -> list[tuple[str, Path]]:
    tables = (_success_table(summary), _utility_table(summary))
    written: list[tuple[str, Path]] = []
    for table, name, utility in zip(tables, (SUCCESS_MAP, UTILITY_MAP), (False, True), strict=True):
        rows = _heat_rows(summary, utility=utility)
        if rows:
            figure = _heat_map(table.title, [c.name for c in table.columns[1:]], rows)
            written.append((table.title, save(figure, out / name)))
    return written


def _heat_map(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[HeatCell]]]
) -> Any:
    figure, (axis,) = canvas(1)
    figure.set_size_inches(2.6 + 0.95 * len(columns), 1.5 + 0.32 * len(rows))
    values = [
        [float("nan") if cell.shade is None else cell.shade for cell in cells] for _, cells in rows
    ]
    axis.imshow(values, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for y, (_, cells) in enumerate(rows):
        for x, cell in enumerate(cells):
            dark = cell.shade is not None and cell.shade > 0.6
            shown = _text.visible(cell.text).replace("$", r"\$")
            axis.text(x, y, shown, ha="center", va="center", fontsize=8, color="1" if dark else "0")
    axis.set_xticks(range(len(columns)), [_text.visible(c).replace("$", r"\$") for c in columns])
    axis.tick_params(axis="x", rotation=30, length=0)
    axis.tick_params(axis="y", length=0)
    axis.set_yticks(range(len(rows)), [_text.visible(n).replace("$", r"\$") for n, _ in rows])
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    return figure
