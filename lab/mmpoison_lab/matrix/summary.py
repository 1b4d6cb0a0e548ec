"""Summarises a matrix by piece: means and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpoison.statistics import Estimate, clustered_mean
from mmpoison_lab.attacks.no_poison import NO_POISON
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED, MatrixCell, MatrixFacts

Measure = Callable[[MatrixCell], float | None]
Key = tuple[str, str, int]
"""Row, goal and seed of a piece."""


def success(cell: MatrixCell) -> float | None:
    """Return the attack success of a cell."""
    return cell.success


def utility(cell: MatrixCell) -> float | None:
    """Return the utility of a cell's model."""
    return cell.utility


@dataclass(frozen=True)
class Pieces:
    """Measurements by piece and column; goals are the clusters of every interval.

    Attributes:
        cells: By row, goal and seed, and by column.
    """

    cells: Mapping[Key, Mapping[str, MatrixCell]]

    @classmethod
    def of(cls, cells: Iterable[MatrixCell]) -> Pieces:
        """Group measurements, in any order."""
        found: dict[Key, dict[str, MatrixCell]] = {}
        for cell in cells:
            found.setdefault((cell.row, cell.goal, cell.seed), {})[cell.column] = cell
        return cls(found)

    def only(self, rows: Container[str]) -> Pieces:
        """Select the pieces of some rows."""
        return Pieces({key: cells for key, cells in self.cells.items() if key[0] in rows})

    def every(self, column: str | None = None) -> list[MatrixCell]:
        """List the measurements of one column, or all."""
        return [
            cell
            for cells in self.cells.values()
            for cell in cells.values()
            if column in (None, cell.column)
        ]

    def values(self, name: str, column: str | None = None) -> list[Any]:
        """List the distinct values of an attribute of `MatrixCell`, without absent or empty ones."""
        found = (getattr(cell, name) for cell in self.every(column))
        return list(dict.fromkeys(value for value in found if value not in (None, "")))

    def mean(self, column: str, measure: Measure = success) -> Estimate | None:
        """Estimate the mean of a column; return None if no piece has a number."""
        found = {
            key: value
            for key, cells in self.cells.items()
            if column in cells and (value := measure(cells[column])) is not None
        }
        return _estimate(found)

    def difference(self, first: str, second: str, measure: Measure = success) -> Estimate | None:
        """Estimate the mean difference of two columns, second minus first, on pieces with both.

        Returns:
            The estimate, without an interval if there is only one goal; None if no piece has both.
        """
        found: dict[Key, float] = {}
        for key, cells in self.cells.items():
            one, other = (measure(cells[n]) if n in cells else None for n in (first, second))
            if one is not None and other is not None:
                found[key] = other - one
        return _estimate(found)

    def utility_lost(self, column: str) -> Estimate | None:
        """Estimate a column's utility loss relative to the undefended model.

        Returns:
            The estimate; None if no piece has both, or if every query is a hit in both, so that
            Hit@10 cannot show a loss.
        """
        ends = self.mean(UNDEFENDED, utility), self.mean(column, utility)
        if all(end is not None and end.value == 1 for end in ends):
            return None
        return self.difference(column, UNDEFENDED, utility)


def _estimate(values: Mapping[Key, float]) -> Estimate | None:
    clusters = [goal or f"seed {seed}" for _, goal, seed in values]
    return clustered_mean(list(values.values()), clusters) if values else None


@dataclass(frozen=True)
class RowSummary:
    """One attack against all columns.

    Attributes:
        name: Name of the row.
        pieces: Its pieces.
        counts: Whether the undefended attack succeeds often enough; always true for a row without
            poison.
    """

    name: str
    pieces: Pieces
    counts: bool

    @property
    def attack(self) -> str:
        """Registered name of the attack."""
        return self.pieces.every()[0].attack

    @property
    def measured(self) -> frozenset[tuple[str, int]]:
        """The goals and seeds on which the undefended model was measured."""
        found = self.pieces.every(UNDEFENDED)
        return frozenset((cell.goal, cell.seed) for cell in found if has_numbers(cell))

    @property
    def clean(self) -> bool:
        """Whether it is a row without poison."""
        return self.attack == NO_POISON

    @property
    def triggered(self) -> bool:
        """Whether the attack needs a trigger."""
        return bool(self.pieces.values("with_trigger"))


