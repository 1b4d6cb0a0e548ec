"""Finds suspected goals, without labels: captions of one kind that are with images of another kind.

The parts, from the bottom: `_views` (vectors), `_conflict` (each caption against its image), `_cells` (one clustering
and its improbable cells), `_goals` (cells of several clusterings joined), `_scan` (all of it), `_words` (groups in
words), `_features` (from an encoder), `_defense` (the defence in the registry).
"""

from mmpoison.defenses.filters.suspicious_groups._defense import (
    SuspiciousGroups,
    views_of,
)
from mmpoison.defenses.filters.suspicious_groups._scan import clusterings
from mmpoison.defenses.filters.suspicious_groups._views import Views

__all__ = [
    "SuspiciousGroups",
    "Views",
    "clusterings",
    "views_of",
]
