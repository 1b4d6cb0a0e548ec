"""Computes the cosine distance of each pair of a shard, in blocks that fit into the cache of a core."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.option_checks import check_whole
from mmpoison.defenses.cut import check_loss
from mmpoison.defenses.filters.suspicious_groups.shard import (
    AnyVectors,
    squared_lengths,
    to_float32,
)
from mmpoison.errors import InputError
from mmpoison.statistics import TwoGaussians, fit_two_gaussians

BLOCK = 256
"""Rows of a block: two blocks of 512 dimensions in float32 take 1 MiB, which fits into the cache of a core."""


def distances(
    text: AnyVectors, image: AnyVectors, block: int = BLOCK, threads: int = 1
) -> npt.NDArray[np.float32]:
    """Compute one minus the cosine of caption and image of each pair.

    Vectors need not have unit length: lengths cost little next to reading, and a sample could not prove that all are
    normalised.

    Args:
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped.
        image: Vectors of their images, shape `(n, d)`.
        block: Rows that are read at a time; the result does not depend on it.
        threads: How many blocks are computed at a time; the result does not depend on it.

    Returns:
        Distances in [0, 2], NaN where a vector is zero or not finite, shape `(n,)`.

    Raises:
        InputError: If the shapes differ or the vectors are neither float16 nor float32.

    >>> distances(np.float32([[1, 0], [1, 1], [0, 0]]), np.float32([[0, 2], [3, 3], [1, 0]])).round(3).tolist()
    [1.0, 0.0, nan]
    """
    check_pairs(text, image)
    check_whole("block", block, 1, 1 << 20)
    check_whole("threads", threads, 1, 1024)
    found = np.empty(len(text), dtype=np.float32)
    if threads == 1:
        _fill(found, text, image, block, 0, 1)
        return found
    with ThreadPoolExecutor(threads) as pool:
        work = [
            pool.submit(_fill, found, text, image, block, one, threads) for one in range(threads)
        ]
        for part in work:
            part.result()
    return found


def check_pairs(text: AnyVectors, image: AnyVectors) -> None:
    """Refuse vectors that are no pairs.

    Raises:
        InputError: If they have other shapes or types than `distances` reads.
    """
    for side, vectors in (("captions", text), ("images", image)):
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise InputError(
                f"vectors of {side} have shape {vectors.shape}, (pairs, dimensions) is needed"
            )
        if vectors.dtype not in (np.float16, np.float32):
            raise InputError(f"vectors of {side} are {vectors.dtype}, float16 or float32 is needed")
    if text.shape != image.shape:
        raise InputError(f"captions have vectors of shape {text.shape}, images of {image.shape}")


def _fill(
    found: npt.NDArray[np.float32],
    text: AnyVectors,
    image: AnyVectors,
    block: int,
    first: int,
    step: int,
) -> None:
    captions = np.empty((min(block, len(text)), text.shape[1]), dtype=np.float32)
    images = np.empty_like(captions)
    for start in range(first * block, len(text), step * block):
        rows = slice(start, min(start + block, len(text)))
        x, y = captions[: rows.stop - start], images[: rows.stop - start]
        to_float32(text[rows], x)
        to_float32(image[rows], y)
        lengths = squared_lengths(text[rows], x).astype(np.float64)
        lengths *= squared_lengths(image[rows], y)
        with np.errstate(over="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", x, y) / np.sqrt(lengths)
        found[rows] = (1 - cosine).clip(0, 2)


# -- Counts distances in fine bins: shards are merged by addition, and cuts are computed from the counts
# alone.


BINS = 20_000
LARGEST = 2.0
WIDTH = LARGEST / BINS
"""A cut from the counts is right up to this distance."""


@dataclass(frozen=True)
class DistanceCounts:
    """Counts of distances in equal bins on [0, 2].

    Attributes:
        counts: Shape `(20000,)`.
        unusable: Pairs without a distance (NaN).
    """

    counts: npt.NDArray[np.int64]
    unusable: int = 0

    @classmethod
    def of(cls, distances: npt.NDArray[np.floating[Any]]) -> DistanceCounts:
        """Count distances; NaN is unusable.

        >>> counted = DistanceCounts.of(np.array([0.0, 0.5, 0.5, 2.0, np.nan]))
        >>> len(counted), counted.unusable
        (4, 1)
        """
        usable = distances[~np.isnan(distances)].astype(np.float64)
        if len(usable) and not (usable.min() >= 0 and usable.max() <= LARGEST):
            raise InputError(f"distances are from {usable.min()} to {usable.max()}, not in [0, 2]")
        place = np.minimum((usable / WIDTH).astype(np.int64), BINS - 1)
        return cls(np.bincount(place, minlength=BINS), len(distances) - len(usable))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def merge(self, other: DistanceCounts) -> DistanceCounts:
        """Return the counts of both."""
        return DistanceCounts(self.counts + other.counts, self.unusable + other.unusable)

    def quantile(self, share: float) -> float:
        """Return the distance below which a share of the pairs lies.

        Pairs are taken to lie evenly in their bin: of n pairs in a bin the first is half of an n-th part of the bin
        from its lower edge. The rank is that of `numpy.quantile`, share x (pairs - 1), so that the two differ by less
        than the width of a bin.

        Args:
            share: In [0, 1].

        Raises:
            InputError: If no distance is counted.
        """
        if not len(self):
            raise InputError("no pair has a distance: there is nothing to cut")
        rank = share * (len(self) - 1)
        below = np.cumsum(self.counts)
        low, high = (self._place(int(place), below) for place in (np.floor(rank), np.ceil(rank)))
        return low + (rank - float(np.floor(rank))) * (high - low)

    def _place(self, rank: int, below: npt.NDArray[np.int64]) -> float:
        """Return where the pair of a rank lies."""
        bin_ = int(np.searchsorted(below, rank, side="right"))
        count = int(self.counts[bin_])
        within = rank - (int(below[bin_]) - count)
        return (bin_ + (within + 0.5) / count) * WIDTH

    def loss_cut(self, clean_loss: float) -> float:
        """Return the distance above which a share of the pairs lies, as `relevance-filter` without trusted pairs.

        Raises:
            InputError: If the share is out of range.
        """
        check_loss(clean_loss)
        return self.quantile(1 - clean_loss)

    def two_gaussians(self) -> TwoGaussians:
        """Fit the two Gaussians of `gmm-split` to the cosines; each pair counts as the middle of its bin.

        Raises:
            InputError: If all pairs lie in one bin.
        """
        if np.count_nonzero(self.counts) < 2:
            raise InputError(
                f"the {len(self):,} pairs are all equally far apart: two Gaussians need different cosines"
            )
        return fit_two_gaussians(1 - (np.arange(BINS) + 0.5) * WIDTH, counts=self.counts)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        return {"counts": self.counts, "unusable": np.array(self.unusable)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> DistanceCounts:
        """Read what `to_arrays` gave."""
        return cls(np.asarray(arrays["counts"], dtype=np.int64), int(arrays["unusable"]))
