"""A table before anything is drawn: the same numbers for the terminal, for Markdown and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpoison.reporting.text import ABSENT, decimal, visible
from mmpoison.statistics import Summary


@dataclass(frozen=True)
class Link:
    """Text that leads somewhere: in Markdown and on a page; elsewhere the text alone.

    Attributes:
        text: What is read.
        address: Where it leads, relative to the file that holds the table, or `#` and a name.
        anchor: A name by which others lead here, or empty.
    """

    text: str
    address: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Compared:
    """A measured number compared with a reference, for example the paper's.

    Attributes:
        measured: Over seeds; None where no run computed it.
        reference: The paper's; None where it prints none.
        arrow: How the two compare, or empty.
        address: Where the measured number comes from.
        reference_sd: Standard deviation that the paper prints.
        spread: Whether the measured number is shown with its standard deviation too.
    """

    measured: Summary | None
    reference: float | None = None
    arrow: str = ""
    address: str = ""
    reference_sd: float | None = None
    spread: bool = False


Cell = str | int | float | Summary | tuple[float, float] | Link | Compared | None
"""Text, a count, a number, one over seeds, an interval, a link, one compared with a reference, or nothing."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its header.
        digits: After the point.
        narrow: Whether a terminal shows it at once; the others are shown with `--all`.
        interval: Whether a number over seeds is shown with its interval.
        prose: Whether it holds sentences, which are wrapped.
    """

    name: str
    digits: int = 3
    narrow: bool = True
    interval: bool = True
    prose: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under a title.

    Attributes:
        title: What it is of.
        columns: The columns; the first holds names.
        rows: One cell a column each.
        note: What a reader must know, or empty.
        of_models: Whether it is the main table of a run, models and their figures.
        of_drift: Whether it is the table of drift.
        of_all: Whether it has all settings side by side, of which other tables say more.
        detail: Whether it only adds to another table: a terminal shows it with `--all`.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    of_models: bool = False
    of_drift: bool = False
    of_all: bool = False
    detail: bool = False

    def is_text(self, number: int) -> bool:
        """Return whether a column holds words, which are left-aligned; the first column always does."""
        cells = [row[number] for row in self.rows if row[number] is not None]
        return number == 0 or (bool(cells) and all(isinstance(c, str | Link) for c in cells))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values: a row is an object by column, a number over seeds one with n, mean, sd, low, high."""
        return {
            "title": self.title,
            "rows": [
                {c.name: _plain(cell) for c, cell in zip(self.columns, row, strict=True)}
                for row in self.rows
            ],
            **({"note": self.note} if self.note else {}),
        }


