"""Figure 5 (b): all goals, the heat map."""

from __future__ import annotations

import numpy as np

from mmpoison.paper.draw import heat_map
from mmpoison.paper.measured import Results, attack_2
from mmpoison.paper.page import Page
from mmpoison.paper.registry import entry
from mmpoison.paper.shapes import Block, blocks
from mmpoison.reporting.table import Cell, Column

FEW = 6
"""Fewer goals than that are no map."""


@entry(
    "figure-5b",
    "Attack II with every goal",
    "attack II with every goal of the data (sweep.goals: all)",
)
def figure_5b(results: Results, page: Page) -> None:
    """Mean MinRank of each goal: original classes are rows, target classes columns."""
    several = [
        block
        for block in blocks(results.where(attack_2, model="poisoned").whole_data())
        if len(block.results.values("goal")) >= FEW
    ]
    for number, block in enumerate(several):
        _map(page, block, page.id if len(several) == 1 else f"{page.id}-{number + 1}")


def _map(page: Page, block: Block, name: str) -> None:
    by_goal = dict(block.results.by("goal"))
    labels = sorted({*block.results.values("original"), *block.results.values("target")})
    places = {label: place for place, label in enumerate(labels)}
    values = np.full((len(labels), len(labels)), np.nan)
    rows: list[tuple[Cell, ...]] = []
    for goal, at in by_goal.items():
        rank, hit = at.measured("min_rank"), at.measured("hit@10")
        if rank.summary is None:
            continue
        row = at.rows[0]
        if row["original"] in places and row["target"] in places:
            values[places[row["original"]], places[row["target"]]] = rank.summary.mean
        rows.append((goal, rank.summary.n, page.cell(rank, digits=2), page.cell(hit)))
    known = values[np.isfinite(values)]
    if not len(known):
        return
    by_target: list[tuple[Cell, ...]] = [
        (label, int(np.isfinite(values[:, place]).sum()), float(np.nanmean(values[:, place])))
        for label, place in places.items()
        if np.isfinite(values[:, place]).any()
    ]
    by_target.sort(key=lambda one: -float(one[2]))  # type: ignore[arg-type]
    page.notes.append(
        f"{block.title}: {len(known)} goals; median MinRank {np.median(known):.1f}, mean {known.mean():.1f}, "
        f"{np.mean(known <= 10):.0%} of the goals at 10 or below. The paper: around 10 in most cases."
    )
    page.table(
        f"{block.title}: mean MinRank by target class, worst first",
        (Column("target class"), Column("goals"), Column("MinRank", 1)),
        by_target,
        "In the paper the column of person is the worst.",
    )
    page.table(
        f"{block.title}: every goal",
        (Column("goal"), Column("n"), Column("MinRank", 2), Column("Hit@10")),
        rows,
    )
    page.picture(
        name,
        f"Mean MinRank of each goal on {block.title}; lighter is easier to poison. The shade is logarithmic.",
        lambda: heat_map(values, labels, "MinRank"),
    )
