"""Finished run folders, read and put together where they differ only in their seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.reporting.parameters import NO_SETTING, Row, knobs_of, leave_out, telling_apart
from mmpoison.reporting.summary import goals, section
from mmpoison.reporting.text import as_number, clean
from mmpoison.statistics import Summary, summarize

Metrics = Mapping[str, Any]

DEPTH = 3
"""So many folders below the one that is given runs are looked for: a folder of sweeps, a sweep, its `runs`."""

ELSEWHERE = (
    *NO_SETTING,
    "attack.name",
    "attack.goal",
    "attack.goals",
    "attack.mode",
    "training.trainable",
)
"""Knobs that do not tell settings apart, or that a title says in other words."""

USUAL_ATTACK, USUAL_TRAINING = "single-target-label", "trained: both"


class RunRead(NamedTuple):
    """One finished run.

    Attributes:
        name: For errors.
        metrics: What metrics.json holds.
        knobs: Of its recipe by dotted key; empty where they are not known.
    """

    name: str
    metrics: Metrics
    knobs: Row = {}  # noqa: RUF012 - never written to


@dataclass
class Group:
    """Runs that differ only in their seed, for one of their goals.

    Attributes:
        recipe: Name of the recipe.
        goal: The goal.
        mode: `add` or `replace`.
        setting: What else tells settings apart: the attack, its options, what was trained.
        knobs: Those of the recipe that tell it apart from other groups.
        runs: Metrics by seed.
    """

    recipe: str
    goal: str
    mode: str
    setting: str = ""
    knobs: Row = field(default_factory=dict)
    runs: dict[int, Metrics] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Seeds in order."""
        return sorted(self.runs)

    @property
    def title(self) -> str:
        """What the block is called."""
        return ", ".join([*self.parts, f"seeds {', '.join(map(str, self.seeds))}"])

    @property
    def parts(self) -> list[str]:
        """What its runs have in common, in words; the usual attack and training are not said."""
        return [part for part in self.every_part if part not in (USUAL_ATTACK, USUAL_TRAINING)]

    @property
    def every_part(self) -> list[str]:
        """All that its runs have in common, in words."""
        first = section(next(iter(self.runs.values())), "run")
        numbers = sorted(
            {str(section(run, "run").get("poisoned_pairs")) for run in self.in_order()}
        )
        return [
            self.recipe,
            str(first.get("attack") or USUAL_ATTACK),
            self.goal,
            f"mode {self.mode}",
            f"{'/'.join(numbers)} poisoned pairs",
            f"trained: {first['trainable']}" if first.get("trainable") else USUAL_TRAINING,
            *(f"{key} {_said(value)}" for key, value in self.knobs.items()),
        ]

    def in_order(self) -> Iterator[Metrics]:
        """Metrics in the order of the seeds."""
        return (self.runs[seed] for seed in self.seeds)

    def over_seeds(self, value: Callable[[Metrics], float | None]) -> Summary | None:
        """One number of each run, over the seeds; None where no run has it."""
        found = [number for run in self.in_order() if (number := value(run)) is not None]
        return summarize(found) if found else None


def expand(folders: Sequence[Path]) -> list[Path]:
    """Run folders; a folder that holds run folders stands for all of them.

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
    """Run folders below a folder, in order; nothing within a run folder is looked at."""
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
    """Read finished runs and put those together that differ only in their seed.

    Raises:
        InputError: If a folder holds no metrics, or one seed occurs twice in a group.
    """
    return group_metrics([read_run(folder) for folder in expand(folders)])


def read_run(folder: Path) -> RunRead:
    """Read one finished run.

    Raises:
        InputError: If it holds no metrics, or a file is broken.
    """
    file = folder / "metrics.json"
    metrics = clean(read_json(file))
    if not isinstance(metrics, Mapping):
        raise InputError(f"{file}: must hold a JSON object, not a {type(metrics).__name__}")
    return RunRead(str(folder), metrics, knobs_of(folder))


def group_metrics(runs: Sequence[RunRead]) -> list[Group]:
    """The same for runs at hand.

    Raises:
        InputError: If one seed occurs twice in a group.
    """
    telling = _telling(runs)
    groups: dict[tuple[str, str, str, str, str], Group] = {}
    for name, metrics, knobs in runs:
        run = section(metrics, "run")
        recipe, mode, setting = str(run.get("recipe")), str(run.get("mode")), _setting(run)
        own = {key: knobs.get(key) for key in telling[recipe]}
        seed = int(as_number(run.get("seed")) or 0)
        for goal in goals(metrics):
            group = groups.setdefault(
                (recipe, goal, mode, setting, json.dumps(own, default=str)),
                Group(recipe, goal, mode, setting, own),
            )
            if seed in group.runs:
                raise InputError(f"{name}: seed {seed} of {recipe}, {goal}, {mode} was given twice")
            group.runs[seed] = metrics
    return sorted(groups.values(), key=_in_order)


def _telling(runs: Sequence[RunRead]) -> dict[str, list[str]]:
    """The knobs in which the runs of each recipe differ."""
    kept: dict[str, list[Row]] = {}
    for run in runs:
        recipe = str(section(run.metrics, "run").get("recipe"))
        kept.setdefault(recipe, []).append(leave_out(run.knobs, ELSEWHERE))
    return {recipe: telling_apart(rows) for recipe, rows in kept.items()}


def _in_order(group: Group) -> tuple[Any, ...]:
    """By name, then by the knobs, numbers by size before words."""
    numbers = [(as_number(value), _said(value)) for value in group.knobs.values()]
    knobs = [(math.inf, word) if number is None else (number, "") for number, word in numbers]
    return group.recipe, group.goal, group.mode, knobs, group.setting


def _said(value: Any) -> str:
    return (
        "none"
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, default=str)
    )


def number_at(metrics: Metrics, *keys: str) -> float | None:
    """A number deep in the metrics, None where it was not computed."""
    for key in keys[:-1]:
        metrics = section(metrics, key)
    return as_number(metrics.get(keys[-1]))


def _setting(run: Metrics) -> str:
    options = {
        name: value
        for name, value in section(run, "attack_options").items()
        # what follows from the seed is not a setting
        if name not in ("goal", "goals") and value is not None
    }
    parts = (run.get("attack"), options, run.get("trainable"))
    return json.dumps(parts, sort_keys=True) if any(parts) else ""
