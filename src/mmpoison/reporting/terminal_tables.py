"""Draws tables for a terminal of any width, without cutting a number, and as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from mmpoison.base.text import ABSENT, count, decimal, percent, visible
from mmpoison.records.run_files import Metrics, Utility
from mmpoison.reporting.summary import computed_models, goal_title, named_models
from mmpoison.reporting.table import (
    Cell,
    Column,
    Compared,
    Link,
    Table,
    cell_texts,
    markdown,
    stacked_texts,
)
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


ENDLESS = 10_000
"""A terminal width, in characters, that fits every table."""

LONGEST_NAME = 24
"""Width of row names, in characters; longer names wrap."""

LONGEST_JOINED_NAME = 32
"""The same if several text columns were joined into one."""

LONGEST_WORDS = 30
"""Longest text in a column that may be joined; columns with longer text stay separate."""

NARROWEST_PROSE, NEXT_TO_PROSE = 26, 16
"""Minimum width of a column of sentences, and maximum width of a text column next to it."""

_INTERVAL = re.compile(r" \[95 ?% interval[^\]]*\]")
"""The part of a note that explains the intervals."""


def first_tables(tables: Sequence[Table]) -> list[Table]:
    """Select the tables to show first: those that compare all settings, else all but details.

    Args:
        tables: Tables of one setting or several.
    """
    compared = [table for table in tables if table.of_all]
    return compared or [table for table in tables if not table.detail]


def terminal(tables: Sequence[Table], *, whole: bool = False) -> RenderableType:
    """Draw tables for a terminal; a table that is too wide is split into parts.

    Args:
        tables: The tables.
        whole: Draw all columns and the intervals, not only the narrow columns.
    """
    shown = [table if whole else _short(table) for table in tables]
    # a note shared by consecutive tables is shown once, under the last of them
    once = [
        replace(table, note="")
        if [table.note] == [n.note for n in shown[place : place + 1]]
        else table
        for place, table in enumerate(shown, 1)
    ]
    return Group(*map(_Drawn, once))


def hides(tables: Sequence[Table]) -> bool:
    """Return whether `terminal` leaves out columns or intervals of these tables."""
    return any(
        not column.narrow or (column.interval and any(map(_has_interval, cells)))
        for table in tables
        for column, cells in zip(table.columns, zip(*table.rows, strict=True), strict=False)
    )


def _has_interval(cell: Cell) -> bool:
    summary = cell.measured if isinstance(cell, Compared) else cell
    return isinstance(summary, Summary) and summary.sd is not None


def _short(table: Table) -> Table:
    """Drop intervals and columns that are not narrow; an n shared by all rows moves to the note."""
    shown = [n for n, column in enumerate(table.columns) if column.narrow]
    note = _INTERVAL.sub("", table.note)
    for place in [n for n in shown if table.columns[n].name == "n"]:
        counts = {row[place] for row in table.rows}
        if len(counts) == 1 and None not in counts:
            shown.remove(place)
            note = f"{note} n = {counts.pop()}.".lstrip()
    return replace(
        table,
        columns=tuple(replace(table.columns[n], interval=False) for n in shown),
        rows=tuple(tuple(row[n] for n in shown) for row in table.rows),
        note=note,
    )


@dataclass(frozen=True)
class _Drawn:
    """A table in parts that fit the terminal; each part starts with the row names."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, longest = self.table, LONGEST_NAME
        every = range(len(table.columns))
        if _has_prose(table):
            longest = NEXT_TO_PROSE
        elif len(table.columns) > 1 and _width(table, every, longest, console) > options.max_width:
            table, joined = _names_joined(table)
            longest = LONGEST_JOINED_NAME if joined else longest
        parts: list[list[int]] = [[0]]
        for number in range(1, len(table.columns)):
            wider = [*parts[-1], number]
            if len(wider) > 2 and _width(table, wider, longest, console) > options.max_width:
                wider = [0, number]
                parts.append(wider)
            parts[-1] = wider
        # as wide as the terminal: rich would wrap the title of a narrow table to its width
        yield Text(visible(table.title), style="bold")
        for part in parts:
            yield _part(table, part, longest)
        if table.note:
            yield Text(visible(table.note))
            yield Text()


def _names_joined(table: Table) -> tuple[Table, bool]:
    """Join the text columns into one, so that every part identifies its rows."""
    words = [0, *(n for n in range(1, len(table.columns)) if _is_name(table, n))]
    numbers = [n for n in range(len(table.columns)) if n not in words]
    if len(words) == 1 or not numbers:
        return table, False
    columns = [table.columns[n] for n in words]
    rows = []
    for row in table.rows:
        texts = cell_texts([row[n] for n in words], columns)
        name = ", ".join(text for text in texts if text != ABSENT) or ABSENT
        rows.append((name, *(row[n] for n in numbers)))
    header = Column(", ".join(column.name for column in columns))
    return replace(
        table, columns=(header, *(table.columns[n] for n in numbers)), rows=tuple(rows)
    ), True


