"""Runs a recipe: poison, fine-tune, defend, and measure every model."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmpoison._version import __version__
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import write_json
from mmpoison.base.progress import RunProgress, SilentProgress
from mmpoison.base.record import Record
from mmpoison.base.untrusted import read_json
from mmpoison.defenses.catalogue import DEFENSES
from mmpoison.errors import InputError
from mmpoison.models.compute_environment import compute_environment
from mmpoison.records.run_files import (
    Metrics,
    ProbeRecord,
    RepairBranch,
    RepairCurve,
    RobustTrainingFacts,
    RunFacts,
    ScanFacts,
)
from mmpoison.runs.check_model import CHECK_FILE, check_models
from mmpoison.runs.prepared_run import PreparedRun, prepare_run
from mmpoison.runs.recipe import Recipe
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_folder import check_folder, held_folder, record_finished, refuse_busy
from mmpoison.runs.run_measures import RunMeasures
from mmpoison.runs.run_stages import REORDERED, RunStages

MEASURED = "metrics"
"""Entry of `stages.json` whose key covers everything that the numbers depend on."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    progress: RunProgress | None = None,
    save_models: bool = True,
    device: torch.device | str = "cpu",
    run_cache: RunCache | None = None,
    evict: Collection[str] = (),
) -> Metrics:
    """Run a recipe into a run folder. A killed run resumes; a complete run is only read.

    The results of stages are cached, so neither this run nor another computes them twice.

    Args:
        recipe: The recipe.
        out: The run folder: new, empty, or from an earlier attempt with the same recipe.
        progress: Reports progress.
        save_models: Save the checkpoints in the run folder too.
        device: Device to compute on.
        run_cache: Data and models that earlier runs of this process have loaded.
        evict: Stages (`poisoned`, `filtered`, ...) that no other run needs. Their large results are
            deleted from the cache when the run is complete.

    Returns:
        The metrics, as written to `metrics.json`.

    Raises:
        InputError: If the recipe cannot be run on the data, or `out` holds something else.
    """
    progress, run_cache = progress or SilentProgress(), run_cache or RunCache()
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    check_folder(out, recipe)
    refuse_busy(out)
    with _timed(seconds, "data"):
        # refuse bad input before hours of training
        run = prepare_run(recipe, run_cache, progress, torch.device(device))
    stages = RunStages(
        run, out, ContentCache(), run_cache, progress, save_models, seconds, evict=evict
    )
    if (metrics := _complete_run(out, stages, run_cache)) is not None:
        progress.say(
            f"{out}: is complete, with the same recipe, data, models and code; nothing to compute"
        )
        return metrics
    stages.inputs  # noqa: B018 - refuse unreadable images now too
    # write nothing before all input has been accepted
    with held_folder(out, recipe):
        metrics = _make_run(run, stages, out, progress, run_cache, seconds)
        stages.evict_own()
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        record_finished(recipe, time.perf_counter() - begun, size + stages.bytes_made)
        return metrics


def note_refusal(recipe: Recipe, out: Path, error: Exception) -> None:
    """Complete a run whose input is refused: `metrics.json` gets the reason instead of numbers."""
    with held_folder(out, recipe):
        facts = RunFacts.of(
            {
                "recipe": recipe.name,
                "seed": recipe.seed,
                "tool_version": __version__,
                "goals": recipe.attack.goals,
                "attack": recipe.attack.name,
                "note": f"not possible: {' '.join(str(error).split())}",
            }
        )
        write_json(out / "metrics.json", Metrics(run=facts).to_json())


def _measured_key(stages: RunStages, run_cache: RunCache) -> CacheKey:
    """Return a key of everything that the numbers of a run depend on."""
    run, check = stages.run, stages.run.recipe.check
    checked_by = () if check is None else (DEFENSES[check.method],)
    others = [run_cache.pairs(part.data, run.recipe.seed) for part in run.recipe.transfer]
    return CacheKey(
        MEASURED,
        {
            "computed": compute_environment(run.device, *checked_by),
            "stages": {name: key.digest for name, key in stages.keys.items()},
            "transfer": [[pairs.fingerprint, run_cache.files(pairs)] for pairs in others],
        },
    )


def _complete_run(out: Path, stages: RunStages, run_cache: RunCache) -> Metrics | None:
    """Read the metrics of a complete run; None if it is incomplete or its input has changed."""
    recipe = stages.run.recipe
    files = ["metrics.json", "rank_lists.json", "manifest.json"]
    files += ["suspicious_pairs.json"] * (recipe.filter is not None)
    files += ["sterilize-curve.json"] * (recipe.sterilize is not None and recipe.sterilize.curve)
    files += [CHECK_FILE] * (recipe.check is not None)
    if not all((out / name).is_file() for name in files):
        return None
    trained = [name for name in stages.keys if name != "filter"]
    if stages.save_models and not all((out / "models" / name).is_dir() for name in trained):
        return None
    try:
        found = read_json(out / "stages.json")[MEASURED]["key"]
        if found != _measured_key(stages, run_cache).digest:
            return None
        return Metrics.read(out / "metrics.json")
    except (InputError, KeyError, TypeError):
        return None


