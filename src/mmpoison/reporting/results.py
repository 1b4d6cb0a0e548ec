"""The long table of results: all numbers of finished runs, one row per run, goal, model and study; one place groups it.

Tables and pages select rows of `Results`, and `Results.measured` gives a number over seeds with its interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpoison.base.files import atomic_file
from mmpoison.base.record import Record
from mmpoison.base.text import as_number, clean, is_finite, one_line
from mmpoison.base.untrusted import file_digest, parse_json, read_json, read_yaml, refuse_packed
from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RankSpread, RepairCurve, RunFacts, Utility
from mmpoison.reporting.summary import classes
from mmpoison.statistics import UNBOUNDED, Comparison, Summary, compare, summarize

if TYPE_CHECKING:
    import pandas as pd

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


OWN = ("run", "recipe", "seed", "tool_version", "manifest")
"""Facts of a run that are neither parameters nor of `metrics.json`'s section `run`."""


@dataclass(frozen=True)
class RunRead:
    """One finished run.

    Attributes:
        name: Its folder, or another name for errors.
        run: Facts about it in `metrics.json`.
        facts: What its rows have in common: parameters of its recipe by dotted key, `run.` with what `metrics.json`
            says, and `OWN`.
        measured: Rows with `study`, `case`, `x`, `goal`, `model` and numbers; one without numbers if it has none.
    """

    name: str
    run: RunFacts
    facts: Row
    measured: tuple[Row, ...]

    @classmethod
    def of_folder(cls, folder: Path) -> RunRead:
        """Read a run folder.

        Raises:
            InputError: If it holds no metrics, or a file is broken.
        """
        return cls.of_metrics(str(folder), Metrics.read(folder / "metrics.json", clean))

    @classmethod
    def of_metrics(cls, name: str, metrics: Metrics) -> RunRead:
        """Return a run by what its `metrics.json` holds; other files are read where its name is a folder.

        Raises:
            InputError: If one of them is broken.
        """
        folder, run = Path(name), metrics.run
        manifest = folder / "manifest.json"
        facts = {
            **(parameters_of(folder) or _of_attack(run)),
            **_facts(run),
            "run": name,
            "recipe": run.recipe,
            "seed": run.seed or 0,
            "tool_version": run.tool_version,
            "manifest": file_digest(manifest) if manifest.is_file() else None,
        }
        rows = (*_main_rows(metrics), *study_rows(metrics, folder))
        return cls(name, run, facts, rows or ({"study": NOTHING, **dict.fromkeys(EMPTY)},))

    @classmethod
    def of_rows(cls, name: str, facts: Row, measured: tuple[Row, ...]) -> RunRead:
        """Return a run of a file of results."""
        counts = ("poisoned_pairs", "training_pairs")
        about = {key.removeprefix("run."): value for key, value in facts.items() if key != "run"}
        about = {key: int(v) if key in counts else v for key, v in about.items() if "." not in key}
        goals = [row["goal"] for row in measured if row["study"] == MAIN and row["goal"]]
        known = about.keys() & RunFacts.model_fields.keys()
        said = {key: about[key] for key in known} | {"goals": list(dict.fromkeys(goals))}
        return cls(name, RunFacts.of(said, name), facts, measured)

    @property
    def parameters(self) -> Row:
        """The parameters of its recipe by dotted key; only of its attack if there is no recipe."""
        return {k: v for k, v in self.facts.items() if k not in OWN and not k.startswith("run.")}

    @property
    def rows(self) -> tuple[Row, ...]:
        """Its rows of the wide table: its facts, and what it measured."""
        return tuple({**self.facts, **_named(row["goal"]), **row} for row in self.measured)

    def long(self) -> Iterator[Row]:
        """Give its rows of the long table, `LONG`."""
        facts, said = self.facts, {}
        numbers: list[Row] = []
        for key, value in facts.items():
            if key.startswith("run.") and is_finite(value):
                numbers.append({"study": OF_RUN, "measure": key, "value": value})
            elif key not in OWN[:4]:
                said[key] = value
        for row in self.measured:
            place = {key: row.get(key) for key in PLACE}
            found = [key for key in row if key not in PLACE and is_finite(row[key])]
            numbers += [{**place, "measure": key, "value": row[key]} for key in found]
            if not found:
                numbers.append({**place, "measure": None, "value": None})
        shared = {
            "run": self.name,
            "recipe": facts["recipe"],
            "data": facts.get("data.name"),
            "attack": facts.get("labels.attack")
            or facts.get("attack.name", facts.get("run.attack")),
            "seed": facts["seed"],
            "version": facts["tool_version"],
            "settings": json.dumps(said),
        }
        for row in numbers:
            group = DEFENDED_BY.get(str(row.get("model")))
            # the usual repair is not written
            usual = "clean-finetune" if group == "sterilize" else None
            defence = facts.get("labels.defence") or facts.get(f"{group}.method", usual)
            yield {**shared, "defence": defence, **row}


