"""Evaluates models on a data set's test part. Each model embeds it once; all numbers are computed from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.base.seeding import generator, torch_seed
from mmpoison.evaluation.rows import (
    Studied,
    collapse_warning,
    collateral,
    query_lengths,
    query_sources,
    random_queries,
    ranks_row,
    row_of_ranks,
    row_of_texts,
    texts_repeat,
    utility_row,
)
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet, drift_between
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.triggers import Trigger, prepared_with_trigger, read_trigger
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embeddings, embed_pixels
from mmpoison.models.inputs import (
    FeatureInputs,
    PairInputs,
    files_digest,
    texts_digest,
)
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import UNLABELLED, IntArray, PairDataset
from mmpoison.records.run_files import (
    EmbeddingMap,
    ModelMap,
    RankSpread,
    Silhouettes,
    Study,
)
from mmpoison.records.run_files import GoalRow as GoalRow
from mmpoison.records.run_files import Metrics as Metrics
from mmpoison.records.run_files import Utility as Utility


@dataclass(frozen=True)
class Subject:
    """A model to measure, with the data's inputs preprocessed for it."""

    encoder: DualEncoder
    inputs: PairInputs


# -- Embeddings that do not depend on the attack, cached for the next run with the same model and data.


def embed_test(
    subject: Subject, test: TestSet, cache: Path | None, progress: Progress | None = None
) -> TestEmbeddings:
    """Embed the test part, or read cached embeddings for the same weights, captions and image files.

    Args:
        subject: The model and its inputs. Embeddings that heads compute from cached features are not cached: that is
            fast.
        test: The test part.
        cache: Folder of a content cache; None disables caching.
        progress: Called with (done, total) if the model has to run.
    """

    def compute() -> dict[str, Embeddings]:
        return vars(TestEmbeddings.of(subject.encoder, subject.inputs, test, progress))

    if cache is None or isinstance(subject.inputs, FeatureInputs):
        return TestEmbeddings(**compute())
    key = embeddings_key(subject.encoder, subject.inputs, test)
    return TestEmbeddings(*ContentCache(cache).arrays(key, compute, "images", "texts"))


def embeddings_key(encoder: DualEncoder, inputs: PairInputs, test: TestSet) -> CacheKey:
    """Return the cache key: everything the embeddings of a test part depend on."""
    return CacheKey(
        "embeddings",
        {
            "computed": compute_environment(encoder.device),
            **encoder_identity(encoder),
            "inputs": type(inputs).__name__,
            "images": files_digest(test.pairs, test.gallery),
            "captions": texts_digest(map(str, test.pairs.captions)),
        },
        f"test embeddings of {encoder.name}",
    )


# -- How well embeddings separate classes: silhouettes, and a map in two dimensions.


SILHOUETTE_POINTS = 4000
"""Maximum number of points for silhouettes, which compare each point with every other."""

MAP_POINTS = 500
"""Maximum number of points of each kind (texts, images) on a map."""

Method = Literal["pca", "tsne"]


def silhouettes(embeddings: TestEmbeddings, test: TestSet, *, seed: int) -> Silhouettes:
    """Measure how well classes separate, for texts and images (the paper finds that images separate better).

    The silhouette of a point compares its mean cosine distance to its own class with that to the nearest other class.

    Args:
        embeddings: The model's embeddings of the test part.
        test: The test part. Items without a class are left out.
        seed: Draws 4,000 points if there are more.

    Returns:
        Means over points. A mean is absent if there are fewer than two classes, or no class has two points.
    """
    from sklearn import metrics

    result: dict[str, float] = {}
    for kind, (points, codes) in _labelled(embeddings, test).items():
        rows = _drawn(len(points), SILHOUETTE_POINTS, seed, f"silhouette/{kind}")
        codes = codes[rows]
        result[f"{kind}s"] = len(rows)
        if 2 <= len(np.unique(codes)) < len(codes):
            # cosine distances between near neighbours vanish in float32
            exact = points[rows].astype(np.float64)
            value = metrics.silhouette_score(exact, codes, metric="cosine")
            result[f"{kind}_silhouette"] = float(value)
    return Silhouettes.of(result)


