"""The paper's tables and figures as a section of a report: those that some runs have a number for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError
from mmpoison.paper.entries import PAPER
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import paper_data
from mmpoison.paper.write import plain_table, render_paper
from mmpoison.reporting.figure import svg_address
from mmpoison.reporting.html import template
from mmpoison.reporting.text import visible

MAIN_TABLES = ("table-2", "table-3", "table-4")
"""The attacks I, II and III: shown first, and open."""

CURVES = ("figure-3", "figure-6", "figure-7", "figure-9")
"""Figures that say something of one run: by epoch, by distance, by step."""

NOT_SEVERAL = ("figure-8", "figure-10", "rank-lists")
"""What is shown run by run."""


STAND_INS = ("openmoji", "rsicd-ucm")
"""Data sets for small machines, which are compared with the paper's for the shape alone."""


def paper_section(runs: Sequence[Path]) -> str:
    """Make a section for the page of some runs: the paper's tables that they have a number for, and some figures.

    Args:
        runs: Finished run folders. One that does not match the paper, or is broken, makes a line that says so.

    Returns:
        HTML in which every string is escaped; empty where there is nothing to show.
    """
    shown: list[dict[str, Any]] = []
    missing: dict[str, None] = {}
    names: list[Any] = []
    try:
        results = Results.read(list(runs))
        names = results.values("data.name")
        for page in (render_paper(name, results) for name in PAPER if _fits(name, len(runs))):
            if _has_something_to_compare(page, names):
                shown.append(_shown(page, missing))
    except InputError as error:
        shown, missing = [], {str(error): None}
    html = template("section", "mmpoison.paper").render(
        shown=sorted(shown, key=lambda one: not one["main"]),
        missing=list(missing),
        single=len(runs) == 1,
        other=any(str(name).startswith(STAND_INS) for name in names),
    )
    return str(html)


def _shown(page: Page, missing: dict[str, None]) -> dict[str, Any]:
    """Prepare a page for the template; what cannot be drawn is a line of `missing`."""
    try:
        figures = [(visible(p.caption), svg_address(p.draw())) for p in page.pictures]
    except InputError as error:
        missing[f"{page.id}: {error}"] = None
        figures = []
    return {
        "heading": page.heading,
        "main": page.id in MAIN_TABLES,
        "tables": [plain_table(table) for table in page.tables],
        "figures": figures,
        "notes": [visible(note) for note in page.notes],
    }


def _has_something_to_compare(page: Page, data: Sequence[object]) -> bool:
    """Return whether a table or figure says something of the runs that the attack's own table does not.

    The tables of the paper's studies are for comparing: runs on the paper's data with the paper's numbers, or runs
    that differ in what is studied with each other. One run on other data would fill a line of each.
    """
    if page.empty:
        return False
    study = page.id.startswith("table") and page.id not in MAIN_TABLES
    return not study or page.settings > 1 or any(map(_is_of_the_paper, data))


def _is_of_the_paper(data: object) -> bool:
    return paper_data(str(data)) is not None and not str(data).startswith(STAND_INS)


def _fits(name: str, runs: int) -> bool:
    """Return whether a table or figure is shown for this number of runs."""
    return name.startswith("table") or (name in CURVES if runs == 1 else name not in NOT_SEVERAL)
