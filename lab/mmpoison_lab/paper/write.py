"""Writes tables and figures of the paper: Markdown, HTML, JSON, and figures as SVG and PNG."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import quote

from mmpoison.base import atomic_file, decimal, is_installed, unknown_name, visible, write_json
from mmpoison.errors import InputError
from mmpoison.reporting import (
    Cell,
    Compared,
    Link,
    Results,
    Table,
    markdown,
    page_table,
    save,
    template,
)
from mmpoison_lab.paper.draw import dots
from mmpoison_lab.paper.entries import PAPER
from mmpoison_lab.paper.page import Page, ends

ALL = "all"

MOST_DOTS = 40
"""Maximum number of measured lines for a figure above the table."""

AT_A_GLANCE = "Measured numbers with their 95% intervals (dots), and the paper's (diamonds)."

LONGEST = 120
"""Maximum number of rows of a table on a page published without its runs; longer tables are left out."""

RUNS_FILE = "runs.parquet"
"""File with all numbers of published runs, one row per run, goal and model."""


@dataclass(frozen=True)
class Written:
    """A table or figure, and its written files.

    Attributes:
        page: Its content.
        files: The files.
    """

    page: Page
    files: tuple[Path, ...]

    @property
    def tables(self) -> list[Table]:
        """The tables of the page."""
        return self.page.tables

    @property
    def notes(self) -> list[str]:
        """The notes of the page."""
        return self.page.notes


def render_paper(name: str, results: Results) -> Page:
    """Create one table or figure of the paper from results.

    Args:
        name: Its name, such as `table-3` or `figure-5b`; `PAPER` lists all.
        results: Results of the runs.

    Raises:
        InputError: If there is no table or figure with this name.
    """
    if name not in PAPER:
        raise InputError(unknown_name("table or figure", name, PAPER))
    page = Page(name, PAPER[name].title)
    PAPER[name].render(results, page)
    return page


def write_paper(
    names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool = True
) -> list[Written]:
    """Write tables and figures of the paper, with our numbers next to the paper's.

    Args:
        names: Their names; `all` means all for which the runs have a number.
        runs: Run folders, or folders that contain some.
        out: Folder for the files; earlier files are replaced.
        links: Link each number to its runs; False for short pages published without the runs.

    Raises:
        InputError: If a name is unknown, the runs have no number for a given one, or matplotlib is missing.
    """
    results = Results.read(runs)
    wanted = list(PAPER) if ALL in names else list(names)
    written: list[Written] = []
    for name in wanted:
        page = render_paper(name, results)
        if page.empty:
            if ALL in names:
                continue
            raise InputError(
                f"{name}: none of the runs has a number for it: it needs {PAPER[name].needs}"
            )
        written.append(write_page(page, out, links=links))
    if not written:
        raise InputError("none of the runs has a number for any table or figure of the paper")
    return written


def write_page(page: Page, out: Path, *, links: bool = True) -> Written:
    """Write the files of one page.

    Args:
        page: The page.
        out: Folder for the files.
        links: See `write_paper`.

    Raises:
        InputError: If the page has a figure and the extra `figures` is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def drawn(name: str, caption: str, figure: Any) -> dict[str, str]:
        for ending in ("svg", "png"):
            files.append(save(figure, out / f"{name}.{ending}"))
        svg = base64.b64encode((out / f"{name}.svg").read_bytes()).decode()
        address = f"data:image/svg+xml;base64,{svg}"
        return {"name": name, "caption": visible(caption), "address": address}

    pictures = [drawn(one.name, one.caption, one.draw()) for one in page.pictures]

    def relative(file: Path) -> str:
        return quote(os.path.relpath(file.resolve(), out.resolve()))

    notes = list(page.notes)
    if links:
        sources = page.sources(relative)
        tables = [*page.tables, *([sources] if sources else [])]
    else:
        tables = [_alone(table) for table in page.tables if len(table.rows) <= LONGEST]
        notes += [
            f"{table.title}: {len(table.rows):,} lines, in `{RUNS_FILE}` alone."
            for table in page.tables
            if len(table.rows) > LONGEST
        ]
    shown: list[tuple[dict[str, str] | None, list[Table]]] = []
    for number, table in enumerate(tables):
        figure = dot_plot(table)
        name = f"{page.id}-dots" if not number else f"{page.id}-dots-{number + 1}"
        dotted = None if figure is None else drawn(name, f"{table.title}. {AT_A_GLANCE}", figure)
        shown.append((dotted, on_own_lines(table)))
    blocks = [f"# {visible(page.heading)}", *map(visible, notes)]
    for one in pictures:
        blocks += [_image(one), one["caption"]]
    for dotted, lines in shown:
        blocks += [_image(dotted)] if dotted else []
        blocks.append(markdown(lines).rstrip("\n"))
    with atomic_file(out / f"{page.id}.md") as temporary:
        temporary.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    html = template("paper", "mmpoison_lab").render(
        title=page.heading,
        notes=notes,
        pictures=pictures,
        parts=[(dotted, list(map(page_table, lines))) for dotted, lines in shown],
    )
    with atomic_file(out / f"{page.id}.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    content: dict[str, Any] = {
        "id": page.id,
        "title": page.title,
        "notes": page.notes,
        "tables": [table.to_json() for table in tables],
    }
    write_json(out / f"{page.id}.json", content)
    files += [out / f"{page.id}.{ending}" for ending in ("md", "html", "json")]
    return Written(page, tuple(files))


