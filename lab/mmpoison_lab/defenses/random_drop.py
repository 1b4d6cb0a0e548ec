"""The control for filters: drops random pairs."""

from __future__ import annotations

from typing import ClassVar

from mmpoison.base import generator
from mmpoison.defenses import DEFENSES, Cut, DefenseKind, PairScores, ReadPairs, ScoreFilter


@DEFENSES.register("random-drop")
class RandomDrop(ScoreFilter):
    """Drop random pairs, as a control for filters.

    Dropping any pairs reduces poison and training steps. The scores are uniform in [0, 1), drawn by the seed.
    `clean_loss` drops exactly its share of the pairs. To match another filter, use `dropped_pairs` / `pairs` of that
    filter's report.

    Args:
        **cut: Where to cut (`mmpoison.defenses.catalogue.Cut`); 2% of the pairs unless given.
    """

    name: ClassVar[str] = "random-drop"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "a control"
    summary: ClassVar[str] = "drops pairs at random, as a baseline for other filters"
    cost: ClassVar[str] = "no embedding pass; drops the same share of poisoned and clean pairs"
    score_name = "random number"
    score_range = (0.0, 1.0)
    default_cut = Cut(clean_loss=0.02)

    def score(self, read: ReadPairs) -> PairScores:
        """Return a random number in [0, 1) for each pair."""
        return PairScores.split(generator(read.seed, "random-drop").random(read.rows), read)
