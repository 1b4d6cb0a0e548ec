"""Runs a recipe: poison, fine-tune, defend, and measure every model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmpoison.base.files import write_json
from mmpoison.base.record import Record
from mmpoison.evaluation.record import Metrics, RobustTrainingFacts, ScanFacts
from mmpoison.runs.measuring_cost import keep_measuring_time
from mmpoison.runs.prepared_run import PreparedRun, prepare_run
from mmpoison.runs.progress import Monitor, SilentMonitor
from mmpoison.runs.recipe import Recipe
from mmpoison.runs.run_cache import Material
from mmpoison.runs.run_folder import check_folder, held_folder
from mmpoison.runs.run_measures import RunMeasures
from mmpoison.runs.run_stages import RunStages
from mmpoison.runs.scan_model import SCAN_FILE, scan_models
from mmpoison.runs.store import StageStore
from mmpoison.runs.training_probe import repair_curve


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    monitor: Monitor | None = None,
    save_models: bool = True,
    device: torch.device | str = "cpu",
    material: Material | None = None,
) -> Metrics:
    """Run a recipe into a run folder; a run that was killed resumes.

    The results of its stages are cached: none is computed twice, by this run or another.

    Args:
        recipe: What to do.
        out: The run folder: new, empty, or of an earlier try of the same recipe.
        monitor: Reports the progress.
        save_models: Keep the checkpoints in the run folder too.
        device: Where to compute.
        material: What earlier runs of this process have loaded.

    Returns:
        The metrics, as written to `metrics.json`.

    Raises:
        InputError: If the recipe cannot be run on the data, or `out` holds something else.
    """
    monitor, material = monitor or SilentMonitor(), material or Material()
    seconds: dict[str, float] = {}
    check_folder(out, recipe)
    with _timed(seconds, "data"):
        # everything that can be refused is refused before hours of training
        run = prepare_run(recipe, material, monitor, torch.device(device))
    stages = RunStages(run, out, StageStore(), material, monitor, save_models, seconds)
    stages.inputs  # noqa: B018 - an image that cannot be read is refused now too
    # nothing is written before all of it has been accepted
    with held_folder(out, recipe):
        return _make_run(run, stages, out, monitor, material, seconds)


def _make_run(
    run: PreparedRun,
    stages: RunStages,
    out: Path,
    monitor: Monitor,
    material: Material,
    seconds: dict[str, float],
) -> Metrics:
    """Make the stages of a run and measure its models; `metrics.json` is written last."""
    recipe = run.recipe
    _begin(run, out, monitor)

    measures = RunMeasures(run, material, monitor)
    defences: dict[str, Record] = {}
    pretrained = stages.pretrained()
    models = {"pretrained": pretrained}
    for name, data in (("clean_model", run.pairs), ("poisoned", run.poisoned)):
        models[name] = stages.trained(name, pretrained.encoder, data.select(split="train"))
    if recipe.filter is not None:
        verdicts = stages.verdicts(pretrained.encoder)
        defences["filter"] = measures.judged(verdicts, out / "suspicious_pairs.json")
        kept = run.poisoned.select(split="train").where(verdicts.keep)
        models["filtered"] = stages.trained("filtered", pretrained.encoder, kept)
    if (robust := recipe.robust_training) is not None:
        train = run.poisoned.select(split="train")
        models["robust"] = stages.trained("robust", pretrained.encoder, train)
        defences["robust_training"] = RobustTrainingFacts.of(
            {"method": robust.method, **robust.options}
        )
    if recipe.sterilize is not None:
        models["sterilized"], defences["sterilize"] = stages.sterilized(models["poisoned"].encoder)
        if recipe.sterilize.curve:
            settings = recipe.sterilize.training
            rate = None if settings is None else settings.learning_rate
            curve = repair_curve(models["sterilized"].probes, rate)
            write_json(out / "sterilize-curve.json", curve.to_json())

    if (part := recipe.scan) is not None:
        with _timed(seconds, "scan"):
            encoders = {name: model.encoder for name, model in models.items()}
            scans = scan_models(encoders, run.test, stages.inputs, part, recipe.seed, monitor)
        flagged = {name: [str(found) for found in scan.flagged] for name, scan in scans.items()}
        defences["scan"] = ScanFacts.of({"method": part.method, **part.options, "flagged": flagged})
        write_json(out / SCAN_FILE, {name: scan.to_json() for name, scan in scans.items()})

    with _timed(seconds, "evaluate"):
        measured = measures.measured(models, stages.inputs)
        lists = measures.lists(measured)
    sections: dict[str, object] = measured.metrics.to_json()
    if recipe.transfer:
        with _timed(seconds, "transfer"):
            sections["transfer"] = {
                part.data.name: measures.transfer(models, part) for part in recipe.transfer
            }
    keep_measuring_time(run, material, seconds["evaluate"] + seconds.get("transfer", 0.0))
    sections["run"] = measures.run_facts(models, measured, seconds=seconds, **defences)
    metrics = Metrics.of(sections, "metrics.json")
    # numbers of a set that was another one in the middle would be of no set
    material.refuse_changed(run.pairs)
    write_json(out / "stages.json", stages.made)
    write_json(out / "rank_lists.json", lists.to_json())
    if measured.embedding_map is not None:
        write_json(out / "embedding_map.json", measured.embedding_map.to_json())
    # last, because its presence says that the run is complete
    write_json(out / "metrics.json", metrics.to_json())
    return metrics


def make_shared(
    recipe: Recipe,
    *,
    monitor: Monitor,
    device: torch.device | str = "cpu",
    material: Material,
) -> None:
    """Make the stages of a recipe that do not depend on the attack, for runs that differ in the attack alone.

    Args:
        recipe: One of them.
        monitor: Reports the progress.
        device: Where to compute.
        material: What this process has loaded.

    Raises:
        InputError: As `run_recipe`.
    """
    run = prepare_run(recipe, material, monitor, torch.device(device))
    # no run folder: nothing of it is looked for or written there
    stages = RunStages(run, None, StageStore(), material, monitor, save_models=False)
    pretrained = stages.pretrained()
    if "epochs" not in recipe.study:  # what is measured on the way depends on the goal
        stages.trained("clean_model", pretrained.encoder, run.pairs.select(split="train"))


def _begin(run: PreparedRun, out: Path, monitor: Monitor) -> None:
    manifest = run.poisoned.manifest
    assert manifest is not None
    manifest.write(out / "manifest.json")
    monitor.say(
        f"{len(run.pairs.select(split='train')):,} training pairs; {', '.join(map(str, run.goal_targets))}: "
        f"{len(manifest.pairs)} poisoned pairs ({manifest.rate:.2%}, mode {manifest.mode})"
    )


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - begun
