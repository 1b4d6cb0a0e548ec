"""Measures the models of a run and describes the run, for `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison._version import __version__
from mmpoison.attacks.catalogue import build_attack
from mmpoison.attacks.settings import Goal
from mmpoison.base.files import cache_folder, write_json
from mmpoison.base.progress import RunProgress
from mmpoison.base.record import Record
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.evaluation.lists import rank_lists, thumbnail_address
from mmpoison.evaluation.measure import (
    Measurement,
    MeasurementCache,
    ModelMeasurement,
    Subject,
    embed_test,
    measure,
)
from mmpoison.evaluation.rows import class_retrieval, goal_row
from mmpoison.evaluation.test_set import TestEmbeddings, drift_between
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.export import size_facts
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import (
    ClassRetrieval,
    FilterFacts,
    GoalRow,
    Metrics,
    ProbeRecord,
    RankLists,
    RunFacts,
    SuspiciousPair,
    TransferMeasures,
)
from mmpoison.runs.prepared_run import PreparedRun, load_transfer
from mmpoison.runs.recipe import Recipe, TransferPart
from mmpoison.runs.run_cache import RunCache, TrainedModel, Verdicts, prepare_inputs
from mmpoison.runs.run_folder import versions
from mmpoison.runs.run_stages import SUSPECTS

SUSPICIOUS_SHOWN = 12

LOSSES = (0.001, 0.01, 0.02, 0.05)
"""Clean losses at which the recall of a filter is measured, as shares of the clean pairs."""

LEAST_KEPT = 0.75
"""A filter that keeps a smaller share is flagged: no attack here poisons a quarter of the data."""


@dataclass
class RunMeasures:
    """Measures the models of a run.

    Attributes:
        run: The run's input.
        run_cache: Data and models that this process has loaded.
        progress: Reports progress.
        flags: Warnings for the reader about the numbers.
    """

    run: PreparedRun
    run_cache: RunCache
    progress: RunProgress
    flags: list[str] = field(default_factory=list)

    def measured(
        self,
        models: Mapping[str, TrainedModel],
        inputs: PairInputs,
        reordered: TrainedModel | None = None,
    ) -> Measurement:
        """Measure the models on the test part of the data.

        Args:
            models: Models by the names of their rows.
            inputs: Prepared inputs of the data.
            reordered: The clean model trained in another order, for the study `order-drift`.
        """
        run = self.run
        measured = measure(
            {name: Subject(model.encoder, inputs) for name, model in models.items()},
            run.test,
            run.goal_targets,
            seed=run.recipe.seed,
            study=run.recipe.study,
            pairs=run.poisoned,
            cache=cache_folder(),
            progress=self.progress.progress,
            measurements=self._measurement_cache(models, run.pairs),
        )
        self.flags.extend(measured.flags)
        more: dict[str, object] = {}
        if "epochs" in run.recipe.study:
            probes = {name: models[name].probes for name in ("clean_model", "poisoned")}
            more["epochs"] = epoch_rows(probes)
        if reordered is not None:
            again = TestEmbeddings.of(reordered.encoder, inputs, run.test)
            more["order_drift"] = drift_between(measured.embeddings["clean_model"], again)
        if not more:
            return measured
        study = {**measured.metrics.study.to_json(), **more}
        return replace(measured, metrics=Metrics.of({**measured.metrics.to_json(), "study": study}))

    def say_first(self, poisoned: DualEncoder, inputs: PairInputs) -> None:
        """Report the success of the attack before the other models are trained."""
        embeddings = embed_test(Subject(poisoned, inputs), self.run.test, cache_folder())
        for target in self.run.goal_targets:
            goal, image = target.goal, target.image or f"a picture of {target.goal.target}"
            share = goal_row(embeddings, self.run.test, target).hit_10 or 0.0
            self.progress.say(
                f"poisoned model: {share:.0%} of the captions about {goal.original} find {image} among the first ten"
            )

    def lists(self, measured: Measurement) -> RankLists:
        """Build the content of `rank_lists.json`."""
        shown = {name: e for name, e in measured.embeddings.items() if name != "pretrained"}
        return rank_lists(shown, self.run.test, self.run.goal_targets, seed=self.run.recipe.seed)

    def run_facts(
        self,
        models: Mapping[str, TrainedModel],
        measured: Measurement,
        *,
        seconds: Mapping[str, float],
        **defences: Record,
    ) -> RunFacts:
        """Describe the run, for `metrics.json`.

        Args:
            models: The models of the run.
            measured: The result of `measured`.
            seconds: Duration of each stage.
            defences: Facts about each defence, by field of `RunFacts`.
        """
        recipe, manifest, pairs = self.run.recipe, self.run.poisoned.manifest, self.run.pairs
        assert manifest is not None
        goal_targets = self.run.goal_targets
        images = {str(target): target.image for target in goal_targets if target.image is not None}
        start = models["pretrained"].encoder
        facts = {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "tool_version": __version__,
            "goals": [str(goal_target) for goal_target in goal_targets],
            "attack": recipe.attack.name,
            "attack_options": dict(manifest.options),
            **({"target_images": images} if images else {}),
            "mode": manifest.mode,
            "poisoned_pairs": len(manifest.pairs),
            "training_pairs": manifest.training_pairs,
            "poisoning_rate": manifest.rate,
            **_means(recipe, manifest),
            "trainable": recipe.training.trainable,
            "data": {
                "name": recipe.data.name,
                "fingerprint": pairs.fingerprint,
                "attribution": DATASETS[recipe.data.name].attribution
                if recipe.data.name in DATASETS
                else None,
                **_counts(pairs),
            },
            "model": {
                "name": start.name,
                **size_facts(start),
                **(
                    {"class_retrieval": self._class_retrieval(measured, goal_targets[0].goal)}
                    if goal_targets
                    else {}
                ),
            },
            "training": {
                name: model.training for name, model in models.items() if model.training is not None
            },
            "device": str(models["poisoned"].encoder.device),
            "versions": versions(),
            **defences,
            "flags": self.flags,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        return RunFacts.of(facts)

    def _class_retrieval(self, measured: Measurement, goal: Goal) -> ClassRetrieval:
        shares = class_retrieval(measured.embeddings["pretrained"], self.run.test)
        return ClassRetrieval(
            original=shares.get(goal.original),
            target=shares.get(goal.target),
            mean=float(np.mean(list(shares.values()))),
        )

    def transfer(self, models: Mapping[str, TrainedModel], part: TransferPart) -> TransferMeasures:
        """Measure the models on a data set other than the one they were trained on."""
        run = self.run
        other = load_transfer(part, run.goal_targets, run.recipe, self.run_cache)
        encoder = models["pretrained"].encoder
        inputs = prepare_inputs(
            encoder,
            other.test.pairs,
            other.test.gallery,
            on_features=run.on_features,
            progress=self.progress.progress,
        )
        measured = measure(
            {name: Subject(model.encoder, inputs) for name, model in models.items()},
            other.test,
            other.goal_targets,
            seed=run.recipe.seed,
            cache=cache_folder(),
            progress=self.progress.progress,
            measurements=self._measurement_cache(models, other.pairs),
        )
        self.flags.extend(f"{part.data.name}: {flag}" for flag in measured.flags)
        data = {"fingerprint": other.pairs.fingerprint}
        return TransferMeasures.of({**measured.metrics.to_json(), "data": data})

    def _measurement_cache(
        self, models: Mapping[str, TrainedModel], pairs: PairDataset
    ) -> MeasurementCache:
        """Return a cache that shares measurements of models without poison between runs."""

        def cached(name: str, compute: Callable[[], ModelMeasurement]) -> ModelMeasurement:
            if name in SUSPECTS:
                return compute()
            on_features = self.run.on_features
            return self.run_cache.measured(
                models[name].encoder, pairs, compute, name=name, on_features=on_features
            )

        return cached

    def judged(self, verdicts: Verdicts, out: Path) -> FilterFacts:
        """Report the filter's results, flag it if it dropped too much, and write its top pairs."""
        train = self.run.poisoned.select(split="train")
        dropped = 1 - float(verdicts.keep.mean())
        if dropped > 1 - LEAST_KEPT:
            self.flags.append(
                f"the filter dropped {dropped:.0%} of the training pairs: its threshold does "
                "not fit these data, so the filtered model says nothing about the defence"
            )
        known = dict(verdicts.facts)
        if 0 < (bad := train.poisoned).sum() < len(bad):
            scores = verdicts.distances
            known["recall"] = {
                f"{lost:g}": recall_at(scores[bad], scores[~bad], lost) for lost in LOSSES
            }
        facts = FilterFacts.of(known, "facts of the filter")
        self.progress.say(
            f"{facts.method} by {facts.encoder}: {facts.dropped_pairs} of {len(train):,} pairs dropped"
        )
        # dropped pairs first: a method that judges groups need not drop the pairs with high scores
        worst = np.lexsort((-verdicts.distances, verdicts.keep))[:SUSPICIOUS_SHOWN]
        ids = train.images.ids
        write_json(
            out,
            [
                SuspiciousPair(
                    caption=train.captions[row],
                    image=ids[train.image[row]],
                    distance=round(float(verdicts.distances[row]), 4),
                    poisoned=bool(train.poisoned[row]),
                    thumbnail=thumbnail_address(train.root, ids[train.image[row]], 96),
                ).to_json()
                for row in worst
            ],
        )
        return facts