def read_runs(paths: Sequence[Path]) -> list[RunRead]:
    """Read run folders, folders that hold some, and files of results.

    Raises:
        InputError: As `results_table`.
    """
    return [
        run
        for path in paths
        for run in (
            _read_long(path)
            if path.suffix == ".parquet" and path.is_file()
            else map(RunRead.of_folder, expand([path]))
        )
    ]


def one_run(paths: Sequence[Path]) -> Path | None:
    """Return the run folder where the paths mean one run that has a folder; None otherwise.

    Raises:
        InputError: If a folder holds no finished run.
    """
    if any(path.suffix == ".parquet" and path.is_file() for path in paths):
        return None
    folders = expand(paths)
    return folders[0] if len(folders) == 1 else None


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


MAIN, NOTHING = "main", "nothing"
"""`study` of the rows that every run has, and of the one row of a run without numbers."""

EMPTY = ("case", "x", "goal", "model")
"""What that row does not have."""


def _main_rows(metrics: Metrics) -> Iterator[Row]:
    drift = {
        **numbers(metrics.drift, "drift."),
        **numbers(metrics.study.order_drift, "order_drift."),
    }
    goals: list[str | None] = [*metrics.goals]
    for goal in goals or [None]:
        for model in dict.fromkeys((*metrics.goal.get(goal or "", {}), *metrics.utility)):
            yield {
                **_row(MAIN, goal, model, metrics.row(goal or "", model)),
                **numbers(metrics.row(goal or "", model, with_trigger=True), "with_trigger."),
                **_spread(metrics.spread(goal or "", model)),
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
    """Read the curve of a repair; empty if there is none.

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
    goal: str | None,
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


# -- One long table: one row per number.


LONG = (
    *("run", "recipe", "data", "goal", "model", "attack", "defence", "seed", "study", "case", "x"),
    *("measure", "value", "version", "settings"),
)
"""Its columns."""

NUMBERS = {"seed": pa.int64(), "x": pa.float64(), "value": pa.float64()}
"""Those that hold numbers; the others hold text."""

PLACE = ("goal", "model", "study", "case", "x")
"""Columns that say what a number of a run measures."""

OF_RUN = "run"
"""`study` of the numbers of a whole run."""

DEFENDED_BY = {"filtered": "filter", "robust": "robust_training", "sterilized": "sterilize"}
"""The group of a recipe whose defence made a model."""

DESCRIBED = b"mmpoison.experiment"
"""Key of a Parquet file's metadata: the text of the `experiment.yaml` that its runs are of."""


def results_table(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Make one long table of every number of finished runs, for pandas, DuckDB or a pivot of your own.

    Columns:
        `run` (folder), `recipe`, `data`, `goal`, `model`, `attack`, `defence`, `seed`; `study`, `case` and `x` of what
        was measured beyond `main` (`study_rows`), or `run` for numbers of the whole run; `measure` (`hit@10`,
        `utility.image_retrieval.hit@10`, `run.filter.auroc`), `value`, `version` of mmpoison; `settings`, the
        parameters of the recipe and other facts, as JSON.

    Args:
        paths: Run folders, folders that hold run folders, or files that `write_results` wrote.

    Raises:
        InputError: If a folder holds no finished run, or a file is broken.

    Example:
        >>> table = results_table(["runs/table-3"])  # doctest: +SKIP
        >>> table.query("measure == 'hit@10'").pivot_table("value", "goal", "model")  # doctest: +SKIP
    """
    import pandas as pd  # half a second

    runs = read_runs(list(map(Path, paths)))
    return pd.DataFrame([row for run in runs for row in run.long()], columns=list(LONG))


def write_results(paths: Sequence[str | Path], target: Path, described: str = "") -> pd.DataFrame:
    """Write `results_table` as Parquet, with the folders of runs as they are found from the file.

    Args:
        paths: As `results_table`.
        target: The file, for example `runs.parquet`.
        described: The text of the `experiment.yaml` that the runs are of.
    """
    table = results_table(paths)
    folder = target.absolute().parent
    places = {name: Path(name).absolute() for name in table["run"].unique()}
    inside = {
        name: place.relative_to(folder).as_posix()
        for name, place in places.items()
        if place.is_relative_to(folder)
    }
    table["run"] = table["run"].map(lambda name: inside.get(name, name))
    write_table(table, target, described)
    return table


def write_table(table: pd.DataFrame, target: Path, described: str = "") -> None:
    """Write a long table as Parquet; `described` as for `write_results`."""
    schema = pa.schema([(name, NUMBERS.get(name, pa.string())) for name in LONG])
    arrow = pa.Table.from_pandas(table, schema, preserve_index=False)
    said = {DESCRIBED: described.encode()} if described else None
    with atomic_file(target) as temporary:
        pq.write_table(
            arrow.replace_schema_metadata(said),
            temporary,
            compression="zstd",
            compression_level=19,
            # the settings of a run are in each of its rows, and once in the dictionary
            dictionary_pagesize_limit=64 << 20,
            data_page_size=16 << 20,
        )


def described_in(file: Path) -> str:
    """Return the text of the `experiment.yaml` that a file of results carries; empty if it has none.

    Raises:
        InputError: If it is no Parquet file.
    """
    try:
        return str((pq.read_schema(file).metadata or {}).get(DESCRIBED, b"").decode())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a file of results ({one_line(str(error))[:200]})") from None


def _read_long(file: Path) -> Iterator[RunRead]:
    """Read the runs of a file of results, which may be somebody else's.

    Raises:
        InputError: If it is broken, unpacks to too much, or a value is of another kind.
    """
    found: dict[str, tuple[Row, dict[tuple[Any, ...], Row]]] = {}
    try:
        refuse_packed(pq.read_metadata(file), file.stat().st_size, file)
        texts = [name for name in LONG if name not in NUMBERS]
        table = pq.read_table(file, columns=list(LONG), read_dictionary=texts, use_threads=False)
        # texts that repeat are one object in memory
        columns = [
            table[name].to_pandas().astype(object).where(lambda c: c.notna(), None) for name in LONG
        ]
        for row in (dict(zip(LONG, values, strict=True)) for values in zip(*columns, strict=True)):
            name, value = str(file.parent / row["run"]), row["value"]
            if name not in found:
                said = clean(parse_json(row["settings"], f"{file}: settings"))
                shared = {"run": name, "recipe": row["recipe"], "seed": int(row["seed"])}
                found[name] = ({**said, **shared, "tool_version": row["version"]}, {})
            facts, measured = found[name]
            place = {key: row[key] for key in PLACE}
            numbers = measured.setdefault(tuple(place.values()), place)
            if (measure := row["measure"]) is None:
                continue
            low, high = bounds_of(measure)
            if value is None or not (math.isfinite(value) and low <= value <= high):
                raise ValueError(
                    f"run {row['run']}, {measure}: {value} is not from {low} to {high}"
                )
            (facts if row["study"] == OF_RUN else numbers)[measure] = float(value)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a file of results ({one_line(str(error))[:200]})") from None
    for name, (facts, measured) in found.items():
        measured.pop((None, None, OF_RUN, None, None), None)
        yield RunRead.of_rows(name, facts, tuple(measured.values()))


def _of_attack(run: RunFacts) -> Row:
    """Return the parameters of a run whose folder holds no recipe."""
    options = {f"attack.{name}": value for name, value in run.attack_options.items()}
    return {key: value for key, value in options.items() if value is not None}


def _facts(run: RunFacts) -> Row:
    shown_otherwise = ("recipe", "seed", "tool_version", "goals", "training", "attack_options")
    facts = flatten({k: v for k, v in run.to_json().items() if k not in shown_otherwise}, "run.")
    return {
        **{k: v for k, v in facts.items() if not isinstance(v, (list, dict))},
        **{f"{k}.n": len(v) for k, v in facts.items() if isinstance(v, list) and k != "run.flags"},
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


_SHARES = (
    "average_precision",
    "auroc",
    "full_context",
    "clean_dropped_share",
    "caught_share",
    "poisoning_rate",
)


def bounds_of(key: str) -> Bounds:
    """Return the bounds of a figure of `metrics.json` by its key, or by a column of the tidy table.

    >>> bounds_of("hit@10"), bounds_of("min_rank"), bounds_of("change")
    ((0.0, 1.0), (0.0, inf), (-inf, inf))
    >>> bounds_of("utility.image_retrieval.hit@10"), bounds_of("drift.text")
    ((0.0, 1.0), (0.0, 2.0))
    """
    if key.startswith(("run.filter.recall.", "run.scan.p_value.")):
        return SHARE
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
        by_seed: The number of each seed, if it is known.
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
        """Summarize the number of each seed; without a summary if there is none.

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
        return cls.of(read_runs(paths))

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
        return self.only(row for row in self.rows if is_finite(row.get(column)))

    def by_run(self) -> Iterator[tuple[Row, ...]]:
        """Yield the rows of each run."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["run"], []).append(row)
        yield from map(tuple, found.values())

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
        The difference over the seeds that both have; without a summary if there are none.

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
