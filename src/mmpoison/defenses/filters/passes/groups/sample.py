"""Draws a random sample of pairs over all shards, of a fixed size; which ones depends on the seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.option_checks import check_whole
from mmpoison.defenses.filters.passes.groups.shard import Hashes, Index, Shard, below, hashes
from mmpoison.defenses.filters.passes.half import AnyVectors, squared_lengths, to_float32
from mmpoison.errors import InputError

SAMPLE = 100_000
"""Pairs in the sample: 200 MB of float16 with 512 dimensions on both sides."""

MOST_OF_AN_IMAGE = 50
"""An image with more captions is in the sample with so many."""


@dataclass(frozen=True)
class SamplePlan:
    """What every shard needs to draw its part.

    Attributes:
        pairs: Pairs in all shards.
        size: Pairs in the sample.
        seed: Of the run.
    """

    pairs: int
    size: int = SAMPLE
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("pairs", self.pairs, 1, 1 << 48)
        check_whole("size", self.size, 1, 1 << 24)

    @property
    def below(self) -> np.uint64:
        """Images with a smaller hash are drawn: a few too many, so that the merged sample is cut to its size."""
        return below((self.size + 4 * self.size**0.5 + 10) / self.pairs)


@dataclass(frozen=True)
class Sample:
    """Sampled pairs, sorted by the hashes of their images: the first n are a sample too.

    Attributes:
        hash: Of the image of each pair, shape `(n,)`.
        shard: Its shard, shape `(n,)`.
        row: Its row there, shape `(n,)`.
        owner: Number of its image there, shape `(n,)`.
        text: Vectors of the captions, as stored, shape `(n, d)`.
        image: Vectors of the images, as stored, shape `(n, e)`.
        size: Pairs that are retained.
    """

    hash: Hashes
    shard: Index
    row: Index
    owner: Index
    text: AnyVectors
    image: AnyVectors
    size: int

    def __len__(self) -> int:
        return len(self.row)

    def merge(self, other: Sample) -> Sample:
        """Return the pairs of both with the smallest hashes.

        Raises:
            InputError: If their vectors have different dimensions.
        """
        for side in ("text", "image"):
            mine, theirs = (getattr(one, side).shape[1] for one in (self, other))
            if mine != theirs:
                raise InputError(
                    f"vectors of {side} have {mine} and {theirs} dimensions: all shards must come from one encoder"
                )
        both = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS
        }
        order = np.lexsort((both["row"], both["shard"], both["hash"]))[: self.size]
        return Sample(**{name: values[order] for name, values in both.items()}, size=self.size)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {name: getattr(self, name) for name in _COLUMNS} | {"size": np.array(self.size)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Sample:
        """Read what `to_arrays` gave."""
        return cls(**{name: arrays[name] for name in _COLUMNS}, size=int(arrays["size"]))


_COLUMNS = ("hash", "shard", "row", "owner", "text", "image")


def sample_part(shard: Shard, plan: SamplePlan) -> Sample:
    """Draw the part of a shard; rows with a vector that is zero or not finite are left out.

    The captions of an image are drawn together, at most 50 of them.
    """
    owner = shard.owner
    hash_ = hashes(plan.seed, "sample", shard.number, owner)
    rows = np.flatnonzero(hash_ <= plan.below)
    if shard.image_of is not None:
        rows = _at_most(rows, owner)
    rows = rows[np.lexsort((rows, hash_[rows]))]
    text, image = np.asarray(shard.text[rows]), np.asarray(shard.image[rows])
    usable = ~(np.isnan(_squares(text)) | np.isnan(_squares(image)))
    rows = rows[usable][: plan.size]
    return Sample(
        hash_[rows],
        np.full(len(rows), shard.number),
        rows,
        owner[rows],
        text[usable][: plan.size],
        image[usable][: plan.size],
        plan.size,
    )


def _at_most(rows: Index, owner: Index) -> Index:
    """Return the first rows of each image."""
    order = np.argsort(owner[rows], kind="stable")
    image = owner[rows][order]
    first = np.searchsorted(image, image)
    return rows[order[np.arange(len(rows)) - first < MOST_OF_AN_IMAGE]]


def _squares(vectors: AnyVectors) -> npt.NDArray[np.float32]:
    converted = np.empty(vectors.shape, dtype=np.float32)
    to_float32(vectors, converted)
    return squared_lengths(vectors, converted)
