"""What can be measured beyond the rows of every run: other queries, other classes, the shape of the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.evaluation.goal_target import Aim
from mmpoison.evaluation.rows import random_queries, row_of_queries, row_of_texts
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_captions
from mmpoison.models.inputs import ProgressFor
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset
from mmpoison.statistics import clustered_mean

LENGTHS = (1, 2, 3)
TRAIN_CAPTIONS = 1000
"""So many train captions are searched with at most, drawn by the seed."""


@dataclass(frozen=True)
class Studied:
    """A model and its embeddings of the test part."""

    encoder: DualEncoder
    embeddings: TestEmbeddings


def query_sources(
    models: Mapping[str, Studied],
    test: TestSet,
    aim: Aim,
    pairs: PairDataset,
    *,
    seed: int,
    manifest: PoisonManifest | None = None,
    progress: ProgressFor | None = None,
) -> dict[str, dict[str, Any]]:
    """Does the poison answer only the very captions it was made of?

    Args:
        models: What is measured, by name.
        test: The test part.
        aim: The goal and its target set.
        pairs: The training data.
        seed: Draws the random captions, and the train captions where there are more than 1,000.
        manifest: Says which captions the poison holds; that of `pairs` by default.
        progress: Gives a progress callback for a named step.

    Returns:
        For each model a row for each kind of query that exists: `test`, test captions of the original class; `misused`,
        its train captions that the poison holds; `train`, its other train captions; `random`, test captions of other
        classes.
    """
    misused, others = _train_captions(pairs, manifest or pairs.manifest, aim, seed)
    targets = test.target_set(aim)
    result: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        rows = {
            "test": row_of_queries(model.embeddings, test, test.queries(aim.goal.original), aim)
        }
        for kind, captions in (("misused", misused), ("train", others)):
            if captions:
                shown = progress(f"{kind} captions with {name}") if progress else None
                texts = embed_captions(model.encoder, captions, progress=shown)
                rows[kind] = row_of_texts(texts, model.embeddings.images, targets)
        candidates = random_queries(test, aim.goal, seed)
        if len(candidates):
            rows["random"] = row_of_queries(model.embeddings, test, candidates, aim)
        result[name] = rows
    return result


def _train_captions(
    pairs: PairDataset, manifest: PoisonManifest | None, aim: Aim, seed: int
) -> tuple[list[str], list[str]]:
    images = pairs.images
    of_class = images.class_codes[pairs.source] == images.class_code(aim.goal.original)
    every = {str(caption) for caption in pairs.captions[of_class & pairs.in_split("train")]}
    misused: set[str] = set()
    if manifest is not None:
        misused = {p.caption for p in manifest.pairs if p.goal == str(aim.goal)}
    drawn = []
    for kind, captions in (("misused", misused), ("train", every - misused)):
        ordered = sorted(captions)
        rng = generator(seed, f"study/queries/{kind}/{aim.goal}")
        chosen = np.sort(rng.permutation(len(ordered))[:TRAIN_CAPTIONS])
        drawn.append([ordered[n] for n in chosen])
    return drawn[0], drawn[1]


def query_lengths(
    models: Mapping[str, Studied],
    test: TestSet,
    aim: Aim,
    *,
    lengths: Sequence[int] = LENGTHS,
    progress: ProgressFor | None = None,
) -> dict[str, dict[str, Any]]:
    """Longer queries: each test caption of the original class said several times (table 15).

    Args:
        models: What is measured, by name.
        test: The test part.
        aim: The goal and its target set.
        lengths: How often a caption is said; cut at the model's context like any caption.
        progress: Gives a progress callback for a named step.

    Returns:
        For each model a row for each length ("1", "2", ...), with `words`, the mean number of words of a query, and
        `full_context`, the share of queries that fill the model's context and may have been cut, beside the row's
        figures.
    """
    captions = [str(caption) for caption in test.pairs.captions[test.queries(aim.goal.original)]]
    targets = test.target_set(aim)
    result: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        rows: dict[str, Any] = {}
        for length in lengths:
            queries = [" ".join([caption] * length) for caption in captions]
            shown = progress(f"captions said {length}x with {name}") if progress else None
            texts = embed_captions(model.encoder, queries, progress=shown)
            tokens = model.encoder.tokens(sorted(set(queries)))
            full = model.encoder.token_lengths(tokens).numpy() >= tokens.shape[1]
            share = dict(zip(sorted(set(queries)), full.tolist(), strict=True))
            rows[str(length)] = {
                **row_of_texts(texts, model.embeddings.images, targets),
                "words": float(np.mean([len(query.split()) for query in queries])),
                "full_context": float(np.mean([share[query] for query in queries])),
            }
        result[name] = rows
    return result


def collateral(
    before: TestEmbeddings, after: TestEmbeddings, test: TestSet, aim: Aim
) -> dict[str, dict[str, Any]]:
    """Who else moved: for the captions of every class the rank of its own images and of the target set.

    Args:
        before: Of the clean model.
        after: Of the poisoned model.
        test: The test part.
        aim: The goal and its target set.

    Returns:
        For each class with test captions `queries`, and `own` and `target`, each with the mean ranks `clean_model` and
        `poisoned`, their difference `change` (negative: nearer to the top) and its 95 % `interval` clustered by image,
        absent for a class with one image; and the same for `hit@10`, without intervals.
    """
    targets = test.target_set(aim)
    result: dict[str, dict[str, Any]] = {}
    for code, label in enumerate(test.pairs.classes):
        rows = np.flatnonzero(test.caption_class == code).astype(np.int32)
        if not len(rows):
            continue
        images = test.pairs.image[rows]
        entry: dict[str, Any] = {"queries": len(rows)}
        for kind, mask in (("own", test.targets(label)), ("target", targets)):
            clean, poisoned = before.ranks(rows, mask)[0], after.ranks(rows, mask)[0]
            change = clustered_mean(poisoned - clean, images)
            entry[kind] = {
                "clean_model": float(clean.mean()),
                "poisoned": float(poisoned.mean()),
                "change": change.value,
                "hit@10": {
                    "clean_model": float((clean < 10).mean()),
                    "poisoned": float((poisoned < 10).mean()),
                },
            }
            if change.low is not None:
                entry[kind]["interval"] = [change.low, change.high]
        result[label] = entry
    return result
