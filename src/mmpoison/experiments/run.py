"""The main job: poison, fine-tune, measure, defend, measure again, show it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpoison._version import __version__
from mmpoison.attacks import Goal, build_attack, run_attack
from mmpoison.attacks.target_image import Embed
from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.datasets.cache import cache_folder
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.defenses import CleanFinetune, FilterResult, build_filter
from mmpoison.errors import InputError
from mmpoison.evaluation import (
    Aim,
    Measurement,
    Subject,
    TestSet,
    aims_of,
    class_retrieval,
    measure,
    rank_lists,
    thumbnail_address,
)
from mmpoison.experiments.cards import model_card
from mmpoison.experiments.looks import Looks, both, curve_of_repair, epochs_of
from mmpoison.experiments.monitor import Monitor, SilentMonitor
from mmpoison.experiments.recipe import Recipe, TransferPart
from mmpoison.experiments.run_folder import check_folder, claim_folder, versions
from mmpoison.files import atomic_folder, write_json
from mmpoison.models import (
    MODELS,
    DualEncoder,
    PairInputs,
    image_embedder,
    load_checkpoint,
    load_encoder,
    prepare_features,
    prepare_pixels,
    save_checkpoint,
)
from mmpoison.models.inputs import files_digest, preparation_key
from mmpoison.seeding import generator
from mmpoison.training import (
    Checkpoints,
    LogOptions,
    TrainingResult,
    TrainingSettings,
    finetune,
)
from mmpoison.training.parts import ON_FEATURES
from mmpoison.training.plan import Plan

SUSPICIOUS_SHOWN = 12

LEAST_KEPT = 0.75
"""A filter that keeps a smaller share of the pairs is flagged: poison is never a quarter of the data here."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    monitor: Monitor | None = None,
    save_models: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Run a recipe into a run folder; a run that was killed goes on where it was.

    Args:
        recipe: What to do.
        out: The run folder: new, empty, or of an earlier try of the same recipe.
        monitor: Who is told how far it is.
        save_models: Keep the checkpoints. Without them a killed run starts its last stages again.
        device: Where to compute.

    Returns:
        The metrics, as written to `metrics.json`.

    Raises:
        InputError: If the recipe cannot be run on the data, or `out` holds something else.
    """
    return _Run(
        recipe, out, monitor or SilentMonitor(), save_models, torch.device(device)
    ).execute()


@dataclass(frozen=True)
class Transfer:
    """Another data set to measure on.

    Attributes:
        pairs: The whole set.
        test: Its test part.
        aims: What is measured there.
    """

    pairs: PairDataset
    test: TestSet
    aims: tuple[Aim, ...]


@dataclass
class _Run:
    recipe: Recipe
    out: Path
    monitor: Monitor
    save_models: bool
    device: torch.device
    start_digest: str = ""
    start_preparation: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def execute(self) -> dict[str, Any]:
        recipe = self.recipe
        check_folder(self.out, recipe)
        with self._timed("data"):
            pairs = load_dataset(
                recipe.data.name,
                recipe.data.root,
                seed=recipe.seed,
                options=recipe.data.options,
            )
        # everything that can be refused is refused before hours of training
        goals = [Goal.parse(text, pairs.classes) for text in recipe.attack.goals]
        test = TestSet.of(pairs)
        for goal in goals:
            test.check_goal(goal)
        attack = build_attack(
            recipe.attack.name, recipe.attack.goals, recipe.attack.options, "recipe key attack."
        )
        poisoned = run_attack(attack, pairs, recipe.seed, self._embedder)
        assert poisoned.manifest is not None
        self._check_clean_split(pairs)
        aims = aims_of(poisoned.manifest, pairs)
        for aim in aims:
            test.check(aim)
        for part in recipe.transfer:
            self._load_transfer(part, aims)
        with self._timed("inputs"):
            start = load_encoder(recipe.model.name, trust=recipe.model.trust).to(self.device)
            self._check_models(start)
            inputs = self._prepare(start, pairs, recipe.training)
        # nothing is written before all of it has been accepted
        claim_folder(self.out, recipe)
        poisoned.manifest.write(self.out / "manifest.json")
        self.monitor.say(
            f"{len(pairs.select(split='train')):,} training pairs; {', '.join(map(str, aims))}: "
            f"{len(poisoned.manifest.pairs)} poisoned pairs ({poisoned.manifest.rate:.2%}, "
            f"mode {poisoned.manifest.mode})"
        )

        pretrained = self._pretrained(start, pairs, inputs)

        models: dict[str, DualEncoder] = {"pretrained": pretrained}
        watched = (test, aims) if "epochs" in recipe.study else None
        models["clean_model"] = self._train(
            "clean_model",
            pretrained,
            pairs.select(split="train"),
            inputs,
            shared=True,
            data=pairs,
            watched=watched,
        )
        models["poisoned"] = self._train(
            "poisoned",
            pretrained,
            poisoned.select(split="train"),
            inputs,
            data=poisoned,
            watched=watched,
        )
        facts: dict[str, Any] = {}
        if recipe.filter is not None:
            result, facts["filter"] = self._filter(recipe, poisoned, pretrained, inputs)
            self._write_suspicious(poisoned, result)
            models["filtered"] = self._train(
                "filtered", pretrained, result.kept, inputs, data=poisoned
            )
        if recipe.sterilize is not None:
            models["sterilized"], facts["sterilize"] = self._sterilize(
                recipe, poisoned, models["poisoned"], inputs, test, aims
            )
        return self._measure(models, test, aims, inputs, pairs, poisoned, facts)

    def _embedder(self, name: str | None) -> Embed:
        """Gives embeddings to an attack that needs them: those of the encoder it names, else of the first one."""
        model = self.recipe.model
        encoder = load_encoder(name) if name else load_encoder(model.name, trust=model.trust)
        return image_embedder(encoder, self.monitor.progress)

    # -- stages ---------------------------------------------------------------------------------------------------

    def _prepare(
        self, encoder: DualEncoder, pairs: PairDataset, settings: TrainingSettings
    ) -> PairInputs:
        # also those that nobody described: they are in the gallery, and an attack may use them
        everything = np.arange(len(pairs.images), dtype=np.int32)
        if settings.trainable in ON_FEATURES:
            return prepare_features(
                encoder,
                pairs,
                images=everything,
                cache=cache_folder() / "features",
                progress=self.monitor.progress,
            )
        return prepare_pixels(encoder, pairs, images=everything, progress=self.monitor.progress)

    def _pretrained(
        self, start: DualEncoder, pairs: PairDataset, inputs: PairInputs
    ) -> DualEncoder:
        settings = self.recipe.model.align
        if settings is None:
            return start

        def align(_: Looks | None) -> TrainingResult:
            # the trunks are still the original ones, so their features serve even if they will be trained later
            features_serve = (
                settings.trainable in ON_FEATURES
                and self.recipe.training.trainable not in ON_FEATURES
            )
            return finetune(
                start,
                pairs.select(split="val"),
                self._prepare(start, pairs, settings) if features_serve else inputs,
                settings,
                seed=self.recipe.seed,
                name=f"{start.name}-aligned",
                on_step=self.monitor.training("aligning the towers"),
                **self._kept("pretrained"),
            )

        return self._stage(
            "pretrained",
            align,
            data=pairs,
            settings=settings,
            shared=True,
        )

    def _train(
        self,
        name: str,
        start: DualEncoder,
        train: PairDataset,
        inputs: PairInputs,
        *,
        data: PairDataset,
        shared: bool = False,
        watched: tuple[TestSet, Sequence[Aim]] | None = None,
    ) -> DualEncoder:
        settings = self.recipe.training

        def look() -> Looks | None:
            return watched and self._looks(name, start, len(train), inputs, settings, *watched)

        return self._stage(
            name,
            lambda looks: finetune(
                start,
                train,
                inputs,
                settings,
                seed=self.recipe.seed,
                name=f"{self.recipe.name}-{name}",
                on_step=both(self.monitor.training(f"training {name.replace('_', ' ')}"), looks),
                **self._kept(name),
            ),
            data=data,
            settings=settings,
            shared=shared,
            look=look,
            # what is seen hangs on the goals
            seen=None if watched is None else [str(aim) for aim in watched[1]],
        )

    def _looks(
        self,
        name: str,
        start: DualEncoder,
        pairs: int,
        inputs: PairInputs,
        settings: TrainingSettings,
        test: TestSet,
        aims: Sequence[Aim],
        *,
        within: bool = False,
        every: int | None = None,
    ) -> Looks:
        steps = Plan(pairs, settings, self.recipe.seed).steps_per_epoch
        file = self.out / "logs" / name / "looks.json"
        return Looks(test, aims, inputs, steps, file, start=start, within=within, every=every)

    def _filter(
        self, recipe: Recipe, poisoned: PairDataset, pretrained: DualEncoder, inputs: PairInputs
    ) -> tuple[FilterResult, dict[str, Any]]:
        part = recipe.filter
        assert part is not None
        with self._timed("filter"):
            if part.encoder == "pretrained":
                judge, judge_inputs = pretrained, inputs
            else:
                judge = load_encoder(part.encoder, trust=part.trust).to(self.device)
                judge_inputs = prepare_pixels(
                    judge,
                    poisoned,
                    pixels=getattr(inputs, "pixels", None),
                    progress=self.monitor.progress,
                )
            train = poisoned.select(split="train")
            defence = build_filter(part.method, part.options)
            result = defence.apply(
                train,
                judge,
                judge_inputs,
                trusted=poisoned.select(split="val") if part.trusted == "val" else None,
                seed=recipe.seed,
                progress=self.monitor.progress,
            )
        facts = {"method": part.method, "encoder": judge.name, **result.facts(train)}
        if len(result.kept) < LEAST_KEPT * len(train):
            self.flags.append(
                f"the filter dropped {1 - len(result.kept) / len(train):.0%} of the training pairs: its threshold is "
                "not one for these data, and the filtered model says nothing about the defence"
            )
        self.monitor.say(
            f"{part.method} by {judge.name}: {facts['dropped_pairs']} of {len(train):,} pairs dropped"
        )
        return result, facts

    def _sterilize(
        self,
        recipe: Recipe,
        poisoned: PairDataset,
        suspect: DualEncoder,
        inputs: PairInputs,
        test: TestSet,
        aims: Sequence[Aim],
    ) -> tuple[DualEncoder, dict[str, Any]]:
        part = recipe.sterilize
        assert part is not None
        clean = poisoned.select(split="val")
        if part.pairs is not None and part.pairs < len(clean):
            chosen = generator(recipe.seed, "sterilize/pairs").permutation(len(clean))[: part.pairs]
            mask = np.zeros(len(clean), dtype=bool)
            mask[chosen] = True
            clean = clean.where(mask)

        def look() -> Looks | None:
            if not part.curve:
                return None
            return self._looks(
                *("sterilized", suspect, len(clean), inputs, part.training, test, aims),
                within=True,
                every=part.every,
            )

        encoder = self._stage(
            "sterilized",
            lambda looks: CleanFinetune(part.training).apply(
                suspect,
                clean,
                inputs,
                seed=recipe.seed,
                name=f"{recipe.name}-sterilized",
                on_step=both(self.monitor.training("sterilizing"), looks),
                **self._kept("sterilized"),
            ),
            data=poisoned,
            settings=part.training,
            look=look,
        )
        if part.curve:
            curve = curve_of_repair(encoder, part.training.learning_rate)
            write_json(self.out / "sterilize-curve.json", curve)
        training = encoder.config["mmpoison"]["training"]
        return encoder, {
            "pairs": len(clean),
            "steps": training["steps"],
            "learning_rate": part.training.learning_rate,
        }

    def _kept(self, name: str) -> dict[str, Any]:
        """Where a training's state and log are kept, and who is told of what comes before it."""
        return {
            "checkpoints": Checkpoints(self.out / "training" / name),
            "log": LogOptions(self.out / "logs" / name),
            "progress": self.monitor.progress,
        }

    def _stage(
        self,
        name: str,
        train: Callable[[Looks | None], TrainingResult],
        *,
        data: PairDataset,
        settings: TrainingSettings,
        shared: bool = False,
        look: Callable[[], Looks | None] = lambda: None,
        seen: list[str] | None = None,
    ) -> DualEncoder:
        """Train a model, or take it from this run or, where it does not hang on the attack, from the cache."""
        own = self.out / "models" / name
        if own.is_dir():
            self.monitor.say(f"{name}: taken from this run's folder")
            return load_checkpoint(own).to(self.device)
        cached = cache_folder() / "models" / self._shared_key(name, data, seen) if shared else None
        if cached is not None and cached.is_dir():
            self.monitor.say(f"{name}: taken from the cache")
            if self.save_models:
                with atomic_folder(own) as folder:
                    shutil.copytree(cached, folder, dirs_exist_ok=True)
            return load_checkpoint(cached).to(self.device)
        with self._timed(f"train_{name}"):
            looks = look()
            result = train(looks)
        encoder = result.encoder
        encoder.config["mmpoison"] = {
            **encoder.config.get("mmpoison", {}),
            "training": result.summary(),
            "seed": self.recipe.seed,
            "poisoned": name in ("poisoned", "filtered", "sterilized"),
            **({"looks": looks.records} if looks else {}),
        }
        card = model_card(
            encoder,
            name,
            started_from=self.recipe.model.name,
            data=data,
            settings=settings,
            result=result,
            facts=(f"recipe: `{self.recipe.name}`, seed {self.recipe.seed}",),
        )
        if cached is not None:
            try:
                save_checkpoint(encoder, cached, card=card)
            except (InputError, OSError):
                # another run of a sweep may have put it there meanwhile
                if not cached.is_dir():
                    raise
        if self.save_models:
            save_checkpoint(encoder, own, card=card)
        Checkpoints(self.out / "training" / name).clear()
        with suppress(OSError):  # it is empty between two stages
            (self.out / "training").rmdir()
        return encoder

    def _shared_key(self, name: str, data: PairDataset, seen: list[str] | None) -> str:
        """Everything that a model which does not hang on the attack is made from."""
        parts = {
            "stage": name,
            "tool": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "seed": self.recipe.seed,
            "data": data.fingerprint,
            "images": files_digest(data, data.used_images()),
            "preparation": self.start_preparation,
            "model": self.recipe.model.model_dump(mode="json"),
            "weights": self.start_digest,
            "training": None
            if name == "pretrained"
            else self.recipe.training.model_dump(mode="json"),
            **({"looks": seen} if seen is not None else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    # -- measuring ------------------------------------------------------------------------------------------------

    def _measure(
        self,
        models: dict[str, DualEncoder],
        test: TestSet,
        aims: Sequence[Aim],
        inputs: PairInputs,
        pairs: PairDataset,
        poisoned: PairDataset,
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        recipe = self.recipe
        with self._timed("evaluate"):
            measured = measure(
                {name: Subject(encoder, inputs) for name, encoder in models.items()},
                test,
                aims,
                seed=recipe.seed,
                study=recipe.study,
                pairs=poisoned,
                cache=cache_folder() / "embeddings",
                progress=self.monitor.progress,
            )
            lists = rank_lists(
                {name: e for name, e in measured.embeddings.items() if name != "pretrained"},
                test,
                aims,
                seed=recipe.seed,
            )
        self.flags.extend(measured.flags)
        sections = dict(measured.sections)
        if "epochs" in recipe.study:
            trained = {name: models[name] for name in ("clean_model", "poisoned")}
            sections["study"] = {**sections.get("study", {}), "epochs": epochs_of(trained)}
        if recipe.transfer:
            with self._timed("transfer"):
                sections["transfer"] = {
                    part.data.name: self._transfer(models, part, aims) for part in recipe.transfer
                }
        metrics = {
            **sections,
            "run": {
                **self._about(models, test, aims, measured, pairs, poisoned),
                **facts,
                "flags": self.flags,
                "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
                "device": str(models["poisoned"].device),
                "versions": versions(),
            },
        }
        write_json(self.out / "rank_lists.json", lists)
        if measured.embedding_map is not None:
            write_json(self.out / "embedding_map.json", measured.embedding_map)
        # last, because its presence says that the run is complete
        write_json(self.out / "metrics.json", metrics)
        return metrics

    def _about(
        self,
        models: dict[str, DualEncoder],
        test: TestSet,
        aims: Sequence[Aim],
        measured: Measurement,
        pairs: PairDataset,
        poisoned: PairDataset,
    ) -> dict[str, Any]:
        """What was run on what, for `metrics.json`."""
        recipe, manifest = self.recipe, poisoned.manifest
        assert manifest is not None
        retrieval = class_retrieval(measured.embeddings["pretrained"], test)
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
                "fingerprint": pairs.fingerprint,
                "attribution": DATASETS[recipe.data.name].attribution
                if recipe.data.name in DATASETS
                else None,
            },
            "model": {
                "name": models["pretrained"].name,
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
        }

    def _load_transfer(self, part: TransferPart, aims: Sequence[Aim]) -> Transfer:
        """The other data set, and what is measured on it."""
        pairs = load_dataset(
            part.data.name, part.data.root, seed=self.recipe.seed, options=part.data.options
        )
        goals = part.goals or [str(aim) for aim in aims]
        there = tuple(Aim(Goal.parse(goal, pairs.classes)) for goal in goals)
        test = TestSet.of(pairs)
        for aim in there:
            test.check(aim)
        return Transfer(pairs, test, there)

    def _transfer(
        self, models: dict[str, DualEncoder], part: TransferPart, aims: Sequence[Aim]
    ) -> dict[str, Any]:
        """The models on data that they were not trained on, trained or poisoned with other pictures."""
        other = self._load_transfer(part, aims)
        encoder = models["pretrained"]
        if self.recipe.training.trainable in ON_FEATURES:
            inputs: PairInputs = prepare_features(
                encoder,
                other.test.pairs,
                images=other.test.gallery,
                cache=cache_folder() / "features",
                progress=self.monitor.progress,
            )
        else:
            inputs = prepare_pixels(
                encoder,
                other.test.pairs,
                images=other.test.gallery,
                progress=self.monitor.progress,
            )
        measured = measure(
            {name: Subject(model, inputs) for name, model in models.items()},
            other.test,
            other.aims,
            seed=self.recipe.seed,
            cache=cache_folder() / "embeddings",
            progress=self.monitor.progress,
        )
        self.flags.extend(f"{part.data.name}: {flag}" for flag in measured.flags)
        return {**measured.sections, "data": {"fingerprint": other.pairs.fingerprint}}

    def _write_suspicious(self, poisoned: PairDataset, result: FilterResult) -> None:
        train = poisoned.select(split="train")
        # what was dropped first: a defence that judges groups does not drop the most distant pairs
        worst = np.lexsort((-result.distances, result.keep))[:SUSPICIOUS_SHOWN]
        ids = train.images.ids
        write_json(
            self.out / "suspicious_pairs.json",
            [
                {
                    "caption": train.captions[row],
                    "image": ids[train.image[row]],
                    "distance": round(float(result.distances[row]), 4),
                    "poisoned": bool(train.poisoned[row]),
                    "thumbnail": thumbnail_address(train.root, ids[train.image[row]], 96),
                }
                for row in worst
            ],
        )

    def _check_models(self, start: DualEncoder) -> None:
        """Refuse now what would fail, or be done otherwise than asked for, after hours of training."""
        recipe = self.recipe
        model, judge, repair = recipe.model, recipe.filter, recipe.sterilize
        if model.align is None and model.name in MODELS and not MODELS[model.name].aligned:
            raise InputError(
                f"model {model.name!r} was trained as two towers: recipe key model.align must say how to align them"
            )
        if judge is not None:
            build_filter(judge.method, judge.options, "recipe key filter.")
            if judge.encoder != "pretrained":
                load_encoder(judge.encoder, trust=judge.trust)
        for key, settings in (
            ("model.align", model.align),
            ("sterilize.training", repair.training if repair else None),
        ):
            if settings is None:
                continue
            if settings.trainable in ON_FEATURES:
                start.head_parameters()
            elif recipe.training.trainable in ON_FEATURES:
                raise InputError(
                    f"recipe key {key}.trainable is {settings.trainable!r}, but with training.trainable "
                    f"{recipe.training.trainable!r} the trunks run only once, so only heads can be trained"
                )
        self.start_digest = start.digest()
        self.start_preparation = preparation_key(start)

    def _check_clean_split(self, pairs: PairDataset) -> None:
        part = self.recipe.filter
        uses = {
            "model.align": self.recipe.model.align is not None,
            "filter.clean_loss": part is not None and part.uses_trusted,
            "sterilize": self.recipe.sterilize is not None,
        }
        needed = [name for name, used in uses.items() if used]
        if needed and not len(pairs.select(split="val")):
            raise InputError(
                f"recipe key {needed[0]} needs clean pairs, and the data have none (split 'val')"
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun


def target_images(aims: Sequence[Aim]) -> dict[str, Any]:
    """The one target image of each goal of attack I, as `{"target_images": ...}`; nothing for other attacks."""
    images = {str(aim): aim.image for aim in aims if aim.image is not None}
    return {"target_images": images} if images else {}
