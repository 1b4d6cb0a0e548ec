"""Finds clusters among the gathered items, and gives the evidence against any item.

What is compared is a data set of the size that the scan in memory was made for: the background, a random sample of all
items, and the gathered items of flagged cells in place of those of the sample. The formulas are those of
`suspicious_groups._evidence`. Where all conflicting items are gathered and the background is the data set, so are the
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filter_result import FEWEST_IMAGES
from mmpoison.defenses.filters.passes.groups.counts import (
    Counts,
    Flags,
    Gathered,
    Rows,
    read_items,
    rows_of_cells,
)
from mmpoison.defenses.filters.passes.groups.items import IMAGES, Values
from mmpoison.defenses.filters.passes.groups.model import Background, GroupModel, Usual, cells_of
from mmpoison.defenses.filters.passes.groups.shard import Index, VectorShard
from mmpoison.defenses.filters.suspicious_groups._conflict import Vectors, Views
from mmpoison.defenses.filters.suspicious_groups._evidence import (
    ALIKE,
    CAPTION_NEARNESS,
    CLUSTER_NEARNESS,
    CONFLICT_WEIGHT,
    EXPECTED_AT_LEAST,
    FEW,
    NEARNESS,
    SuspiciousCluster,
    clusters_of,
    false_alarms_at,
    misplaced,
    most_clustered,
    nearness,
)
from mmpoison.defenses.filters.suspicious_groups._scan import (
    IMAGE_SCORE,
    difference_from,
    joined_clusters,
)

ROWS = 128
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ComparedItems:
    """What the evidence against an item is computed from.

    Attributes:
        text: Captions of the conflicting items that are compared, shape `(n, k)`.
        image: Their images, shape `(n, k)`.
        key: Image of each, a number for shard and image (`keys`), shape `(n,)`.
        counted_as: How many items each counts as, shape `(n,)`.
        usual_text: Captions of the conflicting items of the background, shape `(b, k)`.
        usual_image: Their images, shape `(b, k)`.
        usual_key: Image of each, shape `(b,)`.
        consistent_text: Captions of the other items of the background, shape `(q, k)`.
    """

    text: Vectors
    image: Vectors
    key: Index
    counted_as: Values
    usual_text: Vectors
    usual_image: Vectors
    usual_key: Index
    consistent_text: Vectors

    def evidence(
        self, text: Vectors, image: Vectors, key: Index, conflict: Values, usual: Usual
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Compute the evidence against items.

        Args:
            text: Their captions, shape `(m, k)`.
            image: Their images, shape `(m, k)`.
            key: Their images, shape `(m,)`.
            conflict: Their conflict, shape `(m,)`.
            usual: What is usual.

        Returns:
            The evidence; how many conflicting items are alike on both sides; how many are expected; shapes `(m,)`.
        """
        alike, apart, vouched = np.empty((3, len(text)))
        for start in range(0, len(text), ROWS):
            some = slice(start, start + ROWS)
            both = nearness(text[some], self.text, NEARNESS)
            both *= nearness(image[some], self.image, NEARNESS)
            both *= key[some, None] != self.key
            alike[some] = both @ self.counted_as
            other = key[some, None] != self.usual_key
            captions = nearness(text[some], self.usual_text, NEARNESS) * other
            images = nearness(image[some], self.usual_image, NEARNESS) * other
            apart[some] = captions.sum(axis=1) / max(len(self.usual_text), 1) * images.sum(axis=1)
            right = nearness(text[some], self.consistent_text, CAPTION_NEARNESS).sum(axis=1)
            odd = nearness(text[some], self.usual_text, CAPTION_NEARNESS).sum(axis=1)
            vouched[some] = (right + FEW) / (right + odd + FEW)
        score = np.log((alike + FEW) / (EXPECTED_AT_LEAST + apart)) + np.log(vouched)
        score += CONFLICT_WEIGHT * (conflict.astype(np.float64) - usual.middle) / usual.deviation
        return score, alike, apart


def keys(shard: Index, owner: Index) -> Index:
    """Return one number for a shard and an image in it, shape `(n,)`; images have numbers below 2^38 on either side."""
    return np.asarray(shard * (1 << 40) + owner)


