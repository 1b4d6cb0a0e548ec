"""The forms that several tables of the paper share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpoison.paper.measured import Measured, Results
from mmpoison.paper.page import STRONGER, Page, Sense
from mmpoison.paper.paper_values import TITLES, rows_of, their_data, title_of
from mmpoison.reporting.table import Cell, Column
from mmpoison.statistics import summarize

HITS = ("hit@1", "hit@5", "hit@10", "min_rank")
DEEP_HITS = ("hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50", "min_rank")
NAMES = {**{f"hit@{k}": f"Hit@{k}" for k in (1, 5, 10, 20, 30, 50)}, "min_rank": "MinRank"}
DIGITS = {"min_rank": 2}

AMOUNTS = ("attack.samples", "attack.pairs", "attack.rate", "attack.share")
"""The knobs that say how much poison."""

SEVERAL_GOALS = 4
"""More goals than that are one line, their mean."""


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: What the paper calls it.
        pick: Our rows for it.
        theirs: Cells by which the paper's row is found, beside its data set.
        better: `attack` where a higher Hit@K is better, `defence` where a lower one is, None for a baseline.
    """

    name: str
    pick: Callable[[Results], Results]
    theirs: Mapping[str, Any] = field(default_factory=dict)
    better: str | None = None

    def sense(self, column: str) -> Sense:
        """Which way is better for a column."""
        if self.better is None:
            return None
        return "up" if (self.better == "attack") == column.startswith("hit@") else "down"


@dataclass(frozen=True)
class Block:
    """Runs that differ only in their seed, on one data set."""

    data: str
    setting: str
    results: Results

    @property
    def title(self) -> str:
        """Data set, and what sets the runs apart from others of it."""
        return f"{self.data} ({self.setting})" if self.setting else self.data


def blocks(
    results: Results, *, varies: Sequence[str] = (), keep: Sequence[str] = ()
) -> Iterator[Block]:
    """Runs by data set, and by the knobs in which they differ beyond what the table is about."""
    for data, on_data in results.by("data.name"):
        for setting, group in on_data.settings(varies=varies, keep=keep):
            yield Block(str(data), setting, group)


def goals_of(results: Results, theirs: Sequence[str]) -> list[tuple[str, Results]]:
    """Rows by goal: the paper's goals where they are there, all of them where they are few, else their mean."""
    by_goal = list(results.by("goal"))
    if named := [(goal, rows) for goal, rows in by_goal if goal in theirs]:
        return named
    if len(by_goal) <= SEVERAL_GOALS:
        return by_goal
    return [(f"mean of {len(by_goal)} goals", results)]


def hit_table(
    page: Page,
    results: Results,
    table: str,
    lines: Sequence[Line],
    *,
    columns: Sequence[str] = HITS,
    varies: Sequence[str] = (),
    keep: Sequence[str] = (),
    spread: bool = False,
    note: str = "",
    data_of: Callable[[Block], str | None] = lambda block: their_data(block.data),
) -> None:
    """Hit@K and MinRank, a line a kind of model, ours beside the paper's.

    Args:
        page: Takes the table.
        results: Rows of the runs that the table is about.
        table: The paper's table.
        lines: Its lines.
        columns: Its columns.
        varies: Knobs in which the lines differ.
        keep: Knobs of defences that matter here.
        spread: The paper prints standard deviations.
        note: What a reader must know.
        data_of: The paper's data set of a block.
    """
    printed = rows_of(table)
    rows: list[tuple[Cell, ...]] = []
    covered: set[Any] = set()
    for block in blocks(results, varies=varies, keep=keep):
        data = data_of(block)
        here = rows_of(table, dataset=data)
        covered.add(data)
        their_goals = list(dict.fromkeys(row["goal"] for row in here))
        goals = goals_of(block.results, their_goals)
        for place, (goal, at_goal) in enumerate(goals):
            their_goal = goal if goal in their_goals else None
            if their_goal is None and place < len(their_goals):
                their_goal = their_goals[place]
            for line in lines:
                theirs = _first(here, goal=their_goal, **line.theirs)
                picked = line.pick(at_goal)
                measured = {column: picked.measured(column) for column in columns}
                rows.append(
                    (
                        block.title,
                        goal,
                        line.name,
                        _n(measured.values()),
                        *(
                            page.cell(
                                measured[column],
                                theirs.get(column),
                                sense=line.sense(column),
                                digits=DIGITS.get(column, 3),
                                theirs_sd=theirs.get(f"{column}_std"),
                                spread=spread,
                            )
                            for column in columns
                        ),
                        TITLES.get(str(data)) if theirs else None,
                    )
                )
    for row in printed:
        if row["dataset"] not in covered:
            found = [line for line in lines if line.theirs.items() <= row.items()]
            rows.append(
                (
                    None,
                    row["goal"],
                    found[0].name if found else str(row.get("method")),
                    None,
                    *(
                        page.cell(
                            Measured(None), row.get(c), theirs_sd=row.get(f"{c}_std"), spread=spread
                        )
                        for c in columns
                    ),
                    TITLES[row["dataset"]],
                )
            )
    header = (
        Column("ours on"),
        Column("goal"),
        Column("method"),
        Column("n"),
        *(Column(NAMES[c], DIGITS.get(c, 3), c in HITS) for c in columns),
        Column("theirs on"),
    )
    page.table(title_of(table), header, rows, f"{STRONGER} {note}".strip())