def embedding_map(
    models: Mapping[str, TestEmbeddings], test: TestSet, *, seed: int, method: Method = "pca"
) -> EmbeddingMap:
    """Project each model's text and image embeddings to two dimensions.

    Args:
        models: Embeddings by model name. All models use the PCA axes of the first, so that maps are comparable.
        test: The test part. Items without a class are left out.
        seed: Draws the points, and initialises t-SNE.
        method: `pca`, or `tsne`, which keeps neighbours together but whose distances have no meaning.
    """
    from sklearn import decomposition, manifold

    axes: dict[str, Any] = {}
    shown: dict[str, ModelMap] = {}
    for name, embeddings in models.items():
        kinds: dict[str, object] = {}
        for kind, (points, codes) in _labelled(embeddings, test).items():
            rows = _drawn(len(points), MAP_POINTS, seed, f"map/{kind}")
            chosen = points[rows].astype(np.float64)
            if len(rows) < 3:
                continue  # too few points for a plane
            if method == "pca":
                if kind not in axes:
                    axes[kind] = decomposition.PCA(2, svd_solver="full").fit(chosen)
                flat = axes[kind].transform(chosen)
            else:
                flat = manifold.TSNE(
                    2,
                    metric="cosine",
                    init="random",
                    perplexity=min(30.0, (len(rows) - 1) / 3),
                    random_state=torch_seed(seed, f"tsne/{kind}") % 2**32,
                ).fit_transform(chosen)
            kinds[f"{kind}s"] = [
                [round(float(x), 4), round(float(y), 4), int(code)]
                for (x, y), code in zip(flat, codes[rows], strict=True)
            ]
        shown[name] = ModelMap.of(kinds)
    return EmbeddingMap(method=method, classes=list(test.pairs.classes), models=shown)


def _labelled(embeddings: TestEmbeddings, test: TestSet) -> dict[str, tuple[Embeddings, IntArray]]:
    """Select the embeddings of texts and images that have a class, with the class codes."""
    image_codes = test.pairs.images.class_codes[test.gallery]
    kinds = {
        "text": (embeddings.texts, test.caption_class),
        "image": (embeddings.images, image_codes),
    }
    return {
        kind: (points[codes != UNLABELLED], codes[codes != UNLABELLED])
        for kind, (points, codes) in kinds.items()
    }


def _drawn(count: int, wanted: int, seed: int, stream: str) -> npt.NDArray[np.intp]:
    if count <= wanted:
        return np.arange(count)
    return np.sort(generator(seed, f"study/{stream}").permutation(count)[:wanted])


# -- Measures a backdoor with its trigger: only the target images of the gallery carry it.


def triggered_targets(
    test: TestSet,
    goal_target: GoalTarget,
    trigger: Trigger,
    preparation: Preparation,
    *,
    seed: int = 0,
) -> Pixels:
    """Add the trigger to the target images, in memory; nothing is written.

    Args:
        test: The test part, with its image files.
        goal_target: The goal and its target set.
        trigger: The trigger of the attack.
        preparation: The model's image preprocessing.
        seed: Draws what differs between images, such as a random position.

    Returns:
        RGB images in gallery order, shape `(targets, size, size, 3)`.

    Raises:
        BrokenImage: If an image cannot be read.
    """
    rng = generator(seed, f"evaluation/trigger/{goal_target}")
    images = test.gallery[test.target_set(goal_target)]
    ids = [str(test.pairs.images.ids[index]) for index in images]
    return np.stack(
        [
            prepared_with_trigger(test.pairs.root, name, trigger, trigger.draw(rng), preparation)
            for name in ids
        ]
    )


