"""Groups the measurements of a matrix by piece: means and paired differences with intervals, and which rows count."""

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
    """Return how often the attack succeeds."""
    return cell.success


def utility(cell: MatrixCell) -> float | None:
    """Return the utility of the model."""
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
        """List the measurements, those of a column or all."""
        return [
            cell
            for cells in self.cells.values()
            for cell in cells.values()
            if column in (None, cell.column)
        ]

    def values(self, name: str, column: str | None = None) -> list[Any]:
        """List what an attribute of `MatrixCell` holds, each value once, without what is absent or empty."""
        found = (getattr(cell, name) for cell in self.every(column))
        return list(dict.fromkeys(value for value in found if value not in (None, "")))

    def mean(self, column: str, measure: Measure = success) -> Estimate | None:
        """Estimate the mean of a column; None where no piece has a number."""
        found = {
            key: value
            for key, cells in self.cells.items()
            if column in cells and (value := measure(cells[column])) is not None
        }
        return _estimate(found)

    def difference(self, first: str, second: str, measure: Measure = success) -> Estimate | None:
        """Estimate the mean difference of two columns, second minus first, on the pieces that have both.

        Returns:
            None where no piece has both; without an interval where there is only one goal.
        """
        found: dict[Key, float] = {}
        for key, cells in self.cells.items():
            one, other = (measure(cells[n]) if n in cells else None for n in (first, second))
            if one is not None and other is not None:
                found[key] = other - one
        return _estimate(found)

    def utility_lost(self, column: str) -> Estimate | None:
        """Estimate the utility that a column loses against the undefended model.

        Returns:
            None where no piece has both, or every query is a hit in both: Hit@10 cannot show a loss there.
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
        name: Of the row.
        pieces: Its pieces.
        counts: Whether the undefended attack succeeds often enough; always for a row without poison.
    """

    name: str
    pieces: Pieces
    counts: bool

    @property
    def attack(self) -> str:
        """Registered name."""
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
        """Whether the attack shows itself with a trigger."""
        return bool(self.pieces.values("with_trigger"))


@dataclass(frozen=True)
class ColumnSummary:
    """What a column is and costs.

    Attributes:
        name: Of the column.
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
        """When it acts, or `control`."""
        return self.cells[0].kind

    @property
    def seconds(self) -> float | None:
        """Mean time of the defence, its training after a filter included."""
        spent = [cell.seconds for cell in self.cells if cell.seconds is not None]
        return sum(spent) / len(spent) if spent else None

    @property
    def pieces(self) -> frozenset[Key]:
        """The pieces that have numbers."""
        return frozenset(
            (cell.row, cell.goal, cell.seed) for cell in self.cells if has_numbers(cell)
        )

    @property
    def goals(self) -> int:
        """On how many goals it was measured."""
        return len({goal for _, goal, _ in self.pieces if goal})

    @property
    def seeds(self) -> list[int]:
        """The seeds on which it was measured."""
        return sorted({seed for _, _, seed in self.pieces})


def has_numbers(cell: MatrixCell) -> bool:
    """Return whether a measurement was possible."""
    return cell.utility is not None or cell.p_value is not None


@dataclass(frozen=True)
class MatrixSummary:
    """A whole matrix.

    Attributes:
        facts: What it is of.
        pieces: Its measurements.
        rows: In order.
        columns: In order, those of every piece first.
    """

    facts: MatrixFacts
    pieces: Pieces
    rows: tuple[RowSummary, ...]
    columns: tuple[ColumnSummary, ...]

    @property
    def defended(self) -> list[ColumnSummary]:
        """The columns that give a model: all but scans."""
        return [column for column in self.columns if column.kind != "check"]

    @property
    def attacks(self) -> list[RowSummary]:
        """The rows with poison that were measured."""
        return [row for row in self.rows if not row.clean and row.measured]

    @property
    def comparable(self) -> list[RowSummary]:
        """The attacks on the goals and seeds that all of them have, the strongest first; empty where they share none.

        A row of one easy goal is no stronger than one of eighteen pieces.
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
        """Whether attacks were measured on different goals and seeds, so that their means are not comparable."""
        return len({row.measured for row in self.attacks}) > 1

    def pooled(self, rows: Iterable[RowSummary]) -> Pieces:
        """Put the pieces of rows together."""
        return self.pieces.only({row.name for row in rows})

    def counted(self, *, with_trigger: bool | None = None) -> list[RowSummary]:
        """List the attacks that succeed; those with or those without a trigger, if one is asked for."""
        return [
            row
            for row in self.rows
            if row.counts and not row.clean and with_trigger in (None, row.triggered)
        ]


def summarise(facts: MatrixFacts, cells: Sequence[MatrixCell]) -> MatrixSummary:
    """Summarise the measurements of a matrix.

    Args:
        facts: What the matrix is of.
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
