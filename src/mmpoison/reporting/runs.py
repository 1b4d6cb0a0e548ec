"""Reads finished run folders, and groups those that differ only in their seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmpoison.errors import InputError
from mmpoison.records.run_files import Metrics, RunFacts
from mmpoison.reporting.parameters import (
    NO_SETTING,
    Row,
    distinguishing_keys,
    leave_out,
    parameters_of,
)
from mmpoison.reporting.summary import Model, named_models
from mmpoison.reporting.text import as_number, clean
from mmpoison.statistics import UNBOUNDED, Summary, summarize

DEPTH = 3
"""How many folders deep runs are searched: a folder of sweeps, a sweep, its `runs`."""

SHOWN_OTHERWISE = (
    *NO_SETTING,
    "attack.name",
    "attack.goal",
    "attack.goals",
    "attack.mode",
    "training.trainable",
)
"""Parameters that do not distinguish settings, or that a title says in other words."""

USUAL_ATTACK, USUAL_TRAINING = "single-target-label", "trained: both"


class RunRead(NamedTuple):
    """One finished run.

    Attributes:
        name: For errors.
        metrics: What metrics.json holds.
        parameters: Of its recipe by dotted key; empty where they are not known.
    """

    name: str
    metrics: Metrics
    parameters: Row = {}  # noqa: RUF012 - never written to


@dataclass
class Group:
    """Runs that differ only in their seed, for one of their goals.

    Attributes:
        recipe: Name of the recipe; empty for an evaluation without one.
        goal: The goal.
        mode: `add` or `replace`; empty where it is not known.
        setting: What else distinguishes settings: the attack, its options, what was trained.
        parameters: Those of the recipe that distinguish it from other groups.
        runs: Metrics by seed.
    """

    recipe: str
    goal: str
    mode: str
    setting: str = ""
    parameters: Row = field(default_factory=dict)
    runs: dict[int, Metrics] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds in order."""
        return sorted(self.runs)

    @property
    def title(self) -> str:
        """The title of its block."""
        return ", ".join([*self.parts, f"seeds {', '.join(map(str, self.seeds))}"])

    @property
    def parts(self) -> list[str]:
        """What its runs have in common, in words; the usual attack and training are left out."""
        return [part for part in self.every_part if part not in (USUAL_ATTACK, USUAL_TRAINING)]

    @property
    def every_part(self) -> list[str]:
        """All that its runs have in common, in words."""
        first = next(iter(self.runs.values())).run
        pairs = {metrics.run.poisoned_pairs for metrics in self.in_order()} - {None}
        numbers = "/".join(sorted(map(str, pairs)))
        parts = [
            self.recipe,
            first.attack or USUAL_ATTACK,
            self.goal,
            self.mode and f"mode {self.mode}",
            numbers and f"{numbers} poisoned pairs",
            f"trained: {first.trainable}" if first.trainable else USUAL_TRAINING,
            *(f"{key} {_as_text(value)}" for key, value in self.parameters.items()),
        ]
        # an evaluation of a model has no recipe, mode and poison
        return [part for part in parts if part]

    @property
    def models(self) -> list[Model]:
        """The rows of its tables, with the names that they have in its runs."""
        return named_models(next(iter(self.runs.values())).run)

    def in_order(self) -> Iterator[Metrics]:
        """Return metrics in the order of the seeds."""
        return (self.runs[seed] for seed in self.seeds)

    def over_seeds(
        self,
        value: Callable[[Metrics], float | None],
        bounds: tuple[float, float] = UNBOUNDED,
    ) -> Summary | None:
        """Summarise one number of each run over the seeds, within its bounds; None where no run has it."""
        found = [number for run in self.in_order() if (number := value(run)) is not None]
        return summarize(found, bounds=bounds) if found else None


def expand(folders: Sequence[Path]) -> list[Path]:
    """List run folders; a folder that holds run folders means all of them.

    Raises:
        InputError: If a folder is neither.
    """
    runs: list[Path] = []
    for folder in folders:
        if (folder / "metrics.json").is_file():
            runs.append(folder)
            continue
        inside = _inside(folder, DEPTH) if folder.is_dir() else []
        if not inside:
            raise InputError(f"{folder}: no metrics.json here or below: no finished run")
        runs.extend(inside)
    return runs


def _inside(folder: Path, depth: int) -> list[Path]:
    """List run folders below a folder, in order; a run folder is not searched."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if (path / "metrics.json").is_file():
            found.append(path)
        elif depth > 1:
            found.extend(_inside(path, depth - 1))
    return found


def group_runs(folders: Sequence[Path]) -> list[Group]:
    """Read finished runs and group those that differ only in their seed.

    Raises:
        InputError: If a folder holds no metrics, or one seed occurs twice in a group.
    """
    return group_metrics([read_run(folder) for folder in expand(folders)])


def read_run(folder: Path) -> RunRead:
    """Read one finished run.

    Raises:
        InputError: If it holds no metrics, or a file is broken.
    """
    return RunRead(str(folder), Metrics.read(folder / "metrics.json", clean), parameters_of(folder))


def group_metrics(runs: Sequence[RunRead]) -> list[Group]:
    """Group runs that were read.

    Raises:
        InputError: If one seed occurs twice in a group.
    """
    distinguishing = _distinguishing(runs)
    groups: dict[tuple[str, str, str, str, str], Group] = {}
    for name, metrics, parameters in runs:
        run = metrics.run
        recipe, mode, setting = run.recipe or "", run.mode or "", _setting(run)
        own = {key: parameters.get(key) for key in distinguishing[recipe]}
        seed = run.seed or 0
        for goal in metrics.goals:
            group = groups.setdefault(
                (recipe, goal, mode, setting, json.dumps(own, default=str)),
                Group(recipe, goal, mode, setting, own),
            )
            if seed in group.runs:
                raise InputError(f"{name}: seed {seed} of {recipe}, {goal}, {mode} was given twice")
            group.runs[seed] = metrics
    return sorted(groups.values(), key=_in_order)


def _distinguishing(runs: Sequence[RunRead]) -> dict[str, list[str]]:
    """Find the parameters in which the runs of each recipe differ."""
    rows: dict[str, list[Row]] = {}
    for run in runs:
        rows.setdefault(run.metrics.run.recipe or "", []).append(
            leave_out(run.parameters, SHOWN_OTHERWISE)
        )
    return {recipe: distinguishing_keys(found) for recipe, found in rows.items()}


def _in_order(group: Group) -> tuple[Any, ...]:
    """Sort by name, then by the parameters: numbers by size before words."""
    numbers = [(as_number(value), _as_text(value)) for value in group.parameters.values()]
    order = [(math.inf, word) if number is None else (number, "") for number, word in numbers]
    return group.recipe, group.goal, group.mode, order, group.setting


def _as_text(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _setting(run: RunFacts) -> str:
    options = {
        name: value
        for name, value in run.attack_options.items()
        # what follows from the seed is not a setting
        if name not in ("goal", "goals") and value is not None
    }
    parts = (run.attack, options, run.trainable)
    return json.dumps(parts, sort_keys=True) if any(parts) else ""
