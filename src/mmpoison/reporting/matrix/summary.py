"""Summarises a matrix: paired differences with intervals, and which rows count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mmpoison.records.matrix import (
    CLEAN_MODEL,
    CLEAN_ROW,
    UNDEFENDED,
    MatrixCell,
    MatrixFacts,
)
from mmpoison.statistics import Estimate, clustered_mean

Measure = Callable[[MatrixCell], float | None]
Key = tuple[str, str, int]
"""Row, goal and seed of a piece."""


@dataclass(frozen=True)
class CellSummary:
    """One row against one column, over goals and seeds; goals are the clusters of every interval.

    Attributes:
        success: How often the attack succeeds with the defence.
        change: How much more often than without, by the same goals and seeds; None where nothing pairs.
        lost: Utility lost against the undefended model, by the same goals and seeds.
        pieces: How many pieces have numbers.
        notes: Why others have none, each reason once.
    """

    success: Estimate | None
    change: Estimate | None
    lost: Estimate | None
    pieces: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowSummary:
    """One attack against all columns.

    Attributes:
        name: Of the row.
        attack: Registered name.
        carrier: Whose images carry the poison.
        surrogate: What the attacker knew.
        poisoned_pairs: Fewest and most.
        training_pairs: Fewest and most, of the poisoned set.
        goals: The goals that were measured.
        counts: Whether the undefended attack succeeds often enough; always for a row without poison.
        cells: By column.
        pieces: The cells of the pieces, by goal and seed.
    """

    name: str
    attack: str
    carrier: str | None
    surrogate: str | None
    poisoned_pairs: tuple[int, int] | None
    training_pairs: tuple[int, int] | None
    goals: tuple[str, ...]
    counts: bool
    cells: Mapping[str, CellSummary]
    pieces: Mapping[tuple[str, int], Mapping[str, MatrixCell]]

    @property
    def clean(self) -> bool:
        """Whether it is a row without poison."""
        return self.attack == CLEAN_ROW


@dataclass(frozen=True)
class FilterSummary:
    """One filter on one attack; means over goals and seeds.

    Attributes:
        column: Name of the column.
        row: Name of the row.
        numbers: By the attribute of `MatrixCell`; None where no piece has it.
    """

    column: str
    row: str
    numbers: Mapping[str, float | None]


@dataclass(frozen=True)
class ColumnSummary:
    """What a column is and costs.

    Attributes:
        name: Of the column.
        method: Registered defence, or None.
        kind: When it acts, or `control`.
        needs: What it needs.
        seconds: Mean time of the defence, its training after a filter included.
        lost: Utility lost over all rows with poison.
        lost_clean: Utility lost on the rows without poison, where there are any.
        pieces: Those that have numbers.
    """

    name: str
    method: str | None
    kind: str
    needs: str
    seconds: float | None
    lost: Estimate | None
    lost_clean: Estimate | None
    pieces: frozenset[Key]

    @property
    def goals(self) -> int:
        """On how many goals it was measured."""
        return len({goal for _, goal, _ in self.pieces if goal})

    @property
    def seeds(self) -> list[int]:
        """The seeds on which it was measured."""
        return sorted({seed for _, _, seed in self.pieces})


@dataclass(frozen=True)
class MatrixSummary:
    """A whole matrix.

    Attributes:
        facts: What it is of.
        rows: In order.
        columns: In order, those of every piece first.
        filters: Filters by column and row.
        scans: Scans by column and row: shares of models that are flagged, and whose goal is found first.
        effects: By column, over all rows with poison that count; empty where none does.
    """

    facts: MatrixFacts
    rows: tuple[RowSummary, ...]
    columns: tuple[ColumnSummary, ...]
    filters: tuple[FilterSummary, ...]
    scans: tuple[FilterSummary, ...]
    effects: Mapping[str, CellSummary]

    @property
    def defended(self) -> list[ColumnSummary]:
        """The columns that give a model: all but scans."""
        return [column for column in self.columns if column.kind != "check"]

    @property
    def unpoisoned(self) -> set[str]:
        """Names of the rows without poison."""
        return {row.name for row in self.rows if row.clean}


FILTER_NUMBERS = (
    *("auroc", "average_precision", "recall_01", "recall_1", "recall_2", "recall_5"),
    *("caught", "clean_lost", "alarms"),
)


@dataclass
class _Pieces:
    """All cells, by piece and column."""

    cells: dict[Key, dict[str, MatrixCell]] = field(default_factory=dict)

    def of_row(self, name: str) -> dict[Key, dict[str, MatrixCell]]:
        return {key: cells for key, cells in self.cells.items() if key[0] == name}


def summarise(facts: MatrixFacts, cells: Sequence[MatrixCell]) -> MatrixSummary:
    """Summarise the measurements of a matrix.

    Args:
        facts: What the matrix is of.
        cells: Measurements, in any order.
    """
    pieces = _Pieces()
    for cell in cells:
        pieces.cells.setdefault((cell.row, cell.goal, cell.seed), {})[cell.column] = cell
    names = [name for name in facts.rows if pieces.of_row(name)]
    columns = [CLEAN_MODEL, UNDEFENDED, *facts.columns]
    known = {cell.column for cell in cells}
    columns = [name for name in columns if name in known]
    rows = tuple(_row(name, columns, pieces.of_row(name), facts.took) for name in names)
    counted = {row.name for row in rows if row.counts and not row.clean}
    attacked = {key: piece for key, piece in pieces.cells.items() if key[0] in counted}
    return MatrixSummary(
        facts,
        rows,
        tuple(_column(name, cells, pieces) for name in columns),
        _of_kind("pre-training", columns, names, cells, FILTER_NUMBERS),
        _of_kind("check", columns, names, cells, ("alarms", "named", "p_value")),
        {name: c for name in columns if (c := _cell(attacked, name)).success is not None},
    )


def paired(
    pieces: Mapping[Key, Mapping[str, MatrixCell]],
    first: str,
    second: str,
    measure: Measure,
) -> Estimate | None:
    """Estimate the mean difference of two columns, second minus first, on the pieces that have both.

    Args:
        pieces: By row, goal and seed, and column.
        first: Name of a column.
        second: Name of a column.
        measure: What is compared.

    Returns:
        With goals as clusters. None where no piece has both; without an interval where there is only one goal.
    """
    differences: list[float] = []
    clusters: list[str] = []
    for (_, goal, seed), cells in pieces.items():
        values = [measure(cells[name]) if name in cells else None for name in (first, second)]
        if values[0] is not None and values[1] is not None:
            differences.append(values[1] - values[0])
            clusters.append(goal or f"seed {seed}")
    return clustered_mean(differences, clusters) if differences else None


def _row(
    name: str, columns: Sequence[str], pieces: Mapping[Key, Mapping[str, MatrixCell]], took: float
) -> RowSummary:
    cells = [cell for piece in pieces.values() for cell in piece.values()]
    first = cells[0]
    undefended = mean_of(pieces, UNDEFENDED, lambda cell: cell.success)
    clean = first.attack == CLEAN_ROW
    counts = clean or (undefended is not None and undefended.value >= took)
    measured = [cell for cell in cells if cell.goals]
    return RowSummary(
        name,
        first.attack,
        next((cell.carrier for cell in cells if cell.carrier), None),
        next((cell.surrogate for cell in cells if cell.surrogate), None),
        _range(cell.poisoned_pairs for cell in cells),
        _range(cell.training_pairs for cell in cells),
        tuple(dict.fromkeys(cell.goals for cell in measured)),
        counts,
        {column: _cell(pieces, column) for column in columns},
        {(goal, seed): piece for (_, goal, seed), piece in sorted(pieces.items())},
    )


def _cell(pieces: Mapping[Key, Mapping[str, MatrixCell]], column: str) -> CellSummary:
    found = [piece[column] for piece in pieces.values() if column in piece]
    return CellSummary(
        mean_of(pieces, column, lambda cell: cell.success),
        paired(pieces, UNDEFENDED, column, lambda cell: cell.success),
        paired(pieces, column, UNDEFENDED, lambda cell: cell.utility),
        sum(map(_has_numbers, found)),
        tuple(dict.fromkeys(cell.note for cell in found if cell.note)),
    )


def _column(name: str, cells: Sequence[MatrixCell], pieces: _Pieces) -> ColumnSummary:
    mine = [cell for cell in cells if cell.column == name]
    clean = {cell.row for cell in cells if cell.attack == CLEAN_ROW}
    parts = [
        {key: piece for key, piece in pieces.cells.items() if (key[0] in clean) == of_clean}
        for of_clean in (False, True)
    ]
    lost, lost_clean = (paired(part, name, UNDEFENDED, lambda c: c.utility) for part in parts)
    spent = [
        (cell.defence_seconds or 0.0) + (cell.training_seconds or 0.0)
        for cell in mine
        if cell.defence_seconds is not None or cell.training_seconds is not None
    ]
    return ColumnSummary(
        name,
        mine[0].method,
        mine[0].kind,
        mine[0].needs,
        sum(spent) / len(spent) if spent else None,
        lost,
        lost_clean,
        frozenset((cell.row, cell.goal, cell.seed) for cell in mine if _has_numbers(cell)),
    )


def _has_numbers(cell: MatrixCell) -> bool:
    return cell.utility is not None or cell.p_value is not None


def _of_kind(
    kind: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[MatrixCell],
    numbers: Sequence[str],
) -> tuple[FilterSummary, ...]:
    found: list[FilterSummary] = []
    for column in columns:
        for row in rows:
            mine = [c for c in cells if (c.column, c.row, c.kind) == (column, row, kind)]
            known = {
                name: [float(v) for cell in mine if (v := getattr(cell, name)) is not None]
                for name in numbers
            }
            means = {name: sum(v) / len(v) if v else None for name, v in known.items()}
            if any(value is not None for value in means.values()):
                found.append(FilterSummary(column, row, means))
    return tuple(found)


def mean_of(
    pieces: Mapping[Key, Mapping[str, MatrixCell]], column: str, measure: Measure
) -> Estimate | None:
    """Estimate the mean of a column, goals as clusters; None where no piece has a number.

    Args:
        pieces: As for `paired`.
        column: Its name.
        measure: What is averaged.
    """
    values = [
        (goal or f"seed {seed}", value)
        for (_, goal, seed), cells in pieces.items()
        if column in cells and (value := measure(cells[column])) is not None
    ]
    return clustered_mean([v for _, v in values], [g for g, _ in values]) if values else None


def _range(values: Iterable[int | None]) -> tuple[int, int] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
