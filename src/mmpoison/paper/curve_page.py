"""Figures that show the attack against one thing that varies: the form of figures 2 to 5 (a), 7 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpoison.paper.draw import Panel, Series, curves
from mmpoison.paper.measured import Measured, Results
from mmpoison.paper.page import Page
from mmpoison.paper.shapes import DIGITS, NAMES
from mmpoison.reporting.table import Cell, Column
from mmpoison.statistics import Summary


@dataclass(frozen=True)
class Curve:
    """One line of such a figure.

    Attributes:
        name: Data set, or what else tells lines apart.
        points: A value of x, how it is called, and our rows there; in order.
    """

    name: str
    points: Sequence[tuple[float, str, Results]]


def curve_page(
    page: Page,
    lines: Sequence[Curve],
    xlabel: str,
    caption: str,
    *,
    columns: Sequence[str] = ("hit@10", "min_rank"),
    log: bool = False,
    named: bool = False,
) -> None:
    """Put the curves and the table of their points on a page.

    Args:
        page: The page.
        lines: The lines; those without a number are left out.
        xlabel: What varies.
        caption: Of the figure.
        columns: What is measured, a panel each.
        log: A logarithmic axis.
        named: The values of x are names.
    """
    series: dict[str, list[Series]] = {column: [] for column in columns}
    rows: list[tuple[Cell, ...]] = []
    names: dict[float, str] = {}
    for line in lines:
        drawn: dict[str, list[tuple[float, Summary]]] = {column: [] for column in columns}
        for x, name, found in line.points:
            measured: dict[str, Measured] = {column: found.measured(column) for column in columns}
            n = max((m.summary.n for m in measured.values() if m.summary), default=None)
            if n is None:
                continue
            names[x] = name
            rows.append(
                (
                    line.name,
                    name,
                    n,
                    *(page.cell(measured[c], digits=DIGITS.get(c, 3)) for c in columns),
                )
            )
            for column, value in measured.items():
                if value.summary is not None:
                    drawn[column].append((x, value.summary))
        for column, points in drawn.items():
            if points:
                series[column].append(Series(line.name, points))
    if not rows:
        return
    header = (
        Column("ours on"),
        Column(xlabel),
        Column("n"),
        *(Column(NAMES.get(c, c), DIGITS.get(c, 3)) for c in columns),
    )
    page.table(
        page.title,
        header,
        rows,
        "Mean over seeds [95 % interval of the mean]. MinRank counts from 0.",
    )
    ticks: Any = [names[x] for x in sorted(names)] if named else None
    panels = [
        Panel(NAMES.get(c, c), series[c], top=1.02 if c.startswith("hit@") else None)
        for c in columns
    ]
    page.picture(page.id, caption, lambda: curves(panels, xlabel, log=log, ticks=ticks))
