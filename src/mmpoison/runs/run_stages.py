"""The stages of a run: their cache keys, and how to compute each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import RunProgress
from mmpoison.defenses.catalogue import (
    DEFENSES,
    ModelRepair,
    RobustTraining,
    TrainingServices,
    build_defense,
    train_with,
)
from mmpoison.defenses.scan.cut.judging import filter_pairs
from mmpoison.defenses.scan.cut.score_filter import build_filter
from mmpoison.evaluation.rows import probed_test
from mmpoison.evaluation.test_set import TestEmbeddings
from mmpoison.models.checkpoint import load_checkpoint, save_checkpoint
from mmpoison.models.compute_environment import compute_environment
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.records.run_files import ProbeRecord, SterilizeFacts
from mmpoison.runs.cards import model_card
from mmpoison.runs.prepared_run import PreparedRun, alignment_pairs, filled, repair_pairs
from mmpoison.runs.recipe import CLEAN_FINETUNE, FilterPart
from mmpoison.runs.run_cache import (
    RunCache,
    TrainedModel,
    Verdicts,
    link_log,
    read_model,
    read_verdicts,
    store_model,
    store_verdicts,
)
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import TrainingResult, chain_callbacks, finetune
from mmpoison.training.probes import Probes
from mmpoison.training.settings import Plan, TrainingSettings, autocast
from mmpoison.training.states import Checkpoints

SUSPECTS = ("poisoned", "filtered", "robust", "sterilized")
OWN = (*SUSPECTS, "filter", "other_filter")
"""Stages that depend on a run's own poison."""

LARGEST_CACHED = 1 << 20
"""Results of more bytes are deleted from the cache after their only run (`RunStages.evict`)."""

OTHER_FILTER = "other_filter"
"""The stage of the other filter in `FilterPart.as_many_as`."""

OF_ONE_RUN = "of_one_run"
"""Key in the note of a cache entry: set if a run made the entry only for itself."""

REORDERED = "clean_model_reordered"
"""The clean model trained in the order of the poisoned one, to measure drift without poison."""


def stage_keys(run: PreparedRun, run_cache: RunCache) -> dict[str, CacheKey]:
    """Return the cache keys of a run's stages by name, in execution order, without running any."""
    return _Keys(run, run_cache).all()


