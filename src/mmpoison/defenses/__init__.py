"""Defences, one file each: filters of pairs, robust trainings, repairs and checks of models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmpoison.defenses.catalogue import (
        DEFENSES,
        ModelCheck,
        ModelRepair,
        RobustTraining,
        TrainingServices,
        build_defense,
    )
    from mmpoison.defenses.check_result import CheckResult, Finding
    from mmpoison.defenses.checks.decree import Decree
    from mmpoison.defenses.checks.rank_gain import RankGain
    from mmpoison.defenses.cut import Cut, Threshold
    from mmpoison.defenses.filters.filter_result import FilterResult
    from mmpoison.defenses.filters.group_filter import SuspiciousGroups
    from mmpoison.defenses.filters.judging import filter_pairs
    from mmpoison.defenses.filters.local_density import LocalDensity
    from mmpoison.defenses.filters.score_filter import PairScores, ScoreFilter, build_filter
    from mmpoison.defenses.filters.similarity import GmmSplit, RandomDrop, RelevanceFilter
    from mmpoison.defenses.filters.suspicious_groups.describe import DescribedGroup
    from mmpoison.defenses.filters.suspicious_groups.passes import ReadPairs
    from mmpoison.defenses.repairs.finetuning import CleanClip, CleanFinetune, Par
    from mmpoison.defenses.robust.roclip import RoClip
    from mmpoison.defenses.robust.safeclip import SafeClip

__all__ = [
    "DEFENSES",
    "CheckResult",
    "CleanClip",
    "CleanFinetune",
    "Cut",
    "Decree",
    "DescribedGroup",
    "FilterResult",
    "Finding",
    "GmmSplit",
    "LocalDensity",
    "ModelCheck",
    "ModelRepair",
    "PairScores",
    "Par",
    "RandomDrop",
    "RankGain",
    "ReadPairs",
    "RelevanceFilter",
    "RoClip",
    "RobustTraining",
    "SafeClip",
    "ScoreFilter",
    "SuspiciousGroups",
    "Threshold",
    "TrainingServices",
    "build_defense",
    "build_filter",
    "filter_pairs",
]

# most of them import torch: the passes over shards start without it
_MODULES = {
    "CleanClip": "mmpoison.defenses.repairs.finetuning",
    "CleanFinetune": "mmpoison.defenses.repairs.finetuning",
    "Cut": "mmpoison.defenses.cut",
    "DEFENSES": "mmpoison.defenses.catalogue",
    "DescribedGroup": "mmpoison.defenses.filters.suspicious_groups.describe",
    "Decree": "mmpoison.defenses.checks.decree",
    "FilterResult": "mmpoison.defenses.filters.filter_result",
    "Finding": "mmpoison.defenses.check_result",
    "GmmSplit": "mmpoison.defenses.filters.similarity",
    "LocalDensity": "mmpoison.defenses.filters.local_density",
    "ModelRepair": "mmpoison.defenses.catalogue",
    "ModelCheck": "mmpoison.defenses.catalogue",
    "PairScores": "mmpoison.defenses.filters.score_filter",
    "Par": "mmpoison.defenses.repairs.finetuning",
    "RandomDrop": "mmpoison.defenses.filters.similarity",
    "RankGain": "mmpoison.defenses.checks.rank_gain",
    "ReadPairs": "mmpoison.defenses.filters.suspicious_groups.passes",
    "RelevanceFilter": "mmpoison.defenses.filters.similarity",
    "RoClip": "mmpoison.defenses.robust.roclip",
    "RobustTraining": "mmpoison.defenses.catalogue",
    "SafeClip": "mmpoison.defenses.robust.safeclip",
    "CheckResult": "mmpoison.defenses.check_result",
    "ScoreFilter": "mmpoison.defenses.filters.score_filter",
    "SuspiciousGroups": "mmpoison.defenses.filters.group_filter",
    "Threshold": "mmpoison.defenses.cut",
    "TrainingServices": "mmpoison.defenses.catalogue",
    "build_defense": "mmpoison.defenses.catalogue",
    "build_filter": "mmpoison.defenses.filters.score_filter",
    "filter_pairs": "mmpoison.defenses.filters.judging",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'mmpoison.defenses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
