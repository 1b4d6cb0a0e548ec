"""Items to compare (an image with its captions, or a single pair), and the cells that count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.growth import EXPECTED_AT_LEAST, FEW
from mmpoison.defenses.scan.read.vector_shard import (
    Index,
    Sample,
    Space,
    Stored,
    Values,
    Vectors,
    VectorShard,
    hashes,
    unit,
)

FOLDS = 5
"""Folds of images; each is predicted from the others."""

IMAGES, PAIRS = "images", "pairs"
"""The two views: an image with all its captions, and each caption with its image and the image's other captions."""


@dataclass(frozen=True)
class Reduced:
    """Usable rows, reduced to the scan's space.

    Attributes:
        row: Their rows, shape `(n,)`.
        text: Their captions, shape `(n, k)`.
        image: Distinct images, shape `(m, k)`.
        image_at: Image of each row, as an index into `image`, shape `(n,)`.
        shard: Shard number of each image, shape `(m,)`.
        owner: Number of each image within its shard, shape `(m,)`.
        fold: Fold of each image in the regressions, shape `(m,)`.
    """

    row: Index
    text: Vectors
    image: Vectors
    image_at: Index
    shard: Index
    owner: Index
    fold: Index


@dataclass(frozen=True)
class Items:
    """Items of one view.

    Attributes:
        text: Caption vectors, unit length, shape `(m, k)`.
        image: Image vectors, shape `(m, k)`.
        key: Image number among all shards, shape `(m,)`; items with the same number do not count for each other.
        row: A row of each item, shape `(m,)`.
        fold: Fold of each item, shape `(m,)`.
        at: Image of each item, as an index into `Reduced.image`, shape `(m,)`.
        others: Sum of the other captions of its image, shape `(m, k)`; None in the view of images.
    """

    text: Vectors
    image: Vectors
    key: Index
    row: Index
    fold: Index
    at: Index
    others: Vectors | None = None

    def __len__(self) -> int:
        return len(self.text)

    @property
    def context(self) -> Vectors:
        """Mean of the other captions of its image, unit length or zero, shape `(m, k)`; zero in the view of images."""
        return np.zeros_like(self.text) if self.others is None else unit(self.others)


def reduce_shard(
    shard: VectorShard, text: Space, image: Space, seed: int, rows: Index | None = None
) -> Reduced:
    """Reduce a shard, or some rows of it.

    Args:
        shard: The shard.
        text: The space of captions.
        image: The space of images.
        seed: Of the folds.
        rows: Sorted rows; all by default.
    """
    if rows is None and shard.image_of is None:
        captions, images = text.reduce(shard.text), image.reduce(shard.image)
        row = np.flatnonzero(~(np.isnan(captions[:, 0]) | np.isnan(images[:, 0])))
        if len(row) < len(captions):
            captions, images = captions[row], images[row]
        own = np.arange(len(row))
        return _reduced(row, captions, images, own, np.full(len(row), shard.number), row, seed)
    row = np.arange(len(shard)) if rows is None else rows
    owner, first, at = np.unique(shard.owner[row], return_index=True, return_inverse=True)
    captions = text.reduce(np.asarray(shard.text[row]))
    images = image.reduce(np.asarray(shard.image[row[first]]))
    usable = ~(np.isnan(captions[:, 0]) | np.isnan(images[at, 0]))
    used, at = np.unique(at[usable], return_inverse=True)
    return _reduced(
        row[usable],
        captions[usable],
        images[used],
        at,
        np.full(len(used), shard.number),
        owner[used],
        seed,
    )


def reduce_sample(sample: Sample, text: Space, image: Space, seed: int) -> Reduced:
    """Reduce the sample."""
    key = np.stack([sample.shard, sample.owner], axis=1)
    used, first, at = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return _reduced(
        sample.row,
        text.reduce(sample.text),
        image.reduce(sample.image[first]),
        at.reshape(-1),
        used[:, 0],
        used[:, 1],
        seed,
    )


