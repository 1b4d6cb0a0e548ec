"""Rank lists to look at: what a few captions retrieve under each model, with thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmpoison.base.seeding import generator
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet
from mmpoison.images.decode import read_image
from mmpoison.records.run_files import ConfusingImage, RankedImage, RankedQuery
from mmpoison.records.run_files import RankLists as RankLists

CONFUSING = 8
"""Number of confusing images of other classes listed per goal."""


def rank_lists(
    models: Mapping[str, TestEmbeddings],
    test: TestSet,
    goal_targets: Sequence[GoalTarget],
    *,
    seed: int,
    captions: int = 10,
    top: int = 10,
    thumbnail: int = 80,
) -> RankLists:
    """List the top images for a few captions of each original class, under each model, with thumbnails.

    The seed draws the captions, one per image, so nobody can pick flattering ones.

    Args:
        models: Embeddings of the test part by model name.
        test: The test part.
        goal_targets: The goals. Images of their target sets are marked.
        seed: Seed of the run.
        captions: Number of captions per goal.
        top: Number of images per caption.
        thumbnail: Side of the thumbnails in pixels.

    Returns:
        The content of `rank_lists.json`. Confusing images are those of the first model (the paper's case study, figure
        10).
    """
    images = test.pairs.images
    queries: list[RankedQuery] = []
    shown: set[int] = set()
    for goal_target in goal_targets:
        for row in _chosen_captions(test, goal_target, seed, captions):
            queries.append(_ranked(models, test, goal_target, row, top, shown))
    confusing = {
        str(goal_target): _confusing(next(iter(models.values())), test, goal_target, shown)
        for goal_target in goal_targets
        if models
    }
    return RankLists(
        goals=[str(goal_target) for goal_target in goal_targets],
        queries=queries,
        confusing=confusing,
        thumbnails={
            images.ids[i]: thumbnail_address(test.pairs.root, images.ids[i], thumbnail)
            for i in sorted(shown)
        },
    )


def _chosen_captions(test: TestSet, goal_target: GoalTarget, seed: int, captions: int) -> list[int]:
    """Choose one caption from each of a few images, so that ten captions show ten images; return their rows."""
    rows = test.queries(goal_target.goal.original)
    rng = generator(seed, f"rank-lists/{goal_target.goal}")
    _, first = np.unique(test.pairs.image[rows], return_index=True)
    per_image = np.split(rows, first[1:])
    return [
        int(rng.choice(per_image[i]))
        for i in rng.permutation(len(per_image))[: min(captions, len(per_image))]
    ]


def _ranked(
    models: Mapping[str, TestEmbeddings],
    test: TestSet,
    goal_target: GoalTarget,
    row: int,
    top: int,
    shown: set[int],
) -> RankedQuery:
    """List what each model retrieves for one caption, and add the images to `shown`."""
    targets = test.target_set(goal_target)
    images = test.pairs.images
    lists: dict[str, list[RankedImage]] = {}
    best: dict[str, int] = {}
    query = np.array([row], dtype=np.int32)
    for name, embeddings in models.items():
        best[name] = int(embeddings.ranks(query, targets)[0][0])
        scores = embeddings.similarity(query)[0]
        order = np.argsort(-scores, kind="stable")[:top]
        lists[name] = [
            RankedImage(
                image=images.ids[test.gallery[g]],
                label=images.label(int(test.gallery[g])),
                similarity=round(float(scores[g]), 4),
                target=bool(targets[g]),
            )
            for g in order
        ]
        shown.update(int(test.gallery[g]) for g in order)
    shown.add(int(test.pairs.image[row]))
    return RankedQuery(
        goal=str(goal_target),
        caption=test.pairs.captions[row],
        image=images.ids[test.pairs.image[row]],
        models=lists,
        best_target_rank=best,
    )


def _confusing(
    embeddings: TestEmbeddings, test: TestSet, goal_target: GoalTarget, shown: set[int]
) -> list[ConfusingImage]:
    """List images of other classes that captions of the target class retrieve, and add them to `shown`."""
    queries = test.queries(goal_target.goal.target)
    if not len(queries):
        return []
    images, pairs = test.pairs.images, test.pairs
    of_class = test.targets(goal_target.goal.target)
    scores = embeddings.similarity(queries).mean(axis=0)
    order = [int(g) for g in np.argsort(-scores, kind="stable") if not of_class[g]][:CONFUSING]
    shown.update(int(test.gallery[g]) for g in order)
    return [
        ConfusingImage(
            image=images.ids[test.gallery[g]],
            label=images.label(int(test.gallery[g])),
            similarity=round(float(scores[g]), 4),
            captions=[str(c) for c in pairs.captions[pairs.image == test.gallery[g]][:2]],
        )
        for g in order
    ]


def thumbnail_address(root: Path, image_id: str, size: int) -> str:
    """Encode a small square JPEG as a `data:` address, for one self-contained page."""
    picture = Image.fromarray(read_image(root, image_id, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
