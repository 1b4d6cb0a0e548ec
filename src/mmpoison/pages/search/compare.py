"""Compares rankings of several models: ranks, moves relative to the first model, ranks of targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmpoison.metrics import target_ranks
from mmpoison.pages.search.embedded import Ranking
from mmpoison.pairs.table import BoolArray


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        item: The image, or the row of the caption.
        rank: From 0, as everywhere.
        similarity: Cosine similarity to the query, in [-1, 1].
        target: Whether it is in the target set.
        was: Its rank under the first model; None if that rank is not known, or this is the first model.
    """

    item: int
    rank: int
    similarity: float
    target: bool
    was: int | None


@dataclass(frozen=True)
class Column:
    """The results of one model.

    Attributes:
        hits: The results shown, best first.
        known: How many ranks are known, from 0.
        size: Number of searched items.
        best_target: Rank of the best target, ties counted against it; None if it is not among the known ranks.
        targets_shown: Number of targets among the shown results.
        new: Number of shown results that the first model does not show; None for the first model.
    """

    hits: tuple[Hit, ...]
    known: int
    size: int
    best_target: int | None
    targets_shown: int
    new: int | None


def side_by_side(
    rankings: Mapping[str, Ranking], targets: BoolArray, shown: int, first: str | None = None
) -> dict[str, Column]:
    """Compare rankings of the same items by several models.

    Args:
        rankings: Ranking of each model.
        targets: Which items are in the target set, shape `(I,)`.
        shown: Number of results to show.
        first: The model that the others are compared with, if it has a ranking.

    Returns:
        One column per model, in the given order.
    """
    reference = rankings.get(first) if first is not None else None
    ranks = {} if reference is None else {int(i): r for r, i in enumerate(reference.items)}
    top = set() if reference is None else {int(item) for item in reference.items[:shown]}
    columns: dict[str, Column] = {}
    for name, ranking in rankings.items():
        compared = reference is not None and name != first
        mask = targets[ranking.items]
        hits = tuple(
            Hit(
                int(item),
                rank,
                round(float(ranking.similarity[rank]), 4),
                bool(mask[rank]),
                ranks.get(int(item)) if compared else None,
            )
            for rank, item in enumerate(ranking.items[:shown])
        )
        best = None
        if mask.any():
            best = int(target_ranks(np.asarray(ranking.similarity)[None], mask)[0])
        columns[name] = Column(
            hits,
            len(ranking.items),
            ranking.size,
            best,
            int(mask[:shown].sum()),
            sum(hit.item not in top for hit in hits) if compared else None,
        )
    return columns
