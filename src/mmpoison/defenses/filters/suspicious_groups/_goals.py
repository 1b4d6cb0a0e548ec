"""Joins cells of several clusterings into suspected goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmpoison.defenses.filters.suspicious_groups._cells import Cell
from mmpoison.defenses.filters.suspicious_groups._evidence import SuspiciousCluster
from mmpoison.defenses.filters.suspicious_groups._views import Index

QUANTILE = 1 / 3
"""A goal counts as much as its cell in the best third of the clusterings."""

MIN_VOTES = 2
"""A pair is dropped with its group if at least two clusterings put it there, or its own evidence."""

LINKED = 0.5
"""Two cells are about the same pairs if the smaller shares this much of its pairs with the larger."""


@dataclass(frozen=True)
class Group:
    """Pairs that many clusterings find suspicious together.

    Attributes:
        rows: The pairs, sorted.
        votes: In how many clusterings each is in a suspicious cell, shape `(len(rows),)`.
        p_value: Chance that a clean data set shows any such group, in [0, 1].
        evidence: Sum over clusterings of -log10 of their p-values; ranks groups of equal p-value.
        cell: The most significant of its cells; None for a cluster of suspicious pairs that no cell shows.
        score: Of the strongest cluster of suspicious pairs in it; ranks what is not significant.
    """

    rows: Index
    votes: Index
    p_value: float
    evidence: float
    cell: Cell | None
    score: float = 0.0


def join_cells(clusterings: Sequence[Sequence[Cell]]) -> list[Group]:
    """Join cells that share pairs, across all clusterings; the most significant group comes first.

    The p-value of a group is `quantile(p, 1/3) * 3` of the p-values that the clusterings give it. That holds however
    they depend on each other (Meinshausen, Meier and Buehlmann 2009), and a single unusual clustering is no finding.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    cells = [(index, cell) for index, found in enumerate(clusterings) for cell in found]
    if not cells:
        return []
    sizes = np.array([len(cell.rows) for _, cell in cells])
    rows = np.concatenate([cell.rows for _, cell in cells])
    pairs, column = np.unique(rows, return_inverse=True)
    member = csr_matrix(
        (np.ones(len(rows), dtype=np.int64), (np.repeat(np.arange(len(cells)), sizes), column)),
        shape=(len(cells), len(pairs)),
    )
    shared = (member @ member.T).toarray() / np.minimum.outer(sizes, sizes)
    count, label = connected_components(csr_matrix(shared >= LINKED), directed=False)
    groups: list[Group] = []
    for group in range(count):
        mine = np.flatnonzero(label == group)
        p_values = np.ones(len(clusterings))
        seen: set[tuple[int, int]] = set()
        for position in mine:
            index, cell = cells[position]
            p_values[index] = min(p_values[index], cell.p_value)
            seen.update((index, int(row)) for row in cell.rows)
        found, votes = np.unique([row for _, row in seen], return_counts=True)
        quantile = float(np.quantile(p_values, QUANTILE, method="inverted_cdf"))
        groups.append(
            Group(
                found,
                votes,
                min(1.0, quantile / QUANTILE),
                float(-np.log10(np.maximum(p_values, 1e-300)).sum()),
                min((cells[position][1] for position in mine), key=lambda cell: cell.p_value),
            )
        )
    return sorted(groups, key=lambda group: (group.p_value, -group.evidence))


def with_clusters(groups: Sequence[Group], clusters: Sequence[SuspiciousCluster]) -> list[Group]:
    """Add results of the evidence of single pairs: more pairs to groups, and clusters that no cell shows.

    Args:
        groups: From `join_cells`.
        clusters: From `evidence_of`.
    """
    added: list[list[SuspiciousCluster]] = [[] for _ in groups]
    alone: list[Group] = []
    for cluster in clusters:
        shared = [len(np.intersect1d(cluster.rows, group.rows)) for group in groups]
        fits = [
            number
            for number, (both, group) in enumerate(zip(shared, groups, strict=True))
            if both >= LINKED * min(len(cluster.rows), len(group.rows))
        ]
        if fits:
            best = min(fits, key=lambda number: (groups[number].p_value, -shared[number]))
            added[best].append(cluster)
        else:
            votes = np.full(len(cluster.rows), MIN_VOTES)
            alone.append(Group(cluster.rows, votes, 1.0, 0.0, None, cluster.score))
    grown = [
        _grown(group, more) if more else group for group, more in zip(groups, added, strict=True)
    ]
    return [*grown, *alone]


def _grown(group: Group, clusters: Sequence[SuspiciousCluster]) -> Group:
    rows = np.unique(np.concatenate([group.rows, *(cluster.rows for cluster in clusters)]))
    votes = np.zeros(len(rows), dtype=np.intp)
    votes[np.searchsorted(rows, group.rows)] = group.votes
    for cluster in clusters:
        votes[np.searchsorted(rows, cluster.rows)] += MIN_VOTES
    score = max(cluster.score for cluster in clusters)
    return replace(group, rows=rows, votes=votes, score=score)
