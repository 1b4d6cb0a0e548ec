"""The paper's tables and figures for a page of our own: what some runs have a number for, without links out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError
from mmpoison.evaluation.record import Metrics
from mmpoison.reporting.figure import svg_address
from mmpoison.reporting.html_report import _environment
from mmpoison.reporting.text import visible

MAIN_TABLES = ("table-2", "table-3", "table-4")
"""The attacks I, II and III: shown first, and open."""

CURVES = ("figure-3", "figure-6", "figure-7", "figure-9")
"""Figures that say something of one run: by epoch, by distance, by step."""

NOT_SEVERAL = ("figure-8", "figure-10", "rank-lists")
"""What is shown run by run."""


@dataclass(frozen=True)
class Shown:
    """A table or figure of the paper, ready for a page.

    Attributes:
        heading: `Table 3: ...`.
        main: Whether it is one of an attack's own.
        tables: Each with its title, columns, rows of cells and note.
        figures: Caption and `data:` address of each.
        notes: What a reader must know besides.
    """

    heading: str
    main: bool
    tables: tuple[dict[str, Any], ...]
    figures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def paper_section(runs: Sequence[Path]) -> str:
    """Make the section of a page that compares runs with the paper; empty where they have none of its numbers.

    Args:
        runs: Finished run folders.
    """
    try:
        shown, missing = paper_tables(runs)
    except InputError as error:  # a run that does not fit the paper is still shown
        shown, missing = [], [str(error)]
    return (
        _environment()
        .get_template("beside.html.j2")
        .render(
            beside=shown,
            beside_missing=missing,
            single=len(runs) == 1,
            stand_in=any(map(_stands_in, runs)),
        )
    )


def _stands_in(run: Path) -> bool:
    """Whether the data of a run are others than the paper's."""
    name = Metrics.read(run / "metrics.json").run.data.name or ""
    return name.startswith(("openmoji", "rsicd-ucm"))


def paper_tables(runs: Sequence[Path]) -> tuple[list[Shown], list[str]]:
    """All of the paper's tables that the runs have a number for, and the figures that suit them.

    Args:
        runs: Finished run folders.

    Returns:
        What is to be shown, the attack's own table first; and what could not be, in one line each.

    Raises:
        InputError: If a run's files are broken.
    """
    from mmpoison.paper.measured import Results
    from mmpoison.paper.registry import PAPER, in_order
    from mmpoison.paper.write import plain_table, render_paper

    results = Results.read(list(runs))
    shown: list[Shown] = []
    missing: list[str] = []
    for name in in_order(list(PAPER)):
        if name.startswith("table") or (
            name in CURVES if len(runs) == 1 else name not in NOT_SEVERAL
        ):
            page = render_paper(name, results)
            if page.empty:
                continue
            try:
                figures = tuple(
                    (visible(picture.caption), svg_address(picture.draw()))
                    for picture in page.pictures
                )
            except InputError as error:
                missing.append(f"{page.id}: {error}")
                figures = ()
            shown.append(
                Shown(
                    page.heading,
                    page.id in MAIN_TABLES,
                    tuple(map(plain_table, page.tables)),
                    figures,
                    tuple(map(visible, page.notes)),
                )
            )
    return sorted(shown, key=lambda one: not one.main), list(dict.fromkeys(missing))