@dataclass(frozen=True)
class Findings:
    """What a view has found.

    Attributes:
        compared: What the evidence is computed from.
        cutoff: Items with more evidence belong to clusters.
        middle_text: Caption of the middle of each cluster, in the order in which items are assigned, shape `(g, k)`.
        middle_image: Its image, shape `(g, k)`.
        score: Of each cluster, shape `(g,)`.
        found: Alike conflicting items of each middle, shape `(g,)`.
        expected: How many would be, shape `(g,)`.
        levels: Evidence of the gathered items, sorted, shape `(n,)`.
        ranks: Share of all items that have at least so much, shape `(n,)`, falling.
        flagged: Share of all items that are conflicting and in flagged cells.
        around: Cells whose conflicting rows are compared: the flagged ones, and those around a cluster's middle, which
            a cluster may reach into, shape `(c, c)`.
    """

    compared: ComparedItems
    cutoff: float
    middle_text: Vectors
    middle_image: Vectors
    score: Numbers
    found: Numbers
    expected: Numbers
    levels: Numbers
    ranks: Numbers
    flagged: float
    around: npt.NDArray[np.bool_]

    def cluster_of(self, text: Vectors, image: Vectors, evidence: Numbers) -> Index:
        """Return the cluster of each item, -1 for none, shape `(m,)`."""
        found = np.full(len(text), -1)
        if not len(self.score):
            return found
        near = nearness(text, self.middle_text, CLUSTER_NEARNESS)
        near *= nearness(image, self.middle_image, CLUSTER_NEARNESS)
        member = (near >= ALIKE) & (evidence > self.cutoff)[:, None]
        inside = member.any(axis=1)
        found[inside] = member[inside].argmax(axis=1)
        return found

    def share_above(self, evidence: Numbers) -> Numbers:
        """Return the share of items that have at least as much evidence, shape as given."""
        if not len(self.levels):
            return np.ones_like(evidence)
        place = np.searchsorted(self.levels, evidence).clip(0, len(self.levels) - 1)
        return np.asarray(self.ranks[place])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return arrays for `numpy.savez`."""
        found = {f"compared_{name}": getattr(self.compared, name) for name in _COMPARED}
        return found | {name: np.asarray(getattr(self, name)) for name in _NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Findings:
        """Read what `to_arrays` gave."""
        compared = ComparedItems(**{name: arrays[f"compared_{name}"] for name in _COMPARED})
        values: dict[str, Any] = {name: arrays[name] for name in _NAMES}
        values |= {name: float(arrays[name]) for name in ("cutoff", "flagged")}
        return cls(compared, **values)


_COMPARED = (
    *("text", "image", "key", "counted_as", "usual_text", "usual_image", "usual_key"),
    "consistent_text",
)
_NAMES = (
    *("cutoff", "middle_text", "middle_image", "score", "found", "expected", "levels", "ranks"),
    *("flagged", "around"),
)


def find(
    view: str,
    model: GroupModel,
    background: Background,
    counts: Counts,
    flags: Flags,
    gathered: Gathered,
) -> Findings:
    """Compare the gathered items of all shards with the background, and find clusters.

    Args:
        view: The view.
        model: The model.
        background: Sampled items.
        counts: Of all shards.
        flags: The flagged cells.
        gathered: Of all shards.
    """
    usual = model.usual[view]
    key = keys(background.shard, background.owner)
    high = background.conflict > usual.border
    text, image = background.items.text, background.items.image
    cell = cells_of(text, model.captions) * len(model.images) + cells_of(image, model.images)
    rest = high & ~(flags.chance.ravel()[cell] > 0)
    cell_counts = flags.counted_as.ravel()[gathered.cell]
    compared = ComparedItems(
        np.concatenate([gathered.text, text[rest]]),
        np.concatenate([gathered.image, image[rest]]),
        np.concatenate([keys(gathered.shard, gathered.owner), key[rest]]),
        np.concatenate([cell_counts, np.ones(int(rest.sum()))]).astype(np.float32),
        text[high],
        image[high],
        key[high],
        text[~high],
    )
    conflict = np.concatenate([gathered.conflict, background.conflict[rest]])
    evidence, alike, apart = compared.evidence(
        compared.text, compared.image, compared.key, conflict, usual
    )
    # the data set that clusters are looked for in: conflicting items first, then consistent ones
    count, items = len(conflict), len(conflict) + int((~high).sum())
    _, first, image_of = np.unique(
        np.concatenate([compared.key, key[~high]]), return_index=True, return_inverse=True
    )
    images = np.concatenate([compared.image, image[~high]])[first]
    captions = np.concatenate([compared.text, text[~high]])
    views = Views(captions, images, np.arange(items), image_of)
    expected = np.concatenate(
        [gathered.expected, background.expected[rest], background.expected[~high]]
    )
    differs = difference_from(views.text, expected)
    consistent = np.arange(count, items)

    def measured(rows: Index) -> float:
        return differs(rows) * misplaced(views, rows, consistent, flags.background)

    full = np.zeros((2, items))
    full[:, :count] = alike, apart
    score = np.concatenate([evidence, np.full(items - count, -np.inf)])
    counted_as = np.concatenate([compared.counted_as, np.ones(items - count, dtype=np.float32)])
    rows = np.arange(count)
    clusters = clusters_of(views, rows, score, full, measured, counted_as.astype(np.float64))
    middles = [cluster.middle for cluster in clusters]
    factor = IMAGE_SCORE if view == IMAGES else 1.0
    of_gathered = evidence[: len(gathered)]
    order = np.argsort(of_gathered, kind="stable")
    # each stands for those of its cell that were not drawn
    stands_for = 1 / flags.chance.ravel()[gathered.cell[order]]
    ranks = np.cumsum(stands_for[::-1])[::-1] / max(len(counts), 1)
    chosen = most_clustered(count, items)
    return Findings(
        compared,
        float(np.sort(evidence)[-chosen]) if chosen else np.inf,
        views.text[middles],
        views.image[views.image_of[middles]],
        np.array([factor * cluster.score for cluster in clusters]),
        np.array([cluster.found for cluster in clusters]),
        np.array([cluster.expected for cluster in clusters]),
        of_gathered[order],
        ranks,
        float(counts.conflicting[flags.chance > 0].sum() / max(len(counts), 1)),
        _around(model, flags, views.text[middles], views.image[views.image_of[middles]]),
    )


def _around(
    model: GroupModel, flags: Flags, text: Vectors, image: Vectors
) -> npt.NDArray[np.bool_]:
    found = flags.chance > 0
    for topic, place in zip(text, image, strict=True):
        captions = nearness(model.captions, topic[None], CLUSTER_NEARNESS)
        images = nearness(model.images, place[None], CLUSTER_NEARNESS)
        found |= captions * images.T >= ALIKE
    return found


# -- Scores every pair, and names the groups: the last pass, which reads suspicious rows only.


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
class ShardGroup:
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
    shard: VectorShard,
    rows: Mapping[str, Rows],
    model: GroupModel,
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
) -> tuple[ShardGroup, ...]:
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
) -> ShardGroup:
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
    return ShardGroup(rows, cluster.score, cluster.found, cluster.expected, alarms, images)
