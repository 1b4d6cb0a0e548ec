"""What tables say of a model of a run: the measures, and where metrics.json has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmpoison.reporting.runs import Group, Metrics, number_at
from mmpoison.reporting.table import Column
from mmpoison.statistics import Summary

Value = Callable[[Metrics, str, str], float | None]
"""A number of a run's metrics, for a goal and a model."""

UTILITY = {"IR": "image_retrieval", "TR": "text_retrieval"}


def goal_value(key: str) -> Value:
    """What the queries of a goal find."""
    return lambda metrics, goal, model: number_at(metrics, "goal", goal, model, key)


def utility_value(part: str, key: str, reading: str = "utility") -> Value:
    """How well a model does what it is for."""
    return lambda metrics, _, model: number_at(metrics, reading, model, part, key)


def drift_value(kind: str) -> Value:
    """How far the embeddings of `text` or `image` moved; of no model by itself."""
    return lambda metrics, *_: number_at(metrics, "drift", kind)


def filter_value(key: str) -> Value:
    """What the filter did; of no model by itself."""
    return lambda metrics, *_: number_at(metrics, "run", "filter", key)


MEASURES: Mapping[str, tuple[Column, Value]] = {
    **{
        f"Hit@{k}": (Column(f"Hit@{k}", 3, k <= 10), goal_value(f"hit@{k}"))
        for k in (1, 5, 10, 20, 30, 50)
    },
    "MinRank": (Column("MinRank", 2), goal_value("min_rank")),
    "median rank": (
        Column("median rank", 1, narrow=False),
        lambda metrics, goal, model: number_at(metrics, "ranks", goal, model, "median"),
    ),
    **{
        f"{short} Hit@10": (Column(f"{short} Hit@10"), utility_value(part, "hit@10"))
        for short, part in UTILITY.items()
    },
}
"""What a row of a model says: its column, and where metrics.json has it."""


def over_seeds(group: Group, value: Value, model: str) -> Summary | None:
    """One number of a model over the seeds of a setting; None where no run has it."""
    return group.over_seeds(lambda run: value(run, group.goal, model))
