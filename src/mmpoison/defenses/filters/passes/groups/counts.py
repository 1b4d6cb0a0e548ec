"""Counts conflicting and consistent items in cells, a caption cell and an image cell each, over all shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.passes.groups.items import IMAGES, Values, item_owners
from mmpoison.defenses.filters.passes.groups.model import GroupModel, cells_of
from mmpoison.defenses.filters.passes.groups.shard import Index, VectorShard, hashes
from mmpoison.defenses.filters.suspicious_groups._conflict import Vectors
from mmpoison.defenses.filters.suspicious_groups._evidence import EXPECTED_AT_LEAST, FEW

BINS = 5_000
RANGE = (-20.0, 30.0)
"""Conflict is a sum of standardised distances: bins of a hundredth; what lies outside counts in the outer bins."""

Counted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Counts of the items of one view.

    Attributes:
        conflicting: In each caption cell and image cell, items with much conflict, shape `(c, c)`.
        consistent: The others, shape `(c, c)`.
        histogram: Of the conflict, shape `(5000,)`.
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

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {
            "conflicting": self.conflicting,
            "consistent": self.consistent,
            "histogram": self.histogram,
            "unusable": np.array(self.unusable),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Counts:
        """Read what `to_arrays` gave."""
        return cls(
            arrays["conflicting"],
            arrays["consistent"],
            arrays["histogram"],
            int(arrays["unusable"]),
        )


@dataclass(frozen=True)
class Rows:
    """Conflict and cell of each row of a shard, so that the last pass reads suspicious rows only.

    Attributes:
        conflict: Of its item, NaN for unusable rows, shape `(n,)`.
        cell: Caption cell x cells + image cell, shape `(n,)`.
    """

    conflict: Values
    cell: npt.NDArray[np.int32]

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {"conflict": self.conflict, "cell": self.cell}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Rows:
        """Read what `to_arrays` gave."""
        return cls(arrays["conflict"], arrays["cell"])


def counts_part(shard: VectorShard, model: GroupModel) -> dict[str, tuple[Counts, Rows]]:
    """Count the items of a shard, for each view."""
    reduced = model.start.reduce(shard)
    found = {}
    place = cells_of(reduced.image, model.images)
    for view in model.views:
        items = model.start.items(view, reduced)
        conflict, _ = model.fits[view].conflict(items)
        cell = cells_of(items.text, model.captions) * len(model.images) + place[items.at]
        of_row = reduced.image_at if view == IMAGES else slice(None)
        found[view] = (
            _count(model, view, conflict, cell, len(shard) - len(reduced.row)),
            _rows(len(shard), reduced.row, conflict[of_row], cell[of_row]),
        )
    return found


def _count(model: GroupModel, view: str, conflict: Values, cell: Index, unusable: int) -> Counts:
    shape = len(model.captions), len(model.images)
    high = conflict > model.usual[view].border
    conflicting, consistent = (
        np.bincount(cell[some], minlength=shape[0] * shape[1]).reshape(shape)
        for some in (high, ~high)
    )
    histogram = np.bincount(_bins(conflict), minlength=BINS)
    return Counts(conflicting, consistent, histogram, unusable)


def _rows(count: int, row: Index, conflict: Values, cell: Index) -> Rows:
    found = np.full(count, np.nan, dtype=np.float32)
    cells = np.zeros(count, dtype=np.int32)
    found[row], cells[row] = conflict, cell
    return Rows(found, cells)


def _bins(conflict: Values) -> Index:
    low, high = RANGE
    place = (np.asarray(conflict, dtype=np.float64) - low) * (BINS / (high - low))
    return place.clip(0, BINS - 1).astype(np.intp)


# -- Chooses the cells whose items are examined one by one, and gathers those items from the shards.


GATHERED = 10_000
"""Items of flagged cells that are gathered, at most."""

OF_A_CELL = 200
"""Items of a flagged cell that are gathered, where not all conflicting items are.

