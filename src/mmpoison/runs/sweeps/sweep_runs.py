"""A sweep as the list of its runs: each a whole recipe with a name and the parameters that set it apart."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.files import plain_name
from mmpoison.errors import InputError
from mmpoison.runs.overrides import set_key, within
from mmpoison.runs.recipe import Recipe, SweepPart, parse_recipe, resolve_recipe
from mmpoison.runs.recipe_files import read_recipe

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
