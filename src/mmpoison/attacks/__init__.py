"""Data poisoning attacks: each edits the table of pairs and records every change in a manifest."""

from mmpoison.attacks.catalogue import (
    ATTACKS,
    Attack,
    build_attack,
    run_attack,
    takes_several_goals,
)
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.multiple_target_labels import MultipleTargetLabels
from mmpoison.attacks.presets import PRESETS, Preset
from mmpoison.attacks.rebuild import rebuild
from mmpoison.attacks.single_target_image import SingleTargetImage
from mmpoison.attacks.single_target_label import SingleTargetLabel
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest

__all__ = [
    "ATTACKS",
    "PRESETS",
    "Attack",
    "Goal",
    "MultipleTargetLabels",
    "PoisonManifest",
    "PoisonedPair",
    "Preset",
    "SingleTargetImage",
    "SingleTargetLabel",
    "build_attack",
    "rebuild",
    "run_attack",
    "takes_several_goals",
]
