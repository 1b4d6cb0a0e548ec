"""Data poisoning attacks: each edits the table of pairs and records every change in a manifest."""

from mmpoison.attacks.adaptive import (
    BothNames,
    Decoys,
    FeatureCollision,
    NearestAssigned,
    NearestGoal,
    Orphan,
    SelfVouched,
    UnderTheGrid,
)
from mmpoison.attacks.backdoors import BadClip, BlendBackdoor, PatchBackdoor, ToxicText
from mmpoison.attacks.catalogue import (
    ATTACKS,
    Attack,
    build_attack,
    run_attack,
    takes_several_goals,
)
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import rebuild
from mmpoison.attacks.paper import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel
from mmpoison.attacks.settings import PRESETS, Preset
from mmpoison.attacks.surrogate import PixelSurrogate, Surrogate, VectorSurrogate, nearest_classes
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest

__all__ = [
    "ATTACKS",
    "PRESETS",
    "Attack",
    "BadClip",
    "BlendBackdoor",
    "BothNames",
    "Decoys",
    "FeatureCollision",
    "Goal",
    "MultipleTargetLabels",
    "NearestAssigned",
    "NearestGoal",
    "Orphan",
    "PatchBackdoor",
    "PixelSurrogate",
    "PoisonManifest",
    "PoisonedPair",
    "Preset",
    "SelfVouched",
    "SingleTargetImage",
    "SingleTargetLabel",
    "Surrogate",
    "ToxicText",
    "UnderTheGrid",
    "VectorSurrogate",
    "build_attack",
    "nearest_classes",
    "rebuild",
    "run_attack",
    "takes_several_goals",
]
