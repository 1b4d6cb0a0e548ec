"""The long table of results: every number of finished runs, a row a run, goal, model and study; one place groups it.

Tables and pages select rows of `Results`, and `Results.measured` gives a number over seeds with its interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpoison.base.files import atomic_file
from mmpoison.base.record import Record
from mmpoison.base.untrusted import file_digest, parse_json, read_json, read_yaml
from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RankSpread, RepairCurve, RunFacts, Utility
from mmpoison.reporting.summary import classes
from mmpoison.reporting.text import as_number, clean
from mmpoison.statistics import UNBOUNDED, Comparison, Summary, compare, summarize

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
    return dict(_read(file, (found.st_mtime_ns, found.st_ctime_ns), found.st_size))


@lru_cache(maxsize=4096)
def _read(file: Path, changed: tuple[int, int], size: int) -> Row:
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


DEPTH = 3
"""How many folders deep runs are searched: a folder of sweeps, a sweep, its `runs`."""


@dataclass(frozen=True)
class RunRead:
    """One finished run.

    Attributes:
        name: Its folder, or another name for errors.
        metrics: What metrics.json holds.
        parameters: Of its recipe by dotted key; of its attack alone where there is no recipe.
    """

    name: str
    metrics: Metrics
    parameters: Row = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path) -> RunRead:
        """Read a run folder.

        Raises:
            InputError: If it holds no metrics, or a file is broken.
        """
        metrics = Metrics.read(folder / "metrics.json", clean)
        return cls(str(folder), metrics, parameters_of(folder) or _of_attack(metrics.run))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Its rows of the long table.

        Raises:
            InputError: If the curve of its repair is broken.
        """
        run, folder = self.metrics.run, Path(self.name)
        manifest = folder / "manifest.json"
        shared: Row = {
            **self.parameters,
            **_facts(run),
            "run": self.name,
            "recipe": run.recipe,
            "seed": run.seed or 0,
            "tool_version": run.tool_version,
            "manifest": file_digest(manifest) if manifest.is_file() else None,
        }
        return tuple(
            {**shared, **_named(row["goal"]), **row}
            for rows in (_main_rows(self.metrics), study_rows(self.metrics, folder))
            for row in rows
        )


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


# -- Rows.


MAIN = "main"
"""`study` of the rows that every run has."""


def _main_rows(metrics: Metrics) -> Iterator[Row]:
    drift = {
        **numbers(metrics.drift, "drift."),
        **numbers(metrics.study.order_drift, "order_drift."),
    }
    for goal in metrics.goals:
        for model in dict.fromkeys((*metrics.goal.get(goal, {}), *metrics.utility)):
            yield {
                **_row(MAIN, goal, model, metrics.row(goal, model)),
                **numbers(metrics.row(goal, model, with_trigger=True), "with_trigger."),
                **_spread(metrics.spread(goal, model)),
                **utility_numbers(metrics.utility.get(model), "utility."),
                **utility_numbers(metrics.utility_equal_texts.get(model), "utility_equal_texts."),
                **(drift if model == "poisoned" else {}),
            }


CURVE_FILES = ("sterilize_curve.json", "sterilize-curve.json")


def study_rows(metrics: Metrics, folder: Path) -> Iterator[Row]:
    """Make rows with `study`, `case`, `x`, `goal`, `model` and their figures.

    | study | case | x |
    |---|---|---|
    | `queries` | kind of query | |
    | `query-length` | | how often each caption is said |
    | `transfer` | name of the other data | |
    | `epochs` | | epochs of training done |
    | `sterilize-curve` | learning rate | steps of the repair done |
    | `collateral` | class | |
    | `distribution` (no goal) | | |

    Args:
        metrics: What metrics.json holds.
        folder: The run folder, for its other files.

    Raises:
        InputError: If the curve of the repair is broken.
    """
    study = metrics.study
    for goal, models in study.queries.items():
        for model, kinds in models.items():
            for kind, row in kinds.items():
                yield _row("queries", goal, model, row, case=kind)
    for name, section in (("query-length", study.query_length), ("epochs", study.epochs)):
        for goal, by_model in section.items():
            for model, by_x in by_model.items():
                for x, row in by_x.items():
                    yield _row(name, goal, model, row, x=_number(x))
    for goal, labels in study.collateral.items():
        for label, change in labels.items():
            figures = {**numbers(change.own, "own."), **numbers(change.target, "target.")}
            yield {"study": "collateral", "case": label, "goal": goal, "model": None, **figures}
    for model, silhouettes in study.distribution.items():
        yield {"study": "distribution", "goal": None, "model": model, **numbers(silhouettes)}
    for data, there in metrics.transfer.items():
        for goal, rows in there.goal.items():
            for model, row in rows.items():
                utility = utility_numbers(there.utility.get(model), "utility.")
                yield {**_row("transfer", goal, model, row, case=data), **utility}
    yield from _curve(curve_of(folder))