def _means(recipe: Recipe, manifest: PoisonManifest) -> dict[str, str]:
    """Return the carrier of the poison and the attacker's surrogate, if the attack has them."""
    found = {}
    if manifest.pairs:
        new = all(pair.poisoned_image in manifest.added_images for pair in manifest.pairs)
        found["carrier"] = "new images" if new else manifest.options.get("carrier", "existing")
    attack = build_attack(recipe.attack.name, recipe.attack.goals, recipe.attack.options)
    if any(getattr(attack, f"needs_{what}", False) for what in ("embeddings", "pixels")):
        found["surrogate"] = getattr(attack, "encoder", None) or recipe.model.name
    return found


def recall_at(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]], lost: float
) -> float:
    """Return the recall of poisoned pairs at a given clean loss, in [0, 1].

    Args:
        positive: Scores of the poisoned pairs, shape `(n,)`.
        negative: Scores of the clean pairs, shape `(m,)`.
        lost: Acceptable loss, as a share of the clean pairs, in [0, 1].

    >>> recall_at(np.array([3.0, 9.0]), np.arange(11.0), lost=0.2)
    0.5
    """
    return float((positive > np.quantile(negative, 1 - lost)).mean())


def _counts(pairs: PairDataset) -> dict[str, int]:
    """Count the pairs, images and classes of a data set (table 9)."""
    counts = pairs.counts()
    return {
        "pairs": counts["pairs"],
        "images": counts["images"],
        "labelled_images": sum(counts["classes"].values()),
        "classes": len(counts["classes"]),
    }


def epoch_rows(
    probes: Mapping[str, Iterable[ProbeRecord]],
) -> dict[str, dict[str, dict[str, GoalRow]]]:
    """Group rows by goal, model and epoch, for the section `study.epochs` of `metrics.json`.

    Args:
        probes: The probe records of each model.
    """
    rows: dict[str, dict[str, dict[str, GoalRow]]] = {}
    for name, records in probes.items():
        for record in records:
            for goal, row in record.test.goal.items():
                rows.setdefault(goal, {}).setdefault(name, {})[str(record.epoch)] = row
    return rows