@dataclass
class _Keys:
    run: PreparedRun
    run_cache: RunCache

    def all(self) -> dict[str, CacheKey]:
        run, recipe = self.run, self.run.recipe
        keys: dict[str, CacheKey] = {}
        start: Any = self.run_cache.identity(run.start)
        if recipe.model.align is not None:
            keys["pretrained"] = self._alignment("pretrained", run.start, recipe.model.align)
            start = keys["pretrained"].digest
        watched = (
            [str(goal_target) for goal_target in run.goal_targets]
            if "epochs" in recipe.study
            else None
        )
        trainings = {"clean_model": run.pairs, "poisoned": run.poisoned}
        for name, data in trainings.items():
            keys[name] = self._training(name, start, data, "train", recipe.training, probes=watched)
        if "order-drift" in recipe.study:
            keys[REORDERED] = self._training(
                REORDERED, start, run.poisoned, "train", recipe.training, skip="poisoned"
            )
        if (part := recipe.filter) is not None:
            judge: Any = start
            if part.encoder != "pretrained":
                encoder = self.run_cache.encoder(part.encoder, device=run.device)
                judge = self.run_cache.identity(encoder)
                if part.align is not None:
                    keys["judge"] = self._alignment("judge", encoder, part.align)
                    judge = keys["judge"].digest
            if (other := part.as_many_as) is not None:
                keys[OTHER_FILTER] = self._filter(OTHER_FILTER, other, judge)
            keys["filter"] = self._filter("filter", part, judge)
            keys["filtered"] = self._training(
                "filtered",
                start,
                run.poisoned,
                "train",
                recipe.training,
                kept_by=keys["filter"].digest,
                equal_steps=part.equal_steps or None,
            )
        if (robust := recipe.robust_training) is not None:
            keys["robust"] = self._training(
                "robust",
                start,
                run.poisoned,
                "train",
                recipe.training,
                made_by=(DEFENSES[robust.method],),
                defense=[robust.method, robust.options],
            )
        if (repair := recipe.sterilize) is not None:
            keys["sterilized"] = self._training(
                "sterilized",
                keys["poisoned"].digest,
                run.poisoned,
                "val",
                # the key of a repair without settings contains the run's settings
                repair.training or recipe.training,
                made_by=(DEFENSES[repair.method],),
                defense=[repair.method, repair.options],
                pairs=repair.pairs,
                probes=[[str(goal_target) for goal_target in run.goal_targets], repair.every]
                if repair.curve
                else None,
            )
        return keys

    def _filter(self, name: str, part: FilterPart, judge: Any) -> CacheKey:
        run = self.run
        return CacheKey(
            "stages/filter",
            {
                **self._common(run.poisoned, filter_pairs, DEFENSES[part.method], store_verdicts),
                "judge": judge,
                "filter": part.model_dump(mode="json", exclude={"encoder", "align", "equal_steps"}),
                "labels": part.labels_digest,
                "on_features": run.on_features,
                "judge_on_features": run.recipe.share_features,
            },
            name,
        )

    @cached_property
    def _files(self) -> str:
        return self.run_cache.files(self.run.pairs)

    def _common(self, data: PairDataset, *made_by: object) -> dict[str, Any]:
        """Return the key parts common to all stages; `made_by` are the plug-ins of a stage."""
        return {
            "computed": compute_environment(self.run.device, *made_by),
            "seed": self.run.recipe.seed,
            "data": data.fingerprint,
            "images": self._files,
        }

    def _training(
        self,
        name: str,
        start: Any,
        data: PairDataset,
        split: str,
        settings: TrainingSettings,
        probes: Any = None,
        made_by: tuple[object, ...] = (),
        **more: Any,
    ) -> CacheKey:
        precision = autocast(self.run.device, settings.precision)[1]
        parts = {
            **self._common(data, *made_by),
            "start": start,
            "split": split,
            "training": settings.model_dump(mode="json"),
            "precision": precision,
            # the last bits depend on whether the inputs are features or pixels
            "on_features": self._fed_features(name, settings),
            **{
                key: value for key, value in {"probes": probes, **more}.items() if value is not None
            },
        }
        if probes is not None:
            parts["pairs"] = self.run.pairs.fingerprint
        return CacheKey("stages/finetune", parts, name)

    def _alignment(self, name: str, encoder: DualEncoder, settings: TrainingSettings) -> CacheKey:
        return self._training(
            name,
            self.run_cache.identity(encoder),
            self.run.pairs,
            "val",
            settings,
            half=None if self.run.halves is None else name,
        )

    def _fed_features(self, name: str, settings: TrainingSettings) -> bool:
        if name == "judge":
            return settings.heads_only
        return self.run.on_features or (name == "pretrained" and settings.heads_only)


