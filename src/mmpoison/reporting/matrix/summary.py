"""Summarises a matrix: paired differences with intervals, which rows count, and which columns differ."""

from __future__ import annotations

import itertools
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

CONFIDENCE = 0.95

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
        ranking: Columns from the best on, in groups that the intervals separate; empty where the row does not count.
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
    ranking: tuple[tuple[str, ...], ...]
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
    """

    name: str
    method: str | None
    kind: str
    needs: str
    seconds: float | None
    lost: Estimate | None
    lost_clean: Estimate | None


@dataclass(frozen=True)
class MatrixSummary:
    """A whole matrix.

    Attributes:
        facts: What it is of.
        rows: In order.
        columns: In order, those of every piece first.
        filters: Filters by column and row.
        scans: Scans by column and row: shares of models that are flagged, and whose goal is found first.
        ranking: Over all rows that count, as `RowSummary.ranking`.
        goals: How many goals were drawn.
        seeds: The seeds.
    """

    facts: MatrixFacts
    rows: tuple[RowSummary, ...]
    columns: tuple[ColumnSummary, ...]
    filters: tuple[FilterSummary, ...]
    scans: tuple[FilterSummary, ...]
    ranking: tuple[tuple[str, ...], ...]
    goals: int
    seeds: tuple[int, ...]

    @property
    def defended(self) -> list[ColumnSummary]:
        """The columns that give a model: all but scans."""
        return [column for column in self.columns if column.kind != "scan"]

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
    ranked = {key: piece for key, piece in pieces.cells.items() if key[0] in counted}
    return MatrixSummary(
        facts,
        rows,
        tuple(_column(name, cells, pieces) for name in columns),
        _of_kind("pre-training", columns, names, cells, FILTER_NUMBERS),
        _of_kind("scan", columns, names, cells, ("alarms", "named", "p_value")),
        rank_columns(ranked, [name for name in columns if name != CLEAN_MODEL]),
        len({cell.goal for cell in cells if cell.goal}),
        tuple(sorted({cell.seed for cell in cells})),
    )


def paired(
    pieces: Mapping[Key, Mapping[str, MatrixCell]],
    first: str,
    second: str,
    measure: Measure,
    confidence: float = CONFIDENCE,
) -> Estimate | None:
    """Estimate the mean difference of two columns, second minus first, on the pieces that have both.

    Args:
        pieces: By row, goal and seed, and column.
        first: Name of a column.
        second: Name of a column.
        measure: What is compared.
        confidence: Of the interval; goals are clusters.

    Returns:
        None where no piece has both; without an interval where there is only one goal.
    """
    differences: list[float] = []
    clusters: list[str] = []
    for (_, goal, seed), cells in pieces.items():
        values = [measure(cells[name]) if name in cells else None for name in (first, second)]
        if values[0] is not None and values[1] is not None:
            differences.append(values[1] - values[0])
            clusters.append(goal or f"seed {seed}")
    return clustered_mean(differences, clusters, confidence) if differences else None


def rank_columns(
    pieces: Mapping[Key, Mapping[str, MatrixCell]], columns: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Rank columns by how rarely the attack succeeds, in groups that intervals separate.

    The first group has the best column and all those whose paired difference from it has an interval that contains 0;
    the second one begins with the best of the others, and so on. The intervals hold together for all pairs of columns
    (Bonferroni).

    Args:
        pieces: As for `paired`.
        columns: Names; those without numbers are left out.
    """
    means = {name: mean_of(pieces, name, lambda cell: cell.success) for name in columns}
    left = sorted(
        (name for name, mean in means.items() if mean is not None), key=lambda n: _value(means[n])
    )
    pairs = max(1, len(list(itertools.combinations(left, 2))))
    confidence = 1 - (1 - CONFIDENCE) / pairs
    groups: list[tuple[str, ...]] = []
    while left:
        best = left[0]
        group = [best]
        for other in left[1:]:
            found = paired(pieces, best, other, lambda cell: cell.success, confidence)
            if found is None or found.low is None or found.low <= 0:
                group.append(other)
        groups.append(tuple(group))
        left = [name for name in left if name not in group]
    return tuple(groups)


def _row(
    name: str, columns: Sequence[str], pieces: Mapping[Key, Mapping[str, MatrixCell]], took: float
) -> RowSummary:
    cells = [cell for piece in pieces.values() for cell in piece.values()]
    first = cells[0]
    undefended = mean_of(pieces, UNDEFENDED, lambda cell: cell.success)
    clean = first.attack == CLEAN_ROW
    counts = clean or (undefended is not None and undefended.value >= took)
    measured = [cell for cell in cells if cell.goals]
    ranked = [column for column in columns if column != CLEAN_MODEL]
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
        rank_columns(pieces, ranked) if counts and not clean else (),
        {(goal, seed): piece for (_, goal, seed), piece in sorted(pieces.items())},
    )


def _cell(pieces: Mapping[Key, Mapping[str, MatrixCell]], column: str) -> CellSummary:
    found = [piece[column] for piece in pieces.values() if column in piece]
    return CellSummary(
        mean_of(pieces, column, lambda cell: cell.success),
        paired(pieces, UNDEFENDED, column, lambda cell: cell.success),
        paired(pieces, column, UNDEFENDED, lambda cell: cell.utility),
        sum(cell.utility is not None or cell.p_value is not None for cell in found),
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
    )


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


def _value(estimate: Estimate | None) -> float:
    return float("inf") if estimate is None else estimate.value


def _range(values: Iterable[int | None]) -> tuple[int, int] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
