"""Defences, one file each: before training they drop pairs, in training they resist, afterwards they repair."""

from mmpoison.defenses.catalogue import (
    DEFENSES,
    ModelRepair,
    PairFilter,
    RobustTraining,
    build_filter,
)
from mmpoison.defenses.filters.filtered_folder import save_filtered
from mmpoison.defenses.filters.neighbour_outliers import NeighbourOutliers
from mmpoison.defenses.filters.relevance_filter import FilterResult, RelevanceFilter
from mmpoison.defenses.filters.suspicious_groups import (
    GroupResult,
    SuspectedGoal,
    SuspiciousGroups,
)
from mmpoison.defenses.repairs.clean_finetune import CleanFinetune

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
