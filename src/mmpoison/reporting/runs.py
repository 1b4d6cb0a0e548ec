"""Reads finished run folders, and groups those that differ only in their seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmpoison.base.untrusted import read_yaml
from mmpoison.errors import InputError
from mmpoison.records.run_files import FilterFacts, Metrics, RunFacts, Utility
from mmpoison.reporting.summary import Model, named_models
from mmpoison.reporting.table import Column
from mmpoison.reporting.text import as_number, clean
from mmpoison.statistics import UNBOUNDED, Summary, summarize

# -- The parameters of a run: the keys of its resolved recipe, and those in which some runs differ.


Row = dict[str, Any]

NO_SETTING = ("name", "description", "preset", "seed", "study", "transfer", "sweep", "data.root")
"""Parameters, or groups of them, that do not change what a run's numbers are of."""


def flatten(value: Mapping[str, Any], prefix: str = "") -> Row:
    """Flatten nested mappings to dotted keys; an empty one is left out.

    >>> flatten({"training": {"epochs": 2}, "filter": None})
    {'training.epochs': 2, 'filter': None}
    """
    flat: Row = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{name}."))
        else:
            flat[name] = item
    return flat


def parameters_of(folder: Path) -> Row:
    """Read the parameters of a run under their dotted keys; empty where its folder holds no recipe.

    Raises:
        InputError: If the recipe is broken.
    """
    file = folder / "recipe.yaml"
    if not file.exists():
        return {}
    found = file.stat()
    return dict(_read(file, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=4096)
def _read(file: Path, changed: int, size: int) -> Row:
    """Read the parameters of a recipe file; a page reads them several times, and YAML is slow."""
    value = read_yaml(file)
    if not isinstance(value, Mapping):
        raise InputError(f"{file}: a recipe is a mapping of keys")
    flat = flatten(clean(value))
    # these name the run, and set nothing
    return {k: v for k, v in flat.items() if v is not None and k not in ("seed", "goal", "run")}


def leave_out(parameters: Row, names: Sequence[str]) -> Row:
    """Return parameters without some of them.

    >>> leave_out({"data.name": "coco", "data.root": "x", "seed": 1}, ("data.root", "seed"))
    {'data.name': 'coco'}
    >>> leave_out({"filter.method": "x", "filters": 1}, ("filter",))
    {'filters': 1}
    """
    return {
        key: value
        for key, value in parameters.items()
        if not any(key == name or key.startswith(f"{name}.") for name in names)
    }


def distinguishing_keys(rows: Sequence[Row]) -> list[str]:
    """Find the first keys, in the order of the rows, that distinguish all rows that differ.

    Of keys that change together one is enough.

    >>> distinguishing_keys([{"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4, "d": 0}])
    ['b', 'd']
    """
    keys: list[str] = []
    seen = 1
    for key in dict.fromkeys(key for row in rows for key in row):
        # repr: a list is no key of a set
        found = len({tuple(repr(row.get(k)) for k in (*keys, key)) for row in rows})
        if found > seen:
            keys, seen = [*keys, key], found
    return keys


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
class RunGroup:
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


def group_runs(folders: Sequence[Path]) -> list[RunGroup]:
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


def group_metrics(runs: Sequence[RunRead]) -> list[RunGroup]:
    """Group runs that were read.

    Raises:
        InputError: If one seed occurs twice in a group.
    """
    distinguishing = _distinguishing(runs)
    groups: dict[tuple[str, str, str, str, str], RunGroup] = {}
    for name, metrics, parameters in runs:
        run = metrics.run
        recipe, mode, setting = run.recipe or "", run.mode or "", _setting(run)
        own = {key: parameters.get(key) for key in distinguishing[recipe]}
        seed = run.seed or 0
        for goal in metrics.goals:
            group = groups.setdefault(
                (recipe, goal, mode, setting, json.dumps(own, default=str)),
                RunGroup(recipe, goal, mode, setting, own),
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


def _in_order(group: RunGroup) -> tuple[Any, ...]:
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


# -- The measures that tables show of a model of a run, and how each is read from the metrics.


Bounds = tuple[float, float]


@dataclass(frozen=True)
class Value:
    """A number of a run's metrics, for a goal and a model.

    Attributes:
        read: Returns the number, or None where the run does not have it.
        bounds: Its least and its largest possible value, at which an interval of its mean ends.
    """

    read: Callable[[Metrics, str, str], float | None]
    bounds: Bounds = UNBOUNDED

    def __call__(self, metrics: Metrics, goal: str, model: str) -> float | None:
        """Return the number of one run."""
        return self.read(metrics, goal, model)


SHARE: Bounds = (0.0, 1.0)
AT_LEAST_ZERO: Bounds = (0.0, math.inf)
DISTANCE: Bounds = (0.0, 2.0)
"""Of a cosine distance."""


_SHARES = ("auroc", "full_context", "clean_dropped_share", "poisoning_rate")


def bounds_of(key: str) -> Bounds:
    """Return the bounds of a figure of `metrics.json` by its key, or by a column of the tidy table.

    >>> bounds_of("hit@10"), bounds_of("min_rank"), bounds_of("change")
    ((0.0, 1.0), (0.0, inf), (-inf, inf))
    >>> bounds_of("utility.image_retrieval.hit@10"), bounds_of("drift.text")
    ((0.0, 1.0), (0.0, 2.0))
    """
    section, _, key = key.rpartition(".")
    if section in ("drift", "order_drift"):
        return DISTANCE
    if key.startswith("hit@") or key in _SHARES:
        return SHARE
    if key in ("min_rank", "words"):
        return AT_LEAST_ZERO
    if key.endswith("silhouette"):
        return (-1.0, 1.0)
    return UNBOUNDED


Retrieval = Literal["image", "text"]

UTILITY: Mapping[str, Retrieval] = {"IR": "image", "TR": "text"}


def goal_value(key: str, *, with_trigger: bool = False) -> Value:
    """Read what the queries of a goal find, in the gallery as it is or with a backdoor's trigger."""

    def read(metrics: Metrics, goal: str, model: str) -> float | None:
        return metrics.row(goal, model, with_trigger=with_trigger).number(key)

    return Value(read, bounds_of(key))


def utility_value(part: Retrieval, key: str, *, equal_texts: bool = False) -> Value:
    """Read the usual quality of a model."""

    def read(metrics: Metrics, goal: str, model: str) -> float | None:
        rows = metrics.utility_equal_texts if equal_texts else metrics.utility
        utility = rows.get(model) or Utility()
        found = utility.image_retrieval if part == "image" else utility.text_retrieval
        return found.number(key)

    return Value(read, bounds_of(key))


def drift_value(kind: str) -> Value:
    """Read how far the embeddings of `text` or `image` moved; of no model by itself."""
    return Value(lambda metrics, *_: metrics.drift.number(kind), DISTANCE)


def filter_value(key: str) -> Value:
    """Read what the filter did; of no model by itself."""
    return Value(
        lambda metrics, *_: (metrics.run.filter or FilterFacts()).number(key), bounds_of(key)
    )


MEASURES: Mapping[str, tuple[Column, Value]] = {
    **{
        f"Hit@{k}": (Column(f"Hit@{k}", 3, k <= 10), goal_value(f"hit@{k}"))
        for k in (1, 5, 10, 20, 30, 50)
    },
    "MinRank": (Column("MinRank", 2), goal_value("min_rank")),
    "median rank": (
        Column("median rank", 1, narrow=False),
        Value(lambda metrics, goal, model: metrics.spread(goal, model).median, AT_LEAST_ZERO),
    ),
    **{
        f"{short} Hit@10": (Column(f"{short} Hit@10"), utility_value(part, "hit@10"))
        for short, part in UTILITY.items()
    },
}
"""The measures of a model by name: the column, and how it is read."""


def over_seeds(group: RunGroup, value: Value, model: str) -> Summary | None:
    """Summarise one number of a model over the seeds of a setting; None where no run has it."""
    return group.over_seeds(lambda run: value(run, group.goal, model), value.bounds)
