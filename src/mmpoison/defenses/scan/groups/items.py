"""Items that are compared: an image with its captions, or a single pair; of a shard, or of the sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.read.distance import Vectors
from mmpoison.defenses.scan.read.vector_shard import (
    Index,
    Sample,
    Space,
    VectorShard,
    hashes,
    unit,
)

Values = npt.NDArray[np.float32]

FOLDS = 5
"""Parts of the images: each is predicted from the others."""

IMAGES, PAIRS = "images", "pairs"
"""The two views: all captions of an image with it, and each caption with what else is known of its image."""


@dataclass(frozen=True)
class Reduced:
    """Usable rows in the space of the scan.

    Attributes:
        row: Their rows, shape `(n,)`.
        text: Their captions, shape `(n, k)`.
        image: Distinct images, shape `(m, k)`.
        image_at: The image of each row, index into `image`, shape `(n,)`.
        shard: VectorShard of each image, shape `(m,)`.
        owner: Number of each image in its shard, shape `(m,)`.
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
        text: What each says, unit vectors, shape `(m, k)`.
        image: Its image, shape `(m, k)`.
        fold: Its fold, shape `(m,)`.
        at: Its image, index into `Reduced.image`, shape `(m,)`.
        others: Sum of the other captions of its image, shape `(m, k)`; None in the view of images.
    """

    text: Vectors
    image: Vectors
    fold: Index
    at: Index
    others: Vectors | None = None

    def __len__(self) -> int:
        return len(self.text)


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
    """Return one item an image: its mean caption and its vector."""
    images = len(reduced.image)
    if images < len(reduced.text):
        text = unit(group_sums(reduced.text, reduced.image_at, images))
    else:
        text = np.empty_like(reduced.text)
        text[reduced.image_at] = reduced.text
    return Items(text, reduced.image, reduced.fold, np.arange(images))


def item_owners(reduced: Reduced, items: Items, crowd: float) -> Index:
    """Return the number of the image of each item in its shard, shape `(m,)`.

    The captions of one image do not count for each other, except where it has far more captions than others (attack I):
    each of those gets a negative number of its own.
    """
    owner = reduced.owner[items.at]
    if items.others is None:
        return owner
    many = np.bincount(items.at, minlength=len(reduced.image))[items.at] > crowd
    return np.where(many, -1 - reduced.row, owner)


def pair_items(reduced: Reduced, crowd: float, weight: Values | None = None) -> Items:
    """Return one item a pair.

    Args:
        reduced: The rows.
        crowd: An image with more captions has nothing to vouch for it but similar images (attack I).
        weight: How far each caption is trusted to say what is usual of its image, shape `(n,)`; fully by default.
    """
    at, images = reduced.image_at, len(reduced.image)
    weight = np.ones(len(at), dtype=np.float32) if weight is None else weight
    said = reduced.text * weight[:, None]
    others = group_sums(said, at, images)[at] - said
    others[np.bincount(at, minlength=images)[at] > crowd] = 0
    return Items(reduced.text, reduced.image[at], reduced.fold[at], at, others)


def group_sums(vectors: Vectors, group: Index, groups: int) -> Vectors:
    """Sum of the vectors of each group, shape `(groups, d)`.

    >>> group_sums(np.float32([[1, 0], [2, 0], [0, 5]]), np.array([1, 1, 0]), 3).tolist()
    [[0.0, 5.0], [3.0, 0.0], [0.0, 0.0]]
    """
    from scipy.sparse import csr_matrix

    ones = np.ones(len(group), dtype=np.float32)
    membership = csr_matrix((ones, (group, np.arange(len(group)))), shape=(groups, len(group)))
    return np.asarray(membership @ vectors, dtype=np.float32)


def item_keys(reduced: Reduced, items: Items, crowd: float) -> Index:
    """Return the image of each item as a number of its own among all shards, shape `(m,)` (`item_owners`)."""
    return keys(reduced.shard[items.at], item_owners(reduced, items, crowd))


def keys(shard: Index, owner: Index) -> Index:
    """Return one number for a shard and an image in it, shape `(n,)`; images have numbers below 2^38 on either side."""
    return np.asarray(shard * (1 << 40) + owner)