def difference(first: Results, second: Results, column: str) -> Measured:
    """The second less the first, paired by seed."""
    one, two = first.over_seeds(column), second.over_seeds(column)
    common = sorted(set(one) & set(two))
    if not common:
        return Measured(None)
    return Measured(summarize([two[seed] - one[seed] for seed in common]), second.rows)


def drift_table(page: Page, results: Results, table: str, *, note: str = "") -> None:
    """Cosine distance between the clean and the poisoned encoders, of texts and of images.

    Args:
        page: Takes the table.
        results: Rows of poisoned models.
        table: The paper's table.
        note: What a reader must know.
    """
    rows: list[tuple[Cell, ...]] = []
    covered: set[Any] = set()
    for block in blocks(results):
        data = their_data(block.data)
        theirs = _first(rows_of(table, dataset=data))
        covered.add(data)
        measured = [block.results.measured(f"drift.{kind}") for kind in ("text", "image")]
        rows.append(
            (
                block.title,
                _n(measured),
                *(
                    page.cell(
                        one,
                        theirs.get(kind),
                        theirs_sd=theirs.get(f"{kind}_std"),
                        spread="text_std" in theirs,
                    )
                    for one, kind in zip(measured, ("text", "image"), strict=True)
                ),
                TITLES.get(str(data)) if theirs else None,
            )
        )
    for row in rows_of(table):
        if row["dataset"] not in covered:
            absent = [
                page.cell(Measured(None), row[kind], theirs_sd=row.get(f"{kind}_std"))
                for kind in ("text", "image")
            ]
            rows.append((None, None, *absent, TITLES[row["dataset"]]))
    columns = (
        Column("ours on"),
        Column("n"),
        Column("texts", 4),
        Column("images", 4),
        Column("theirs on"),
    )
    page.table(title_of(table), columns, rows, f"{STRONGER} {note}".strip())


def _first(rows: Sequence[Mapping[str, Any]], **keys: Any) -> Mapping[str, Any]:
    return next((r for r in rows if all(r.get(k) == v for k, v in keys.items())), {})


def _n(measured: Any) -> int | None:
    return max((m.summary.n for m in measured if m.summary is not None), default=None)


def model(name: str) -> Callable[[Results], Results]:
    """Picks the rows of one model."""
    return lambda results: results.where(model=name, study=tuple(results.values("study")))


CLEAN_AND_POISONED = (
    Line("baseline (clean model)", model("clean_model"), {"method": "baseline"}),
    Line("ours (poisoned model)", model("poisoned"), {"method": "ours"}, "attack"),
)
"""The two lines of tables 2, 3, 4 and 6."""
