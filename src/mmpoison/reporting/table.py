"""Tables independent of their output, so that all formats have the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpoison.base.text import ABSENT, decimal, visible
from mmpoison.statistics import Summary


@dataclass(frozen=True)
class Link:
    """Linked text. Markdown and pages show the link, other formats only the text.

    Attributes:
        text: The text.
        address: The target, relative to the file that contains the table, or `#` and an id.
        anchor: Id for links to this cell, or empty.
    """

    text: str
    address: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Compared:
    """A measured number compared with a reference, for example the paper's.

    Attributes:
        measured: The number over seeds; None if no run computed it.
        reference: The reference; None if there is none.
        arrow: How the two compare, e.g. ▼, or empty.
        address: Link to the source of the measured number.
        reference_sd: Standard deviation of the reference.
        spread: Whether to show the standard deviation of the measured number.
    """

    measured: Summary | None
    reference: float | None = None
    arrow: str = ""
    address: str = ""
    reference_sd: float | None = None
    spread: bool = False


Cell = str | int | float | Summary | tuple[float, float] | Link | Compared | None
"""Text, a count, a number, a summary over seeds, an interval, a link, a comparison, or nothing."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: The header.
        digits: Number of decimals.
        narrow: Whether a terminal shows it even without `--all`.
        interval: Whether numbers over seeds are shown with their interval.
        prose: Whether it contains sentences, which wrap.
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
        title: The title.
        columns: The columns; the first contains names.
        rows: One cell per column.
        note: What a reader must know, or empty.
        of_models: Whether it is the main table of a run, with the models and their metrics.
        of_drift: Whether it is the table of drift.
        of_all: Whether it compares all settings, which other tables show in detail.
        detail: Whether it only adds details to another table; a terminal shows it with `--all`.
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
        """Return whether a column is text, which is left-aligned; the first one always is."""
        cells = [row[number] for row in self.rows if row[number] is not None]
        return number == 0 or (bool(cells) and all(isinstance(c, str | Link) for c in cells))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; each row is an object with the column names as keys.

        A number over seeds is an object with n, mean, sd, low and high.
        """
        return {
            "title": self.title,
            "rows": [
                {c.name: _plain(cell) for c, cell in zip(self.columns, row, strict=True)}
                for row in self.rows
            ],
            **({"note": self.note} if self.note else {}),
        }


def markdown(tables: Sequence[Table]) -> str:
    """Format tables as Markdown, each under its title in bold."""
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
    """Format the cells of a row, each on one line."""
    return [visible(text) for text in _texts(row, columns, " ")]


def stacked_texts(row: Sequence[Cell], columns: Sequence[Column]) -> list[str]:
    """Format the cells of a row; each part of a number over seeds is on its own line."""
    return ["\n".join(map(visible, text.split("\n"))) for text in _texts(row, columns, "\n")]


def _texts(row: Sequence[Cell], columns: Sequence[Column], between: str) -> list[str]:
    return [_text(*pair, between) for pair in zip(row, columns, strict=True)]


def _text(cell: Cell, column: Column, between: str) -> str:
    """Format one cell; `between` separates the parts of a number over seeds.

    A single number too small for the digits is not shown as zero: it may be a p-value.

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
    # on two lines if the parts are on lines of their own, so that the column stays narrow
    return (f"[{low},", f"{high}]") if between == "\n" else (f"[{low}, {high}]",)


def compared_parts(cell: Compared, digits: int, *, interval: bool = True) -> list[str]:
    """Format a compared number: those of mean, spread, interval, arrow and reference that exist.

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
