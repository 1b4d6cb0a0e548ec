"""Defences, one file each: before training they drop pairs, in training they resist, afterwards they repair."""

from mmpoison.defenses.catalogue import (
    DEFENSES,
    ModelRepair,
    PairFilter,
    RobustTraining,
    build_filter,
)
from mmpoison.defenses.cut import Cut, Threshold
from mmpoison.defenses.filter_result import FilterResult, PairScores, SuspectedGoal
from mmpoison.defenses.filters.neighbour_outliers import NeighbourOutliers
from mmpoison.defenses.filters.pipeline import filter_pairs
from mmpoison.defenses.filters.relevance_filter import RelevanceFilter
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.defenses.filters.suspicious_groups import SuspiciousGroups
from mmpoison.defenses.repairs.clean_finetune import CleanFinetune

__all__ = [
    "DEFENSES",
    "CleanFinetune",
    "Cut",
    "FilterResult",
    "ModelRepair",
    "NeighbourOutliers",
    "PairFilter",
    "PairScores",
    "RelevanceFilter",
    "RobustTraining",
    "ScoreFilter",
    "SuspectedGoal",
    "SuspiciousGroups",
    "Threshold",
    "build_filter",
    "filter_pairs",
]
