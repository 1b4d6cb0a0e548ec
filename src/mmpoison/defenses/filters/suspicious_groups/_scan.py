"""Runs the whole scan on vectors: finds which pairs belong to a suspected goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._cells import Clustering, suspicious_cells
from mmpoison.defenses.filters.suspicious_groups._conflict import conflict_of
from mmpoison.defenses.filters.suspicious_groups._evidence import Evidence, evidence_of, unlike
from mmpoison.defenses.filters.suspicious_groups._goals import Group, join_cells
from mmpoison.defenses.filters.suspicious_groups._views import Views

MOST_CLUSTERS = 80
IMAGES_IN_CLUSTER = 25
"""At least, on average: finer clusters would tear kinds apart, and with them the evidence."""

SEEDS = 3
REPORT = 0.5
"""Cells up to this p-value take part in a group; the group's own p-value decides about it."""


SAYS_THE_SAME = 0.15
"""A group whose captions are less unlike the other captions of its images has unusual phrasing, and is no finding."""


@dataclass(frozen=True)
class Scan:
    """The result of the scan.

    Attributes:
        conflict: Conflict of each pair, in [0, 2], shape `(N,)`.
        threshold: Pairs above it count as conflicting.
        groups: Groups of conflicting pairs, the most significant first; most of them mean nothing.
        evidence: The evidence against each pair, and clusters of suspicious pairs.
    """

    conflict: npt.NDArray[np.float32]
    threshold: float
    groups: tuple[Group, ...]
    evidence: Evidence


def clusterings(views: Views, seed: int) -> list[Clustering]:
    """Make three clusterings each of up to 80, half and a quarter as many clusters."""
    most = max(4, min(MOST_CLUSTERS, len(views.image) // IMAGES_IN_CLUSTER))
    sizes = sorted({max(2, most // part) for part in (1, 2, 4)})
    return [
        Clustering.of(views, size, seed * SEEDS + number)
        for size in sizes
        for number in range(SEEDS)
    ]


def scan(
    views: Views,
    *,
    conflicting: float,
    affinity: float,
    seed: int,
    prepared: Sequence[Clustering] | None = None,
) -> Scan:
    """Find groups of conflicting pairs.

    Args:
        views: The data.
        conflicting: Share of the pairs that count as conflicting, in (0, 1).
        affinity: Groups that are more alike than this are natural neighbours.
        seed: Seed of the clusterings.
        prepared: Clusterings made before, for data that share captions and images.
    """
    conflict = conflict_of(views, seed)
    cells = [
        suspicious_cells(
            views, conflict, one, conflicting=conflicting, affinity=affinity, report=REPORT
        )
        for one in (prepared if prepared is not None else clusterings(views, seed))
    ]
    threshold = float(np.quantile(conflict, 1 - conflicting))
    groups = [
        group if unlike(views, group.rows) >= SAYS_THE_SAME else replace(group, p_value=1.0)
        for group in join_cells(cells)
    ]
    groups.sort(key=lambda group: (group.p_value, -group.evidence))
    return Scan(conflict, threshold, tuple(groups), evidence_of(views, conflict))
