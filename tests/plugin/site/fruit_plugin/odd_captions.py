"""Pre-training defence: drop the captions with the fewest letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmpoison.defenses import DEFENSES, Cut, PairScores, ReadPairs, ScoreFilter
from mmpoison.defenses.catalogue import DefenseKind


@DEFENSES.register("odd-captions")
class OddCaptions(ScoreFilter):
    """Drop the shortest captions."""

    name: ClassVar[str] = "odd-captions"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "drops the pairs with the shortest captions"
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = "clean pairs with short captions"
    uses_trusted = True
    default_cut = Cut(clean_loss=0.1)

    def score(self, read: ReadPairs) -> PairScores:
        """The shorter a caption, the larger."""
        captions = read.vectors().captions() or []
        return PairScores.split(1 / np.array([1 + len(caption) for caption in captions]), read)
