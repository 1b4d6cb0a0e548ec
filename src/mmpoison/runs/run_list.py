"""Lists of runs, and how the section `sweep` of a recipe expands to one."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.base.files import plain_name
from mmpoison.errors import InputError
from mmpoison.runs.recipe import (
    Recipe,
    SweepPart,
    parse_recipe,
    resolve_recipe,
    set_key,
    within,
)
from mmpoison.runs.recipe_files import read_recipe

GOAL, SEED = "attack.goal", "seed"
MOST_RUNS = 20_000
LONGEST_ID = 120

Classes = Callable[[Recipe], Sequence[str]]
"""Returns the classes that goals can use in a recipe's data."""


@dataclass(frozen=True)
class NamedRun:
    """One run of a list.

    Attributes:
        id: Name of the run and its folder: letters, digits and `-_.=+`.
        recipe: Its whole recipe.
    """

    id: str
    recipe: Recipe


@dataclass(frozen=True)
class RunList:
    """An experiment: a list of runs.

    Attributes:
        name: Name of the experiment.
        description: One line.
        runs: The runs; those that share data and models are adjacent.
        about: Sections for `experiment.yaml`. Another part of the same experiment adds to them.
        save_models: Save the checkpoints in the run folders.
        note_refusals: Complete a run whose input is refused, for example a goal that its data do
            not allow, with the reason instead of numbers.
    """

    name: str
    description: str
    runs: tuple[NamedRun, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    save_models: bool = False
    note_refusals: bool = False


def grid_of_runs(
    name_or_path: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] | None = None,
    goals: Any = None,
    classes: Classes,
) -> RunList:
    """Load a recipe and expand its section `sweep`: variants, grid points, goals and seeds.

    The seed varies fastest. A recipe without the section gives one run.

    Args:
        name_or_path: As for `load_recipe`.
        changes: Dotted keys to values, for all runs; they take precedence over the grid and the
            variants (`override`).
        grid: Additional keys for the section's `grid`; existing keys are replaced.
        seeds: Replaces the section's seeds.
        goals: Replaces the section's goals.
        classes: Called if the goals are `all`.

    Raises:
        InputError: As `load_recipe`, also for the grid and the variants, or if there are more than
            `MOST_RUNS` runs.
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
    # report errors of the section before those of the runs
    parse_recipe({**value, "preset": None}, where)
    part = SweepPart.model_validate(value.pop("sweep"))
    per_run = {*(grid or ())} | ({GOAL} if goals is not None else set())
    part = _without(part, {*changes} - per_run, per_run)
    _refuse_too_many(part, where)
    base = resolve_recipe(copy.deepcopy(value), changes, where)
    found = list(_runs(value, changes, part, base, where, classes, per_run))
    labels = _labels(part.grid)
    names = [_id(parameters, labels) for parameters, _ in found]
    several = Counter(names)
    runs = (
        NamedRun(name if several[name] == 1 else f"{name}-{_short_digest(parameters)}", recipe)
        for name, (parameters, recipe) in zip(names, found, strict=True)
    )
    section = {"sweep": part.model_dump(mode="json", exclude_defaults=True)}
    return RunList(base.name, base.description, tuple(runs), section, save_models=part.models)


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
            f"{where}: sweep: {count:,} runs are over the limit of {MOST_RUNS:,}: remove some values, goals or seeds"
        )


def _without(part: SweepPart, keys: set[str], per_run: set[str]) -> SweepPart:
    """Remove the grid keys, goals and seeds that the command line sets for all runs.

    A key that the command line also gives per run (`per_run`) stays, even if its group is set.
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
) -> Iterator[tuple[dict[str, Any], Recipe]]:
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
                    yield {**parameters, **last}, recipe


def _resolve(
    value: dict[str, Any],
    changes: Mapping[str, Any],
    own: Mapping[str, Any],
    point: Mapping[str, Any],
    per_run: set[str],
    where: str,
) -> Recipe:
    """Resolve the recipe of a variant (`own`) at a point, whose keys `per_run` the user gave."""
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
        raise InputError(
            f"sweep.goals is all, but data {recipe.data.name!r} have one class or none"
        )
    return goals


# -- Names of runs.


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
    """Shorten each dotted key to its last part if that is unique.

    >>> _labels({"training.epochs": 0, "sterilize.training.epochs": 0, "attack.samples": 0})
    {'training.epochs': 'training.epochs', 'sterilize.training.epochs': 'sterilize.training.epochs', \
'attack.samples': 'samples'}
    """
    ends = Counter(key.rsplit(".", 1)[-1] for key in keys)
    return {key: end if ends[end := key.rsplit(".", 1)[-1]] == 1 else key for key in keys}


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
