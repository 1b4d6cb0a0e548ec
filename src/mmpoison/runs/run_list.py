"""Lists of runs, and how the section `sweep` of a recipe expands to one.

Other packages add experiments of `mmpoison run` and views of `mmpoison report`:

```toml
[project.entry-points."mmpoison.experiments"]
matrix = "my_package.matrix"          # registers an `Experiment`: @EXPERIMENTS.register("matrix")

[project.entry-points."mmpoison.views"]
paper = "my_package.paper"            # registers a `View`: @VIEWS.register("paper")
```
"""

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
from typing import Any, Protocol

from mmpoison.base.files import plain_name
from mmpoison.base.registry import Registry
from mmpoison.errors import InputError
from mmpoison.reporting.table import Table
from mmpoison.runs.recipe import (
    EXPERIMENT_GROUP,
    Recipe,
    SweepPart,
    parse_recipe,
    resolve_recipe,
    set_key,
    within,
)
from mmpoison.runs.recipe_files import read_recipe


@dataclass(frozen=True)
class Asked:
    """The command-line arguments for an experiment.

    Attributes:
        recipe: A recipe's name, or the path of its file.
        changes: Changes of the recipe, from dotted keys to values (`--set` and similar options).
        seeds: `--seeds`; empty for those of the recipe.
        goals: `--goals`, as text.
        options: `--with NAME=VALUE`, the experiment's own options.
        dry_run: Whether the runs are only counted, so that nothing needs to be loaded.
    """

    recipe: str
    changes: Mapping[str, Any]
    seeds: Sequence[int]
    goals: str | None
    options: Mapping[str, str]
    dry_run: bool = False


class Experiment(Protocol):
    """An experiment, which turns a recipe with a section of its name into a list of runs."""

    @property
    def options(self) -> Mapping[str, str]:
        """Its own options (`--with NAME=VALUE`): names to one line of help."""

    def runs(self, asked: Asked) -> RunList:
        """List the runs. The list's `about` has a section of the experiment's name.

        Raises:
            InputError: If the recipe or an option is wrong.
        """
        ...

    def report(
        self, paths: Sequence[Path], form: Any, out: Path | None = None, **files: Path | None
    ) -> None:
        """Print the tables of the results in some folders and files.

        The first path belongs to the experiment. Pages are written to the folder `out`, or to
        `files` (`markdown`, `parquet`, `html`).
        """
        ...


class Written(Protocol):
    """A written view: tables, notes and files."""

    @property
    def tables(self) -> list[Table]:
        """Its tables."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the tables for the reader."""

    @property
    def files(self) -> Sequence[Path]:
        """The written files."""


class View(Protocol):
    """A set of named views of finished runs, for `mmpoison report RUNS --view NAME`."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, such as `table-3`."""

    def write(
        self, names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool
    ) -> Sequence[Written]:
        """Write views into a folder.

        Args:
            names: Their names; `all` means every view for which the runs have a number.
            runs: Run folders, or folders that contain some.
            out: Folder for the files.
            links: Link each number to its runs.
        """
        ...


EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment", "", group=EXPERIMENT_GROUP, needs=("options", "runs", "report")
)
VIEWS: Registry[View] = Registry("view", "", group="mmpoison.views", needs=("names", "write"))


def view_of(recipe: str | None) -> str:
    """Return a recipe's view, such as `table-3` for `table-3-openmoji`; empty if it has none."""
    names = (name for view in VIEWS.values() for name in view.names)
    return next((name for name in names if recipe and f"{recipe}-".startswith(f"{name}-")), "")


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
