"""A table or figure of the paper as files: Markdown, one HTML page, JSON, and each figure as SVG and PNG."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmpoison.base.files import atomic_file, write_json
from mmpoison.errors import InputError
from mmpoison.paper.entries import PAPER, find_entry
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.reporting.figure import save
from mmpoison.reporting.html import template
from mmpoison.reporting.table import (
    Cell,
    Compared,
    Link,
    Table,
    cell_texts,
    compared_parts,
    markdown,
)
from mmpoison.reporting.text import visible

ALL = "all"

LONGEST = 80
"""A table of more rows is left out of a page that is published without its runs."""

RUNS_FILE = "runs.parquet"
"""Where all numbers of published runs are: a row a run, goal and model, with seed, settings and digest."""


@dataclass(frozen=True)
class Written:
    """A table or figure, and the files that were written of it.

    Attributes:
        page: What is on it.
        files: The files.
    """

    page: Page
    files: tuple[Path, ...]

    @property
    def tables(self) -> list[Table]:
        """The tables of the page."""
        return list(self.page.tables)


def render_paper(name: str, results: Results) -> Page:
    """Make one table or figure of the paper from results.

    Args:
        name: `table-3`, `figure-5b`; `PAPER` has all.
        results: Of the runs.

    Raises:
        InputError: If there is none of that name.
    """
    made = find_entry(name)
    page = Page(made.name, made.title)
    made.render(results, page)
    return page


def write_paper(
    names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool = True
) -> list[Written]:
    """Render tables and figures of the paper with our numbers next to the paper's.

    Args:
        names: Their names; `all` means all that the runs have a number for.
        runs: Run folders, or folders that hold some.
        out: Where the files go; those of an earlier time are replaced.
        links: Lead to the runs of each number; False for short pages that are published without the runs.

    Raises:
        InputError: If a name is unknown, the runs hold no number for one that was named, or matplotlib is missing.
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
        out: Where they go.
        links: As for `write_paper`.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    pictures: list[dict[str, str]] = []
    for picture in page.pictures:
        figure = picture.draw()
        for ending in ("svg", "png"):
            files.append(save(figure, out / f"{picture.name}.{ending}"))
        svg = base64.b64encode((out / f"{picture.name}.svg").read_bytes()).decode()
        pictures.append(
            {
                "name": picture.name,
                "caption": visible(picture.caption),
                "address": f"data:image/svg+xml;base64,{svg}",
            }
        )

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
    text = [f"# {visible(page.heading)}", ""]
    text += [line for note in notes for line in (visible(note), "")]
    text += [
        line
        for p in pictures
        for line in (f"![{p['caption']}]({quote(p['name'])}.svg)", "", p["caption"], "")
    ]
    with atomic_file(out / f"{page.id}.md") as temporary:
        temporary.write_text("\n".join(text) + "\n" + markdown(tables), encoding="utf-8")
    html = template("page", "mmpoison.paper").render(
        page=page, notes=notes, tables=list(map(plain_table, tables)), pictures=pictures
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


def plain_table(table: Table) -> dict[str, Any]:
    """Prepare a table for the template: each cell as text with its link."""
    rows = []
    for row in table.rows:
        texts = cell_texts(row, table.columns)
        rows.append(
            [
                _html_cell(cell, text, column.digits)
                for cell, text, column in zip(row, texts, table.columns, strict=True)
            ]
        )
    return {
        "title": visible(table.title),
        "columns": [
            {"name": visible(column.name), "text": table.is_text(number)}
            for number, column in enumerate(table.columns)
        ],
        "rows": rows,
        "note": visible(table.note),
    }


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


def _html_cell(cell: Cell, text: str, digits: int) -> dict[str, Any]:
    if isinstance(cell, Link):
        return {"text": text, "address": cell.address, "anchor": cell.anchor, "parts": []}
    if isinstance(cell, Compared) and cell.measured is not None:
        mean, *others = compared_parts(cell, digits)
        return {"text": mean, "address": cell.address, "anchor": "", "parts": others}
    return {"text": text, "address": "", "anchor": "", "parts": []}
