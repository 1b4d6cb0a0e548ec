"""Means over several rows of a matrix, and paired differences of columns; goals are the clusters of every interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmpoison.records.matrix import CLEAN_MODEL, UNDEFENDED, MatrixCell
from mmpoison.reporting.matrix.summary import (
    ColumnSummary,
    Key,
    MatrixSummary,
    Measure,
    RowSummary,
    mean_of,
    paired,
)
from mmpoison.reporting.text import ABSENT
from mmpoison.statistics import Estimate, probability_below_zero


def interval(estimate: Estimate | None, digits: int = 2, *, share: bool = False) -> str | None:
    """Write a number with its interval, `0.50 [0.25, 0.75]`; None where there is no number.

    Args:
        estimate: Without an interval where one goal alone was measured.
        digits: After the point.
        share: Whether it is a share, whose interval ends at 0 and 1, and not a difference of two, at -1 and 1.
    """
    if estimate is None:
        return None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    low, high = max(estimate.low, 0.0 if share else -1.0), min(estimate.high, 1.0)
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def share(estimate: Estimate | None) -> str:
    """Write a share with its interval, in a sentence."""
    return interval(estimate, share=True) or ABSENT


def probability(change: Estimate) -> str:
    """Write the probability that a change is below 0, never as 0 or 1: so few goals do not show that."""
    value = probability_below_zero(change)
    if value is None:
        return ABSENT
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def above(estimate: Estimate | None, limit: float) -> bool:
    """Return whether the whole interval is above a limit; never without an interval."""
    return estimate is not None and estimate.low is not None and estimate.low > limit


def below(estimate: Estimate | None, limit: float) -> bool:
    """Return whether the whole interval is below a limit; never without an interval."""
    return estimate is not None and estimate.high is not None and estimate.high < limit


def at_most(estimate: Estimate | None, limit: float) -> bool:
    """Return whether the interval ends at a limit or below; never without an interval."""
    return estimate is not None and estimate.high is not None and estimate.high <= limit


def success(cell: MatrixCell) -> float | None:
    """Return how often the attack succeeds."""
    return cell.success


def utility(cell: MatrixCell) -> float | None:
    """Return the utility of the model."""
    return cell.utility


def auroc(cell: MatrixCell) -> float | None:
    """Return how well a filter's scores separate poison from the rest."""
    return cell.auroc


def triggered(row: RowSummary) -> bool:
    """Return whether an attack shows itself with a trigger."""
    return any(
        cell.with_trigger is not None for piece in row.pieces.values() for cell in piece.values()
    )


@dataclass(frozen=True)
class Pooled:
    """Some rows of a matrix together.

    Attributes:
        pieces: Their pieces, by row, goal and seed.
    """

    pieces: Mapping[Key, Mapping[str, MatrixCell]]

    @classmethod
    def of(cls, rows: Iterable[RowSummary]) -> Pooled:
        """Put the pieces of rows together."""
        return cls({(row.name, *key): piece for row in rows for key, piece in row.pieces.items()})

    def mean(self, column: str, measure: Measure = success) -> Estimate | None:
        """Return the mean of a column; None where no piece has it."""
        return mean_of(self.pieces, column, measure)

    def difference(self, first: str, second: str, measure: Measure = success) -> Estimate | None:
        """Return the mean of the second column less the first, on the pieces that have both."""
        return paired(self.pieces, first, second, measure)


def counted(summary: MatrixSummary, *, with_trigger: bool) -> list[RowSummary]:
    """List the attacks that take, those with or those without a trigger."""
    return [
        row
        for row in summary.rows
        if row.counts and not row.clean and triggered(row) == with_trigger
    ]


def defences(summary: MatrixSummary) -> list[ColumnSummary]:
    """List the columns that are defences and give a model, without the random control."""
    return [
        column
        for column in summary.defended
        if column.name not in (CLEAN_MODEL, UNDEFENDED) and column.method != "random-drop"
    ]
