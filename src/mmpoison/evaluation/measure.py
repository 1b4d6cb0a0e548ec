"""The whole evaluation of one data set: every model embeds it once, and all numbers come from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmpoison.evaluation.cache import cached_embeddings
from mmpoison.evaluation.distribution import embedding_map, silhouettes
from mmpoison.evaluation.goal_target import Aim
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
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import FeatureInputs, PairInputs, ProgressFor
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset

CLEAN, POISONED = "clean_model", "poisoned"


@dataclass(frozen=True)
class Subject:
    """A model to measure, with the data's inputs prepared for it."""

    encoder: DualEncoder
    inputs: PairInputs


@dataclass(frozen=True)
class OfOneModel:
    """What is measured of one model whatever the goals are.

    Attributes:
        embeddings: Of the test part.
        utility: Its row of `utility`.
        equal_texts: Its row of `utility_equal_texts`, or None where no texts are equal.
        warning: One line if the model has collapsed, or None.
    """

    embeddings: TestEmbeddings
    utility: dict[str, Any]
    equal_texts: dict[str, Any] | None
    warning: str | None


Known = Callable[[str, Callable[[], OfOneModel]], OfOneModel]
"""Gives what is measured of the model of a name, known from earlier or made by the function."""


@dataclass(frozen=True)
class Measurement:
    """What came out.

    Attributes:
        sections: Of `metrics.json`: `goal`, `ranks`, `utility`, and where they apply `utility_equal_texts`, `drift`,
            `study`.
        embeddings: By model name; for what else is to be looked at.
        embedding_map: Of the study `distribution`, or None.
        flags: What a reader must know before believing the numbers, one line each.
    """

    sections: dict[str, Any]
    embeddings: dict[str, TestEmbeddings]
    embedding_map: dict[str, Any] | None = None
    flags: list[str] = field(default_factory=list)


def measure(
    subjects: Mapping[str, Subject],
    test: TestSet,
    aims: Sequence[Aim],
    *,
    seed: int,
    study: Sequence[str] = (),
    pairs: PairDataset | None = None,
    manifest: PoisonManifest | None = None,
    cache: Path | None = None,
    progress: ProgressFor | None = None,
    known: Known = lambda name, make: make(),
) -> Measurement:
    """Embed the test part once with each model and compute everything from it.

    Args:
        subjects: Models by the names of their rows. Drift and collateral changes compare `clean_model` with `poisoned`,
            the random captions search on `poisoned`; without them these are left out.
        test: The test part.
        aims: Each goal with its target set.
        seed: Seed of the run.
        study: Names of `STUDIES`.
        pairs: The training data, for the study of other queries; it is left out without them.
        manifest: Says which train captions the poison holds; that of `pairs` by default.
        cache: Folder of a content cache: the next run with the same weights and test data reads embeddings there.
            Those that heads make of kept features are not: to make them takes no longer than to read them.
        progress: Gives a progress callback for a named step.
        known: Keeps what does not hang on the goals, for runs of many goals that share models.

    Raises:
        InputError: If an aim cannot be measured on the data, or a library of a study is missing.
    """
    for aim in aims:
        test.check(aim)
    repeat = texts_repeat(test)
    measured: dict[str, OfOneModel] = {}
    for name, subject in subjects.items():
        measured[name] = known(name, partial(_of_one, name, subject, test, repeat, cache, progress))
    embeddings = {name: model.embeddings for name, model in measured.items()}
    flags = [model.warning for model in measured.values() if model.warning is not None]
    sections: dict[str, Any] = {"goal": {}, "ranks": {}}
    for aim in aims:
        sections["goal"][str(aim)], sections["ranks"][str(aim)] = _goal(embeddings, test, aim, seed)
    sections["utility"] = {name: model.utility for name, model in measured.items()}
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
            aims,
            seed=seed,
            study=study,
            pairs=pairs,
            manifest=manifest or (pairs.manifest if pairs is not None else None),
            progress=progress,
        )
    return Measurement(sections, embeddings, drawn, flags)


def _of_one(
    name: str,
    subject: Subject,
    test: TestSet,
    repeat: bool,
    cache: Path | None,
    progress: ProgressFor | None,
) -> OfOneModel:
    shown = progress(f"embedding with {name}") if progress else None
    if cache is not None and not isinstance(subject.inputs, FeatureInputs):
        embedded = cached_embeddings(subject.encoder, subject.inputs, test, cache, shown)
    else:
        embedded = TestEmbeddings.of(subject.encoder, subject.inputs, test, shown)
    return OfOneModel(
        embedded,
        utility_row(embedded, test),
        utility_row(embedded, test, equal_texts=True) if repeat else None,
        collapse_warning(embedded, test, name),
    )


def _goal(
    embeddings: Mapping[str, TestEmbeddings], test: TestSet, aim: Aim, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    targets = test.target_set(aim)
    queries = test.queries(aim.goal.original)
    searches = {name: (e, queries) for name, e in embeddings.items()}
    random = random_queries(test, aim.goal, seed)
    if POISONED in embeddings and len(random):
        searches["random_captions"] = (embeddings[POISONED], random)
    rows: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for name, (embedded, asked) in searches.items():
        ranks, ties = embedded.ranks(asked, targets)
        rows[name] = row_of_ranks(ranks, ties, targets)
        details[name] = ranks_row(ranks, test.pairs.image[asked])
    return rows, details


def _study(
    studied: Mapping[str, Studied],
    test: TestSet,
    aims: Sequence[Aim],
    *,
    seed: int,
    study: Sequence[str],
    pairs: PairDataset | None,
    manifest: PoisonManifest | None,
    progress: ProgressFor | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    sections: dict[str, Any] = {}
    drawn = None
    if "queries" in study and pairs is not None:
        sections["queries"] = {
            str(aim): query_sources(
                studied, test, aim, pairs, manifest=manifest, seed=seed, progress=progress
            )
            for aim in aims
        }
    if "query-length" in study:
        sections["query_length"] = {
            str(aim): query_lengths(studied, test, aim, progress=progress) for aim in aims
        }
    if "collateral" in study and CLEAN in studied and POISONED in studied:
        before, after = studied[CLEAN].embeddings, studied[POISONED].embeddings
        sections["collateral"] = {str(aim): collateral(before, after, test, aim) for aim in aims}
    if "distribution" in study or "tsne" in study:
        models = {name: model.embeddings for name, model in studied.items()}
        sections["distribution"] = {
            name: silhouettes(embedded, test, seed=seed) for name, embedded in models.items()
        }
        drawn = embedding_map(models, test, seed=seed, method="tsne" if "tsne" in study else "pca")
    return sections, drawn
