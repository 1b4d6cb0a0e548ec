"""The measures that tables show of a model of a run, and how each is read from the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mmpoison.records.run_files import FilterFacts, Metrics, Utility
from mmpoison.reporting.runs import Group
from mmpoison.reporting.table import Column
from mmpoison.statistics import UNBOUNDED, Summary

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


def over_seeds(group: Group, value: Value, model: str) -> Summary | None:
    """Summarise one number of a model over the seeds of a setting; None where no run has it."""
    return group.over_seeds(lambda run: value(run, group.goal, model), value.bounds)
