"""Traces what a model has learned back to its training pairs, using a model trained without some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import Cut, CutOptions, DefenseKind
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.scan.groups.growth import (
    CONFLICTING,
    Grown,
    Numbers,
    Pool,
    grow_groups,
)
from mmpoison.defenses.scan.groups.levels import TRACED, false_alarms_at
from mmpoison.defenses.scan.groups.passes import Group, scores_of
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import (
    AnyVectors,
    Space,
    Vectors,
    VectorShard,
    distances,
    unit,
)
from mmpoison.errors import InputError

ALIKE_CAPTIONS, ALIKE_IMAGES = 30, 20
"""Numbers of similar captions and images over which a pair's gain is averaged, because single pairs are noisy."""

GAINED = 0.05
"""Share of pairs, those with the largest gain, that count as learned."""

UNMATCHED = 0.3
"""Half of a group's pairs must be among this share of all pairs, those that match least in the suspect.

Clean pairs that a scan dropped are learned like any others; false pairs never match their images as well.
"""

FEWEST_PAIRS = 200
BLOCK = 1024


class Trace(ScoreFilter):
    """Find groups of pairs that a model has learned and a reference has not, and drop them.

    A pair's gain is the mean cosine between captions and images similar to its own in the suspect, minus the same in
    the reference. Poison makes captions of one topic gain on images of one kind. Clean pairs that the reference did not
    see gain little, because similar pairs taught it the same. Groups grow as in `SuspiciousGroups`, with gain instead
    of conflict. Pairs that match well in the suspect count as clean: they join no group, and a group with a majority of
    them is discarded.

    The best reference is trained like the suspect, without the pairs that a scan dropped. If the scan caught nothing,
    the trace finds nothing either, because both models learned the same. All captions are compared with each other, and
    all images, so this works for up to a few hundred thousand pairs.

    Args:
        shard: All pairs, embedded by the suspect, in the order in which they are judged.
        **cut: Where to cut (`mmpoison.defenses.catalogue.Cut`); by default, pairs of strong groups are dropped.
    """

    name: ClassVar[str] = "trace"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = (
        "finds the pairs that a model learned and a second model, trained without some of them, did not"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = "a second model, trained on what a scan keeps"

    finds_groups = True
    score_name = "gain of similarity"
    default_cut = Cut(false_alarms=TRACED)

    def __init__(self, shard: VectorShard, **cut: Unpack[CutOptions]) -> None:
        super().__init__(**cut)
        self._suspect = shard

    def score(self, read: ReadPairs) -> PairScores:
        """Return each pair's gain, increased inside groups, and the groups.

        Args:
            read: The pairs, embedded by the reference.

        Raises:
            InputError: If the suspect's pairs differ.
        """
        reference = read.vectors()
        if len(reference) != len(self._suspect):
            raise InputError(
                f"the suspect embeds {len(self._suspect):,} pairs, but the reference {len(reference):,}"
            )
        if len(reference) < FEWEST_PAIRS:
            few = f"{len(reference)} pairs are too few to trace: give at least {FEWEST_PAIRS}"
            return PairScores.split(np.zeros(len(reference)), read, groups=(), notes=(few,))
        report = read.progress("comparing the models")
        report(0, 2)
        captions = _Distinct(reference.text, ALIKE_CAPTIONS)
        images = _Distinct(reference.image, ALIKE_IMAGES)
        gain = _cosine(captions, images, self._suspect) - _cosine(captions, images, reference)
        broken = np.isnan(np.concatenate([read.distance(n) for n in sorted(read.runner.shards)]))
        gain[broken] = np.min(gain)
        report(1, 2)
        spaces = [Space.fit(side.vectors) for side in (captions, images)]
        text, image = (
            # an unreadable pair resembles no other
            np.nan_to_num(space.reduce(side.vectors))[side.of]
            for space, side in zip(spaces, (captions, images), strict=True)
        )
        pool = Pool.of(text, image, reference.owner, gain.astype(np.float32), odd=GAINED)
        groups = _groups(pool, grow_groups(pool), _match(self._suspect) <= UNMATCHED, read)
        report(2, 2)
        starts = read.starts

        def scored(number: int) -> Vectors:
            rows = read.runner.shards[number].rows
            mine = slice(starts[number], starts[number] + rows)
            score = np.where(broken[mine], np.nan, gain[mine])
            return scores_of(score.astype(np.float32), number, groups)

        return PairScores(scored, groups, space=spaces[1])


class _Distinct:
    """The distinct vectors of one side, with the nearest neighbours of each."""

    def __init__(self, vectors: AnyVectors, alike: int) -> None:
        rows = np.ascontiguousarray(vectors)
        whole = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
        _, self.first, self.of = np.unique(whole, return_index=True, return_inverse=True)
        self.vectors = rows[self.first]
        known, alike = unit(self.vectors.astype(np.float32)), min(alike, len(self.vectors))
        self._near = np.concatenate(
            [
                np.argpartition(-(known[start : start + BLOCK] @ known.T), alike - 1, axis=1)[
                    :, :alike
                ]
                for start in range(0, len(known), BLOCK)
            ]
        )

    def means(self, vectors: AnyVectors) -> Vectors:
        """For each distinct vector, return the mean of another model's unit vectors over its neighbours, `(u, d)`."""
        other = unit(vectors[self.first].astype(np.float32))
        means = np.empty_like(other)
        for start in range(0, len(other), BLOCK):
            block = slice(start, start + BLOCK)
            means[block] = other[self._near[block]].mean(axis=1)
        return means


def _cosine(captions: _Distinct, images: _Distinct, shard: VectorShard) -> Numbers:
    """For each pair, return the mean cosine in a model between similar captions and similar images, `(N,)`."""
    text = captions.means(shard.text)
    image = images.means(shard.image)
    found = [
        np.einsum("nd,nd->n", text[captions.of[block]], image[images.of[block]])
        for block in (slice(start, start + BLOCK) for start in range(0, len(shard), BLOCK))
    ]
    return np.concatenate(found).astype(np.float64)


def _match(shard: VectorShard) -> Numbers:
    """For each pair, return the share of pairs that match no better in a model, `(N,)`."""
    distance = distances(shard.text, shard.image)
    return 1 - np.argsort(np.argsort(np.nan_to_num(distance, nan=2.0))) / len(shard)


def _groups(
    pool: Pool, grown: Grown, unmatched: npt.NDArray[np.bool_], read: ReadPairs
) -> tuple[Group, ...]:
    """Return groups with at least half unmatched pairs, reduced to those, in order of cell strength."""
    odd = pool.share <= CONFLICTING
    numbers = sorted(read.runner.shards)
    bounds = [read.starts[number] for number in numbers[1:]]
    shards = np.searchsorted(bounds, np.arange(len(odd)), side="right")
    starts = np.array([read.starts[number] for number in numbers])
    found = []
    for rows, strength in zip(grown.rows, grown.cell_strength.tolist(), strict=True):
        share = false_alarms_at(strength, "traced")
        if unmatched[rows].mean() < 0.5:
            continue
        rows = rows[unmatched[rows]]
        images = len(np.unique(pool.key[rows]))
        found.append(
            Group(
                {
                    number: (rows[shards[rows] == at] - starts[at]).astype(np.intp)
                    for at, number in enumerate(numbers)
                    if (shards[rows] == at).any()
                },
                strength,
                conflicting=len(np.unique(pool.key[rows[odd[rows]]])),
                counted=images,
                expected=GAINED * images,
                false_alarms=share,
                hardest=None,
                images=images,
                image=unit(pool.image[rows].mean(axis=0)),
                learned=True,
            )
        )
    return tuple(found)
