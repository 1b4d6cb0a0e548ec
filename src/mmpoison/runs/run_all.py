"""Runs all runs of an experiment in workers, into one folder. Failures are listed and not fatal.

Shared stages (the aligned model, the clean model) are computed once: the first run to need one
computes it, and the content cache makes the others wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmpoison.base.files import atomic_file, occupied_by_others, refuse_special
from mmpoison.base.processes import find_device
from mmpoison.base.progress import RunProgress
from mmpoison.base.untrusted import parse_yaml, read_text
from mmpoison.base.workers import OnChange, SweepState, place_workers, run_tasks
from mmpoison.errors import InputError, ResultError, WorkStopped
from mmpoison.runs.recipe import Recipe
from mmpoison.runs.run_folder import check_folder, finished_like
from mmpoison.runs.run_list import NamedRun, RunList

EXPERIMENT_FILE, RUNS = "experiment.yaml", "runs"
MAX_EXPERIMENT_BYTES = 16 << 20


class ExperimentFolder:
    """The folder of an experiment: `experiment.yaml`, run folders in `runs/`, and `failures.jsonl`.

    Args:
        out: The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of one run."""
        return self.out / RUNS / run_id

    def is_done(self, run_id: str) -> bool:
        """Return whether a run is complete."""
        return (self.run_folder(run_id) / "metrics.json").is_file()

    def claim(self, experiment: RunList) -> None:
        """Write `experiment.yaml`, merged with the existing one of another part of the experiment.

        Raises:
            InputError: If the existing file is broken.
        """
        new = {"name": experiment.name, "description": experiment.description, **experiment.about}
        about = _merged(experiment_about(self.out), new)
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        with atomic_file(self.out / EXPERIMENT_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def check(self, experiment: RunList) -> None:
        """Refuse a folder that does not belong to this experiment.

        Raises:
            InputError: If it holds something else, or one of the run folders is of another recipe.
        """
        refuse_special(self.out)
        if self.out.is_file():
            raise InputError(f"{self.out}: is a file, not a folder: choose another --out")
        if occupied_by_others(self.out / EXPERIMENT_FILE):
            raise InputError(
                f"{self.out}: contains something other than an experiment: choose another --out"
            )
        for run in experiment.runs:
            check_folder(self.run_folder(run.id), run.recipe)

    def missing(self, experiment: RunList) -> list[NamedRun]:
        """Return the runs that are not complete."""
        return [run for run in experiment.runs if not self.is_done(run.id)]


def experiment_text(path: Path) -> str:
    """Return the text of `experiment.yaml` from a folder or a file of results; empty without one.

    Raises:
        InputError: If it is too large, or the file is not a file of results.
    """
    if path.is_file():
        from mmpoison.reporting.results import described_in

        return described_in(path)
    file = path / EXPERIMENT_FILE
    return read_text(file, MAX_EXPERIMENT_BYTES) if file.is_file() else ""


def experiment_about(path: Path) -> dict[str, Any]:
    """Parse `experiment_text`; empty without one.

    Raises:
        InputError: As `experiment_text`, or if the text is broken.
    """
    value = parse_yaml(experiment_text(path) or "{}", path / EXPERIMENT_FILE)
    if not isinstance(value, dict):
        raise InputError(
            f"{path / EXPERIMENT_FILE}: is broken: delete it; the runs next to it are kept"
        )
    return value


def _merged(found: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; existing keys come first, and new values replace old ones."""
    both = {**found, **new}
    return {
        key: _merged(found[key], value)
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        else value
        for key, value in both.items()
    }


HANDFUL = 10
"""Largest number of goals for which all models stay in the cache."""

SHARED = {"seed", "data", "model", "training"}
"""Keys of the recipe that determine a run's data and clean model."""

POISONED_BY = {*SHARED, "attack", "study", "share_features"}
"""Keys of the recipe that determine its poisoned model."""


def evicted_stages(experiment: RunList, *, save_models: bool) -> dict[str, frozenset[str]]:
    """Return the stages that each run deletes from the cache when it is complete, by run.

    Nothing is deleted with at most `HANDFUL` goals, or if models are saved. Otherwise each run
    deletes the stages that depend on its own poison. The last run with a poisoned model also
    deletes that model. Results of at most `LARGEST_CACHED` bytes stay (`mmpoison.runs.run_stages`).

    Args:
        experiment: The runs.
        save_models: Whether checkpoints are saved in the run folders.
    """
    from mmpoison.runs.run_stages import OWN  # imports torch, which a dry run does not need

    goals = {json.dumps(run.recipe.attack.goal) for run in experiment.runs}
    if save_models or len(goals) <= HANDFUL:
        return {}
    last = {_depends(run.recipe, POISONED_BY): run.id for run in experiment.runs}
    own = frozenset(OWN)
    return {
        run.id: own if run.id in last.values() else own - {"poisoned"} for run in experiment.runs
    }


