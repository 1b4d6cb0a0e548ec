"""Makes one tidy table of all numbers of some runs: a row a run, goal and model, each parameter a column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmpoison.base.files import atomic_file
from mmpoison.base.record import Record
from mmpoison.base.untrusted import open_bytes, parse_json
from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RankSpread, RepairCurve, RunFacts, Utility
from mmpoison.reporting.runs import Row, expand, flatten, read_run
from mmpoison.reporting.summary import classes
from mmpoison.reporting.text import as_number, clean

# -- Makes rows of the tidy table from what a run measured beyond the rows of every run.


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
    for data, there in metrics.transfer.items():
        for goal, rows in there.goal.items():
            for model, row in rows.items():
                utility = utility_numbers(there.utility.get(model), "utility.")
                yield {**_row("transfer", goal, model, row, case=data), **utility}
    yield from _curve(curve_of(metrics, folder))


def curve_of(metrics: Metrics, folder: Path) -> RepairCurve:
    """Read the curve of a repair, from a file of the run folder or from the metrics; empty where there is none.

    Raises:
        InputError: If the file is broken.
    """
    for name in CURVE_FILES:
        if (folder / name).is_file():
            return RepairCurve.read(folder / name, clean)
    return metrics.sterilize_curve or RepairCurve()


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


MAIN = "main"
"""`study` of the rows that every run has."""

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
    return to_arrow(row for folder in expand(list(map(Path, paths))) for row in run_rows(folder))


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


def run_rows(folder: Path) -> Iterator[Row]:
    """Make the rows of one run folder, as plain values.

    Raises:
        InputError: If a file of it is broken.
    """
    _, metrics, parameters = read_run(folder)
    run = metrics.run
    shared: Row = {
        **parameters,
        **_facts(run),
        "run": str(folder),
        "recipe": run.recipe,
        "seed": run.seed or 0,
        "tool_version": run.tool_version,
        "manifest": _digest(folder / "manifest.json"),
    }
    drift = {
        **numbers(metrics.drift, "drift."),
        **numbers(metrics.study.order_drift, "order_drift."),
    }
    for goal, models in metrics.goal.items():
        for model, row in models.items():
            yield {
                **shared,
                **_named(goal),
                "study": MAIN,
                "model": model,
                **numbers(row),
                **_spread(metrics.spread(goal, model)),
                **utility_numbers(metrics.utility.get(model), "utility."),
                **utility_numbers(metrics.utility_equal_texts.get(model), "utility_equal_texts."),
                **(drift if model == "poisoned" else {}),
            }
    for found in study_rows(metrics, folder):
        yield {**shared, **_named(str(found["goal"])), **found}


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


def _facts(run: RunFacts) -> Row:
    shown_otherwise = ("recipe", "seed", "tool_version", "goals", "training", "attack_options")
    facts = flatten({k: v for k, v in run.to_json().items() if k not in shown_otherwise}, "run.")
    return {
        **{k: v for k, v in facts.items() if not isinstance(v, (list, dict))},
        "run.flags": run.flags,
    }


def _named(goal: str) -> Row:
    pair = classes(goal)
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


def _digest(file: Path) -> str | None:
    if not file.is_file():
        return None
    with open_bytes(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
