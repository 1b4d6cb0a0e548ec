"""The rows of `metrics.json`, in the fixed layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmpoison.attacks.goal import Goal
from mmpoison.datasets.pairs import IntArray
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.metrics import (
    constant_rows,
    hit_table,
    image_retrieval_ranks,
    min_rank,
    target_ranks,
    text_retrieval_ranks,
    tie_count,
)
from mmpoison.seeding import generator

UTILITY_KS = (1, 5, 10)


def goal_row(embeddings: TestEmbeddings, test: TestSet, goal: Goal) -> dict[str, Any]:
    """How well captions of the original class retrieve images of the target class (section 5.1, "Hit@K", "MinRank").

    Returns:
        `hit@1` ... `hit@50` in [0, 1]; `min_rank`, 0-based; `queries`, `gallery`, `targets`, `ties`: counts.
    """
    return _row(embeddings, test, test.queries(goal.original), goal)


def random_captions_row(
    embeddings: TestEmbeddings, test: TestSet, goal: Goal, seed: int
) -> dict[str, Any]:
    """The same for as many random test captions that are not of the original class (baseline b of the protocol)."""
    candidates = test.other_queries(goal.original)
    wanted = min(len(test.queries(goal.original)), len(candidates))
    rng = generator(seed, f"random-captions/{goal}")
    queries = np.sort(rng.choice(candidates, wanted, replace=False)).astype(np.int32)
    return _row(embeddings, test, queries, goal)


def utility_row(embeddings: TestEmbeddings, test: TestSet) -> dict[str, Any]:
    """Retrieval over the whole test set: caption to its image, and image to any of its captions (tables 1 and 7)."""
    image = image_retrieval_ranks(embeddings.images, embeddings.texts, test.caption_image)
    with_caption = np.unique(test.caption_image)
    position = np.searchsorted(with_caption, test.caption_image)
    text = text_retrieval_ranks(embeddings.images[with_caption], embeddings.texts, position)
    return {
        "image_retrieval": hit_table(image, UTILITY_KS),
        "text_retrieval": hit_table(text, UTILITY_KS),
    }


def class_retrieval(embeddings: TestEmbeddings, test: TestSet) -> dict[str, float]:
    """For each class, the share of its captions that retrieve an image of the class first, in [0, 1]."""
    shares: dict[str, float] = {}
    for label in test.pairs.classes:
        code = test.pairs.images.class_code(label)
        if not (test.pairs.images.class_codes[test.pairs.image] == code).any():
            continue
        ranks = target_ranks(embeddings.similarity(test.queries(label)), test.targets(label))
        shares[label] = float((ranks == 0).mean())
    return shares


def collapse_warning(embeddings: TestEmbeddings, test: TestSet, name: str) -> str | None:
    """One line if a model's similarities say nothing because they are all equal, else None."""
    everything = np.arange(len(test.pairs), dtype=np.int32)
    share = constant_rows(embeddings.similarity(everything))
    if share < 0.01:
        return None
    return (
        f"the model {name!r} has collapsed: for {share:.0%} of the captions all images are equally similar, "
        "its figures mean nothing"
    )


def _row(
    embeddings: TestEmbeddings, test: TestSet, queries: IntArray, goal: Goal
) -> dict[str, Any]:
    similarity = embeddings.similarity(queries)
    targets = test.targets(goal.target)
    ranks = target_ranks(similarity, targets)
    return {
        **hit_table(ranks),
        "min_rank": min_rank(ranks),
        "queries": len(queries),
        "gallery": len(test.gallery),
        "targets": int(targets.sum()),
        "ties": tie_count(similarity, targets),
    }