def _make_run(
    run: PreparedRun,
    stages: RunStages,
    out: Path,
    progress: RunProgress,
    run_cache: RunCache,
    seconds: dict[str, float],
) -> Metrics:
    """Run the stages and measure the models; `metrics.json` is written last."""
    recipe = run.recipe
    _begin(run, out, progress)

    measures = RunMeasures(run, run_cache, progress)
    defences: dict[str, Record] = {}
    pretrained = stages.pretrained()
    models = {"pretrained": pretrained}
    # the poisoned model first, so that the user soon sees the effect of the poison
    poisoned = stages.trained("poisoned", pretrained.encoder, run.poisoned.select(split="train"))
    measures.say_first(poisoned.encoder, stages.inputs)
    clean = stages.trained("clean_model", pretrained.encoder, run.pairs.select(split="train"))
    models |= {"clean_model": clean, "poisoned": poisoned}
    reordered = None
    if REORDERED in stages.keys:
        order = run.poisoned.select(split="train")
        reordered = stages.trained(REORDERED, pretrained.encoder, order)
    if recipe.filter is not None:
        verdicts = stages.verdicts(pretrained.encoder)
        defences["filter"] = measures.judged(verdicts, out / "suspicious_pairs.json")
        models["filtered"] = stages.filtered(pretrained.encoder, verdicts)
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

    if (part := recipe.check) is not None:
        with _timed(seconds, "check"):
            encoders = {name: model.encoder for name, model in models.items()}
            checks = check_models(encoders, run.test, stages.inputs, part, recipe.seed, progress)
        flagged = {name: [str(found) for found in one.flagged] for name, one in checks.items()}
        findings = {name: one.result.findings for name, one in checks.items()}
        first = {name: found[0].to_json() for name, found in findings.items() if found}
        defences["scan"] = ScanFacts.of(
            {
                "method": part.method,
                **part.options,
                "flagged": flagged,
                "first": {
                    name: f"{one.get('captions')}2{one.get('images')}"
                    for name, one in first.items()
                },
                "p_value": {
                    name: min((one.p_value for one in found), default=1.0)
                    for name, found in findings.items()
                },
            }
        )
        write_json(out / CHECK_FILE, {name: one.to_json() for name, one in checks.items()})

    with _timed(seconds, "evaluate"):
        measured = measures.measured(models, stages.inputs, reordered)
        lists = measures.lists(measured)
    if recipe.training.epochs == 0:
        measures.flags.append(
            "nothing was trained (training.epochs is 0): every row is the model before the fine-tuning"
        )
    sections: dict[str, object] = measured.metrics.to_json()
    if recipe.transfer:
        with _timed(seconds, "transfer"):
            sections["transfer"] = {
                part.data.name: measures.transfer(models, part) for part in recipe.transfer
            }
    sections["run"] = measures.run_facts(models, measured, seconds=seconds, **defences)
    metrics = Metrics.of(sections, "metrics.json")
    # if images changed during the run, the numbers do not belong to any one data set
    run_cache.refuse_changed(run.pairs)
    measured_by = {"key": _measured_key(stages, run_cache).digest, "from": "measured"}
    write_json(out / "stages.json", {**stages.made, MEASURED: measured_by})
    write_json(out / "rank_lists.json", lists.to_json())
    if measured.embedding_map is not None:
        write_json(out / "embedding_map.json", measured.embedding_map.to_json())
    # last, because its presence means that the run is complete
    write_json(out / "metrics.json", metrics.to_json())
    return metrics


def repair_curve(probes: Iterable[ProbeRecord], learning_rate: float | None) -> RepairCurve:
    """Build the content of a run's `sterilize-curve.json`, measured on the test part.

    Args:
        probes: The probe records of the repair.
        learning_rate: Learning rate of the repair; None if it has none.
    """
    probes = [
        ProbeRecord.of({**record.to_json(), "utility": record.test.utility}) for record in probes
    ]
    return RepairCurve(
        branches=[RepairBranch(learning_rate=learning_rate, chosen=True, looks=probes)]
    )


def _begin(run: PreparedRun, out: Path, progress: RunProgress) -> None:
    manifest = run.poisoned.manifest
    assert manifest is not None
    manifest.write(out / "manifest.json")
    progress.say(
        f"{len(run.pairs.select(split='train')):,} training pairs; {', '.join(map(str, run.goal_targets))}: "
        f"{len(manifest.pairs)} poisoned pairs ({manifest.rate:.2%}, mode {manifest.mode})"
    )
    for note in manifest.notes:
        progress.say(note)


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[what] = seconds.get(what, 0.0) + time.perf_counter() - begun
