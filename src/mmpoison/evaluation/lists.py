"""Rank lists to look at: what a few captions retrieve under each model."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from mmpoison.attacks.goal import Goal
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.images import read_image
from mmpoison.metrics import target_ranks
from mmpoison.seeding import generator


def rank_lists(
    models: Mapping[str, TestEmbeddings],
    test: TestSet,
    goal: Goal,
    *,
    seed: int,
    captions: int = 3,
    top: int = 10,
    thumbnail: int = 96,
) -> dict[str, Any]:
    """The top of the gallery for a few captions of the original class, under each model, with thumbnails.

    The captions are drawn by the seed, one an image, so that nobody picks the flattering ones.

    Args:
        models: Embeddings of the test part by model name.
        test: The test part.
        goal: The goal; its target class is marked.
        seed: Seed of the run.
        captions: How many captions.
        top: How many images each.
        thumbnail: Side of the thumbnails in pixels.

    Returns:
        Plain JSON values: `goal`, `queries`, and `thumbnails` by image path as data addresses.
    """
    rows = test.queries(goal.original)
    rng = generator(seed, f"rank-lists/{goal}")
    _, first = np.unique(test.pairs.image[rows], return_index=True)
    # one caption of each image, so that three captions are three pictures
    per_image = np.split(rows, first[1:])
    chosen = [
        int(rng.choice(per_image[i]))
        for i in rng.permutation(len(per_image))[: min(captions, len(per_image))]
    ]
    targets = test.targets(goal.target)
    images = test.pairs.images
    queries: list[dict[str, Any]] = []
    shown: set[int] = set()
    for row in chosen:
        lists: dict[str, Any] = {}
        best: dict[str, int] = {}
        for name, embeddings in models.items():
            similarity = embeddings.similarity(np.array([row], dtype=np.int32))
            best[name] = int(target_ranks(similarity, targets)[0])
            order = np.argsort(-similarity[0], kind="stable")[:top]
            lists[name] = [
                {
                    "image": images.ids[test.gallery[g]],
                    "label": images.label(int(test.gallery[g])),
                    "similarity": round(float(similarity[0, g]), 4),
                    "target": bool(targets[g]),
                }
                for g in order
            ]
            shown.update(int(test.gallery[g]) for g in order)
        queries.append(
            {
                "caption": test.pairs.captions[row],
                "image": images.ids[test.pairs.image[row]],
                "models": lists,
                "best_target_rank": best,
            }
        )
        shown.add(int(test.pairs.image[row]))
    return {
        "goal": str(goal),
        "queries": queries,
        "thumbnails": {
            images.ids[i]: thumbnail_address(test.pairs.root, images.ids[i], thumbnail)
            for i in sorted(shown)
        },
    }


def thumbnail_address(root: Any, image_id: str, size: int) -> str:
    """A small square JPEG as a `data:` address, for one self-contained page."""
    picture = Image.fromarray(read_image(root, image_id, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
