"""Optional measurements: other queries, longer queries, and what happened to other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.rows import random_queries, row_of_queries, row_of_texts
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_captions
from mmpoison.models.inputs import ProgressFor
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import ClassChange, GoalRow, QueryLengthRow
from mmpoison.statistics import clustered_mean

LENGTHS = (1, 2, 3)
TRAIN_CAPTIONS = 1000
"""Train captions that are searched with at most, drawn by the seed."""


@dataclass(frozen=True)
class Studied:
    """A model and its embeddings of the test part."""

    encoder: DualEncoder
    embeddings: TestEmbeddings


def query_sources(
    models: Mapping[str, Studied],
    test: TestSet,
    goal_target: GoalTarget,
    pairs: PairDataset,
    *,
    seed: int,
    manifest: PoisonManifest | None = None,
    progress: ProgressFor | None = None,
) -> dict[str, dict[str, GoalRow]]:
    """Measure whether the poison works only for the captions that it was made of.

    Args:
        models: What is measured, by name.
        test: The test part.
        goal_target: The goal and its target set.
        pairs: The training data.
        seed: Draws the random captions, and the train captions where there are more than 1,000.
        manifest: Says which captions the poison holds; that of `pairs` by default.
        progress: Gives a progress callback for a named step.

    Returns:
        For each model a row for each kind of query that exists: `test`, test captions of the original class; `misused`,
        its train captions that the poison holds; `train`, its other train captions; `random`, test captions of other
        classes.
    """
    misused, others = _train_captions(pairs, manifest or pairs.manifest, goal_target, seed)
    targets = test.target_set(goal_target)
    result: dict[str, dict[str, GoalRow]] = {}
    for name, model in models.items():
        rows = {
            "test": row_of_queries(
                model.embeddings, test, test.queries(goal_target.goal.original), goal_target
            )
        }
        for kind, captions in (("misused", misused), ("train", others)):
            if captions:
                shown = progress(f"{kind} captions with {name}") if progress else None
                texts = embed_captions(model.encoder, captions, progress=shown)
                rows[kind] = row_of_texts(texts, model.embeddings.images, targets)
        candidates = random_queries(test, goal_target.goal, seed)
        if len(candidates):
            rows["random"] = row_of_queries(model.embeddings, test, candidates, goal_target)
        result[name] = rows
    return result


def _train_captions(
    pairs: PairDataset, manifest: PoisonManifest | None, goal_target: GoalTarget, seed: int
) -> tuple[list[str], list[str]]:
    images = pairs.images
    of_class = images.class_codes[pairs.source] == images.class_code(goal_target.goal.original)
    every = {str(caption) for caption in pairs.captions[of_class & pairs.in_split("train")]}
    misused: set[str] = set()
    if manifest is not None:
        misused = {p.caption for p in manifest.pairs if p.goal == str(goal_target.goal)}
    drawn = []
    for kind, captions in (("misused", misused), ("train", every - misused)):
        ordered = sorted(captions)
        rng = generator(seed, f"study/queries/{kind}/{goal_target.goal}")
        chosen = np.sort(rng.permutation(len(ordered))[:TRAIN_CAPTIONS])
        drawn.append([ordered[n] for n in chosen])
    return drawn[0], drawn[1]


def query_lengths(
    models: Mapping[str, Studied],
    test: TestSet,
    goal_target: GoalTarget,
    *,
    lengths: Sequence[int] = LENGTHS,
    progress: ProgressFor | None = None,
) -> dict[str, dict[str, QueryLengthRow]]:
    """Measure longer queries: each test caption of the original class repeated several times (table 15).

    Args:
        models: What is measured, by name.
        test: The test part.
        goal_target: The goal and its target set.
        lengths: How often a caption is repeated; cut at the model's context like any caption.
        progress: Gives a progress callback for a named step.

    Returns:
        For each model a row for each length ("1", "2", ...).
    """
    captions = [
        str(caption) for caption in test.pairs.captions[test.queries(goal_target.goal.original)]
    ]
    targets = test.target_set(goal_target)
    result: dict[str, dict[str, QueryLengthRow]] = {}
    for name, model in models.items():
        rows: dict[str, QueryLengthRow] = {}
        for length in lengths:
            queries = [" ".join([caption] * length) for caption in captions]
            shown = progress(f"captions said {length}x with {name}") if progress else None
            texts = embed_captions(model.encoder, queries, progress=shown)
            tokens = model.encoder.tokens(sorted(set(queries)))
            full = model.encoder.token_lengths(tokens).numpy() >= tokens.shape[1]
            share = dict(zip(sorted(set(queries)), full.tolist(), strict=True))
            rows[str(length)] = QueryLengthRow.of(
                {
                    **row_of_texts(texts, model.embeddings.images, targets).to_json(),
                    "words": float(np.mean([len(query.split()) for query in queries])),
                    "full_context": float(np.mean([share[query] for query in queries])),
                }
            )
        result[name] = rows
    return result


def collateral(
    before: TestEmbeddings, after: TestEmbeddings, test: TestSet, goal_target: GoalTarget
) -> dict[str, ClassChange]:
    """Measure which other classes moved: for their captions the ranks of their own images and of the target set.

    Args:
        before: Of the clean model.
        after: Of the poisoned model.
        test: The test part.
        goal_target: The goal and its target set.

    Returns:
        For each class with test captions the mean ranks before and after and their difference (negative: nearer to the
        top), with its interval clustered by image, absent for a class with one image.
    """
    targets = test.target_set(goal_target)
    result: dict[str, ClassChange] = {}
    for code, label in enumerate(test.pairs.classes):
        rows = np.flatnonzero(test.caption_class == code).astype(np.int32)
        if not len(rows):
            continue
        images = test.pairs.image[rows]
        entry: dict[str, object] = {"queries": len(rows)}
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
                **({} if change.low is None else {"interval": [change.low, change.high]}),
            }
        result[label] = ClassChange.of(entry)
    return result