def _image(picture: dict[str, str]) -> str:
    return f"![{picture['caption']}]({quote(picture['name'])}.svg)"


def dot_plot(table: Table) -> Any:
    """Draw a table's measured numbers and the paper's, to compare them at a glance.

    Returns:
        A matplotlib figure; None if the table has nothing to compare or too many lines, or matplotlib is not installed.
        The table has the same numbers.
    """
    if not is_compared(table) or not is_installed("matplotlib"):
        return None
    columns = [at for at in number_columns(table) if table.columns[at].narrow][:MOST_NUMBERS]
    lines = [(row, list(_compared(row, columns))) for row in table.rows]
    lines = [(row, cells) for row, cells in lines if any(cell.measured for cell in cells)]
    if not 0 < len(lines) <= MOST_DOTS:
        return None
    if all(cell.reference is None for _, cells in lines for cell in cells):
        return None
    names = [at for at in range(columns[0]) if table.columns[at].name != "n"]
    panels = {
        table.columns[at].name: [cells[place] for _, cells in lines]
        for place, at in enumerate(columns)
    }
    # shorten a long name in place, so that the names after it still distinguish the lines
    named = [
        ", ".join(shorten(str(row[at]), 28, placeholder=" …") for at in names if row[at])
        for row, _ in lines
    ]
    return dots(named, panels)


def _alone(table: Table) -> Table:
    """Remove the links of a table."""
    rows = tuple(
        tuple(
            replace(cell, address="") if isinstance(cell, (Link, Compared)) else cell
            for cell in row
        )
        for row in table.rows
    )
    return replace(table, rows=rows)


# -- Puts measured numbers and the paper's on separate lines of a table, so that no cell wraps.


PAPER_COLUMNS = ("paper's data", "paper")
"""Names of the last column of a table with the paper's numbers: the paper's data set."""

MOST_NUMBERS = 4
"""Maximum number of number columns per table; more are split into those for a narrow terminal and the others."""


def is_compared(table: Table) -> bool:
    """Check whether a table has the paper's numbers next to measured ones."""
    return table.columns[-1].name in PAPER_COLUMNS and bool(number_columns(table))


def number_columns(table: Table) -> list[int]:
    """Return the indices of the columns with compared numbers."""
    places = range(len(table.columns))
    return [at for at in places if any(isinstance(row[at], Compared) for row in table.rows)]


def on_own_lines(table: Table) -> list[Table]:
    """Put measured numbers and the paper's on separate lines. Tables without comparisons stay unchanged.

    A line becomes up to three: the measured numbers with their intervals, the intervals alone if standard deviations
    are also shown, and the paper's numbers with the comparison.

    Args:
        table: The table, whose last column is the data set of the paper's numbers.

    Returns:
        One table, or two if there are too many numbers for one.
    """
    if not is_compared(table):
        return [table]
    numbers = number_columns(table)
    narrow = [at for at in numbers if table.columns[at].narrow]
    rest = [at for at in numbers if at not in narrow]
    if len(numbers) <= MOST_NUMBERS or not narrow or not rest:
        return [_laid_out(table, numbers)]
    first, second = _laid_out(table, narrow), _laid_out(table, rest)
    return [replace(first, note=""), replace(second, title=f"{table.title}: further numbers")]


def _laid_out(table: Table, numbers: Sequence[int]) -> Table:
    """Put some of a table's numbers on separate lines."""
    names = range(number_columns(table)[0])
    spread = any(cell.spread for row in table.rows for cell in _compared(row, numbers))
    columns = [table.columns[at] for at in names]
    columns += [replace(table.columns[at], interval=not spread) for at in numbers]
    rows: list[tuple[Cell, ...]] = []
    for row in table.rows:
        cells = list(_compared(row, numbers))
        # a line with only the paper's numbers needs names; below a measured line there are none
        named: list[Cell] = ["" if row[at] is None else row[at] for at in names]
        if any(cell.measured is not None for cell in cells):
            ours = (replace(c, reference=None, reference_sd=None, arrow="") for c in cells)
            rows.append((*(row[at] for at in names), *ours))
            named = [""] * len(names)
            if spread and any(ends(cell.measured) for cell in cells):
                intervals = (ends(cell.measured) or "" for cell in cells)
                rows.append(("95% interval", *named[1:], *intervals))
        if any(cell.reference is not None for cell in cells):
            paper = f"paper ({row[-1]})" if row[-1] else "paper"
            digits = (table.columns[at].digits for at in numbers)
            rows.append((paper, *named[1:], *map(_paper, cells, digits)))
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def _compared(row: Sequence[Cell], numbers: Sequence[int]) -> Iterator[Compared]:
    for at in numbers:
        cell = row[at]
        yield cell if isinstance(cell, Compared) else Compared(None)


def _paper(cell: Compared, digits: int) -> str:
    """Format the paper's number with the comparison to the measured one.

    >>> _paper(Compared(None, 0.28, "≈"), 3), _paper(Compared(None, 0.28, reference_sd=0.05), 2)
    ('≈ 0.280', '0.28 (0.05)')
    """
    if cell.reference is None:
        return ""
    sd = "" if cell.reference_sd is None else f" ({decimal(cell.reference_sd, digits)})"
    return f"{cell.arrow} {decimal(cell.reference, digits)}{sd}".strip()