With a background of 20,000 items a cell is then at most 1% of what is compared: among so many the thresholds of the
scan in memory were measured.
"""

FEWEST_IN_CELL = 3


@dataclass(frozen=True)
class Flags:
    """The flagged cells of a view.

    Attributes:
        chance: Share of the conflicting items of each cell that are gathered, 0 where it is not flagged, `(c, c)`.
        counted_as: How many items a gathered item counts as, at most 1, shape `(c, c)`.
        background: Share of all items that is in the background.
    """

    chance: npt.NDArray[np.float64]
    counted_as: npt.NDArray[np.float64]
    background: float

    @property
    def everything(self) -> bool:
        """Whether all conflicting items are gathered: the background is the data set."""
        return bool((self.chance == 1).all())

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {
            "chance": self.chance,
            "counted_as": self.counted_as,
            "background": np.array(self.background),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Flags:
        """Read what `to_arrays` gave."""
        return cls(arrays["chance"], arrays["counted_as"], float(arrays["background"]))


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


def flag(counts: Counts, background: int) -> Flags:
    """Flag cells with more conflicting items than expected, the largest ratio first, up to 10,000 gathered items.

    A cell counts in the evidence by what exceeds the expected number, and as the background is thinned for the rest:
    natural conflicts are then as dense among the compared items as in a data set of the size of the background.

    Args:
        counts: Of all shards.
        background: How many items the background has.
    """
    found = counts.conflicting.astype(np.float64)
    share = min(1.0, background / max(len(counts), 1))
    if share == 1:
        return Flags(np.ones_like(found), np.ones_like(found), share)
    expected = expected_conflicts(counts)
    ratio = (found + FEW) / (EXPECTED_AT_LEAST + expected)
    ratio[found < FEWEST_IN_CELL] = 0
    order = np.argsort(-ratio, axis=None, kind="stable")
    taken = np.minimum(found, OF_A_CELL).ravel()[order]
    flagged = order[(np.cumsum(taken) <= GATHERED) & (ratio.ravel()[order] > 1)]
    chance = np.zeros(found.size)
    chance[flagged] = np.minimum(1.0, OF_A_CELL / found.ravel()[flagged])
    usual = np.minimum(found, expected)
    counted = (found - usual + share * usual) / np.maximum(found, 1)
    return Flags(chance.reshape(found.shape), counted, share)


@dataclass(frozen=True)
class Gathered:
    """Gathered items of a view.

    Attributes:
        text: What each says, shape `(m, k)`.
        image: Its image, shape `(m, k)`.
        expected: The captions that are expected of it, shape `(m, k)`.
        conflict: Its conflict, shape `(m,)`.
        cell: Its cell, shape `(m,)`.
        shard: Its shard, shape `(m,)`.
        owner: Number of its image there, shape `(m,)`.
    """

    text: Vectors
    image: Vectors
    expected: Vectors
    conflict: Values
    cell: Index
    shard: Index
    owner: Index

    def __len__(self) -> int:
        return len(self.text)

    def merge(self, other: Gathered) -> Gathered:
        """Return the items of both."""
        return Gathered(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS)
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {name: getattr(self, name) for name in _COLUMNS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Gathered:
        """Read what `to_arrays` gave."""
        return cls(*(arrays[name] for name in _COLUMNS))


_COLUMNS = ("text", "image", "expected", "conflict", "cell", "shard", "owner")


def gather_part(
    shard: VectorShard, rows: Mapping[str, Rows], model: GroupModel, flags: Mapping[str, Flags]
) -> dict[str, Gathered]:
    """Read the items of flagged cells of a shard, a random part of them where they are many, for each view."""
    found = {}
    for view in model.views:
        chosen = rows_of_cells(rows[view], flags[view].chance > 0, model.usual[view].border)
        chance = flags[view].chance.ravel()[rows[view].cell[chosen]]
        number = shard.owner[chosen] if view == IMAGES else chosen
        drawn = hashes(model.start.seed, f"gather/{view}", shard.number, number)
        # the upper 53 bits as a share in [0, 1)
        chosen = chosen[(drawn >> np.uint64(11)) * 2.0**-53 < chance]
        found[view] = read_items(shard, rows, model, view, chosen)[0]
    return found


def read_items(
    shard: VectorShard, rows: Mapping[str, Rows], model: GroupModel, view: str, chosen: Index
) -> tuple[Gathered, Index, Index]:
    """Read the items of some rows of a shard.

    Args:
        shard: The shard.
        rows: Conflict and cell of its rows, for each view.
        model: The model.
        view: The view.
        chosen: Sorted rows; in the view of images all usable rows of an image, or none.

    Returns:
        The items; the rows in the order in which they were read; and the item of each.
    """
    needed = chosen
    if shard.image_of is not None:
        of_them = np.isin(shard.image_of, np.unique(shard.image_of[chosen]))
        needed = np.flatnonzero(of_them & ~np.isnan(rows[IMAGES].conflict))
    reduced = model.start.reduce(shard, needed)
    items = model.start.items(view, reduced)
    expected = model.fits[view].conflict(items)[1]
    if view == IMAGES:
        some = np.arange(len(items))
        item = reduced.image_at
        first = np.unique(item, return_index=True)[1]
    else:
        some = first = np.flatnonzero(np.isin(reduced.row, chosen))
        item = np.arange(len(some))
    row = reduced.row if view == IMAGES else reduced.row[some]
    gathered = Gathered(
        items.text[some],
        items.image[some],
        expected[some],
        # not computed again: other blocks of rows may differ in the last digit
        rows[view].conflict[reduced.row[first]],
        rows[view].cell[reduced.row[first]].astype(np.intp),
        reduced.shard[items.at[some]],
        item_owners(reduced, items, model.start.crowd)[some],
    )
    return gathered, row, item
