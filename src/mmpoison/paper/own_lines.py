"""Gives measured numbers and the paper's lines of their own in a table, so that no cell wraps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mmpoison.reporting.table import Cell, Compared, Table
from mmpoison.reporting.text import decimal

PAPER_COLUMNS = ("paper's data", "paper")
"""Names of the last column of a table that has the paper's numbers: of which data they are."""

MOST_NUMBERS = 4
"""A table of more numbers is two: those that a narrow terminal shows, then the others."""


def is_compared(table: Table) -> bool:
    """Return whether a table has the paper's numbers next to measured ones."""
    return table.columns[-1].name in PAPER_COLUMNS and bool(number_columns(table))


def number_columns(table: Table) -> list[int]:
    """Return the places of the columns of compared numbers."""
    places = range(len(table.columns))
    return [at for at in places if any(isinstance(row[at], Compared) for row in table.rows)]


def on_own_lines(table: Table) -> list[Table]:
    """Give measured numbers and the paper's lines of their own; a table of something else stays as it is.

    A line of a table becomes up to three: the measured numbers with their intervals, the intervals alone where standard
    deviations are shown too, and the paper's numbers with how they compare.

    Args:
        table: Its last column says of which data the paper's numbers are.

    Returns:
        One table, or two where there are more numbers than fit next to each other.
    """
    if not is_compared(table):
        return [table]
    numbers = number_columns(table)
    names = [at for at in range(numbers[0]) if at not in numbers]
    narrow = [at for at in numbers if table.columns[at].narrow]
    rest = [at for at in numbers if at not in narrow]
    if len(numbers) <= MOST_NUMBERS or not narrow or not rest:
        return [_laid_out(table, names, numbers)]
    first, second = _laid_out(table, names, narrow), _laid_out(table, names, rest)
    return [replace(first, note=""), replace(second, title=f"{table.title}: further numbers")]


def _laid_out(table: Table, names: Sequence[int], numbers: Sequence[int]) -> Table:
    spread = any(cell.spread for row in table.rows for cell in _compared(row, numbers))
    rows = [
        tuple(line) for row in table.rows for line in _lines(table, row, names, numbers, spread)
    ]
    columns = [table.columns[at] for at in names]
    columns += [replace(table.columns[at], interval=not spread) for at in numbers]
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def _lines(
    table: Table, row: Sequence[Cell], names: Sequence[int], numbers: Sequence[int], spread: bool
) -> Iterator[list[Cell]]:
    cells = list(_compared(row, numbers))
    measured = any(cell.measured is not None for cell in cells)
    blank: list[Cell] = [""] * len(names)
    if measured:
        ours: list[Cell] = [replace(c, reference=None, reference_sd=None, arrow="") for c in cells]
        yield [row[at] for at in names] + ours
        if spread and any(cell.measured and cell.measured.low is not None for cell in cells):
            yield ["95% interval", *blank[1:], *map(_interval, cells)]
    if any(cell.reference is not None for cell in cells):
        # what else a line of the paper alone is called; below a measured line it has that line's names
        named = blank if measured else ["" if row[at] is None else row[at] for at in names]
        shown = [_paper(c, table.columns[at].digits) for c, at in zip(cells, numbers, strict=True)]
        yield [f"paper ({row[-1]})" if row[-1] else "paper", *named[1:], *shown]


def _compared(row: Sequence[Cell], numbers: Sequence[int]) -> Iterator[Compared]:
    for at in numbers:
        cell = row[at]
        yield cell if isinstance(cell, Compared) else Compared(None)


def _interval(cell: Compared) -> Cell:
    summary = cell.measured
    if summary is None or summary.low is None or summary.high is None:
        return ""
    return summary.low, summary.high


def _paper(cell: Compared, digits: int) -> str:
    """Write the paper's number with how it compares with the measured one.

    >>> _paper(Compared(None, 0.28, "≈"), 3), _paper(Compared(None, 0.28, reference_sd=0.05), 2)
    ('≈ 0.280', '0.28 (0.05)')
    """
    if cell.reference is None:
        return ""
    sd = "" if cell.reference_sd is None else f" ({decimal(cell.reference_sd, digits)})"
    return f"{cell.arrow} {decimal(cell.reference, digits)}{sd}".strip()
