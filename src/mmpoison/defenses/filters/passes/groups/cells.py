"""Cells of captions and of images: clusters of the sample, in which the pairs of all shards are counted."""

from __future__ import annotations

import numpy as np

from mmpoison.defenses.filters.passes.groups.shard import Index
from mmpoison.defenses.filters.suspicious_groups._views import Vectors, group_sums, unit

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
