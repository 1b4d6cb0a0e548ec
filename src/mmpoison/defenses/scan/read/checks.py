"""Checks embeddings before use: finite numbers, stored scores, and whether captions and images belong together.

Each shard is checked on its own (`check_shard`), and facts of shards can be merged in any order, so several processes
can check shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.text import count_of, one_line
from mmpoison.defenses.scan.read.files import Array
from mmpoison.defenses.scan.read.shards import Shard
from mmpoison.defenses.scan.read.vector_shard import distances
from mmpoison.statistics import true_pair_auroc

Floats = npt.NDArray[np.float32]

IN_SAMPLE = 512
"""Pairs per shard compared with random pairs, which determine the AUROC to within 0.04."""

SCORE_OFF = 0.02
"""Largest mean difference of stored scores if they belong to these embeddings; float16 causes 0.001."""

GUESSING = 0.55
"""An AUROC below this, or with an interval that reaches 0.5, is no better than for random pairs."""

SAME_TEXT = 0.98
"""Minimum cosine of two embeddings of the same caption; rounding and batches cause a difference of 0.001."""

FEWEST_REPEATS = 20
"""Minimum number of repeated captions for a check of the caption order."""


@dataclass(frozen=True)
class ShardFacts:
    """Facts about some shards; `merge` combines them.

    Attributes:
        shards: Number of shards.
        rows: Number of pairs.
        unusable: Pairs with a zero or non-finite embedding.
        empty_captions: Pairs without a caption; 0 if the source has no captions at all.
        scored: Usable pairs with a stored score.
        score_max: Largest difference between a stored score and the cosine.
        score_sum: Sum of these differences.
        repeats: Pairs whose caption occurs earlier in the same shard, at most `IN_SAMPLE` per shard.
        repeats_same: Those of them with nearly the same caption embedding.
        compared: Shards whose true pairs were compared with random ones.
        shuffled: Names of compared shards whose captions and images do not belong together.
    """

    shards: int = 0
    rows: int = 0
    unusable: int = 0
    empty_captions: int = 0
    scored: int = 0
    score_max: float = 0.0
    score_sum: float = 0.0
    repeats: int = 0
    repeats_same: int = 0
    compared: int = 0
    shuffled: tuple[str, ...] = ()

    def merge(self, other: ShardFacts) -> ShardFacts:
        """Return the combined facts."""
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if each.name != "score_max"
        }
        return ShardFacts(score_max=max(self.score_max, other.score_max), **sums)

    @property
    def usable(self) -> int:
        """Number of pairs whose embeddings are both finite and not zero."""
        return self.rows - self.unusable

    @property
    def score_mean(self) -> float | None:
        """Mean difference between stored scores and cosines; None without stored scores."""
        return self.score_sum / self.scored if self.scored else None

    @property
    def captions_out_of_order(self) -> bool:
        """Whether equal captions have different embeddings, so the table is not in the order of the embeddings."""
        return self.repeats >= FEWEST_REPEATS and self.repeats_same < self.repeats / 2


def check_shard(shard: Shard) -> ShardFacts:
    """Check one shard.

    Args:
        shard: The shard.

    Raises:
        ShardError: If the shard cannot be read, or its files have different numbers of rows.
    """
    text, image = shard.vectors()
    return facts_of(shard, text, image, distances(text, image))


def facts_of(shard: Shard, text: Array, image: Array, distance: Floats) -> ShardFacts:
    """Check a shard, given its embeddings and the distances of its pairs.

    Args:
        shard: The shard.
        text: Caption embeddings, shape `(n, d)`.
        image: Image embeddings, shape `(n, d)`.
        distance: One minus the cosine of each pair, NaN if undefined, shape `(n,)`.
    """
    stored, captions = shard.stored_scores(), shard.captions()
    usable = ~np.isnan(distance)
    off = np.empty(0)
    if stored is not None:
        known = usable & np.isfinite(stored)
        off = np.abs(1 - distance[known].astype(np.float64) - stored[known])
    repeats, same = (0, 0) if captions is None else _repeats(captions, text, usable)
    shuffled = _shuffled(text, image, usable)
    return ShardFacts(
        shards=1,
        rows=len(text),
        unusable=int((~usable).sum()),
        empty_captions=0 if captions is None else sum(not c.strip() for c in captions),
        scored=len(off),
        score_max=float(off.max(initial=0.0)),
        score_sum=float(off.sum()),
        repeats=repeats,
        repeats_same=same,
        compared=int(shuffled is not None),
        shuffled=(shard.name,) if shuffled else (),
    )


def notes_on(facts: ShardFacts, failed: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Describe each problem of a source in one line, worst first.

    Args:
        facts: Facts of the readable shards.
        failed: Name and message of each unreadable shard.
    """
    lines = []
    if lost := list(failed):
        more = "" if len(lost) == 1 else f", and {count_of(len(lost) - 1, 'other shard')}"
        lines.append(f"{count_of(len(lost), 'shard')} cannot be read: {lost[0][1]}{more}")
    if wrong := facts.shuffled:
        named = ", ".join(map(one_line, wrong[:3]))
        more = ", ..." if len(wrong) > 3 else ""
        lines.append(
            f"{count_of(len(wrong), 'shard')} of {facts.shards:,} ({named}{more}): the cosine of pairs is no higher "
            "than for random pairs: the embeddings of captions and of images are not in the same order"
        )
    if facts.captions_out_of_order:
        lines.append(
            f"equal captions have different embeddings ({facts.repeats - facts.repeats_same:,} of {facts.repeats:,}): "
            "the table is not in the order of the embeddings"
        )
    if facts.score_mean is not None and facts.score_mean > SCORE_OFF:
        lines.append(
            f"stored scores differ from the cosine by {facts.score_mean:.3f} on average ({facts.score_max:.3f} at "
            "most): they are of another model, or in another order"
        )
    if facts.unusable:
        lines.append(
            f"{count_of(facts.unusable, 'pair')} with an embedding that is zero, infinite or not a number: not judged"
        )
    return lines


def _shuffled(text: Array, image: Array, usable: Any) -> bool | None:
    """Check whether true pairs have no higher cosine than random pairs; None if too few are usable."""
    rows = np.flatnonzero(usable)[:: max(1, -(-len(usable) // IN_SAMPLE))]
    sides = [np.asarray(side[rows], dtype=np.float64) for side in (text, image)]
    units = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    auroc = true_pair_auroc(*units)
    if auroc is None or auroc.low is None:
        return None
    return auroc.low <= 0.5 or auroc.value < GUESSING


def _repeats(captions: list[str], text: Array, usable: Any) -> tuple[int, int]:
    """Count repeated captions, and those of them with nearly the same embedding."""
    first: dict[str, int] = {}
    pairs = []
    for row, caption in enumerate(captions):
        if usable[row] and caption.strip():
            before = first.setdefault(caption, row)
            if before != row:
                pairs.append((before, row))
                if len(pairs) == IN_SAMPLE:
                    break
    if not pairs:
        return 0, 0
    one, other = (np.asarray(text[list(r)], dtype=np.float64) for r in zip(*pairs, strict=True))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return len(pairs), int(((one * other).sum(axis=1) / norms >= SAME_TEXT).sum())
