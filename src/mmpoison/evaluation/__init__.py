"""Embed once, then measure with the pure functions of `metrics`."""

from mmpoison.evaluation.lists import rank_lists, thumbnail_address
from mmpoison.evaluation.rows import (
    class_retrieval,
    collapse_warning,
    goal_row,
    random_captions_row,
    utility_row,
)
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet, drift_between

__all__ = [
    "TestEmbeddings",
    "TestSet",
    "class_retrieval",
    "collapse_warning",
    "drift_between",
    "goal_row",
    "random_captions_row",
    "rank_lists",
    "thumbnail_address",
    "utility_row",
]
