"""Computes the rows of `metrics.json` from embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.goal import Goal
from mmpoison.base.seeding import generator
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.metrics import (
    constant_rows,
    embedding_ranks,
    hit_table,
    image_retrieval_ranks,
    min_rank,
    rank_quantiles,
    text_retrieval_ranks,
)
from mmpoison.pairs.table import BoolArray, IntArray
from mmpoison.records.run_files import GoalRow, RankSpread, Retrieval, Utility
from mmpoison.statistics import clustered_mean, clustered_share

UTILITY_KS = (1, 5, 10)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INTERVAL_KS = (1, 5, 10)

_CONSTANT_CHUNK = 1 << 22
"""Similarities looked at together for the warning of a collapse: 16 MB."""

Ranks = npt.NDArray[np.int64]


def goal_row(embeddings: TestEmbeddings, test: TestSet, goal_target: GoalTarget | Goal) -> GoalRow:
    """Measure how well captions of the original class retrieve the target set (section 5.1, "Hit@K", "MinRank").

    Args:
        embeddings: Of the model.
        test: The test part.
        goal_target: The goal and its target set; for a goal alone that is the target class.
    """
    goal_target = _as_target(goal_target)
    return row_of_queries(embeddings, test, test.queries(goal_target.goal.original), goal_target)


def random_captions_row(
    embeddings: TestEmbeddings, test: TestSet, goal_target: GoalTarget | Goal, seed: int
) -> GoalRow:
    """Measure the same for as many random test captions of other classes (baseline b of the protocol)."""
    goal_target = _as_target(goal_target)
    return row_of_queries(
        embeddings, test, random_queries(test, goal_target.goal, seed), goal_target
    )


def random_queries(test: TestSet, goal: Goal, seed: int) -> IntArray:
    """Draw rows of random test captions that are not of the original class: as many as it has, shape `(q,)`."""
    candidates = test.other_queries(goal.original)
    wanted = min(len(test.queries(goal.original)), len(candidates))
    rng = generator(seed, f"random-captions/{goal}")
    return np.sort(rng.choice(candidates, wanted, replace=False)).astype(np.int32)


def row_of_queries(
    embeddings: TestEmbeddings, test: TestSet, queries: IntArray, goal_target: GoalTarget
) -> GoalRow:
    """Compute the row of some test captions."""
    targets = test.target_set(goal_target)
    return row_of_ranks(*embeddings.ranks(queries, targets), targets)


def row_of_texts(texts: npt.ArrayLike, images: npt.ArrayLike, targets: BoolArray) -> GoalRow:
    """Compute the row of any queries by their embeddings, shape `(q, d)`, against a gallery, shape `(G, d)`."""
    return row_of_ranks(*embedding_ranks(texts, images, targets), targets)


def row_of_ranks(ranks: Ranks, ties: BoolArray, targets: BoolArray) -> GoalRow:
    """Compute a row from ranks, shape `(q,)`."""
    return GoalRow.of(
        {
            **hit_table(ranks),
            "min_rank": min_rank(ranks),
            "queries": len(ranks),
            "gallery": len(targets),
            "targets": int(targets.sum()),
            "ties": int(ties.sum()),
        }
    )


def ranks_row(ranks: Ranks, images: IntArray) -> RankSpread:
    """Compute quantiles of the ranks, and intervals of the row's figures clustered by image.

    Args:
        ranks: Shape `(q,)`.
        images: Image of each query, shape `(q,)`: captions of one image are one piece of evidence.
    """
    values = rank_quantiles(ranks, QUANTILES).tolist()
    estimates = {f"hit@{k}": clustered_share(ranks < k, images) for k in INTERVAL_KS}
    estimates["min_rank"] = clustered_mean(ranks, images)
    row: dict[str, object] = {
        "median": values[QUANTILES.index(0.5)],
        "quantiles": {f"{q:g}": value for q, value in zip(QUANTILES, values, strict=True)},
        "clusters": estimates["min_rank"].clusters,
    }
    if estimates["min_rank"].low is not None:
        row["interval"] = {name: [e.low, e.high] for name, e in estimates.items()}
    return RankSpread.of(row)


def utility_row(embeddings: TestEmbeddings, test: TestSet, *, equal_texts: bool = False) -> Utility:
    """Measure retrieval over the whole test set: caption to its image, image to any of its captions (tables 1 and 7).

    Args:
        embeddings: Of the model.
        test: The test part.
        equal_texts: Count an image as found by a caption if it carries a caption of the very same words, and a caption
            by an image if one of the image's own has the same words. Otherwise the strict reading: only the caption's
            own image, only the image's own captions.
    """
    wording = None
    if equal_texts:
        wording = np.unique(test.pairs.captions.astype(str), return_inverse=True)[1]
    image = image_retrieval_ranks(embeddings.images, embeddings.texts, test.caption_image, wording)
    with_caption = np.unique(test.caption_image)
    position = np.searchsorted(with_caption, test.caption_image)
    text = text_retrieval_ranks(
        embeddings.images[with_caption], embeddings.texts, position, wording
    )
    return Utility(
        image_retrieval=Retrieval.of(hit_table(image, UTILITY_KS)),
        text_retrieval=Retrieval.of(hit_table(text, UTILITY_KS)),
    )


def texts_repeat(test: TestSet) -> bool:
    """Say whether two test images carry a caption of the same words, so that the two readings of utility differ."""
    pairs = {(str(c), int(i)) for c, i in zip(test.pairs.captions, test.pairs.image, strict=True)}
    return len({caption for caption, _ in pairs}) < len(pairs)


def class_retrieval(embeddings: TestEmbeddings, test: TestSet) -> dict[str, float]:
    """Measure for each class the share of its captions that retrieve an image of the class first, in [0, 1]."""
    shares: dict[str, float] = {}
    for label in test.pairs.classes:
        if not (test.caption_class == test.pairs.images.class_code(label)).any():
            continue
        ranks, _ = embeddings.ranks(test.queries(label), test.targets(label))
        shares[label] = float((ranks == 0).mean())
    return shares


def collapse_warning(embeddings: TestEmbeddings, test: TestSet, name: str) -> str | None:
    """Return one line if a model's similarities say nothing because they are all equal, else None."""
    rows = max(1, _CONSTANT_CHUNK // len(test.gallery))
    constant = 0.0
    for start in range(0, len(test.pairs), rows):
        part = np.arange(start, min(start + rows, len(test.pairs)), dtype=np.int32)
        constant += constant_rows(embeddings.similarity(part)) * len(part)
    share = constant / len(test.pairs)
    if share < 0.01:
        return None
    return (
        f"the model {name!r} has collapsed: for {share:.0%} of the captions all images are equally similar, "
        "its figures mean nothing"
    )


def _as_target(goal_target: GoalTarget | Goal) -> GoalTarget:
    return GoalTarget(goal_target) if isinstance(goal_target, Goal) else goal_target
