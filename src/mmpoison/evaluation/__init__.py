"""Evaluates models: embeds the test part once, then computes every number with the pure functions of `metrics`."""

from mmpoison.evaluation.lists import rank_lists, thumbnail_address
from mmpoison.evaluation.measure import (
    Measurement,
    MeasurementCache,
    ModelMeasurement,
    Subject,
    embedding_map,
    measure,
    silhouettes,
    triggered_success,
    triggered_targets,
)
from mmpoison.evaluation.names import STUDIES, parse_studies
from mmpoison.evaluation.rows import (
    Studied,
    class_retrieval,
    collapse_warning,
    collateral,
    goal_row,
    query_lengths,
    query_sources,
    random_captions_row,
    ranks_row,
    utility_row,
)
from mmpoison.evaluation.test_set import (
    GoalTarget,
    TestEmbeddings,
    TestSet,
    drift_between,
    goal_targets_of,
)
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