def triggered_success(
    encoder: DualEncoder,
    embeddings: TestEmbeddings,
    test: TestSet,
    goal_target: GoalTarget,
    trigger: Trigger,
    *,
    seed: int = 0,
) -> GoalRow:
    """Measure how well captions of the original class retrieve target images with the trigger.

    Args:
        encoder: The model.
        embeddings: Its embeddings of the test part without the trigger.
        test: The test part, with its image files.
        goal_target: The goal and its target set.
        trigger: The trigger of the attack, `read_trigger(manifest.trigger)`.
        seed: Passed to `triggered_targets`.

    Returns:
        A row like the one without the trigger, to compare with it.

    Raises:
        BrokenImage: If an image cannot be read.
    """
    targets = triggered_targets(test, goal_target, trigger, encoder.preparation, seed=seed)
    mask = test.target_set(goal_target)
    images = embeddings.images.copy()
    images[mask] = embed_pixels(encoder, targets)
    return row_of_texts(embeddings.texts[test.queries(goal_target.goal.original)], images, mask)


CLEAN, POISONED = "clean_model", "poisoned"


@dataclass(frozen=True)
class ModelMeasurement:
    """The measurements of one model that do not depend on goals.

    Attributes:
        embeddings: Embeddings of the test part.
        utility: Its row of `utility`.
        equal_texts: Its row of `utility_equal_texts`, or None if no texts are equal.
        warning: One line if the model has collapsed, or None.
    """

    embeddings: TestEmbeddings
    utility: Utility
    equal_texts: Utility | None
    warning: str | None


MeasurementCache = Callable[[str, Callable[[], ModelMeasurement]], ModelMeasurement]
"""Returns a row's model measurement: a cached one, or the result of the function."""


@dataclass(frozen=True)
class Measurement:
    """The result of an evaluation.

    Attributes:
        metrics: The content of `metrics.json`, without `run` and `transfer`.
        embeddings: Embeddings of the test part by model name.
        embedding_map: The map of the study `distribution`, or None.
        flags: Warnings to read before trusting the numbers, one line each.
    """

    metrics: Metrics
    embeddings: dict[str, TestEmbeddings]
    embedding_map: EmbeddingMap | None = None
    flags: list[str] = field(default_factory=list)


def measure(
    subjects: Mapping[str, Subject],
    test: TestSet,
    goal_targets: Sequence[GoalTarget],
    *,
    seed: int,
    study: Sequence[str] = (),
    pairs: PairDataset | None = None,
    manifest: PoisonManifest | None = None,
    cache: Path | None = None,
    progress: ProgressFor | None = None,
    measurements: MeasurementCache = lambda name, compute: compute(),
) -> Measurement:
    """Embed the test part once with each model, and compute all metrics from the embeddings.

    Args:
        subjects: Models by row name. Drift and collateral changes need `clean_model` and `poisoned`; random captions
            need `poisoned`. Without those models these parts are left out.
        test: The test part.
        goal_targets: Each goal with its target set.
        seed: Seed of the run.
        study: Names of `STUDIES`.
        pairs: The training data. The study `queries` needs them, and is left out without them.
        manifest: Lists the poison's train captions and a backdoor's trigger; the manifest of `pairs` by default.
        cache: Folder of a content cache, which stores embeddings by weights and test data. Embeddings that heads
            compute from cached features are not stored: reading them would take as long.
        progress: Returns a progress callback for a named step.
        measurements: Caches measurements that do not depend on goals, for runs with many goals and the same models.

    Raises:
        InputError: If a goal target cannot be measured on the data, or a study needs a missing library.
    """
    for goal_target in goal_targets:
        test.check(goal_target)
    repeat = texts_repeat(test)
    measured: dict[str, ModelMeasurement] = {}
    for name, subject in subjects.items():
        measured[name] = measurements(
            name, partial(_of_one, name, subject, test, repeat, cache, progress)
        )
    embeddings = {name: model.embeddings for name, model in measured.items()}
    studied = {n: Studied(s.encoder, embeddings[n]) for n, s in subjects.items()}
    flags = [model.warning for model in measured.values() if model.warning is not None]
    goal: dict[str, dict[str, GoalRow]] = {}
    ranks: dict[str, dict[str, RankSpread]] = {}
    for goal_target in goal_targets:
        name = str(goal_target)
        goal[name], ranks[name] = _goal(embeddings, test, goal_target, seed)
    sections: dict[str, object] = {
        "goal": goal,
        "ranks": ranks,
        "utility": {name: model.utility for name, model in measured.items()},
    }
    known = manifest or (pairs.manifest if pairs is not None else None)
    if known is not None and known.trigger is not None:
        trigger = read_trigger(known.trigger)
        sections["with_trigger"] = {
            str(target): {
                name: triggered_success(m.encoder, m.embeddings, test, target, trigger, seed=seed)
                for name, m in studied.items()
            }
            for target in goal_targets
        }
    if repeat:
        sections["utility_equal_texts"] = {n: m.equal_texts for n, m in measured.items()}
    if CLEAN in embeddings and POISONED in embeddings:
        sections["drift"] = drift_between(embeddings[CLEAN], embeddings[POISONED])
    drawn = None
    if study:
        sections["study"], drawn = _study(
            studied,
            test,
            goal_targets,
            seed=seed,
            study=study,
            pairs=pairs,
            manifest=known,
            progress=progress,
        )
    return Measurement(Metrics.of(sections), embeddings, drawn, flags)


