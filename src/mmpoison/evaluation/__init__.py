"""Evaluates models: embeds the test part once, then computes every number with the pure functions of `metrics`."""

from mmpoison.evaluation.distribution import embedding_map, silhouettes
from mmpoison.evaluation.goal_target import GoalTarget, goal_targets_of
from mmpoison.evaluation.lists import rank_lists, thumbnail_address
from mmpoison.evaluation.measure import (
    Measurement,
    MeasurementCache,
    ModelMeasurement,
    Subject,
    measure,
)
from mmpoison.evaluation.names import STUDIES, parse_studies
from mmpoison.evaluation.rows import (
    class_retrieval,
    collapse_warning,
    goal_row,
    random_captions_row,
    ranks_row,
    utility_row,
)
from mmpoison.evaluation.study import Studied, collateral, query_lengths, query_sources
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet, drift_between
from mmpoison.evaluation.triggered import triggered_success, triggered_targets
from mmpoison.records.run_files import GoalRow, Metrics, RankLists, Utility

__all__ = [
    "STUDIES",
    "GoalRow",
    "GoalTarget",
    "Measurement",
    "MeasurementCache",
    "Metrics",
    "ModelMeasurement",
    "RankLists",
    "Studied",
    "Subject",
    "TestEmbeddings",
    "TestSet",
    "Utility",
    "class_retrieval",
    "collapse_warning",
    "collateral",
    "drift_between",
    "embedding_map",
    "goal_row",
    "goal_targets_of",
    "measure",
    "parse_studies",
    "query_lengths",
    "query_sources",
    "random_captions_row",
    "rank_lists",
    "ranks_row",
    "silhouettes",
    "thumbnail_address",
    "triggered_success",
    "triggered_targets",
    "utility_row",
]
