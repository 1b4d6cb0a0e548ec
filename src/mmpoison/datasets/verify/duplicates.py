"""Images that are the same, or nearly: equal hashes, and perceptual hashes a few bits apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

BITS = 64
FARTHEST = 10
"""The largest distance that is searched; beyond it the bands are so narrow that it is a comparison of all with all."""

AT_ONCE = 1 << 20
"""So many candidates are compared at a time, which takes some 60 MB."""


def equal_groups(hashes: Hashes) -> list[Indices]:
    """Group positions with equal hashes, two or more each, by their first position.

    Args:
        hashes: Shape `(n,)`.

    >>> [group.tolist() for group in equal_groups(np.array([7, 1, 7, 2, 1, 7], dtype=np.uint64))]
    [[0, 2, 5], [1, 4]]
    """
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    starts, sizes = _runs(hashes[order])
    several = sizes > 1
    groups = [
        order[start : start + size]
        for start, size in zip(starts[several].tolist(), sizes[several].tolist(), strict=True)
    ]
    return sorted(groups, key=lambda group: int(group[0]))


def near_pairs(
    hashes: Hashes, distance: int
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.uint8]]]:
    """Find all pairs of 64-bit hashes that differ in at most a given number of bits, and no others.

    Of `distance + 2` bands of bits, hashes that are near differ in at most `distance`, so they agree in two bands at
    least: only those that agree in some two bands are compared.

    Args:
        hashes: Distinct hashes, shape `(n,)`.
        distance: Bits that may differ, from 0 to 10.

    Yields:
        Pieces with the positions of both of each pair (first < second) and their distance; each pair comes once.

    Raises:
        InputError: If the distance is out of range.
    """
    if not 0 <= distance <= FARTHEST:
        raise InputError(
            f"a distance of {distance} bits: from 0 to {FARTHEST} of {BITS} can be searched"
        )
    masks = _bands(distance + 2)
    for first, second in combinations(range(len(masks)), 2):
        both = hashes & (masks[first] | masks[second])
        order = np.argsort(both, kind="stable").astype(np.int64)
        for left, right in _agreeing(both[order]):
            i, j = order[left], order[right]
            differing = hashes[i] ^ hashes[j]
            apart = _ones(differing)
            near = apart <= distance
            # in the first two bands that agree, not once more in others
            for band in range(second):
                if band != first:
                    near &= (differing & masks[band]) != 0
            if near.any():
                i, j = i[near], j[near]
                yield np.minimum(i, j), np.maximum(i, j), apart[near]


def _bands(count: int) -> list[np.uint64]:
    bounds = [round(BITS * k / count) for k in range(count + 1)]
    return [np.uint64(((1 << (stop - start)) - 1) << start) for start, stop in pairwise(bounds)]


def _agreeing(values: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield all pairs of positions with equal values in a sorted array, in pieces."""
    starts, sizes = _runs(values)
    # how many later members of its group each position has
    position = np.arange(len(values), dtype=np.int64)
    later = np.repeat(starts + sizes, sizes) - position - 1
    partners = position[later > 0]
    later = later[later > 0]
    cumulated = np.cumsum(later)
    start = 0
    while start < len(partners):
        before = cumulated[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(cumulated, before + AT_ONCE, side="right")))
        counts = later[start:stop]
        left = np.repeat(partners[start:stop], counts)
        within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield left, left + within + 1
        start = stop


def _runs(values: Hashes) -> tuple[Indices, Indices]:
    """Start and length of each run of equal values in a sorted array."""
    starts = np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1))[: len(values)]
    return starts, np.diff(np.concatenate((starts, [len(values)])))


def _ones(values: Hashes) -> npt.NDArray[np.uint8]:
    """Count the bits that are set."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        ones: npt.NDArray[np.uint8] = np.bitwise_count(values)
    else:
        ones = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.uint8)
    return ones