def curve_of(folder: Path) -> RepairCurve:
    """Read the curve of a repair; empty where there is none.

    Raises:
        InputError: If the file is broken.
    """
    for name in CURVE_FILES:
        if (folder / name).is_file():
            return RepairCurve.read(folder / name, clean)
    return RepairCurve()


def _curve(curve: RepairCurve) -> Iterator[Row]:
    for branch in curve.branches:
        case = None if branch.learning_rate is None else f"{branch.learning_rate:g}"
        for probe in branch.looks:
            for goal, row in probe.test.goal.items():
                yield {
                    **_row(
                        "sterilize-curve", goal, "sterilized", row, x=float(probe.step), case=case
                    ),
                    "epoch": probe.number("epoch"),
                    **utility_numbers(probe.utility, "held_out."),
                }


def _row(
    study: str,
    goal: str,
    model: str,
    row: GoalRow,
    *,
    case: str | None = None,
    x: float | None = None,
) -> Row:
    return {"study": study, "case": case, "x": x, "goal": goal, "model": model, **numbers(row)}


def numbers(record: Record, prefix: str = "") -> Row:
    """List the numbers of a record by JSON key; None for what is no number.

    >>> numbers(GoalRow.of({"hit@10": 1, "note": "x"}), "goal.")
    {'goal.hit@10': 1.0, 'goal.note': None}
    """
    return {f"{prefix}{key}": record.number(key) for key in record.to_json()}


def utility_numbers(utility: Utility | None, prefix: str) -> Row:
    """List the numbers of a row of `utility`, such as `utility.image_retrieval.hit@10`."""
    if utility is None:
        return {}
    return {
        **numbers(utility.image_retrieval, f"{prefix}image_retrieval."),
        **numbers(utility.text_retrieval, f"{prefix}text_retrieval."),
    }


def _number(text: str) -> float | None:
    try:
        return as_number(parse_json(text, "metrics.json"))
    except InputError:
        return None


FIRST = (
    "run", "recipe", "seed", "study", "case", "x", "goal", "original", "target", "model",
    "hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50", "min_rank", "queries", "gallery", "targets", "ties",
    "manifest", "tool_version",
)  # fmt: skip
"""Columns that every table has, in this order; the others follow."""


def results_table(paths: Sequence[str | Path]) -> pa.Table:
    """Make one table of every number of finished runs, for questions in Python, pandas or DuckDB.

    A row is a run x goal x model of `metrics.json`, with `study` = `main`. What a run measured beyond that has rows of
    its own: `study` says which, `case` of what kind the queries or data were, `x` where on the axis of a curve.

    Columns:
        `run` (folder), `recipe`, `seed`, `manifest` (sha256 of the file), `tool_version`; `goal`, `original`, `target`,
        `model`; `hit@1` ... `min_rank`, `ties`, `median_rank`; `utility.image_retrieval.hit@1` and so on; `drift.text`,
        `drift.image` and `order_drift.text` likewise (in the rows of `poisoned` alone); each parameter of the resolved
        recipe under the dotted key that `--set` takes (`training.epochs`); facts of the run under `run.`; a list is
        JSON text. What a run did not compute is null.

    Args:
        paths: Run folders, or folders that hold run folders.

    Raises:
        InputError: If a folder holds no finished run, or a file is broken.

    Example:
        >>> table = results_table(["runs/table-3"])  # doctest: +SKIP
        >>> table.filter(pc.field("model") == "poisoned").column("hit@10")  # doctest: +SKIP
    """
    return to_arrow(Results.read(list(map(Path, paths))).rows)


def write_results(paths: Sequence[str | Path], target: Path) -> pa.Table:
    """Write `results_table` as Parquet.

    Args:
        paths: As `results_table`.
        target: The file, for example `results.parquet`.
    """
    table = results_table(paths)
    with atomic_file(target) as temporary:
        pq.write_table(table, temporary)
    return table


