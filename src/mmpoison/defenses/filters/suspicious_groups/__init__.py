"""Finds suspected goals, without labels: captions of one kind that are with images of another kind.

The parts, from the bottom: `_conflict` (vectors, one side from the other, captions against images), `_evidence`
(conflicting items that are alike, and how often clean data show as much), `_scan` (two views joined; what would be
found), `_words` (clusters in words), `_features` (from an encoder), `_defense` (the defence in the registry).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmpoison.defenses.filters.suspicious_groups._conflict import Views
    from mmpoison.defenses.filters.suspicious_groups._defense import SuspiciousGroups, views_of
    from mmpoison.defenses.filters.suspicious_groups._features import (
        caption_features,
        image_features,
    )
    from mmpoison.defenses.filters.suspicious_groups._scan import PlantedSize, plant_goals
    from mmpoison.defenses.filters.suspicious_groups._words import Vocabulary

__all__ = [
    "PlantedSize",
    "SuspiciousGroups",
    "Views",
    "Vocabulary",
    "caption_features",
    "image_features",
    "plant_goals",
    "views_of",
]

# the defence imports torch; the passes over shards use the other parts without it
_MODULES = {
    "PlantedSize": "_scan",
    "SuspiciousGroups": "_defense",
    "Views": "_conflict",
    "Vocabulary": "_words",
    "caption_features": "_features",
    "image_features": "_features",
    "plant_goals": "_scan",
    "views_of": "_defense",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
