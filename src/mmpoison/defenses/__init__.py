"""Defences, one file each: before training they drop pairs, in training they resist, afterwards they repair."""

from mmpoison.defenses.catalogue import (
    DEFENSES,
    ModelRepair,
    PairFilter,
    RobustTraining,
    build_filter,
)
from mmpoison.defenses.clean_finetune import CleanFinetune
from mmpoison.defenses.filtered_folder import save_filtered
from mmpoison.defenses.neighbour_outliers import NeighbourOutliers
from mmpoison.defenses.relevance_filter import FilterResult, RelevanceFilter
from mmpoison.defenses.suspicious_groups import GroupResult, SuspectedGoal, SuspiciousGroups

__all__ = [
    "DEFENSES",
    "CleanFinetune",
    "FilterResult",
    "GroupResult",
    "ModelRepair",
    "NeighbourOutliers",
    "PairFilter",
    "RelevanceFilter",
    "RobustTraining",
    "SuspectedGoal",
    "SuspiciousGroups",
    "build_filter",
    "save_filtered",
]
