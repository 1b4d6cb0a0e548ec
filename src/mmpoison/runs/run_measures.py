"""What a run measures on its models, and what it writes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison._version import __version__
from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import write_json
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.evaluation import measure
from mmpoison.evaluation.goal_target import Aim
from mmpoison.evaluation.lists import rank_lists, thumbnail_address
from mmpoison.evaluation.measure import Known, Measurement, OfOneModel, Subject
from mmpoison.evaluation.rows import class_retrieval
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.facts import size_facts
from mmpoison.models.inputs import PairInputs, prepare_features, prepare_pixels
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.prepared_run import PreparedRun, load_transfer
from mmpoison.runs.progress import RunProgress
from mmpoison.runs.recipe import TransferPart
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_folder import versions
from mmpoison.runs.run_stages import SUSPECTS
from mmpoison.runs.training_probe import epochs_of
from mmpoison.runs.verdicts import Verdicts

SUSPICIOUS_SHOWN = 12

LEAST_KEPT = 0.75
"""A filter that keeps a smaller share of the pairs is flagged: poison is never a quarter of the data here."""


@dataclass
class RunMeasures:
    """Measures the models of a run.

    Attributes:
        run: What they were trained on.
        run_cache: What this process has loaded.
        progress: Reports the progress.
        flags: What a reader must know before believing the numbers.
    """

    run: PreparedRun
    run_cache: RunCache
    progress: RunProgress
    flags: list[str] = field(default_factory=list)

    def sections(
        self, models: dict[str, DualEncoder], inputs: PairInputs
    ) -> tuple[dict[str, Any], Measurement]:
        """The sections of `metrics.json` but `run`, and what they were made from."""
        run = self.run
        measured = measure(
            {name: Subject(encoder, inputs) for name, encoder in models.items()},
            run.test,
            run.aims,
            seed=run.recipe.seed,
            study=run.recipe.study,
            pairs=run.poisoned,
            cache=cache_folder(),
            progress=self.progress.progress,
            known=self._known(models, run.pairs),
        )
        self.flags.extend(measured.flags)
        sections = dict(measured.sections)
        if "epochs" in run.recipe.study:
            trained = {name: models[name] for name in ("clean_model", "poisoned")}
            sections["study"] = {**sections.get("study", {}), "epochs": epochs_of(trained)}
        return sections, measured

    def lists(self, measured: Measurement) -> Any:
        """The content of `rank_lists.json`."""
        shown = {name: e for name, e in measured.embeddings.items() if name != "pretrained"}
        return rank_lists(shown, self.run.test, self.run.aims, seed=self.run.recipe.seed)

    def about(self, models: dict[str, DualEncoder], measured: Measurement) -> dict[str, Any]:
        """What was run on what, for `metrics.json`."""
        recipe, manifest, aims = self.run.recipe, self.run.poisoned.manifest, self.run.aims
        assert manifest is not None
        retrieval = class_retrieval(measured.embeddings["pretrained"], self.run.test)
        goal = aims[0].goal
        return {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "tool_version": __version__,
            "goals": [str(aim) for aim in aims],
            "attack": recipe.attack.name,
            "attack_options": dict(manifest.options),
            **target_images(aims),
            "mode": manifest.mode,
            "poisoned_pairs": len(manifest.pairs),
            "training_pairs": manifest.training_pairs,
            "poisoning_rate": manifest.rate,
            "trainable": recipe.training.trainable,
            "data": {
                "name": recipe.data.name,
                "fingerprint": self.run.pairs.fingerprint,
                "attribution": DATASETS[recipe.data.name].attribution
                if recipe.data.name in DATASETS
                else None,
                **_counts(self.run.pairs),
            },
            "model": {
                "name": models["pretrained"].name,
                **size_facts(models["pretrained"]),
                "class_retrieval": {
                    "original": retrieval.get(goal.original),
                    "target": retrieval.get(goal.target),
                    "mean": float(np.mean(list(retrieval.values()))),
                },
            },
            "training": {
                name: encoder.config["mmpoison"]["training"]
                for name, encoder in models.items()
                if "training" in encoder.config.get("mmpoison", {})
            },
            "device": str(models["poisoned"].device),
            "versions": versions(),
        }

    def transfer(self, models: dict[str, DualEncoder], part: TransferPart) -> dict[str, Any]:
        """The models on data that they were not trained on, trained or poisoned with other pictures."""
        run = self.run
        other = load_transfer(part, run.aims, run.recipe, self.run_cache)
        encoder = models["pretrained"]
        if run.on_features:
            inputs: PairInputs = prepare_features(
                encoder,
                other.test.pairs,
                images=other.test.gallery,
                cache=cache_folder(),
                progress=self.progress.progress,
            )
        else:
            inputs = prepare_pixels(
                encoder,
                other.test.pairs,
                images=other.test.gallery,
                progress=self.progress.progress,
            )
        measured = measure(
            {name: Subject(model, inputs) for name, model in models.items()},
            other.test,
            other.aims,
            seed=run.recipe.seed,
            cache=cache_folder(),
            progress=self.progress.progress,
            known=self._known(models, other.pairs),
        )
        self.flags.extend(f"{part.data.name}: {flag}" for flag in measured.flags)
        return {**measured.sections, "data": {"fingerprint": other.pairs.fingerprint}}

    def _known(self, models: dict[str, DualEncoder], pairs: PairDataset) -> Known:
        """Runs of other goals have the same models but those that saw the poison: these alone are measured anew."""

        def known(name: str, make: Callable[[], OfOneModel]) -> OfOneModel:
            if name in SUSPECTS:
                return make()
            on_features = self.run.on_features
            return self.run_cache.measured(
                models[name], pairs, make, name=name, on_features=on_features
            )

        return known

    def judged(self, verdicts: Verdicts, out: Path) -> None:
        """Say what the filter did, flag it where it did too much, and show what it suspected most."""
        train = self.run.poisoned.select(split="train")
        dropped = 1 - float(verdicts.keep.mean())
        if dropped > 1 - LEAST_KEPT:
            self.flags.append(
                f"the filter dropped {dropped:.0%} of the training pairs: its threshold is "
                "not one for these data, and the filtered model says nothing about the defence"
            )
        facts = verdicts.facts
        self.progress.say(
            f"{facts['method']} by {facts['encoder']}: {facts['dropped_pairs']} of {len(train):,} pairs dropped"
        )
        # what was dropped first: a defence that judges groups does not drop the most distant pairs
        worst = np.lexsort((-verdicts.distances, verdicts.keep))[:SUSPICIOUS_SHOWN]
        ids = train.images.ids
        write_json(
            out,
            [
                {
                    "caption": train.captions[row],
                    "image": ids[train.image[row]],
                    "distance": round(float(verdicts.distances[row]), 4),
                    "poisoned": bool(train.poisoned[row]),
                    "thumbnail": thumbnail_address(train.root, ids[train.image[row]], 96),
                }
                for row in worst
            ],
        )


def target_images(aims: Sequence[Aim]) -> dict[str, Any]:
    """The one target image of each goal of attack I, as `{"target_images": ...}`; nothing for other attacks."""
    images = {str(aim): aim.image for aim in aims if aim.image is not None}
    return {"target_images": images} if images else {}


def _counts(pairs: PairDataset) -> dict[str, int]:
    """How large a data set is (table 9)."""
    counts = pairs.counts()
    return {
        "pairs": counts["pairs"],
        "images": counts["images"],
        "labelled_images": sum(counts["classes"].values()),
        "classes": len(counts["classes"]),
    }
