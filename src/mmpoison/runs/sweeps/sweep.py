"""Runs a sweep: every run in a worker, failures listed and not fatal.

What runs share (the aligned start, the clean model) is made once by the first of them: the content cache lets the
others wait for it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import atomic_file, occupied_by_others, plain_name, refuse_special
from mmpoison.base.processes import find_device
from mmpoison.base.progress import Progress, RunProgress, SilentProgress
from mmpoison.base.untrusted import read_yaml
from mmpoison.base.workers import (
    OnChange,
    SweepState,
    place_workers,
    run_tasks,
)
from mmpoison.errors import InputError
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.recipe import Recipe, SweepPart, parse_recipe, resolve_recipe, set_key, within
from mmpoison.runs.recipe_files import read_recipe
from mmpoison.runs.run_cache import RunCache, shared_cache
from mmpoison.runs.run_folder import check_folder
from mmpoison.runs.run_stages import LARGEST_CACHED, SUSPECTS, stage_keys

# -- A sweep as the list of its runs: each a whole recipe with a name and the parameters that set it apart.


GOAL, SEED = "attack.goal", "seed"
MOST_RUNS = 20_000
LONGEST_ID = 120

Classes = Callable[[Recipe], Sequence[str]]
"""The classes between which a recipe's data allow goals."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        id: Its name, and that of its run folder: letters, digits and `-_.=+`.
        recipe: Its whole recipe.
        parameters: In what it differs from the others: `variant`, dotted keys of the grid, `attack.goal`, `seed`.
    """

    id: str
    recipe: Recipe
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep.

    Attributes:
        base: The recipe without what the runs differ in.
        part: Its section `sweep`.
        runs: In the order variant, grid, goal, seed; the seed moves fastest.
    """

    base: Recipe
    part: SweepPart
    runs: tuple[SweepRun, ...]


def load_sweep(
    name_or_path: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] | None = None,
    goals: Any = None,
    classes: Classes,
) -> Sweep:
    """Load a recipe and make the list of its runs; one without a section `sweep` is a sweep of one run.

    Args:
        name_or_path: As for `load_recipe`.
        changes: Dotted keys to values, for all runs: they win over the grid and the variants (`override`).
        grid: More of the section's `grid`; a key that is there already is replaced.
        seeds: In the place of the section's.
        goals: In the place of the section's.
        classes: Called where the goals are `all`.

    Raises:
        InputError: As `load_recipe`; for a key of the grid or of a variant too.
    """
    changes = dict(changes or {})
    value, where = read_recipe(name_or_path)
    for key in [key for key in changes if key == "sweep" or key.startswith("sweep.")]:
        set_key(value, key, changes.pop(key))
    section = value.get("sweep") or {}
    if isinstance(section, dict):
        section = dict(section)
        for name, given in (("seeds", seeds), ("goals", goals)):
            if given is not None:
                section[name] = given
        listed = section.get("grid") or {}
        if grid and isinstance(listed, dict):
            section["grid"] = {**listed, **grid}
        value["sweep"] = section
    # its own mistakes, before those of the runs
    parse_recipe({**value, "preset": None}, where)
    part = SweepPart.model_validate(value.pop("sweep"))
    per_run = {*(grid or ())} | ({GOAL} if goals is not None else set())
    part = _without(part, {*changes} - per_run, per_run)
    _refuse_too_many(part, where)
    base = resolve_recipe(copy.deepcopy(value), changes, where)
    runs = list(_runs(value, changes, part, base, where, classes, per_run))
    labels = _labels(part.grid)
    names = [_id(run.parameters, labels) for run in runs]
    several = Counter(names)
    unique = [
        name if several[name] == 1 else f"{name}-{_short_digest(run.parameters)}"
        for name, run in zip(names, runs, strict=True)
    ]
    named = tuple(
        SweepRun(name, run.recipe, run.parameters) for name, run in zip(unique, runs, strict=True)
    )
    return Sweep(base, part, named)