def _has_prose(table: Table) -> bool:
    return any(column.prose for column in table.columns)


def _is_name(table: Table, number: int) -> bool:
    texts = [text for row in table.rows for text in cell_texts(row[number:][:1], [Column("")])]
    if all(re.match(r"[<>]? ?-?\d", text) for text in texts if text != ABSENT):
        return False  # numbers with their intervals, as text
    return table.is_text(number) and max(map(len, texts), default=0) <= LONGEST_WORDS


def _width(table: Table, numbers: Sequence[int], longest: int, console: Console) -> int:
    drawn = _part(table, numbers, longest, NARROWEST_PROSE)
    return Measurement.get(console, console.options.update(max_width=ENDLESS), drawn).maximum


def _part(
    table: Table, numbers: Sequence[int], longest: int, prose: int | None = None
) -> RichTable:
    """Draw some columns of a table; `prose` limits the width of sentences."""
    columns = [table.columns[n] for n in numbers]
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    sentences = _has_prose(table)
    name = visible(columns[0].name)
    drawn.add_column(
        name.replace(" ", "\n") if sentences else name, overflow="fold", max_width=longest
    )
    for number, column in zip(numbers[1:], columns[1:], strict=True):
        # one word per line, so that a column is as narrow as its numbers
        header = visible(column.name)
        header = header if column.prose else header.replace(" ", "\n")
        widest = prose if column.prose else longest if sentences else None
        justify: Literal["left", "right"] = "left" if table.is_text(number) else "right"
        drawn.add_column(header, justify=justify, overflow="fold", max_width=widest)
    for row in table.rows:
        cells: list[Cell] = [row[n] for n in numbers]
        drawn.add_row(*map(Text, stacked_texts(cells, columns)))
    return drawn


# -- The table of one run, readable at 80 columns and without colour.


def terminal_table(metrics: Metrics | Mapping[str, object]) -> RichTable:
    """Make the table of one run: one row per model, with Hit@K, MinRank and utility.

    Args:
        metrics: Content of metrics.json.

    Raises:
        InputError: If the content is invalid.
    """
    metrics = Metrics.of(metrics, "metrics.json")
    names = metrics.goals
    table = RichTable(
        title=Text(visible(goal_title(names[0]))) if len(names) == 1 else None,
        caption=_caption(metrics),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Model", overflow="fold", max_width=26)
    for header in ("Hit@1", "Hit@5", "Hit@10", "MinRank", "IR\nHit@10", "TR\nHit@10"):
        table.add_column(header, justify="right", no_wrap=True)
    for goal in names or [""]:
        if len(names) > 1:
            table.add_row(Text(visible(goal_title(goal)), style="bold"))
        for model in computed_models(metrics, goal):
            row, utility = metrics.row(goal, model.key), metrics.utility.get(model.key) or Utility()
            name = f"  {model.name}" if model.key == "random_captions" else model.name
            table.add_row(
                Text(name),
                *(decimal(hit) for hit in (row.hit_1, row.hit_5, row.hit_10)),
                decimal(row.min_rank, 2),
                decimal(utility.image_retrieval.hit_10),
                decimal(utility.text_retrieval.hit_10),
            )
        table.add_section()
    return table


def _caption(metrics: Metrics) -> Text:
    run, drift = metrics.run, metrics.drift
    warnings = [f"WARNING: {visible(flag)}" for flag in run.flags]
    amount = (
        f"{count(run.poisoned_pairs)} poisoned of {count(run.training_pairs)} "
        f"training pairs ({percent(run.poisoning_rate)}), mode {visible(run.mode or ABSENT)}."
    )
    legend = (
        "MinRank counts from 0 (0: a target image came first). IR, TR: utility, image and text "
        f"retrieval on the whole test set. {ABSENT}: not computed."
    )
    caption = Text("\n".join(warnings), style="bold")
    if warnings:
        caption.append("\n")
    if run.poisoned_pairs is not None:
        caption.append(f"{amount}\n", style="not bold")
    for model in named_models(run):
        if name := run.models.get(model.key):
            caption.append(f"{model.name}: {visible(name)}\n", style="not bold")
    if drift.text is not None and drift.image is not None:
        caption.append(
            f"Drift from the clean model: texts {decimal(drift.text, 4)}, images {decimal(drift.image, 4)} "
            "(mean cosine distance).\n",
            style="not bold",
        )
    caption.append(legend, style="not bold")
    return caption
