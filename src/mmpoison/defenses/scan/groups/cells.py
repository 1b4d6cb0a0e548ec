"""Counts conflicting and consistent items in cells, a caption cell and an image cell each, and flags suspicious cells.

Where a data set is larger than the sample, items of flagged cells are what groups are looked for among.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.growth import EXPECTED_AT_LEAST, FEW
from mmpoison.defenses.scan.groups.items import Values, group_sums
from mmpoison.defenses.scan.read.distance import Vectors
from mmpoison.defenses.scan.read.vector_shard import Index, Stored, unit

# -- Cells of captions and of images: clusters of the sample, in which the pairs of all shards are counted.


CELLS = 256
"""Cells a side."""

FEWEST_OF_A_CELL = 20
"""So many sampled items a cell, at least, on average."""

ROUNDS = 10
BLOCK = 8192


def fit_cells(vectors: Vectors) -> Vectors:
    """Find the middles of cells by k-means on the unit sphere.

    Args:
        vectors: Unit vectors in random order, shape `(n, k)`: the first ones are the first middles.

    Returns:
        Unit vectors, shape `(cells, k)`.
    """
    middles = vectors[: max(1, min(CELLS, len(vectors) // FEWEST_OF_A_CELL))].copy()
    for _ in range(ROUNDS):
        sums = group_sums(vectors, cells_of(vectors, middles), len(middles))
        filled = np.abs(sums).sum(axis=1) > 0
        middles[filled] = unit(sums[filled])
    return middles


def cells_of(vectors: Vectors, middles: Vectors) -> Index:
    """Return the nearest middle of each vector, shape `(n,)`."""
    found = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        found[rows] = (vectors[rows] @ middles.T).argmax(axis=1)
    return found


BINS = 20_000
RANGE = (-20.0, 30.0)
"""Conflict is a sum of standardised distances; what lies outside counts in the outer bins."""

Counted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts(Stored):
    """Counts of the items of one view.

    Attributes:
        conflicting: In each caption cell and image cell, items with much conflict, shape `(c, c)`.
        consistent: The others, shape `(c, c)`.
        histogram: Of the conflict, shape `(20000,)`.
        unusable: Rows with a vector that is zero or not finite.
    """

    conflicting: Counted
    consistent: Counted
    histogram: Counted
    unusable: int

    def __len__(self) -> int:
        return int(self.histogram.sum())

    def merge(self, other: Counts) -> Counts:
        """Return the counts of both."""
        return Counts(
            self.conflicting + other.conflicting,
            self.consistent + other.consistent,
            self.histogram + other.histogram,
            self.unusable + other.unusable,
        )

    def share_above(self, conflict: Values) -> npt.NDArray[np.float64]:
        """Return the share of items that have at least as much conflict, up to the width of a bin, shape as given."""
        above = np.cumsum(self.histogram[::-1])[::-1] / max(len(self), 1)
        return np.asarray(above[_bins(conflict)])


@dataclass(frozen=True)
class Rows(Stored):
    """Conflict and cell of each row of a shard, so that later passes do not compute them again.

    Attributes:
        conflict: Of its item, NaN for unusable rows, shape `(n,)`.
        cell: Caption cell x cells + image cell, shape `(n,)`.
    """

    conflict: Values
    cell: npt.NDArray[np.int32]

    @classmethod
    def of(cls, count: int, row: Index, conflict: Values, cell: Index) -> Rows:
        """Spread what is known of the usable rows over all rows of a shard."""
        found = np.full(count, np.nan, dtype=np.float32)
        cells = np.zeros(count, dtype=np.int32)
        found[row], cells[row] = conflict, cell
        return cls(found, cells)


def count_in_cells(
    conflict: Values, cell: Index, border: float, shape: tuple[int, int], unusable: int
) -> Counts:
    """Count the items of a shard.

    Args:
        conflict: Conflict of each, shape `(n,)`.
        cell: Cell of each, shape `(n,)`.
        border: Items with more conflict are conflicting.
        shape: How many cells captions and images have.
        unusable: Rows that have no item.
    """
    high = conflict > border
    conflicting, consistent = (
        np.bincount(cell[some], minlength=shape[0] * shape[1]).reshape(shape)
        for some in (high, ~high)
    )
    return Counts(conflicting, consistent, np.bincount(_bins(conflict), minlength=BINS), unusable)


def _bins(conflict: Values) -> Index:
    low, high = RANGE
    place = (np.asarray(conflict, dtype=np.float64) - low) * (BINS / (high - low))
    return place.clip(0, BINS - 1).astype(np.intp)


# -- Chooses the cells whose items are gathered from the shards.


GATHERED = 4000
"""Items of flagged cells that are gathered, at most: groups start from them."""

OF_A_CELL = 50
"""Items of a flagged cell that are gathered, where not all conflicting items are."""

FEWEST_IN_CELL = 3


def rows_of_cells(rows: Rows, cells: npt.NDArray[np.bool_], border: float) -> Index:
    """Return the conflicting rows of some cells.

    Args:
        rows: Conflict and cell of the rows of a shard.
        cells: Which cells, shape `(c, c)`.
        border: Rows with more conflict are conflicting.
    """
    with np.errstate(invalid="ignore"):
        high = rows.conflict > border
    return np.flatnonzero(high & cells.ravel()[rows.cell])


def expected_conflicts(counts: Counts) -> npt.NDArray[np.float64]:
    """Compute how many conflicting items each cell would have, shape `(c, c)`.

    The captions and images of conflicting items are independent, and items of a usual combination conflict as often as
    items do.
    """
    total = counts.conflicting.sum()
    captions, images = counts.conflicting.sum(axis=1), counts.conflicting.sum(axis=0)
    odds = total / max(counts.consistent.sum(), 1)
    return np.asarray(np.outer(captions, images) / max(total, 1) + odds * counts.consistent)


def flag(counts: Counts) -> npt.NDArray[np.float64]:
    """Flag cells with more conflicting items than expected, the largest ratio first, up to 4,000 gathered items.

    Args:
        counts: Of all shards.

    Returns:
        Share of the conflicting items of each cell that are gathered, 0 where it is not flagged, shape `(c, c)`; 1
        everywhere if there are no more.
    """
    found = counts.conflicting.astype(np.float64)
    if found.sum() <= GATHERED:
        return np.ones_like(found)
    ratio = (found + FEW) / (EXPECTED_AT_LEAST + expected_conflicts(counts))
    ratio[found < FEWEST_IN_CELL] = 0
    order = np.argsort(-ratio, axis=None, kind="stable")
    taken = np.minimum(found, OF_A_CELL).ravel()[order]
    flagged = order[(np.cumsum(taken) <= GATHERED) & (ratio.ravel()[order] > 1)]
    chance = np.zeros(found.size)
    chance[flagged] = np.minimum(1.0, OF_A_CELL / found.ravel()[flagged])
    return chance.reshape(found.shape)
