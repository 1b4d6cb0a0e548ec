"""Makes rows of the tidy table from what a run measured beyond the rows of every run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpoison.base.record import Record
from mmpoison.base.untrusted import parse_json
from mmpoison.errors import InputError
from mmpoison.records.run_files import GoalRow, Metrics, RepairCurve, Utility
from mmpoison.reporting.parameters import Row
from mmpoison.reporting.text import as_number, clean

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