def _of_one(
    name: str,
    subject: Subject,
    test: TestSet,
    repeat: bool,
    cache: Path | None,
    progress: ProgressFor | None,
) -> ModelMeasurement:
    embedded = embed_test(
        subject, test, cache, progress(f"embedding with {name}") if progress else None
    )
    return ModelMeasurement(
        embedded,
        utility_row(embedded, test),
        utility_row(embedded, test, equal_texts=True) if repeat else None,
        collapse_warning(embedded, test, name),
    )


def _goal(
    embeddings: Mapping[str, TestEmbeddings], test: TestSet, goal_target: GoalTarget, seed: int
) -> tuple[dict[str, GoalRow], dict[str, RankSpread]]:
    targets = test.target_set(goal_target)
    queries = test.queries(goal_target.goal.original)
    searches = {name: (e, queries) for name, e in embeddings.items()}
    random = random_queries(test, goal_target.goal, seed)
    if POISONED in embeddings and len(random):
        searches["random_captions"] = (embeddings[POISONED], random)
    rows: dict[str, GoalRow] = {}
    details: dict[str, RankSpread] = {}
    for name, (embedded, asked) in searches.items():
        ranks, ties = embedded.ranks(asked, targets)
        rows[name] = row_of_ranks(ranks, ties, targets)
        details[name] = ranks_row(ranks, test.pairs.image[asked])
    return rows, details


def _study(
    studied: Mapping[str, Studied],
    test: TestSet,
    goal_targets: Sequence[GoalTarget],
    *,
    seed: int,
    study: Sequence[str],
    pairs: PairDataset | None,
    manifest: PoisonManifest | None,
    progress: ProgressFor | None,
) -> tuple[Study, EmbeddingMap | None]:
    sections: dict[str, object] = {}
    drawn = None
    if "queries" in study and pairs is not None:
        sections["queries"] = {
            str(goal_target): query_sources(
                studied, test, goal_target, pairs, manifest=manifest, seed=seed, progress=progress
            )
            for goal_target in goal_targets
        }
    if "query-length" in study:
        sections["query_length"] = {
            str(goal_target): query_lengths(studied, test, goal_target, progress=progress)
            for goal_target in goal_targets
        }
    if "collateral" in study and CLEAN in studied and POISONED in studied:
        before, after = studied[CLEAN].embeddings, studied[POISONED].embeddings
        sections["collateral"] = {
            str(goal_target): collateral(before, after, test, goal_target)
            for goal_target in goal_targets
        }
    if "distribution" in study or "tsne" in study:
        models = {name: model.embeddings for name, model in studied.items()}
        sections["distribution"] = {
            name: silhouettes(embedded, test, seed=seed) for name, embedded in models.items()
        }
        drawn = embedding_map(models, test, seed=seed, method="tsne" if "tsne" in study else "pca")
    return Study.of(sections), drawn