def to_arrow(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of plain rows; a column that holds kinds that do not mix is text, a list or object is JSON.

    >>> to_arrow([{"a": 1, "b": [1, 2]}, {"a": 2.5}]).column("a").to_pylist()
    [1.0, 2.5]
    """
    listed = list(rows)
    names = list(dict.fromkeys([*FIRST, *(name for row in listed for name in row)]))
    return pa.table({name: _column([row.get(name) for row in listed]) for name in names})


def _column(values: list[Any]) -> pa.Array:
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    small = all(abs(value) < 2**63 for value in known if type(value) is int)
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and small:
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float} and small:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string()
    )


def _of_attack(run: RunFacts) -> Row:
    """Return the parameters of a run whose folder holds no recipe."""
    options = {f"attack.{name}": value for name, value in run.attack_options.items()}
    return {key: value for key, value in options.items() if value is not None}


def _facts(run: RunFacts) -> Row:
    shown_otherwise = ("recipe", "seed", "tool_version", "goals", "training", "attack_options")
    facts = flatten({k: v for k, v in run.to_json().items() if k not in shown_otherwise}, "run.")
    return {
        **{k: v for k, v in facts.items() if not isinstance(v, (list, dict))},
        **({} if run.filter is None else {"run.filter.caught_share": run.filter.caught_share}),
        "run.flags": run.flags,
    }


def _named(goal: str | None) -> Row:
    pair = None if goal is None else classes(goal)
    return {
        "goal": goal,
        "original": pair[0] if pair else None,
        "target": pair[1] if pair else None,
    }


def _spread(spread: RankSpread) -> Row:
    found: Row = {} if spread.median is None else {"median_rank": float(spread.median)}
    for key, (low, high) in spread.interval.items():
        found[f"{key}.low"], found[f"{key}.high"] = float(low), float(high)
    return found


# -- Bounds of numbers, and numbers over seeds.


Bounds = tuple[float, float]

SHARE: Bounds = (0.0, 1.0)
AT_LEAST_ZERO: Bounds = (0.0, math.inf)
DISTANCE: Bounds = (0.0, 2.0)
"""Of a cosine distance."""


_SHARES = ("auroc", "full_context", "clean_dropped_share", "caught_share", "poisoning_rate")


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
    if key in ("min_rank", "median_rank", "words"):
        return AT_LEAST_ZERO
    if key.endswith("silhouette"):
        return (-1.0, 1.0)
    return UNBOUNDED


@dataclass(frozen=True)
class Measured:
    """One number over seeds.

    Attributes:
        summary: Its mean with its interval; None where no run has the number.
        rows: The rows it comes from.
        by_seed: The number of each seed, where it is known.
        exact: Take the number as it is, without an interval: a count.
    """

    summary: Summary | None
    rows: tuple[Row, ...] = ()
    by_seed: Mapping[int, float] = field(default_factory=dict)
    exact: bool = False

    @classmethod
    def of(
        cls,
        by_seed: Mapping[int, float],
        rows: Iterable[Row],
        *,
        bounds: Bounds = UNBOUNDED,
    ) -> Measured:
        """Summarize the number of each seed; without a summary where there is none.

        Args:
            by_seed: The number of each seed.
            rows: The rows that they come from.
            bounds: The least and the largest possible value, at which the interval ends.
        """
        summary = summarize(list(by_seed.values()), bounds=bounds) if by_seed else None
        return cls(summary, tuple(rows), by_seed)

    @property
    def mean(self) -> float | None:
        """The mean, None where no run has the number."""
        return None if self.summary is None else self.summary.mean


OF_OTHER_MODELS = ("attack.goal", "filter", "sterilize")
"""Parameters that do not change the numbers of the clean and the poisoned model, or that have columns of their own."""


@dataclass(frozen=True)
class Results:
    """Rows of the long table.

    Attributes:
        rows: The rows.
        parameters: The parameters of each run folder.
    """

    rows: tuple[Row, ...]
    parameters: Mapping[str, Row]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Results:
        """Read run folders, or folders that hold some.

        Raises:
            InputError: As `results_table`.
        """
        return cls.of([RunRead.of_folder(folder) for folder in expand(paths)])

    @classmethod
    def of(cls, runs: Sequence[RunRead]) -> Results:
        """Return the rows of runs that were read."""
        rows = tuple(row for run in runs for row in run.rows)
        return cls(rows, {run.name: run.parameters for run in runs})

    def __bool__(self) -> bool:
        return bool(self.rows)

    def where(self, keep: Callable[[Row], bool] | None = None, **keys: Any) -> Results:
        """Select rows with these values; `study` is `main` by default.

        Args:
            keep: Says which rows stay, of those with these values.
            keys: Columns without a dot, each with a value or several of them.
        """
        keys.setdefault("study", MAIN)
        wanted = {k: v if isinstance(v, (tuple, list, set)) else (v,) for k, v in keys.items()}
        return self.only(
            row
            for row in self.rows
            if all(row.get(k) in v for k, v in wanted.items()) and (keep is None or keep(row))
        )

    def values(self, column: str) -> list[Any]:
        """Return what a column holds, in the order of the rows, without what is absent."""
        return list(dict.fromkeys(v for row in self.rows if (v := row.get(column)) is not None))

    def measured(self, column: str) -> Measured:
        """Average a column over seeds: rows of one seed are averaged first. A share's interval stays in [0, 1]."""
        means, rows = self.over_seeds(column), self._known(column).rows
        return Measured.of(means, rows, bounds=bounds_of(column))

    def over_seeds(self, column: str) -> dict[int, float]:
        """Return the mean of a column for each seed that has it, in the order of the seeds."""
        by_seed: dict[int, list[float]] = {}
        for row in self._known(column).rows:
            by_seed.setdefault(row["seed"], []).append(float(row[column]))
        return {seed: sum(values) / len(values) for seed, values in sorted(by_seed.items())}

    def _known(self, column: str) -> Results:
        """Select the rows with a finite number in a column."""
        return self.only(
            row
            for row in self.rows
            if isinstance(v := row.get(column), (int, float)) and math.isfinite(v)
        )

    def by(self, column: str) -> Iterator[tuple[Any, Results]]:
        """Group rows by the value of a column."""
        for value in self.values(column):
            yield value, self.only(row for row in self.rows if row.get(column) == value)

    def settings(
        self, *, varies: Sequence[str] = (), keep: Sequence[str] = ()
    ) -> list[tuple[str, Results]]:
        """Group rows by the parameters in which their runs differ, each with these parameters as text.

        Args:
            varies: Parameters, or groups of them, in which runs may differ.
            keep: Of the parameters that never matter by themselves, those that matter here.
        """
        ignored = [name for name in (*NO_SETTING, *OF_OTHER_MODELS, *varies) if name not in keep]
        of_run = {
            run: leave_out(self.parameters.get(run, {}), ignored) for run in self.values("run")
        }
        every = list(of_run.values())
        keys = [
            key
            for key in dict.fromkeys(key for parameters in every for key in parameters)
            if len({repr(parameters.get(key)) for parameters in every}) > 1
        ]
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            own = of_run[row["run"]]
            found.setdefault(", ".join(f"{key}={own.get(key)}" for key in keys), []).append(row)
        return [(setting, self.only(rows)) for setting, rows in found.items()]

    def whole_data(self) -> Results:
        """Select runs on data with every caption of an image; balanced data have tables of their own."""
        return self.only(row for row in self.rows if not is_balanced(row))

    def of_runs(self, runs: Sequence[str]) -> Results:
        """Collect every row of some run folders, studies included."""
        return self.only(row for row in self.rows if row["run"] in set(runs))

    @staticmethod
    def content(row: Row, file: str) -> Mapping[str, Any]:
        """Read a JSON file of a row's run folder; empty where it is not there.

        Raises:
            InputError: If it is broken.
        """
        path = Path(str(row["run"])) / file
        value = clean(read_json(path)) if path.is_file() else None
        return value if isinstance(value, Mapping) else {}

    def only(self, rows: Iterable[Row]) -> Results:
        """Select some of the rows."""
        return replace(self, rows=tuple(rows))


def is_balanced(row: Row) -> bool:
    """Return whether a run's data have one caption per image."""
    return str(row.get("data.name", "")).endswith("-b")


def difference(
    first: Results, second: Results, column: str, bounds: Bounds = UNBOUNDED
) -> Measured:
    """Subtract the first from the second, paired by seed; `bounds` as `Measured.of`."""
    changed = change(first.measured(column), second.measured(column))
    return Measured.of(changed.by_seed, changed.rows, bounds=bounds)


def change(first: Measured, second: Measured) -> Measured:
    """Subtract the first number from the second, paired by seed.

    Args:
        first: One number.
        second: Another, of the same seeds.

    Returns:
        The difference over the seeds that both have; without a summary where there are none.

    >>> one, two = Measured(None, (), {0: 1.0, 1: 2.0}), Measured(None, (), {1: 5.0, 2: 7.0})
    >>> change(one, two).by_seed
    {1: 3.0}
    """
    common = sorted(set(first.by_seed) & set(second.by_seed))
    by_seed = {seed: second.by_seed[seed] - first.by_seed[seed] for seed in common}
    return Measured.of(by_seed, (*first.rows, *second.rows))


def paired(first: Results, second: Results, column: str, other: str = "") -> Comparison | None:
    """Compare a column of two kinds of rows over the seeds that both have; None where they share none.

    Args:
        first: Rows of one kind.
        second: Of the other.
        column: The column.
        other: Another column for the second kind, for two columns of the same rows.
    """
    one, two = first.over_seeds(column), second.over_seeds(other or column)
    common = sorted(set(one) & set(two))
    if not common:
        return None
    return compare([one[seed] for seed in common], [two[seed] for seed in common])
