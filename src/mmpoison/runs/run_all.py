"""Runs the list of an experiment: every run in a worker, into one folder; failures are listed and not fatal.

What runs share (the aligned start, the clean model) is made once by the first of them: the content cache lets the
others wait for it.
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
from mmpoison.runs.finished import finished_like
from mmpoison.runs.recipe import Recipe
from mmpoison.runs.run_folder import check_folder
from mmpoison.runs.run_list import NamedRun, RunList

EXPERIMENT_FILE, RUNS = "experiment.yaml", "runs"
MAX_EXPERIMENT_BYTES = 16 << 20


class ExperimentFolder:
    """The folder of an experiment: `experiment.yaml`, a run folder for each run in `runs/`, and `failures.jsonl`.

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
        """Write `experiment.yaml`; what an earlier, other part of the same experiment listed stays in it.

        Raises:
            InputError: If the file that is there is broken.
        """
        new = {"name": experiment.name, "description": experiment.description, **experiment.about}
        about = _merged(experiment_about(self.out), new)
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        with atomic_file(self.out / EXPERIMENT_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def check(self, experiment: RunList) -> None:
        """Refuse a folder that is not this experiment's.

        Raises:
            InputError: If it holds something else, or a run of another recipe under the name of one of these.
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
    """Return the text of the `experiment.yaml` of a folder, or of a file of results; empty where it has none.

    Raises:
        InputError: If it is too large, or the file is no file of results.
    """
    if path.is_file():
        from mmpoison.reporting.results import described_in

        return described_in(path)
    file = path / EXPERIMENT_FILE
    return read_text(file, MAX_EXPERIMENT_BYTES) if file.is_file() else ""


def experiment_about(path: Path) -> dict[str, Any]:
    """Read what `experiment_text` returns; empty where it has none.

    Raises:
        InputError: As `experiment_text`, or if it is broken.
    """
    value = parse_yaml(experiment_text(path) or "{}", path / EXPERIMENT_FILE)
    if not isinstance(value, dict):
        raise InputError(
            f"{path / EXPERIMENT_FILE}: is broken: delete it; the runs next to it are kept"
        )
    return value


def _merged(found: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, the keys that are there first."""
    both = {**found, **new}
    return {
        key: _merged(found[key], value)
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        else value
        for key, value in both.items()
    }


HANDFUL = 10
"""Maximum number of goals with which all models stay in the cache."""

SHARED = {"seed", "data", "model", "training"}
"""What the data and the clean model of a run depend on, as groups of the recipe."""

POISONED_BY = {*SHARED, "attack", "study", "share_features"}
"""What its poisoned model depends on."""


def evicted_stages(experiment: RunList, *, save_models: bool) -> dict[str, frozenset[str]]:
    """Return by run the stages whose results leave the cache when it is complete.

    That is so with more than `HANDFUL` goals, unless models are saved: each run deletes what its poison alone needs,
    and the last run of a poisoned model deletes this too. Only results of more than `LARGEST_CACHED` bytes leave.

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

    The results do not depend on the number of workers nor on where they are. They may depend, in the last bits, on the
    threads of each worker and on its kind of CPU.

    Args:
        experiment: The runs.
        out: The folder: new, empty, or of an earlier try.
        workers: Processes, each with one run at a time; None for one a GPU, or as many as cores.
        threads: Threads of each.
        retries: How often a run is repeated that crashed or met an error of the machine; an input that is refused is
            not tried again.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where the workers compute: `auto`, `cpu`, `cuda` (each on one GPU, in turn) or `cuda:N`.
        save_models: Save the checkpoints in the run folders; by default what the recipe says. Where they are not
            saved and there are many goals, large models of single goals leave the cache too (`evicted_stages`).
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If the folder is another experiment's, or there is no such device or cluster.
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
    """One run of an experiment, as a worker gets it (`mmpoison.base.workers.Task`).

    Attributes:
        id: The run's id.
        recipe: The whole recipe.
        out: The run folder.
        save_models: Save the checkpoints in the run folder.
        device: Where to compute, as the worker finds it (`find_device`).
        evict: Stages whose results leave the cache when the run is complete.
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
        """What it shares with others: data and clean model, then the poisoned model."""
        return _depends(self.recipe, SHARED), _depends(self.recipe, POISONED_BY)

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Run the recipe, if nobody else has done it."""
        from mmpoison.runs.run import note_refusal, run_recipe
        from mmpoison.runs.run_cache import shared_cache

        if (self.out / "metrics.json").is_file():
            return
        recipe, run_cache, device = self.recipe, shared_cache(shared), find_device(self.device)
        if self.note_refusals:
            # what stops every run is no note
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


# -- What is to do, before any of it is done: by the runs that finished here.


@dataclass(frozen=True)
class Forecast:
    """What the runs that remain will take, by runs like them that finished here.

    Attributes:
        total: Runs in all.
        done: Complete already.
        unknown: Runs to do whose like never finished here.
        seconds: Of the others, in one worker.
        bytes: What the others will leave on the disk.
    """

    total: int
    done: int
    unknown: int = 0
    seconds: float = 0.0
    bytes: int = 0


def forecast(experiment: RunList, out: Path) -> Forecast:
    """Say what the runs of an experiment that remain will take; nothing is loaded.

    Raises:
        InputError: If the folder is another experiment's.
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
