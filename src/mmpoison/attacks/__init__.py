"""Attacks edit the table of pairs and say what they did in a manifest."""

from mmpoison.attacks.catalogue import ATTACKS, Attack
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.single_target_label import SingleTargetLabel
from mmpoison.datasets.manifest import PoisonedPair, PoisonManifest

__all__ = ["ATTACKS", "Attack", "Goal", "PoisonManifest", "PoisonedPair", "SingleTargetLabel"]
