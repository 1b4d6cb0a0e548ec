"""What a run measured beyond the rows of every run, as rows of the tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import parse_json, read_json
from mmpoison.errors import InputError
from mmpoison.reporting.summary import section
from mmpoison.reporting.text import as_number, clean

CURVE_FILES = ("sterilize_curve.json", "sterilize-curve.json")


def study_rows(metrics: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Rows with `study`, `case`, `x`, `goal`, `model` and their figures.

    | study | case | x |
    |---|---|---|
    | `queries` | kind of query | |
    | `query-length` | | how often each caption is said |
    | `transfer` | name of the other data | |
    | `epochs` | | epochs of training done |
    | `sterilize-curve` | learning rate | steps of the repair done |

    Args:
        metrics: What metrics.json holds.
        folder: The run folder, for what lies beside it.
    """
    study = section(metrics, "study")
    for name, key in (("queries", "queries"), ("query-length", "query_length")):
        for goal, models in section(study, key).items():
            for model, kinds in _objects(models):
                for kind, values in _objects(kinds):
                    place = {"x": _number(kind)} if name == "query-length" else {"case": kind}
                    yield _row(name, goal, model, values, **place)
    for goal, models in section(study, "epochs").items():
        for model, looks in _objects(models):
            for epoch, values in _objects(looks):
                yield _row("epochs", goal, model, values, x=_number(epoch))
    for data, there in _objects(section(metrics, "transfer")):
        for goal, models in _objects(section(there, "goal")):
            for model, values in _objects(models):
                utility = {
                    f"utility.{part}.{key}": as_number(value)
                    for part, hits in _objects(section(section(there, "utility"), model))
                    for key, value in hits.items()
                }
                yield {**_row("transfer", goal, model, values, case=data), **utility}
    yield from _curve(curve_of(metrics, folder))


def curve_of(metrics: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The curve of a repair, from beside the metrics or within them; empty where there is none."""
    for name in CURVE_FILES:
        if (folder / name).is_file():
            value = clean(read_json(folder / name))
            return value if isinstance(value, Mapping) else {}
    return section(metrics, "sterilize_curve")


def _curve(curve: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    branches = curve.get("branches")
    for branch in branches if isinstance(branches, list) else []:
        rate = as_number(branch.get("learning_rate"))
        looks: Sequence[Any] = branch.get("looks") or []
        for look in looks:
            if not isinstance(look, Mapping):
                continue
            utility = section(look, "utility")
            for goal, values in _objects(section(section(look, "test"), "goal")):
                yield {
                    **_row(
                        "sterilize-curve",
                        goal,
                        "sterilized",
                        values,
                        x=as_number(look.get("step")),
                        case=None if rate is None else f"{rate:g}",
                    ),
                    "epoch": as_number(look.get("epoch")),
                    **{
                        f"held_out.{part}.{key}": as_number(value)
                        for part, hits in _objects(utility)
                        for key, value in hits.items()
                    },
                }


def _row(
    study: str,
    goal: str,
    model: str,
    values: Mapping[str, Any],
    *,
    case: str | None = None,
    x: float | None = None,
) -> dict[str, Any]:
    numbers = {key: as_number(value) for key, value in values.items()}
    return {"study": study, "case": case, "x": x, "goal": goal, "model": model, **numbers}


def _objects(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items() if isinstance(v, Mapping))


def _number(text: str) -> float | None:
    try:
        return as_number(parse_json(text, "metrics.json"))
    except InputError:
        return None