def _reduced(
    row: Index, text: Vectors, image: Vectors, at: Index, shard: Index, owner: Index, seed: int
) -> Reduced:
    fold = (hashes(seed, "fold", shard, owner) % np.uint64(FOLDS)).astype(np.intp)
    return Reduced(row, text, image, at, shard, owner, fold)


def image_items(reduced: Reduced) -> Items:
    """Return one item per image: its mean caption and its vector."""
    images = len(reduced.image)
    if images < len(reduced.text):
        text = unit(group_sums(reduced.text, reduced.image_at, images))
    else:
        text = np.empty_like(reduced.text)
        text[reduced.image_at] = reduced.text
    row = np.empty(images, dtype=np.intp)
    row[reduced.image_at[::-1]] = reduced.row[::-1]  # the first one
    key = keys(reduced.shard, reduced.owner)
    return Items(text, reduced.image, key, row, reduced.fold, np.arange(images))


def pair_items(reduced: Reduced, crowd: float) -> Items:
    """Return one item per pair.

    Captions of the same image do not count for each other, unless it has far more captions than others (attack I): then
    each caption counts as a separate image.

    Args:
        reduced: The rows.
        crowd: Images with more captions are judged by similar images only (attack I).
    """
    at, images = reduced.image_at, len(reduced.image)
    others = group_sums(reduced.text, at, images)[at] - reduced.text
    many = np.bincount(at, minlength=images)[at] > crowd
    others[many] = 0
    owner = np.where(many, -1 - reduced.row, reduced.owner[at])
    key = keys(reduced.shard[at], owner)
    return Items(reduced.text, reduced.image[at], key, reduced.row, reduced.fold[at], at, others)


def view_items(view: str, reduced: Reduced, crowd: float) -> Items:
    """Return the items of a view."""
    return image_items(reduced) if view == IMAGES else pair_items(reduced, crowd)


def group_sums(vectors: Vectors, group: Index, groups: int) -> Vectors:
    """Sum the vectors of each group, shape `(groups, d)`.

    >>> group_sums(np.float32([[1, 0], [2, 0], [0, 5]]), np.array([1, 1, 0]), 3).tolist()
    [[0.0, 5.0], [3.0, 0.0], [0.0, 0.0]]
    """
    from scipy.sparse import csr_matrix

    ones = np.ones(len(group), dtype=np.float32)
    membership = csr_matrix((ones, (group, np.arange(len(group)))), shape=(groups, len(group)))
    return np.asarray(membership @ vectors, dtype=np.float32)


def keys(shard: Index, owner: Index) -> Index:
    """Combine shard and image number into one number, shape `(n,)`. Image numbers within a shard are below 2^38."""
    return np.asarray(shard * (1 << 40) + owner)


# -- Cells of captions and of images: clusters of the sample, which count the pairs of all shards.


CELLS = 256
"""Cells per side."""

FEWEST_OF_A_CELL = 20
"""Minimum average number of sampled items per cell."""

ROUNDS = 10
BLOCK = 8192


def fit_cells(vectors: Vectors) -> Vectors:
    """Find cell centres by k-means on the unit sphere.

    Args:
        vectors: Unit vectors in random order, shape `(n, k)`; the first ones are the initial centres.

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
    """Return the nearest centre of each vector, shape `(n,)`."""
    found = np.empty(len(vectors), dtype=np.intp)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        found[rows] = (vectors[rows] @ middles.T).argmax(axis=1)
    return found


BINS = 20_000
RANGE = (-20.0, 30.0)
"""Range of the conflict histogram, in sums of standardised distances. Outliers count in the outer bins."""

Counted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts(Stored):
    """Counts of the items of one view.

    Attributes:
        conflicting: Number of conflicting items per caption cell and image cell, shape `(c, c)`.
        consistent: Number of other items, shape `(c, c)`.
        histogram: Histogram of the conflict, shape `(20000,)`.
        unusable: Number of rows with a zero or non-finite vector.
    """

    conflicting: Counted
    consistent: Counted
    histogram: Counted
    unusable: int

    def __len__(self) -> int:
        return int(self.histogram.sum())

    def merge(self, other: Counts) -> Counts:
        """Return the sum of both counts."""
        return Counts(
            self.conflicting + other.conflicting,
            self.consistent + other.consistent,
            self.histogram + other.histogram,
            self.unusable + other.unusable,
        )

    def share_above(self, conflict: Values) -> npt.NDArray[np.float64]:
        """Return the share of items with at least as much conflict, up to a bin's width; same shape as the input."""
        above = np.cumsum(self.histogram[::-1])[::-1] / max(len(self), 1)
        return np.asarray(above[_bins(conflict)])