def markdown(tables: Sequence[Table]) -> str:
    """Write tables as Markdown, each under its title in bold."""
    blocks: list[str] = []
    for table in tables:
        lines = [
            f"**{visible(table.title)}**",
            "",
            f"| {' | '.join(_escaped(column.name) for column in table.columns)} |",
            f"|{'|'.join('---' if table.is_text(n) else '---:' for n in range(len(table.columns)))}|",
            *(
                "| "
                + " | ".join(_in_markdown(*pair) for pair in zip(row, table.columns, strict=True))
                + " |"
                for row in table.rows
            ),
        ]
        if table.note:
            lines += ["", visible(table.note)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def cell_texts(row: Sequence[Cell], columns: Sequence[Column]) -> list[str]:
    """Write the cells of a row as text, each on one line."""
    return [visible(text) for text in _texts(row, columns, " ")]


def stacked_texts(row: Sequence[Cell], columns: Sequence[Column]) -> list[str]:
    """Write the cells of a row as text, the parts of a number over seeds below each other."""
    return ["\n".join(map(visible, text.split("\n"))) for text in _texts(row, columns, "\n")]


def _texts(row: Sequence[Cell], columns: Sequence[Column], between: str) -> list[str]:
    return [_text(*pair, between) for pair in zip(row, columns, strict=True)]


def _text(cell: Cell, column: Column, between: str) -> str:
    """Write one cell; the parts of a number over seeds are separated by `between`.

    A single number that is too small for the digits is not shown as zero: it may be a p-value.

    >>> plain, fine = Column("Hit@10"), Column("p", 4)
    >>> _text(Summary(3, 0.5, 0.1, 0.25, 0.75), plain, " "), _text(0.25, plain, " "), _text(None, plain, " ")
    ('0.500 ± 0.100 [0.250, 0.750]', '0.250', '–')
    >>> _text(2e-6, fine, " "), _text(0.0, fine, " ")
    ('< 0.0001', '0.0000')
    """
    digits = column.digits
    if cell is None:
        return ABSENT
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Link):
        return cell.text
    if isinstance(cell, Compared):
        return between.join(compared_parts(cell, digits, interval=column.interval))
    if isinstance(cell, Summary):
        mean = decimal(cell.mean, digits)
        if cell.sd is None:
            return mean
        spread = f"± {decimal(cell.sd, digits)}"
        interval = _interval((cell.low, cell.high), digits, between) if column.interval else ()
        return between.join([mean, spread, *interval])
    if isinstance(cell, tuple):
        return between.join(_interval(cell, digits, between))
    if isinstance(cell, int):
        return str(cell)
    least = 10.0**-digits
    return f"< {decimal(least, digits)}" if 0 < cell < least / 2 else decimal(cell, digits)


def _interval(
    ends: tuple[float | None, float | None], digits: int, between: str
) -> tuple[str, ...]:
    low, high = (decimal(end, digits) for end in ends)
    # below each other where the parts are, so that a column stays narrow
    return (f"[{low},", f"{high}]") if between == "\n" else (f"[{low}, {high}]",)


def compared_parts(cell: Compared, digits: int, *, interval: bool = True) -> list[str]:
    """Format a compared number: mean, spread, interval, arrow and reference; what is absent is left out.

    >>> compared_parts(Compared(Summary(3, 0.5, 0.1, 0.25, 0.75), 0.6, "▼"), 2)
    ['0.50', '[0.25, 0.75]', '▼ 0.60']
    """
    parts = [ABSENT if cell.measured is None else decimal(cell.measured.mean, digits)]
    if cell.measured is not None and cell.measured.sd is not None:
        if cell.spread:
            parts.append(f"± {decimal(cell.measured.sd, digits)}")
        if interval:
            parts.append(
                f"[{decimal(cell.measured.low, digits)}, {decimal(cell.measured.high, digits)}]"
            )
    if cell.reference is not None:
        sd = "" if cell.reference_sd is None else f" ({decimal(cell.reference_sd, digits)})"
        parts.append(f"{cell.arrow or '|'} {decimal(cell.reference, digits)}{sd}")
    return parts


def _in_markdown(cell: Cell, column: Column) -> str:
    text = _escaped(_text(cell, column, " "))
    if isinstance(cell, Link):
        label = text.replace("[", "\\[").replace("]", "\\]")
        anchor = f'<a id="{cell.anchor}"></a>' if cell.anchor else ""
        return f"{anchor}[{label}]({cell.address})" if cell.address else f"{anchor}{label}"
    if isinstance(cell, Compared) and cell.address and cell.measured is not None:
        parts = compared_parts(cell, column.digits, interval=column.interval)
        mean, *others = map(_escaped, parts)
        return " ".join([f"[{mean}]({cell.address})", *others])
    return text


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Summary):
        return cell.to_json()
    if isinstance(cell, Link):
        return cell.text
    if isinstance(cell, Compared):
        return {
            "ours": cell.measured.to_json() if cell.measured else None,
            "paper": cell.reference,
            "arrow": cell.arrow,
            "source": cell.address,
        }
    return list(cell) if isinstance(cell, tuple) else cell


def _escaped(text: str) -> str:
    return visible(text).replace("|", "\\|")
