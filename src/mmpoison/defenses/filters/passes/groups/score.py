"""Scores every pair, and names the groups: the last pass, which reads suspicious rows only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filter_result import FEWEST_IMAGES
from mmpoison.defenses.filters.passes.groups.counts import Counts, Rows
from mmpoison.defenses.filters.passes.groups.findings import Findings, keys
from mmpoison.defenses.filters.passes.groups.flags import read_items, rows_of_cells
from mmpoison.defenses.filters.passes.groups.items import Values
from mmpoison.defenses.filters.passes.groups.model import Model
from mmpoison.defenses.filters.passes.groups.shard import Index, Shard
from mmpoison.defenses.filters.suspicious_groups._evidence import SuspiciousCluster
from mmpoison.defenses.filters.suspicious_groups._level import false_alarms_at
from mmpoison.defenses.filters.suspicious_groups._scan import joined_clusters

STRONG = 20.0
"""In sets larger than the background, weaker groups are what clean sets show too.

The strongest group of a clean synthetic corpus of 0.1 or 1 million pairs with independent mistakes has a score of 6 to
12, whereas one small clean set in a hundred has one above 10: the most extreme of many cells are compared. Mistakes
that have favourites go higher, above 20 in two of four corpora: they look like poison
(docs/decisions/0053-passes-over-shards.md).
"""

SMALL, LARGE = 20_000, 100_000
"""Pairs up to which the levels of small sets hold (the background has so many), and from which `STRONG` does."""


def needed_score(pairs: int) -> float:
    """Return the score below which nothing is said of a group in a set of so many pairs.

    Between the sizes that were measured it grows with the logarithm of the size, from 0 to `STRONG`.

    >>> [round(needed_score(n), 1) for n in (20_000, 25_000, 50_000, 100_000, 10**8)]
    [0.0, 2.8, 11.4, 20.0, 20.0]
    """
    share = np.log(max(pairs, 1) / SMALL) / np.log(LARGE / SMALL)
    return STRONG * float(np.clip(share, 0, 1))


@dataclass(frozen=True)
class Scores:
    """Scores of a shard.

    Attributes:
        number: Of the shard.
        score: Minus log10 of the share of items that have as much evidence in one of the views, NaN for unusable rows,
            shape `(n,)`.
        member: For each view, rows in clusters and the cluster of each, shape `(2, m)`.
        owner: For each view, the image of each of these rows, shape `(m,)`.
    """

    number: int
    score: Values
    member: Mapping[str, Index]
    owner: Mapping[str, Index]

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found: dict[str, npt.NDArray[Any]] = {"number": np.array(self.number), "score": self.score}
        found |= {f"member_{view}": value for view, value in self.member.items()}
        return found | {f"owner_{view}": value for view, value in self.owner.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Scores:
        """Read what `to_arrays` gave."""
        member, owner = (
            {key[len(name) :]: arrays[key] for key in arrays if key.startswith(name)}
            for name in ("member_", "owner_")
        )
        return cls(int(arrays["number"]), arrays["score"], member, owner)


@dataclass(frozen=True)
class Group:
    """Captions of one kind on images of another kind.

    Attributes:
        rows: Its pairs: shard numbers, and the rows of each.
        score: How strong it is.
        found: How many compared conflicting items are like its middle one on both sides.
        expected: How many would be if captions and images of conflicting items were independent.
        false_alarms: Share of clean sets with a group as strong, 1 for fewer than five images. It was measured on sets
            of up to 15,000 pairs (`suspicious_groups._level`). In sets larger than the background it is 1 below a score
            of 20, and from there on that of small sets.
        images: How many images they are on.
    """

    rows: Mapping[int, Index]
    score: float
    found: float
    expected: float
    false_alarms: float
    images: int

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))


def score_part(
    shard: Shard,
    rows: Mapping[str, Rows],
    model: Model,
    counts: Mapping[str, Counts],
    findings: Mapping[str, Findings],
) -> Scores:
    """Score the rows of a shard.

    Conflicting rows of flagged cells, and of cells around clusters, are compared with the gathered items. All others
    come behind them, by their conflict.

    Args:
        shard: The shard.
        rows: Its conflict and cells.
        model: The model.
        counts: Of all shards.
        findings: Of all shards.
    """
    least = np.full(len(shard), np.inf)
    member, owner = {}, {}
    for view in model.views:
        found = findings[view]
        conflict = rows[view].conflict
        share = np.full(len(shard), np.nan)
        usable = ~np.isnan(conflict)
        share[usable] = np.maximum(
            counts[view].share_above(conflict[usable]),
            found.flagged + 0.5 / max(len(counts[view]), 1),
        )
        chosen = rows_of_cells(rows[view], found.around, model.usual[view].border)
        items, row, item = read_items(shard, rows, model, view, chosen)
        key = keys(items.shard, items.owner)
        evidence, _, _ = found.compared.evidence(
            items.text, items.image, key, items.conflict, model.usual[view]
        )
        share[row] = found.share_above(evidence)[item]
        least = np.minimum(least, share)
        cluster = found.cluster_of(items.text, items.image, evidence)[item]
        inside = cluster >= 0
        order = np.argsort(row[inside], kind="stable")
        member[view] = np.stack([row[inside][order], cluster[inside][order]])
        owner[view] = shard.owner[member[view][0]]
    score = (-np.log10(np.minimum(least, 1))).astype(np.float32)
    return Scores(shard.number, score + np.float32(0), member, owner)


def groups_of(
    scores: Sequence[Scores],
    sizes: Sequence[int],
    findings: Mapping[str, Findings],
    *,
    large: bool,
) -> tuple[Group, ...]:
    """Join the clusters of all shards and both views, the strongest first.

    Args:
        scores: Of all shards, in their order; `Scores.score` is not read.
        sizes: Rows of each shard.
        findings: Of all shards.
        large: Whether the set is larger than the background.
    """
    needed = needed_score(int(sum(sizes))) if large else 0.0
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    joined: tuple[SuspiciousCluster, ...] = ()
    owners: dict[int, int] = {}
    for view, found in findings.items():
        rows = np.concatenate([starts[i] + one.member[view][0] for i, one in enumerate(scores)])
        cluster = np.concatenate([one.member[view][1] for one in scores])
        for i, one in enumerate(scores):
            owners |= dict(
                zip(
                    (starts[i] + one.member[view][0]).tolist(),
                    one.owner[view].tolist(),
                    strict=True,
                )
            )
        clusters = [
            SuspiciousCluster(rows[cluster == number], float(score), float(alike), float(usual))
            for number, (score, alike, usual) in enumerate(
                zip(found.score, found.found, found.expected, strict=True)
            )
            if (cluster == number).any()
        ]
        clusters.sort(key=lambda one: -one.score)
        joined = joined_clusters(joined, clusters)
    return tuple(_group(cluster, scores, starts, owners, needed) for cluster in joined)


def _group(
    cluster: SuspiciousCluster,
    scores: Sequence[Scores],
    starts: Index,
    owners: Mapping[int, int],
    needed: float,
) -> Group:
    shard = np.searchsorted(starts, cluster.rows, side="right") - 1
    rows = {
        scores[number].number: cluster.rows[shard == number] - starts[number]
        for number in np.unique(shard).tolist()
    }
    images = len(
        {(s, owners[row]) for s, row in zip(shard.tolist(), cluster.rows.tolist(), strict=True)}
    )
    enough = images >= FEWEST_IMAGES and cluster.score >= needed
    alarms = false_alarms_at(cluster.score) if enough else 1.0
    return Group(rows, cluster.score, cluster.found, cluster.expected, alarms, images)