@dataclass
class RunStages:
    """Runs the stages of a run, or reads their cached results.

    Attributes:
        run: The run's input.
        out: The run folder.
        store: The content cache.
        run_cache: Data and models that this process has loaded.
        progress: Reports progress.
        save_models: Save the checkpoints in the run folder too.
        seconds: Duration of each stage that was computed here.
        made: Key of each stage, and its origin: `made` here, or from the `cache` or `run folder`.
        evict: Stages whose results no other run needs, so that `evict_own` may delete them.
    """

    run: PreparedRun
    out: Path
    store: ContentCache
    run_cache: RunCache
    progress: RunProgress
    save_models: bool
    seconds: dict[str, float] = field(default_factory=dict)
    made: dict[str, dict[str, str]] = field(default_factory=dict)
    evict: Collection[str] = ()

    @cached_property
    def keys(self) -> dict[str, CacheKey]:
        """The cache keys of the stages by name."""
        keys = stage_keys(self.run, self.run_cache)
        return {
            name: replace(key, note={OF_ONE_RUN: True}) if name in self.evict else key
            for name, key in keys.items()
        }

    @cached_property
    def inputs(self) -> PairInputs:
        """Inputs of the data for the model, prepared at first use."""
        begun = time.perf_counter()
        inputs = self.run_cache.inputs(
            self.run.start,
            self.run.pairs,
            self.run.poisoned,
            on_features=self.run.on_features,
            progress=self.progress.progress,
        )
        self._count("inputs", begun)
        return inputs

    def pretrained(self) -> TrainedModel:
        """Return the model that the fine-tunes start from, aligned if the recipe asks for it."""
        run, settings = self.run, self.run.recipe.model.align
        if settings is None:
            return TrainedModel(run.start, run.start.record.training)

        def inputs() -> PairInputs:
            # the trunks are still unchanged here, so features work even if they are trained later
            if settings.heads_only and not run.on_features:
                return self.run_cache.inputs(
                    run.start, run.pairs, on_features=True, progress=self.progress.progress
                )
            return self.inputs

        return self._aligned("pretrained", run.start, settings, inputs)

    def _aligned(
        self,
        name: str,
        start: DualEncoder,
        settings: TrainingSettings,
        inputs: Callable[[], PairInputs],
    ) -> TrainedModel:
        run, new_name = self.run, f"{start.name}-aligned"
        shown = "aligning the towers" + (" of the judge" if name == "judge" else "")

        def align(_: Probes | None, services: TrainingServices) -> TrainingResult:
            services["name"], services["on_step"] = new_name, self.progress.training(shown)
            clean = alignment_pairs(run.pairs, name, run.halves)
            return finetune(start, clean, inputs(), settings, seed=run.recipe.seed, **services)

        return self._model(name, start, align, data=run.pairs, settings=settings, new_name=new_name)

    def trained(self, name: str, start: DualEncoder, train: PairDataset) -> TrainedModel:
        """Train a model on the given pairs: `robust` with the in-training defence, others plainly.

        `clean_model_reordered` skips the poisoned pairs but keeps the order of the rest.
        """
        run, settings = self.run, self.run.recipe.training
        new_name = f"{run.recipe.name}-{name}"
        part = run.recipe.robust_training if name == "robust" else None

        def make_probe(file: Path) -> Probes | None:
            if "epochs" not in run.recipe.study or name in ("filtered", "robust", REORDERED):
                return None
            return self._probe(file, start, len(train), settings)

        def fit(probe: Probes | None, services: TrainingServices) -> TrainingResult:
            shown = self.progress.training(f"training {name.replace('_', ' ')}")
            services["name"], services["on_step"] = new_name, chain_callbacks(shown, probe)
            seed, given = run.recipe.seed, (start, train, self.inputs, settings)
            if part is None:
                skip = train.poisoned if name == REORDERED else None
                return finetune(*given, seed=seed, skip=skip, **services)
            defense: RobustTraining = build_defense("in-training", part.method, part.options)
            return train_with(defense, *given, seed=seed, services=services)

        return self._model(
            name,
            start,
            fit,
            data=run.pairs if name in ("clean_model", REORDERED) else run.poisoned,
            settings=settings,
            new_name=new_name,
            make_probe=make_probe,
        )

    def verdicts(self, pretrained: DualEncoder) -> Verdicts:
        """Filter the training pairs and return the verdicts."""
        assert self.run.recipe.filter is not None
        return self._verdicts("filter", self.run.recipe.filter, pretrained)

    def _verdicts(self, name: str, part: FilterPart, pretrained: DualEncoder) -> Verdicts:
        run = self.run
        train = run.poisoned.select(split="train")
        judge, inputs_of_judge = self._judge(part, pretrained)
        options = part.options
        if part.as_many_as is not None:
            dropped = ~self._verdicts(OTHER_FILTER, part.as_many_as, pretrained).keep
            if not dropped.any():
                facts = {"method": part.method, "encoder": judge.name, "dropped_pairs": 0}
                return Verdicts(~dropped, np.zeros(len(train)), facts)
            options = {**options, "clean_loss": float(dropped.mean())}

        def make(folder: Path) -> None:
            inputs = inputs_of_judge()
            begun = time.perf_counter()
            result = filter_pairs(
                run.poisoned,
                judge,
                build_filter(part.method, options),
                trusted=part.trusted,
                force=part.force,
                inputs=inputs,
                seed=run.recipe.seed,
                progress=self.progress.progress,
            )
            self._count(name, begun)
            store_verdicts(folder, result)

        verdicts, found = self.store.obtain(
            self.keys[name],
            lambda folder: read_verdicts(folder, len(train)),
            make,
            say=self.progress.say,
        )
        self._tell(name, "cache" if found else "made")
        return verdicts

    def filtered(self, pretrained: DualEncoder, verdicts: Verdicts) -> TrainedModel:
        """Train a model on the pairs that the filter keeps."""
        run, part = self.run, self.run.recipe.filter
        assert part is not None
        train = run.poisoned.select(split="train")
        if part.equal_steps:
            return self.trained(
                "filtered", pretrained, filled(train, verdicts.keep, run.recipe.seed)
            )
        return self.trained("filtered", pretrained, train.where(verdicts.keep))

    def _judge(
        self, part: FilterPart, pretrained: DualEncoder
    ) -> tuple[DualEncoder, Callable[[], PairInputs]]:
        """Return a filter's judge, aligned if required, and a function that prepares its inputs."""
        if part.encoder == "pretrained":
            return pretrained, lambda: self.inputs
        run, align = self.run, part.align
        judge = self.run_cache.encoder(part.encoder, device=run.device)
        fed = run.recipe.share_features and judge.has_heads if align is None else align.heads_only

        def inputs() -> PairInputs:
            return self.run_cache.inputs(
                judge,
                run.pairs,
                run.poisoned,
                on_features=fed,
                progress=self.progress.progress,
                reuse_from=None if run.on_features else self.inputs,
            )

        if align is None:
            return judge, inputs
        return self._aligned("judge", judge, align, inputs).encoder, inputs

    def sterilized(self, suspect: DualEncoder) -> tuple[TrainedModel, SterilizeFacts]:
        """Repair a copy of the poisoned model, and return it with facts about the repair."""
        run, part = self.run, self.run.recipe.sterilize
        assert part is not None
        clean = repair_pairs(run.poisoned, part, run.recipe.seed)
        new_name = f"{run.recipe.name}-sterilized"
        settings = part.training or run.recipe.training
        repair: ModelRepair = build_defense(
            "post-training", part.method, part.options, settings=part.training
        )

        def make_probe(file: Path) -> Probes | None:
            if not part.curve:
                return None
            return self._probe(file, suspect, len(clean), settings, within=True, every=part.every)

        def fit(probe: Probes | None, services: TrainingServices) -> TrainingResult:
            shown = self.progress.training("sterilizing")
            services["name"], services["on_step"] = new_name, chain_callbacks(shown, probe)
            given = (suspect, clean, self.inputs)
            return train_with(repair, *given, seed=run.recipe.seed, services=services)

        model = self._model(
            "sterilized",
            suspect,
            fit,
            data=run.poisoned,
            settings=part.training,
            new_name=new_name,
            make_probe=make_probe,
        )
        facts: dict[str, object] = {
            "pairs": len(clean),
            "steps": model.training.steps if model.training else None,
        }
        if part.method != CLEAN_FINETUNE:
            facts = {"method": part.method, **part.options, **facts}
        if part.training is not None:
            facts["learning_rate"] = part.training.learning_rate
        return model, SterilizeFacts.of(facts)

    def evict_own(self) -> None:
        """Delete the results that only this run needed from the cache, once the run is complete.

        Results that another command made or resumed stay. Another process that still uses a deleted
        model computes it again.
        """
        for name in self.evict:
            entry = self.store.entry(self.keys[name]) if name in self.keys else None
            if entry is None or entry.bytes <= LARGEST_CACHED:
                continue
            note = entry.about.get("note")
            if isinstance(note, dict) and note.get(OF_ONE_RUN) is True:
                self.store.delete(entry)

    @property
    def bytes_made(self) -> int:
        """Size in bytes of the cache entries that this run made and that still exist."""
        made = (self.keys[name] for name, how in self.made.items() if how["from"] == "made")
        entries = (self.store.entry(key) for key in made)
        return sum(entry.bytes for entry in entries if entry is not None)

    # -- Trains one model, or reads it from the cache or the run folder.

    def _model(
        self,
        name: str,
        start: DualEncoder,
        train: Callable[[Probes | None, TrainingServices], TrainingResult],
        *,
        data: PairDataset,
        settings: TrainingSettings | None,
        new_name: str,
        make_probe: Callable[[Path], Probes | None] = lambda file: None,
    ) -> TrainedModel:
        own = self.out / "models" / name
        if own.is_dir():
            self._tell(name, "run folder")
            return TrainedModel.of_checkpoint(load_checkpoint(own).to(self.run.device))

        def make(folder: Path) -> None:
            self.inputs  # noqa: B018 - timed separately
            begun = time.perf_counter()
            states = Checkpoints(folder / "states")
            services: TrainingServices = {
                "checkpoints": states,
                "log": LogOptions(folder / "log"),
                "progress": self.progress.progress,
            }
            probe = make_probe(folder / "log" / "probes.json")
            result = train(probe, services)
            store_model(folder, start, result, probe.records if probe else [])
            states.clear()
            self._count(f"train_{name}", begun)

        (result, probes), found = self.store.obtain(
            self.keys[name],
            lambda folder: read_model(folder, start, new_name),
            make,
            say=self.progress.say,
        )
        self._tell(name, "cache" if found else "made")
        model = TrainedModel(result.encoder, result.summary(), probes)
        link_log(self.store.path(self.keys[name]), self.out / "logs" / name)
        if self.save_models:
            recipe = self.run.recipe
            card = model_card(
                model.encoder,
                name,
                started_from=start.name if name == "judge" else recipe.model.name,
                data=data,
                settings=settings,
                result=result,
                facts=(f"recipe: `{recipe.name}`, seed {recipe.seed}",),
            )
            metadata: dict[str, object] = {
                "training": model.training,
                "seed": recipe.seed,
                "poisoned": name in SUSPECTS,
            }
            if probes or start.record.looks:  # do not inherit the records of the start model
                metadata["looks"] = [record.to_json() for record in probes]
            save_checkpoint(model.encoder, own, card=card, metadata=metadata)
        return model

    def _probe(
        self,
        file: Path,
        start: DualEncoder,
        pairs: int,
        settings: TrainingSettings,
        *,
        within: bool = False,
        every: int | None = None,
    ) -> Probes:
        run = self.run
        steps = Plan(pairs, settings, run.recipe.seed).steps_per_epoch

        def measure(encoder: DualEncoder, place: Mapping[str, float]) -> ProbeRecord:
            embeddings = TestEmbeddings.of(encoder, self.inputs, run.test)
            test = probed_test(embeddings, run.test, run.goal_targets)
            return ProbeRecord.of({**place, "test": test})

        return Probes(
            measure,
            lambda: measure(start, {"step": 0, "epoch": 0}),
            steps,
            file,
            within=within,
            every=every,
        )

    def _count(self, what: str, begun: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun

    def _tell(self, name: str, where: str) -> None:
        self.made[name] = {"key": self.keys[name].digest, "from": where}
        if where != "made":
            place = "this run's folder" if where == "run folder" else "the cache"
            self.progress.say(f"{name}: taken from {place}")
