"""Summarises a matrix by piece: means and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mmpoison.statistics import Estimate, clustered_mean
from mmpoison_lab.attacks.no_poison import NO_POISON
from mmpoison_lab.matrix.records import CLEAN_MODEL, PIECE, UNDEFENDED, MatrixFacts

# -- Selects and averages measurements (`as_cells`). Goals are the clusters of every interval.


def of_column(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Select the measurements of one column."""
    return cells[cells["column"] == column]


def distinct(cells: pd.DataFrame, name: str) -> list[Any]:
    """List the distinct values, without absent or empty ones."""
    return [value for value in cells[name].dropna().unique() if value != ""]


def mean(cells: pd.DataFrame, column: str, measure: str = "success") -> Estimate | None:
    """Estimate the mean of a measure of a column; return None if no piece has a number."""
    return _estimate(of_column(cells, column).set_index(PIECE)[measure])


def difference(
    cells: pd.DataFrame, first: str, second: str, measure: str = "success"
) -> Estimate | None:
    """Estimate the mean difference of two columns, second minus first, on pieces with both.

    Returns:
        The estimate, without an interval if there is only one goal; None if no piece has both.
    """
    one, other = (of_column(cells, name).set_index(PIECE)[measure] for name in (first, second))
    return _estimate(other - one)


def utility_lost(cells: pd.DataFrame, column: str) -> Estimate | None:
    """Estimate a column's utility loss relative to the undefended model.

    Returns:
        The estimate; None if no piece has both, or if every query is a hit in both, so that
        Hit@10 cannot show a loss.
    """
    ends = [mean(cells, name, "utility") for name in (UNDEFENDED, column)]
    if all(end is not None and end.value == 1 for end in ends):
        return None
    return difference(cells, column, UNDEFENDED, "utility")


def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """Select the measurements that were possible."""
    return cells[cells["utility"].notna() | cells["p_value"].notna()]


def _estimate(values: pd.Series) -> Estimate | None:
    known = values.dropna()
    clusters = [goal or f"seed {seed}" for _, goal, seed in known.index]
    return clustered_mean(known.tolist(), clusters) if clusters else None


@dataclass(frozen=True)
class RowSummary:
    """One attack against all columns.

    Attributes:
        name: Name of the row.
        cells: Its measurements.
        counts: Whether the undefended attack succeeds often enough; always true for a row without
            poison.
    """

    name: str
    cells: pd.DataFrame
    counts: bool

    @property
    def attack(self) -> str:
        """Registered name of the attack."""
        return str(self.cells["attack"].iloc[0])

    @property
    def measured(self) -> frozenset[tuple[str, int]]:
        """The goals and seeds on which the undefended model was measured."""
        found = measured(of_column(self.cells, UNDEFENDED))
        return frozenset(zip(found["goal"], found["seed"], strict=True))

    @property
    def clean(self) -> bool:
        """Whether it is a row without poison."""
        return self.attack == NO_POISON

    @property
    def triggered(self) -> bool:
        """Whether the attack needs a trigger."""
        return bool(self.cells["with_trigger"].notna().any())


@dataclass(frozen=True)
class ColumnSummary:
    """Facts about a column, and its cost.

    Attributes:
        name: Name of the column.
        cells: Its measurements.
    """

    name: str
    cells: pd.DataFrame

    @property
    def method(self) -> str | None:
        """Registered defence, or None."""
        return self.cells["method"].iloc[0] or None

    @property
    def kind(self) -> str:
        """Stage at which it acts, or `control`."""
        return str(self.cells["kind"].iloc[0])

    @property
    def seconds(self) -> float | None:
        """Mean time of the defence, including training after a filter."""
        return mean_of(self.cells, "seconds")

    @property
    def pieces(self) -> frozenset[tuple[str, str, int]]:
        """Row, goal and seed of the pieces with numbers."""
        return frozenset(measured(self.cells)[PIECE].itertuples(index=False, name=None))

    @property
    def goals(self) -> int:
        """Number of goals on which it was measured."""
        return len({goal for _, goal, _ in self.pieces if goal})

    @property
    def seeds(self) -> list[int]:
        """The seeds on which it was measured."""
        return sorted({seed for _, _, seed in self.pieces})


def mean_of(cells: pd.DataFrame, name: str) -> float | None:
    """Return the mean of a measure; None if all measurements lack it."""
    known = cells[name].dropna() if name in cells else ()
    return float(sum(known) / len(known)) if len(known) else None


@dataclass(frozen=True)
class MatrixSummary:
    """A whole matrix.

    Attributes:
        facts: Facts about the matrix.
        cells: Its measurements.
        rows: The rows in order.
        columns: The columns in order; the clean and the undefended model come first.
    """

    facts: MatrixFacts
    cells: pd.DataFrame
    rows: tuple[RowSummary, ...]
    columns: tuple[ColumnSummary, ...]

    @property
    def defended(self) -> list[ColumnSummary]:
        """The columns that result in a model: all except scans."""
        return [column for column in self.columns if column.kind != "check"]

    @property
    def attacks(self) -> list[RowSummary]:
        """The rows with poison that were measured."""
        return [row for row in self.rows if not row.clean and row.measured]

    @property
    def comparable(self) -> list[RowSummary]:
        """The attacks on their common goals and seeds, strongest first; empty if there are none.

        This avoids ranking a row with one easy goal above a row with eighteen pieces.
        """
        shared = frozenset[tuple[str, int]]()
        if attacks := self.attacks:
            shared = frozenset.intersection(*(row.measured for row in attacks))
        alike = [
            replace(row, cells=row.cells[row.cells.set_index(PIECE[1:]).index.isin(shared)])
            for row in attacks
            if shared
        ]
        means = {row.name: mean(row.cells, UNDEFENDED) for row in alike}
        return sorted(alike, key=lambda row: -(found.value if (found := means[row.name]) else 0.0))

    @property
    def differs(self) -> bool:
        """Whether attacks differ in goals and seeds, so that their means are not comparable."""
        return len({row.measured for row in self.attacks}) > 1

    def pooled(self, rows: Iterable[RowSummary]) -> pd.DataFrame:
        """Combine the measurements of rows."""
        return self.cells[self.cells["row"].isin([row.name for row in rows])]

    def counted(self, *, with_trigger: bool | None = None) -> list[RowSummary]:
        """List the attacks that succeed, optionally only those with or without a trigger."""
        return [
            row
            for row in self.rows
            if row.counts and not row.clean and with_trigger in (None, row.triggered)
        ]


def summarise(facts: MatrixFacts, cells: pd.DataFrame) -> MatrixSummary:
    """Summarise the measurements of a matrix.

    Args:
        facts: Facts about the matrix.
        cells: Measurements (`as_cells`).
    """
    rows = []
    for name in facts.rows:
        mine = cells[cells["row"] == name]
        if len(mine):
            undefended = mean(mine, UNDEFENDED)
            takes = undefended is not None and undefended.value >= facts.took
            rows.append(RowSummary(name, mine, takes or distinct(mine, "attack") == [NO_POISON]))
    columns = [
        ColumnSummary(name, mine)
        for name in (CLEAN_MODEL, UNDEFENDED, *facts.columns)
        if len(mine := of_column(cells, name))
    ]
    return MatrixSummary(facts, cells, tuple(rows), tuple(columns))
