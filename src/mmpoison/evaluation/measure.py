"""Evaluates models on the test part of a data set: each embeds it once, and all numbers come from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmpoison.evaluation.cache import cached_embeddings
from mmpoison.evaluation.distribution import embedding_map, silhouettes
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.rows import (
    collapse_warning,
    random_queries,
    ranks_row,
    row_of_ranks,
    texts_repeat,
    utility_row,
)
from mmpoison.evaluation.study import Studied, collateral, query_lengths, query_sources
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet, drift_between
from mmpoison.evaluation.triggered import rows_with_trigger
from mmpoison.images.triggers import read_trigger
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import FeatureInputs, PairInputs, ProgressFor
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import EmbeddingMap, GoalRow, Metrics, RankSpread, Study, Utility

CLEAN, POISONED = "clean_model", "poisoned"


@dataclass(frozen=True)
class Subject:
    """A model to measure, with the data's inputs prepared for it."""

    encoder: DualEncoder
    inputs: PairInputs


@dataclass(frozen=True)
class ModelMeasurement:
    """The measurements of one model that do not depend on goals.

    Attributes:
        embeddings: Of the test part.
        utility: Its row of `utility`.
        equal_texts: Its row of `utility_equal_texts`, or None where no texts are equal.
        warning: One line if the model has collapsed, or None.
    """

    embeddings: TestEmbeddings
    utility: Utility
    equal_texts: Utility | None
    warning: str | None


MeasurementCache = Callable[[str, Callable[[], ModelMeasurement]], ModelMeasurement]
"""Returns the measurement of the model of a row: a cached one, or what the function computes."""


@dataclass(frozen=True)
class Measurement:
    """The result of an evaluation.

    Attributes:
        metrics: The content of `metrics.json`, without `run` and `transfer`.
        embeddings: By model name.
        embedding_map: Of the study `distribution`, or None.
        flags: What a reader must know before believing the numbers, one line each.
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
    """Embed the test part once with each model and compute everything from it.

    Args:
        subjects: Models by the names of their rows. Drift and collateral changes compare `clean_model` with `poisoned`,
            the random captions search on `poisoned`; without them these are left out.
        test: The test part.
        goal_targets: Each goal with its target set.
        seed: Seed of the run.
        study: Names of `STUDIES`.
        pairs: The training data, for the study of other queries; it is left out without them.
        manifest: Says which train captions the poison holds, and what trigger a backdoor has; that of `pairs` by
            default.
        cache: Folder of a content cache, whose embeddings are used again for the same weights and test data. Embeddings
            that heads compute from cached features are not stored: reading them would take as long.
        progress: Gives a progress callback for a named step.
        measurements: Caches what does not depend on the goals, for runs of many goals that share models.

    Raises:
        InputError: If a goal target cannot be measured on the data, or a library of a study is missing.
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
        models = {name: (subjects[name].encoder, found) for name, found in embeddings.items()}
        trigger = read_trigger(known.trigger)
        sections["with_trigger"] = {
            str(goal_target): rows_with_trigger(models, test, goal_target, trigger, seed=seed)
            for goal_target in goal_targets
        }
    if repeat:
        sections["utility_equal_texts"] = {n: m.equal_texts for n, m in measured.items()}
    if CLEAN in embeddings and POISONED in embeddings:
        sections["drift"] = drift_between(embeddings[CLEAN], embeddings[POISONED])
    drawn = None
    if study:
        studied = {n: Studied(s.encoder, embeddings[n]) for n, s in subjects.items()}
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
    shown = progress(f"embedding with {name}") if progress else None
    if cache is not None and not isinstance(subject.inputs, FeatureInputs):
        embedded = cached_embeddings(subject.encoder, subject.inputs, test, cache, shown)
    else:
        embedded = TestEmbeddings.of(subject.encoder, subject.inputs, test, shown)
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
