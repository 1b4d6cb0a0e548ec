"""Counts conflicting and consistent items in cells, a caption cell and an image cell each, over all shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.passes.groups.cells import cells_of
from mmpoison.defenses.filters.passes.groups.items import IMAGES, Values
from mmpoison.defenses.filters.passes.groups.model import Model
from mmpoison.defenses.filters.passes.groups.shard import Index, Shard

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


def counts_part(shard: Shard, model: Model) -> dict[str, tuple[Counts, Rows]]:
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


def _count(model: Model, view: str, conflict: Values, cell: Index, unusable: int) -> Counts:
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