@dataclass(frozen=True)
class Rows(Stored):
    """Conflict and cell of each row of a shard, stored for later passes.

    Attributes:
        conflict: Conflict of the row's item, NaN for unusable rows, shape `(n,)`.
        cell: Caption cell x cells + image cell, shape `(n,)`.
    """

    conflict: Values
    cell: npt.NDArray[np.int32]

    @classmethod
    def of(cls, count: int, row: Index, conflict: Values, cell: Index) -> Rows:
        """Expand values of the usable rows to all rows of a shard."""
        found = np.full(count, np.nan, dtype=np.float32)
        cells = np.zeros(count, dtype=np.int32)
        found[row], cells[row] = conflict, cell
        return cls(found, cells)


@dataclass(frozen=True)
class Scored(Stored):
    """Items of one view, with their conflict and cells.

    Attributes:
        text: Caption vectors, unit length, shape `(m, k)`.
        image: Image vectors, shape `(m, k)`.
        context: As in `Items`.
        key: Image number of each item, shape `(m,)`.
        conflict: Conflict of each item, shape `(m,)`.
        cell: Caption cell x cells + image cell, shape `(m,)`.
    """

    text: Vectors
    image: Vectors
    context: Vectors
    key: Index
    conflict: Values
    cell: Index

    @classmethod
    def joined(cls, parts: Sequence[Scored], rows: Sequence[Index | slice]) -> Scored:
        """Concatenate selected items of each part."""
        every = [
            [one[some] for one in vars(part).values()]
            for part, some in zip(parts, rows, strict=True)
        ]
        return cls(*map(np.concatenate, zip(*every, strict=True)))


def count_in_cells(
    conflict: Values, cell: Index, border: float, shape: tuple[int, int], unusable: int
) -> Counts:
    """Count the items of a shard.

    Args:
        conflict: Conflict of each item, shape `(n,)`.
        cell: Cell of each item, shape `(n,)`.
        border: Items with more conflict are conflicting.
        shape: Numbers of caption cells and image cells.
        unusable: Number of rows without an item.
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


# -- Chooses the cells whose items are gathered from all shards.


GATHERED = 4000
"""Maximum number of items gathered from flagged cells; groups start from them."""

OF_A_CELL = 50
"""Items gathered per flagged cell, if not all conflicting items are."""

FEWEST_IN_CELL = 3


def expected_conflicts(counts: Counts) -> npt.NDArray[np.float64]:
    """Compute the expected number of conflicting items per cell, shape `(c, c)`.

    Assumes that captions and images of conflicting items are independent, and that items of a usual combination
    conflict as often as any item.
    """
    total = counts.conflicting.sum()
    captions, images = counts.conflicting.sum(axis=1), counts.conflicting.sum(axis=0)
    odds = total / max(counts.consistent.sum(), 1)
    return np.asarray(np.outer(captions, images) / max(total, 1) + odds * counts.consistent)


def flag(counts: Counts) -> npt.NDArray[np.float64]:
    """Flag cells with more conflicting items than expected, the largest ratio first, up to 4,000 gathered items.

    Args:
        counts: Counts of all shards.

    Returns:
        Share of each cell's conflicting items to gather, shape `(c, c)`: 0 if the cell is not flagged, and 1 everywhere
        if all conflicting items fit.
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
