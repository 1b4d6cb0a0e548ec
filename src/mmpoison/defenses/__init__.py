"""Defences, one file each: filters of pairs, robust trainings, repairs and scans of models."""

from mmpoison.defenses.catalogue import (
    DEFENSES,
    ModelRepair,
    ModelScanner,
    PairFilter,
    RobustTraining,
    TrainingServices,
    build_defense,
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
from mmpoison.defenses.scan_result import Finding, ScanResult
from mmpoison.defenses.scans.rank_gain import RankGain

__all__ = [
    "DEFENSES",
    "CleanFinetune",
    "FilterResult",
    "Finding",
    "GroupResult",
    "ModelRepair",
    "ModelScanner",
    "NeighbourOutliers",
    "PairFilter",
    "RankGain",
    "RelevanceFilter",
    "RobustTraining",
    "ScanResult",
    "SuspectedGoal",
    "SuspiciousGroups",
    "TrainingServices",
    "build_defense",
    "build_filter",
    "save_filtered",
]