def _refuse_too_many(part: SweepPart, where: str) -> None:
    """Refuse a sweep with too many runs, before its list is built.

    Raises:
        InputError: If there are more than `MOST_RUNS`.
    """
    goals = part.goals if isinstance(part.goals, list) else [None]
    lists = [part.variants, goals, part.seeds, *part.grid.values()]
    count = math.prod(max(1, len(listed)) for listed in lists)
    if count > MOST_RUNS:
        raise InputError(
            f"{where}: sweep: {count:,} runs are over the limit of {MOST_RUNS:,}: leave values, goals or seeds out"
        )


def _without(part: SweepPart, keys: set[str], per_run: set[str]) -> SweepPart:
    """Return the grid, the goals and the seeds without the keys that are given for all runs.

    A key that the same command line gives for some of the runs (`per_run`) stays also where it gives the whole group.
    """

    def given(key: str) -> bool:
        return key in keys or (within(key, keys) and key not in per_run)

    return part.model_copy(
        update={
            "seeds": [] if SEED in keys else part.seeds,
            "goals": None if given(GOAL) else part.goals,
            "grid": {key: values for key, values in part.grid.items() if not given(key)},
        }
    )


def _runs(
    value: dict[str, Any],
    changes: Mapping[str, Any],
    part: SweepPart,
    base: Recipe,
    where: str,
    classes: Classes,
    per_run: set[str],
) -> Iterator[SweepRun]:
    for name, own in part.variants.items() or [(None, None)]:
        said = f"{where}: sweep" + ("" if name is None else f".variants.{name}")
        for values in itertools.product(*part.grid.values()):
            point = dict(zip(part.grid, values, strict=True))
            parameters = {**({} if name is None else {"variant": name}), **point}
            here = _resolve(value, changes, own or {}, point, per_run, said)
            for goal in _goals(part, here, classes):
                for seed in part.seeds or [here.seed]:
                    last = {**({} if goal is None else {GOAL: goal}), SEED: seed}
                    recipe = _resolve(value, changes, own or {}, {**point, **last}, per_run, said)
                    yield SweepRun("", recipe, {**parameters, **last})


def _resolve(
    value: dict[str, Any],
    changes: Mapping[str, Any],
    own: Mapping[str, Any],
    point: Mapping[str, Any],
    per_run: set[str],
    where: str,
) -> Recipe:
    """Resolve the recipe of one variant (`own`) at one point; the point's keys `per_run` are from the command line."""
    given = {**changes, **{key: new for key, new in point.items() if key in per_run}}
    of_file = {**own, **{key: new for key, new in point.items() if key not in per_run}}
    return resolve_recipe(copy.deepcopy(value), given, where, of_file)


def _goals(part: SweepPart, recipe: Recipe, classes: Classes) -> list[Any]:
    if part.goals != "all":
        return list(part.goals) if part.goals is not None else [None]
    names = classes(recipe)
    goals = [f"{a}2{b}" for a in names for b in names if a != b]
    if len(goals) > MOST_RUNS:
        raise InputError(
            f"sweep.goals is all, and data {recipe.data.name!r} have {len(names):,} classes: list the goals"
        )
    if not goals:
        raise InputError(f"sweep.goals is all, and data {recipe.data.name!r} have no two classes")
    return goals


# -- names -------------------------------------------------------------------------------------------------------


