"""Makes the tables of a page as text: one that is wider than the page becomes several, below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpoison.reporting.table import Cell, Column, Compared, Table, cell_texts, stacked_texts
from mmpoison.reporting.text import visible
from mmpoison.statistics import Summary

PAGE = 1040
"""Pixels that a table has on a window of 1,200; `report.css` gives the page 70rem and its edges."""
CHARACTER, PADDING = 7.8, 11.2
"""Pixels of a digit, and in front of a column, in tables of the class `stacked`."""
LONGEST_NAME = 30
"""Characters of a column of text; longer text is folded between its words (`report.css` says so too)."""


@dataclass(frozen=True)
class PageColumn:
    """One column of a table on a page.

    Attributes:
        name: Its header.
        text: Whether it holds words, which are left-aligned.
    """

    name: str
    text: bool


@dataclass(frozen=True)
class PageTable:
    """One table on a page.

    Attributes:
        title: What it is of; empty where it continues the table above.
        label: The same for a screen reader, never empty.
        columns: The columns.
        rows: One cell a column each: the lines of its text.
        note: What a reader must know; it stands under the last part.
    """

    title: str
    label: str
    columns: list[PageColumn]
    rows: list[list[list[str]]]
    note: str


def page_tables(table: Table, *, leave_out: Sequence[str] = ()) -> list[PageTable]:
    """Make a table for a page, in as many parts as its columns need.

    Every part begins with the names of the rows, and with n where there is one.

    Args:
        table: The table.
        leave_out: Names of columns that are not shown.
    """
    shown = [n for n, column in enumerate(table.columns) if column.name not in leave_out]
    # the number of seeds belongs to the name of a row
    fixed = 2 if len(shown) > 1 and table.columns[shown[1]].name == "n" else 1
    names, numbers = shown[:fixed], shown[fixed:]
    room = PAGE - sum(_width(table, n) for n in names)
    parts = balanced_parts([_width(table, n) for n in numbers], room)
    made = []
    for place, part in enumerate(parts):
        chosen = [*names, *(numbers[n] for n in part)]
        columns = [table.columns[n] for n in chosen]
        more = f", part {place + 1} of {len(parts)}" if len(parts) > 1 else ""
        made.append(
            PageTable(
                "" if place else visible(table.title),
                visible(table.title) + more,
                [
                    PageColumn(visible(table.columns[n].name), table.is_text(n) if n else True)
                    for n in chosen
                ],
                [_lines([row[n] for n in chosen], columns) for row in table.rows],
                visible(table.note) if place == len(parts) - 1 else "",
            )
        )
    return made


def balanced_parts(widths: Sequence[float], room: float) -> list[list[int]]:
    """Divide columns into the fewest parts that have room, each with about as many columns.

    Args:
        widths: Of each column, in order.
        room: For one part; a column that is wider has a part of its own.

    >>> balanced_parts([10] * 7, 65), balanced_parts([10, 90, 10], 50), balanced_parts([], 50)
    ([[0, 1, 2, 3], [4, 5, 6]], [[0], [1], [2]], [[]])
    """
    parts = _filled(widths, room, len(widths))
    for most in range(-(-len(widths) // len(parts)), len(widths)):
        even = _filled(widths, room, most)
        if len(even) == len(parts):
            return even
    return parts


def _filled(widths: Sequence[float], room: float, most: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    used = 0.0
    for number, width in enumerate(widths):
        if parts[-1] and (used + width > room or len(parts[-1]) >= most):
            parts.append([])
            used = 0.0
        parts[-1].append(number)
        used += width
    return parts


def _width(table: Table, number: int) -> float:
    """Return about how wide a column is: its longest line, and the longest word of its header."""
    column = table.columns[number]
    lines = [line for row in table.rows for line in _lines([row[number]], [column])[0]]
    longest = max(map(len, [*lines, *column.name.split()]), default=0)
    if table.is_text(number):
        words = [word for line in lines for word in line.split()]
        longest = min(longest, max([LONGEST_NAME, *map(len, words)]))
    return longest * CHARACTER + PADDING


def _lines(row: Sequence[Cell], columns: Sequence[Column]) -> list[list[str]]:
    """Return the lines of each cell: the number, then its deviation and its interval."""
    texts = zip(row, cell_texts(row, columns), stacked_texts(row, columns), strict=True)
    return [
        _joined(stacked.split("\n")) if isinstance(cell, Summary | Compared) else [plain]
        for cell, plain, stacked in texts
    ]


def _joined(lines: Sequence[str]) -> list[str]:
    """Join the two ends of an interval, which stand below each other in a terminal."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].startswith("[") and joined[-1].endswith(","):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return joined
