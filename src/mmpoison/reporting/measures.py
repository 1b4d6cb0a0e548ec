"""The measures that tables show of a model of a run, and how each is read from the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from mmpoison.records.run_files import FilterFacts, Metrics, Utility
from mmpoison.reporting.runs import Group
from mmpoison.reporting.table import Column
from mmpoison.statistics import Summary

Value = Callable[[Metrics, str, str], float | None]
"""A number of a run's metrics, for a goal and a model."""

Retrieval = Literal["image", "text"]

UTILITY: Mapping[str, Retrieval] = {"IR": "image", "TR": "text"}


def goal_value(key: str, *, with_trigger: bool = False) -> Value:
    """Read what the queries of a goal find, in the gallery as it is or with a backdoor's trigger."""
    return lambda metrics, goal, model: metrics.row(goal, model, with_trigger=with_trigger).number(
        key
    )


def utility_value(part: Retrieval, key: str, *, equal_texts: bool = False) -> Value:
    """Read the usual quality of a model."""

    def value(metrics: Metrics, goal: str, model: str) -> float | None:
        rows = metrics.utility_equal_texts if equal_texts else metrics.utility
        utility = rows.get(model) or Utility()
        found = utility.image_retrieval if part == "image" else utility.text_retrieval
        return found.number(key)

    return value


def drift_value(kind: str) -> Value:
    """Read how far the embeddings of `text` or `image` moved; of no model by itself."""
    return lambda metrics, *_: metrics.drift.number(kind)


def filter_value(key: str) -> Value:
    """Read what the filter did; of no model by itself."""
    return lambda metrics, *_: (metrics.run.filter or FilterFacts()).number(key)


MEASURES: Mapping[str, tuple[Column, Value]] = {
    **{
        f"Hit@{k}": (Column(f"Hit@{k}", 3, k <= 10), goal_value(f"hit@{k}"))
        for k in (1, 5, 10, 20, 30, 50)
    },
    "MinRank": (Column("MinRank", 2), goal_value("min_rank")),
    "median rank": (
        Column("median rank", 1, narrow=False),
        lambda metrics, goal, model: metrics.spread(goal, model).median,
    ),
    **{
        f"{short} Hit@10": (Column(f"{short} Hit@10"), utility_value(part, "hit@10"))
        for short, part in UTILITY.items()
    },
}
"""The measures of a model by name: the column, and how it is read."""


def over_seeds(group: Group, value: Value, model: str) -> Summary | None:
    """Summarise one number of a model over the seeds of a setting; None where no run has it."""
    return group.over_seeds(lambda run: value(run, group.goal, model))
