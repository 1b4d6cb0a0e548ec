"""Data poisoning attacks: each edits the table of pairs and records every change in a manifest."""

from mmpoison.attacks.blend_backdoor import BlendBackdoor
from mmpoison.attacks.both_names import BothNames
from mmpoison.attacks.catalogue import (
    ATTACKS,
    Attack,
    build_attack,
    run_attack,
    takes_several_goals,
)
from mmpoison.attacks.decoys import Decoys
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.multiple_target_labels import MultipleTargetLabels
from mmpoison.attacks.nearest_assigned import NearestAssigned
from mmpoison.attacks.orphan import Orphan
from mmpoison.attacks.patch_backdoor import PatchBackdoor
from mmpoison.attacks.presets import PRESETS, Preset
from mmpoison.attacks.rebuild import rebuild
from mmpoison.attacks.self_vouched import SelfVouched
from mmpoison.attacks.single_target_image import SingleTargetImage
from mmpoison.attacks.single_target_label import SingleTargetLabel
from mmpoison.attacks.surrogate import Surrogate, VectorSurrogate, nearest_classes
from mmpoison.attacks.under_the_grid import UnderTheGrid
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest

__all__ = [
    "ATTACKS",
    "PRESETS",
    "Attack",
    "BlendBackdoor",
    "BothNames",
    "Decoys",
    "Goal",
    "MultipleTargetLabels",
    "NearestAssigned",
    "Orphan",
    "PatchBackdoor",
    "PoisonManifest",
    "PoisonedPair",
    "Preset",
    "SelfVouched",
    "SingleTargetImage",
    "SingleTargetLabel",
    "Surrogate",
    "UnderTheGrid",
    "VectorSurrogate",
    "build_attack",
    "nearest_classes",
    "rebuild",
    "run_attack",
    "takes_several_goals",
]