def _depends(recipe: Recipe, groups: set[str]) -> str:
    return json.dumps(recipe.model_dump(mode="json", include=groups), sort_keys=True)


def run_all(
    experiment: RunList,
    out: Path,
    *,
    workers: int | None = 1,
    threads: int = 1,
    retries: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    save_models: bool | None = None,
    on_change: OnChange = lambda state: None,
) -> SweepState:
    """Run all runs of an experiment that are not complete.

    The results do not depend on the number of workers or their location. Their last bits may depend
    on the number of threads per worker and on the kind of CPU.

    Args:
        experiment: The runs.
        out: The folder: new, empty, or from an earlier attempt.
        workers: Number of processes, each with one run at a time; None means one per GPU, or as
            many as this machine's cores can serve.
        threads: Threads per worker.
        retries: Number of retries after a crash or a machine error. Refused input is not retried.
        ray: Address of a Ray cluster to run on, or `local`; by default processes of this machine.
        device: Device of the workers: `auto`, `cpu`, `cuda` (one GPU each, in turn) or `cuda:N`.
        save_models: Save the checkpoints in the run folders; None takes the recipe's choice. If
            models are not saved and there are many goals, large models of single goals are deleted
            from the cache too (`evicted_stages`).
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If the folder belongs to another experiment, or there is no such device or
            cluster.
    """
    folder = ExperimentFolder(out)
    folder.check(experiment)
    missing = folder.missing(experiment)
    keep = experiment.save_models if save_models is None else save_models
    evicted = evicted_stages(experiment, save_models=keep)
    placement = place_workers(workers, device, threads=threads, ray=ray)
    tasks = [
        RunTask(
            run.id,
            run.recipe,
            folder.run_folder(run.id),
            keep,
            placement.device,
            evicted.get(run.id, frozenset()),
            experiment.note_refusals,
        )
        for run in missing
    ]
    state = SweepState(len(experiment.runs), found=len(experiment.runs) - len(missing))
    return run_tasks(
        tasks,
        state,
        folder.out,
        placement,
        claim=lambda: folder.claim(experiment),
        is_done=folder.is_done,
        retries=retries,
        on_change=on_change,
    )


@dataclass(frozen=True)
class RunTask:
    """One run of an experiment, as a worker's task (`mmpoison.base.workers.Task`).

    Attributes:
        id: The run's id.
        recipe: The whole recipe.
        out: The run folder.
        save_models: Save the checkpoints in the run folder.
        device: Name of the device, which the worker resolves with `find_device`.
        evict: Stages to delete from the cache when the run is complete.
        note_refusals: As for `RunList`.
    """

    id: str
    recipe: Recipe
    out: Path
    save_models: bool
    device: str
    evict: frozenset[str] = frozenset()
    note_refusals: bool = False

    @cached_property
    def group(self) -> tuple[str, ...]:
        """What the run shares with others: data and clean model, then the poisoned model."""
        return _depends(self.recipe, SHARED), _depends(self.recipe, POISONED_BY)

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Run the recipe, unless the run is complete."""
        from mmpoison.runs.run import note_refusal, run_recipe
        from mmpoison.runs.run_cache import shared_cache

        if (self.out / "metrics.json").is_file():
            return
        recipe, run_cache, device = self.recipe, shared_cache(shared), find_device(self.device)
        if self.note_refusals:
            # an error that stops every run must not become a note
            run_cache.pairs(recipe.data, recipe.seed)
            run_cache.encoder(recipe.model.name, device=device)
        try:
            run_recipe(
                recipe,
                self.out,
                progress=progress,
                save_models=self.save_models,
                device=device,
                run_cache=run_cache,
                evict=self.evict,
            )
        except (InputError, ResultError) as error:
            if not self.note_refusals or isinstance(error, WorkStopped):
                raise
            note_refusal(recipe, self.out, error)


# -- Estimates the remaining work from similar runs that finished on this machine.


@dataclass(frozen=True)
class Forecast:
    """The estimated time and disk space of the remaining runs.

    Attributes:
        total: Number of runs.
        done: Number of complete runs.
        unknown: Number of remaining runs without an estimate: no similar run finished here.
        seconds: Estimated time of the other remaining runs, in one worker.
        bytes: Estimated disk space of the other remaining runs.
    """

    total: int
    done: int
    unknown: int = 0
    seconds: float = 0.0
    bytes: int = 0


def forecast(experiment: RunList, out: Path) -> Forecast:
    """Estimate the time and disk space of an experiment's remaining runs, without loading data.

    Raises:
        InputError: If the folder belongs to another experiment.
    """
    folder = ExperimentFolder(out)
    folder.check(experiment)
    missing = folder.missing(experiment)
    found = [finished_like(run.recipe) for run in missing]
    known = [one for one in found if one is not None]
    return Forecast(
        len(experiment.runs),
        len(experiment.runs) - len(missing),
        len(found) - len(known),
        sum(one.seconds for one in known),
        sum(one.bytes for one in known),
    )