def _id(parameters: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    parts = []
    for key, value in parameters.items():
        if key == SEED:
            parts.append(f"seed{value}")
        elif key in ("variant", GOAL):
            parts.append(plain_name(value))
        else:
            parts.append(f"{labels[key]}={plain_name(value)}")
    name = "-".join(parts)
    if len(name) <= LONGEST_ID:
        return name
    return f"{name[: LONGEST_ID - 9]}-{_short_digest(parameters)}"


def _labels(keys: Mapping[str, Any]) -> dict[str, str]:
    """Shorten dotted keys to the shortest endings that distinguish them.

    >>> _labels({"training.epochs": 0, "sterilize.training.epochs": 0, "attack.samples": 0})
    {'training.epochs': 'training.epochs', 'sterilize.training.epochs': 'sterilize.training.epochs', \
'attack.samples': 'samples'}
    """
    ends = Counter(key.rsplit(".", 1)[-1] for key in keys)
    return {key: end if ends[end := key.rsplit(".", 1)[-1]] == 1 else key for key in keys}


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


# -- Decides which runs of a sweep delete their models from the cache when they are complete.


HANDFUL = 10
"""With at most so many goals, all models stay in the cache."""

POISONED_BY = {"seed", "data", "model", "attack", "training", "study"}
"""What a poisoned model depends on, as groups of the recipe."""


def evicting_runs(sweep: Sweep, *, save_models: bool) -> frozenset[str]:
    """Return the ids of runs whose own models leave the cache when they are complete.

    That is so in a sweep over more than `HANDFUL` goals, unless models are saved. A run whose poisoned model serves
    another run of the sweep too (two filters of one goal) is not among them. Of the runs that are, only results of
    more than `LARGEST_CACHED` bytes leave.

    Args:
        sweep: The runs.
        save_models: Whether checkpoints are saved in the run folders.
    """
    goals = {json.dumps(run.parameters[GOAL]) for run in sweep.runs if GOAL in run.parameters}
    if save_models or len(goals) <= HANDFUL:
        return frozenset()
    poisoned = {run.id: _poisoned_by(run.recipe) for run in sweep.runs}
    count = Counter(poisoned.values())
    return frozenset(name for name, model in poisoned.items() if count[model] == 1)


def saves_models(sweep: Sweep, save_models: bool | None) -> bool:
    """Return whether checkpoints are saved in the run folders: as asked, by default as the recipe says."""
    return sweep.part.models if save_models is None else save_models


def _poisoned_by(recipe: Recipe) -> str:
    return json.dumps(recipe.model_dump(mode="json", include=POISONED_BY), sort_keys=True)


# -- The folder of a sweep: `sweep.yaml`, a run folder for each run in `runs/`, and `failures.jsonl`.


SWEEP_FILE, RUNS = "sweep.yaml", "runs"
MAX_SWEEP_BYTES = 16 << 20
"""A list of some ten thousand runs."""


class SweepFolder:
    """The folder of a sweep's runs.

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

    def claim(self, sweep: Sweep) -> None:
        """Write `sweep.yaml`; runs of an earlier, smaller sweep of the same recipe stay listed.

        The folder has been checked.

        Raises:
            InputError: If the `sweep.yaml` that is there is broken.
        """
        runs = {**self._listed(), **{run.id: run.parameters for run in sweep.runs}}
        value = {
            "name": sweep.base.name,
            "description": sweep.base.description,
            "recipe": sweep.base.model_dump(mode="json", exclude={"sweep"}),
            "runs": runs,
        }
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        with atomic_file(self.out / SWEEP_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def check(self, sweep: Sweep) -> None:
        """Refuse a folder that is not this sweep's.

        Raises:
            InputError: If it holds something else, or a run of another recipe under the name of one of these.
        """
        refuse_special(self.out)
        if self.out.is_file():
            raise InputError(f"{self.out}: is a file, a folder is needed: choose another --out")
        if occupied_by_others(self.out / SWEEP_FILE):
            raise InputError(
                f"{self.out}: holds something that is not a sweep: choose another --out"
            )
        for run in sweep.runs:
            check_folder(self.run_folder(run.id), run.recipe)

    def missing(self, sweep: Sweep) -> list[SweepRun]:
        """Return the runs that are not complete."""
        return [run for run in sweep.runs if not self.is_done(run.id)]

    def _listed(self) -> dict[str, Any]:
        file = self.out / SWEEP_FILE
        if not file.exists():
            return {}
        value = read_yaml(file, MAX_SWEEP_BYTES) or {}
        runs = value.get("runs", {}) if isinstance(value, dict) else None
        if not isinstance(runs, dict) or not all(map(_is_run_id, runs)):
            raise InputError(f"{file}: is broken: delete it, the runs next to it stay")
        return {
            name: parameters for name, parameters in runs.items() if self.run_folder(name).is_dir()
        }


def _is_run_id(name: Any) -> bool:
    """Return whether a name is one folder: it becomes part of a path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


# -- Says what a sweep would do: which stages are cached and which are to run, and what the latter will
# take.


LOOKED_AT = 12
"""So many runs are looked at for their stages; more are estimated from them."""


@dataclass
class StagePlan:
    """All stages of one name.

    Attributes:
        cached: How many are cached.
        to_run: How many are not.
        seconds: What these will take in one worker; None if no stage like them has been made here.
        bytes: What these will leave on the disk; None likewise.
    """

    cached: int
    to_run: int
    seconds: float | None
    bytes: float | None


@dataclass
class SweepPlan:
    """A list of the stages that a sweep would run or read from the cache.

    Attributes:
        runs: In all.
        done: Complete already.
        looked_at: Runs whose stages were looked at.
        stages: By name, in order, of all missing runs.
    """

    runs: int
    done: int
    looked_at: int
    stages: dict[str, StagePlan] = field(default_factory=dict)


def plan_sweep(
    sweep: Sweep,
    out: Path | None,
    *,
    threads: int = 1,
    device: str = "cpu",
    save_models: bool | None = None,
    on_look: Progress = lambda done, total: None,
) -> SweepPlan:
    """List the stages of a sweep's runs, cached or still to run, without running any.

    Args:
        sweep: The runs.
        out: Its folder, which may hold complete ones.
        threads: Of a worker.
        device: Where it computes.
        save_models: As for `run_sweep`.
        on_look: Called with (done, total).

    Raises:
        InputError: If a run that is looked at cannot be run, or the folder is another sweep's.
    """
    missing: list[SweepRun] = list(sweep.runs)
    if out is not None:
        folder = SweepFolder(out)
        folder.check(sweep)
        missing = folder.missing(sweep)
    looked = missing[:: max(1, -(-len(missing) // LOOKED_AT))]
    plan = SweepPlan(len(sweep.runs), len(sweep.runs) - len(missing), len(looked))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        keys = _keys(looked, device, on_look)
    finally:
        torch.set_num_threads(before)
    cache = ContentCache()
    paces = _paces(cache)
    evicting = evicting_runs(sweep, save_models=saves_models(sweep, save_models))
    leaving = SUSPECTS if all(run.id in evicting for run in looked) else ()
    for name, distinct in keys.items():
        to_run = [key for key in distinct.values() if key not in cache]
        # a stage that the runs share does not grow with their number
        grow = len(missing) / len(looked) if len(distinct) == len(looked) else 1.0
        seconds: float | None = 0.0
        size: float | None = 0.0
        for key in to_run:
            pace = paces.get(key.note["like"])
            seconds = (
                None if pace is None or seconds is None else seconds + pace[0] * key.note["work"]
            )
            leaves = pace is not None and name in leaving and pace[1] > LARGEST_CACHED
            size = None if pace is None or size is None else size + (0.0 if leaves else pace[1])
        plan.stages[name] = StagePlan(
            round(grow * (len(distinct) - len(to_run))),
            round(grow * len(to_run)),
            None if seconds is None else grow * seconds,
            None if size is None else grow * size,
        )
    return plan


def _keys(runs: list[SweepRun], device: str, on_look: Progress) -> dict[str, dict[str, CacheKey]]:
    """Return the keys of all stages, by name and digest."""
    run_cache = RunCache()
    found: dict[str, dict[str, CacheKey]] = {}
    for number, run in enumerate(runs):
        prepared = prepare_run(run.recipe, run_cache, SilentProgress(), torch.device(device))
        for name, key in stage_keys(prepared, run_cache).items():
            found.setdefault(name, {})[key.digest] = key
        on_look(number + 1, len(runs))
    return found


def _paces(cache: ContentCache) -> dict[str, tuple[float, float]]:
    """Return seconds a unit of work, and bytes, of the stages that ran on this machine, by `like` (`stage_note`)."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for entry in [*cache.entries("stages/finetune"), *cache.entries("stages/filter")]:
        note, seconds = entry.about.get("note"), entry.about.get("seconds")
        if isinstance(note, dict) and isinstance(seconds, int | float) and note.get("work"):
            seen.setdefault(str(note.get("like")), []).append(
                (seconds / float(note["work"]), float(entry.bytes))
            )
    return {
        pace: (statistics.median(s for s, _ in costs), statistics.median(b for _, b in costs))
        for pace, costs in seen.items()
    }


def run_sweep(
    sweep: Sweep,
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
    """Run all runs of a sweep that are not complete.

    The results do not depend on the number of workers nor on where they are. They may depend, in the last bits, on the
    threads of each worker and on its kind of CPU.

    Args:
        sweep: The runs.
        out: The folder: new, empty, or of an earlier try.
        workers: Processes, each with one run at a time; None for one a GPU, or as many as cores.
        threads: Threads of each.
        retries: How often a run is repeated that crashed or met an error of the machine; an input that is refused is
            not tried again.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where the workers compute: `auto`, `cpu`, `cuda` (each on one GPU, in turn) or `cuda:N`.
        save_models: Save the checkpoints in the run folders; by default what the recipe says. Where they are not
            saved and there are many goals, large models of single goals leave the cache too (`own_models`).
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If the folder is another sweep's, or there is no such device or cluster.
    """
    folder = SweepFolder(out)
    folder.check(sweep)
    missing = folder.missing(sweep)
    keep = saves_models(sweep, save_models)
    evicting = evicting_runs(sweep, save_models=keep)
    placement = place_workers(workers, device, threads=threads, ray=ray)
    return run_tasks(
        [_task(folder, run, keep, placement.device, run.id in evicting) for run in missing],
        SweepState(len(sweep.runs), found=len(sweep.runs) - len(missing)),
        folder.out,
        placement,
        claim=lambda: folder.claim(sweep),
        is_done=folder.is_done,
        retries=retries,
        on_change=on_change,
    )


@dataclass(frozen=True)
class RunTask:
    """One run of a sweep, as `Task`.

    Attributes:
        id: The run's id.
        recipe: The whole recipe.
        out: The run folder.
        save_models: Save the checkpoints in the run folder.
        device: Where to compute, as the worker finds it (`find_device`).
        group: Tasks of one group share data and a clean model.
        evict_models: Delete large models that only this run needs from the cache when it is complete.
    """

    id: str
    recipe: Recipe
    out: Path
    save_models: bool
    device: str
    group: str
    evict_models: bool = False

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Run the recipe, if another sweep has not done it."""
        from mmpoison.runs.run import run_recipe

        if not (self.out / "metrics.json").is_file():
            run_recipe(
                self.recipe,
                self.out,
                progress=progress,
                save_models=self.save_models,
                device=find_device(self.device),
                run_cache=shared_cache(shared),
                evict_models=self.evict_models,
            )


def _task(folder: SweepFolder, run: SweepRun, keep: bool, device: str, evict: bool) -> RunTask:
    group = shared_part(run.recipe)
    return RunTask(run.id, run.recipe, folder.run_folder(run.id), keep, device, group, evict)


def shared_part(recipe: Recipe) -> str:
    """Return what the data and the clean model of a recipe depend on: equal for runs that share them."""
    value = recipe.model_dump(mode="json", include={"seed", "data", "model", "training"})
    return json.dumps(value, sort_keys=True)
