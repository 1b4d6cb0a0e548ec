"""Defences, one file each: before training they drop pairs, after training they repair a checkpoint."""

from mmpoison.defenses.catalogue import DEFENSES, PairFilter, build_filter
from mmpoison.defenses.clean_finetune import CleanFinetune
from mmpoison.defenses.filtered_folder import save_filtered
from mmpoison.defenses.relevance_filter import FilterResult, RelevanceFilter
from mmpoison.defenses.suspicious_groups import GroupResult, SuspectedGoal, SuspiciousGroups

__all__ = [
    "DEFENSES",
    "CleanFinetune",
    "FilterResult",
    "GroupResult",
    "PairFilter",
    "RelevanceFilter",
    "SuspectedGoal",
    "SuspiciousGroups",
    "build_filter",
    "save_filtered",
]
