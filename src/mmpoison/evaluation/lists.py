"""Rank lists to look at: what a few captions retrieve under each model."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmpoison.base.seeding import generator
from mmpoison.evaluation.goal_target import Aim
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.images.decode import read_image

CONFUSING = 8
"""So many images of other classes are kept a goal."""


def rank_lists(
    models: Mapping[str, TestEmbeddings],
    test: TestSet,
    aims: Sequence[Aim],
    *,
    seed: int,
    captions: int = 3,
    top: int = 10,
    thumbnail: int = 96,
) -> dict[str, Any]:
    """The top of the gallery for a few captions of each original class, under each model, with thumbnails.

    The captions are drawn by the seed, one an image, so that nobody picks the flattering ones.

    Args:
        models: Embeddings of the test part by model name.
        test: The test part.
        aims: The goals; images of their target sets are marked.
        seed: Seed of the run.
        captions: How many captions of each goal.
        top: How many images each.
        thumbnail: Side of the thumbnails in pixels.

    Returns:
        Plain JSON values: `goals`; `queries`, each with its `goal`; `confusing`, by goal the images of other classes
        that come first for captions of the target class under the first model (the paper's case study, figure 10);
        and `thumbnails` by image path as data addresses.
    """
    images = test.pairs.images
    queries: list[dict[str, Any]] = []
    shown: set[int] = set()
    for aim in aims:
        for row in _chosen_captions(test, aim, seed, captions):
            queries.append(_ranked(models, test, aim, row, top, shown))
    confusing = {
        str(aim): _confusing(next(iter(models.values())), test, aim, shown)
        for aim in aims
        if models
    }
    return {
        "goals": [str(aim) for aim in aims],
        "queries": queries,
        "confusing": confusing,
        "thumbnails": {
            images.ids[i]: thumbnail_address(test.pairs.root, images.ids[i], thumbnail)
            for i in sorted(shown)
        },
    }


def _chosen_captions(test: TestSet, aim: Aim, seed: int, captions: int) -> list[int]:
    """Rows of one caption of each of a few images, so that three captions are three pictures."""
    rows = test.queries(aim.goal.original)
    rng = generator(seed, f"rank-lists/{aim.goal}")
    _, first = np.unique(test.pairs.image[rows], return_index=True)
    per_image = np.split(rows, first[1:])
    return [
        int(rng.choice(per_image[i]))
        for i in rng.permutation(len(per_image))[: min(captions, len(per_image))]
    ]


def _ranked(
    models: Mapping[str, TestEmbeddings],
    test: TestSet,
    aim: Aim,
    row: int,
    top: int,
    shown: set[int],
) -> dict[str, Any]:
    """One caption and what each model brings up; adds the images to `shown`."""
    targets = test.target_set(aim)
    images = test.pairs.images
    lists: dict[str, Any] = {}
    best: dict[str, int] = {}
    query = np.array([row], dtype=np.int32)
    for name, embeddings in models.items():
        best[name] = int(embeddings.ranks(query, targets)[0][0])
        scores = embeddings.similarity(query)[0]
        order = np.argsort(-scores, kind="stable")[:top]
        lists[name] = [
            {
                "image": images.ids[test.gallery[g]],
                "label": images.label(int(test.gallery[g])),
                "similarity": round(float(scores[g]), 4),
                "target": bool(targets[g]),
            }
            for g in order
        ]
        shown.update(int(test.gallery[g]) for g in order)
    shown.add(int(test.pairs.image[row]))
    return {
        "goal": str(aim),
        "caption": test.pairs.captions[row],
        "image": images.ids[test.pairs.image[row]],
        "models": lists,
        "best_target_rank": best,
    }


def _confusing(
    embeddings: TestEmbeddings, test: TestSet, aim: Aim, shown: set[int]
) -> list[dict[str, Any]]:
    """Images that are not of the target class and yet are what its captions find; adds them to `shown`."""
    queries = test.queries(aim.goal.target)
    if not len(queries):
        return []
    images, pairs = test.pairs.images, test.pairs
    of_class = test.targets(aim.goal.target)
    scores = embeddings.similarity(queries).mean(axis=0)
    order = [int(g) for g in np.argsort(-scores, kind="stable") if not of_class[g]][:CONFUSING]
    shown.update(int(test.gallery[g]) for g in order)
    return [
        {
            "image": images.ids[test.gallery[g]],
            "label": images.label(int(test.gallery[g])),
            "similarity": round(float(scores[g]), 4),
            "captions": [str(c) for c in pairs.captions[pairs.image == test.gallery[g]][:2]],
        }
        for g in order
    ]


def thumbnail_address(root: Any, image_id: str, size: int) -> str:
    """A small square JPEG as a `data:` address, for one self-contained page."""
    picture = Image.fromarray(read_image(root, image_id, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