@dataclass(frozen=True)
class ColumnSummary:
    """Facts about a column, and its cost.

    Attributes:
        name: Name of the column.
        cells: Its measurements.
    """

    name: str
    cells: Sequence[MatrixCell]

    @property
    def method(self) -> str | None:
        """Registered defence, or None."""
        return self.cells[0].method

    @property
    def kind(self) -> str:
        """Stage at which it acts, or `control`."""
        return self.cells[0].kind

    @property
    def seconds(self) -> float | None:
        """Mean time of the defence, including training after a filter."""
        spent = [cell.seconds for cell in self.cells if cell.seconds is not None]
        return sum(spent) / len(spent) if spent else None

    @property
    def pieces(self) -> frozenset[Key]:
        """The pieces with numbers."""
        return frozenset(
            (cell.row, cell.goal, cell.seed) for cell in self.cells if has_numbers(cell)
        )

    @property
    def goals(self) -> int:
        """Number of goals on which it was measured."""
        return len({goal for _, goal, _ in self.pieces if goal})

    @property
    def seeds(self) -> list[int]:
        """The seeds on which it was measured."""
        return sorted({seed for _, _, seed in self.pieces})


def has_numbers(cell: MatrixCell) -> bool:
    """Check whether a measurement was possible."""
    return cell.utility is not None or cell.p_value is not None


@dataclass(frozen=True)
class MatrixSummary:
    """A whole matrix.

    Attributes:
        facts: Facts about the matrix.
        pieces: Its measurements.
        rows: The rows in order.
        columns: The columns in order; the clean and the undefended model come first.
    """

    facts: MatrixFacts
    pieces: Pieces
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
            replace(
                row,
                pieces=Pieces(
                    {k: cells for k, cells in row.pieces.cells.items() if k[1:] in shared}
                ),
            )
            for row in attacks
            if shared
        ]
        means = {row.name: row.pieces.mean(UNDEFENDED) for row in alike}
        return sorted(alike, key=lambda row: -(mean.value if (mean := means[row.name]) else 0.0))

    @property
    def differs(self) -> bool:
        """Whether attacks differ in goals and seeds, so that their means are not comparable."""
        return len({row.measured for row in self.attacks}) > 1

    def pooled(self, rows: Iterable[RowSummary]) -> Pieces:
        """Combine the pieces of rows."""
        return self.pieces.only({row.name for row in rows})

    def counted(self, *, with_trigger: bool | None = None) -> list[RowSummary]:
        """List the attacks that succeed, optionally only those with or without a trigger."""
        return [
            row
            for row in self.rows
            if row.counts and not row.clean and with_trigger in (None, row.triggered)
        ]


def summarise(facts: MatrixFacts, cells: Sequence[MatrixCell]) -> MatrixSummary:
    """Summarise the measurements of a matrix.

    Args:
        facts: Facts about the matrix.
        cells: Measurements, in any order.
    """
    pieces = Pieces.of(cells)
    rows = []
    for name in facts.rows:
        mine = pieces.only({name})
        if mine.cells:
            undefended = mine.mean(UNDEFENDED)
            takes = undefended is not None and undefended.value >= facts.took
            rows.append(RowSummary(name, mine, takes or mine.values("attack") == [NO_POISON]))
    of_column = {
        name: [cell for cell in cells if cell.column == name]
        for name in (CLEAN_MODEL, UNDEFENDED, *facts.columns)
    }
    columns = tuple(ColumnSummary(name, mine) for name, mine in of_column.items() if mine)
    return MatrixSummary(facts, pieces, tuple(rows), columns)
