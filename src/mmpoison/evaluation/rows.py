"""Computes the rows of `metrics.json` from embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.settings import Goal
from mmpoison.base.progress import ProgressFor
from mmpoison.base.seeding import generator
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet
from mmpoison.metrics import (
    constant_rows,
    embedding_ranks,
    hit_table,
    image_retrieval_ranks,
    min_rank,
    rank_quantiles,
    text_retrieval_ranks,
)
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_captions
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset
from mmpoison.records.run_files import (
    ClassChange,
    GoalRow,
    ProbedTest,
    QueryLengthRow,
    RankSpread,
    Retrieval,
    Utility,
)
from mmpoison.statistics import clustered_mean, clustered_share

UTILITY_KS = (1, 5, 10)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INTERVAL_KS = (1, 5, 10)

_CONSTANT_CHUNK = 1 << 22
"""Similarities checked at a time for the collapse warning: 16 MB."""

Ranks = npt.NDArray[np.int64]


def goal_row(embeddings: TestEmbeddings, test: TestSet, goal_target: GoalTarget) -> GoalRow:
    """Measure how well captions of the original class retrieve the target set (section 5.1, "Hit@K", "MinRank").

    Args:
        embeddings: The model's embeddings of the test part.
        test: The test part.
        goal_target: The goal and its target set.
    """
    return row_of_queries(embeddings, test, test.queries(goal_target.goal.original), goal_target)


def random_queries(test: TestSet, goal: Goal, seed: int) -> IntArray:
    """Draw test captions of other classes at random, one for each caption of the original class.

    Returns their rows, shape `(q,)`. They show whether the model retrieves the targets for every caption, or only for
    captions of the original class (baseline b of the protocol).
    """
    candidates = test.other_queries(goal.original)
    wanted = min(len(test.queries(goal.original)), len(candidates))
    rng = generator(seed, f"random-captions/{goal}")
    return np.sort(rng.choice(candidates, wanted, replace=False)).astype(np.int32)


def row_of_queries(
    embeddings: TestEmbeddings, test: TestSet, queries: IntArray, goal_target: GoalTarget
) -> GoalRow:
    """Compute the row for some test captions."""
    targets = test.target_set(goal_target)
    return row_of_ranks(*embeddings.ranks(queries, targets), targets)


def row_of_texts(texts: npt.ArrayLike, images: npt.ArrayLike, targets: BoolArray) -> GoalRow:
    """Compute the row for query embeddings, shape `(q, d)`, against a gallery, shape `(G, d)`."""
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
    """Compute rank quantiles, and intervals of the row's figures clustered by image.

    Args:
        ranks: Shape `(q,)`.
        images: Image of each query, shape `(q,)`: captions of one image count as one observation.
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


def probed_test(
    embeddings: TestEmbeddings, test: TestSet, goal_targets: Sequence[GoalTarget]
) -> ProbedTest:
    """Measure a model's goals and utility on a test part.

    Args:
        embeddings: The model's embeddings of the test part.
        test: The test part.
        goal_targets: The goals.
    """
    goals = {str(target): goal_row(embeddings, test, target) for target in goal_targets}
    return ProbedTest(goal=goals, utility=utility_row(embeddings, test))


def utility_row(embeddings: TestEmbeddings, test: TestSet, *, equal_texts: bool = False) -> Utility:
    """Measure retrieval over the whole test set: caption to its image, image to any of its captions (tables 1 and 7).

    Args:
        embeddings: The model's embeddings of the test part.
        test: The test part.
        equal_texts: Also count images that have a caption with the same words as the query, and captions with the same
            words as one of the image's own. Otherwise (strict) only the caption's own image and the image's own
            captions count.
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
    """Check whether two test images have captions with the same words, so that strict and equal-text utility differ."""
    pairs = {(str(c), int(i)) for c, i in zip(test.pairs.captions, test.pairs.image, strict=True)}
    return len({caption for caption, _ in pairs}) < len(pairs)


def class_retrieval(embeddings: TestEmbeddings, test: TestSet) -> dict[str, float]:
    """For each class, measure the share of its captions that retrieve an image of the class first, in [0, 1]."""
    shares: dict[str, float] = {}
    for label in test.pairs.classes:
        if not (test.caption_class == test.pairs.images.class_code(label)).any():
            continue
        ranks, _ = embeddings.ranks(test.queries(label), test.targets(label))
        shares[label] = float((ranks == 0).mean())
    return shares


def collapse_warning(embeddings: TestEmbeddings, test: TestSet, name: str) -> str | None:
    """Return a one-line warning if a model's similarities are all equal and thus meaningless, else None."""
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
        "so its numbers mean nothing"
    )


# -- Optional measurements: other queries, longer queries, and collateral changes of other classes.


LENGTHS = (1, 2, 3)
TRAIN_CAPTIONS = 1000
"""Maximum number of train captions used as queries, drawn by the seed."""


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
    """Measure whether the poison works only for the captions that it contains.

    Args:
        models: Models to measure, by name.
        test: The test part.
        goal_target: The goal and its target set.
        pairs: The training data.
        seed: Draws the random captions, and 1,000 train captions if there are more.
        manifest: Lists the poison's captions; the manifest of `pairs` by default.
        progress: Returns a progress callback for a named step.

    Returns:
        For each model, a row per kind of query: `test`, test captions of the original class; `misused`, its train
        captions in the poison; `train`, its other train captions; `random`, test captions of other classes. Kinds
        without captions are absent.
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
        models: Models to measure, by name.
        test: The test part.
        goal_target: The goal and its target set.
        lengths: Numbers of repetitions. The model truncates long queries to its context, as always.
        progress: Returns a progress callback for a named step.

    Returns:
        For each model, a row per length ("1", "2", ...).
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
            shown = progress(f"captions written {length}x with {name}") if progress else None
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
    """Measure rank changes for captions of every class: ranks of their own class's images, and of the target set.

    Args:
        before: The clean model's embeddings.
        after: The poisoned model's embeddings.
        test: The test part.
        goal_target: The goal and its target set.

    Returns:
        For each class with test captions: mean ranks before and after, their difference (negative: nearer to the top),
        and its interval clustered by image. The interval is absent for a class with one image.
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
