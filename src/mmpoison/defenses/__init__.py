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
from mmpoison.defenses.cut import Cut, Threshold
from mmpoison.defenses.filter_result import FilterResult, PairScores, SuspectedGoal
from mmpoison.defenses.filters.gmm_split import GmmSplit
from mmpoison.defenses.filters.local_density import LocalDensity
from mmpoison.defenses.filters.pipeline import filter_pairs
from mmpoison.defenses.filters.random_drop import RandomDrop
from mmpoison.defenses.filters.relevance_filter import RelevanceFilter
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.defenses.filters.suspicious_groups import SuspiciousGroups
from mmpoison.defenses.repairs.clean_finetune import CleanFinetune
from mmpoison.defenses.repairs.cleanclip import CleanClip
from mmpoison.defenses.repairs.par import Par
from mmpoison.defenses.robust.roclip import RoClip
from mmpoison.defenses.robust.safeclip import SafeClip
from mmpoison.defenses.scan_result import Finding, ScanResult
from mmpoison.defenses.scans.decree import Decree
from mmpoison.defenses.scans.rank_gain import RankGain

__all__ = [
    "DEFENSES",
    "CleanClip",
    "CleanFinetune",
    "Cut",
    "Decree",
    "FilterResult",
    "Finding",
    "GmmSplit",
    "LocalDensity",
    "ModelRepair",
    "ModelScanner",
    "PairFilter",
    "PairScores",
    "Par",
    "RandomDrop",
    "RankGain",
    "RelevanceFilter",
    "RoClip",
    "RobustTraining",
    "SafeClip",
    "ScanResult",
    "ScoreFilter",
    "SuspectedGoal",
    "SuspiciousGroups",
    "Threshold",
    "TrainingServices",
    "build_defense",
    "build_filter",
    "filter_pairs",
]
