"""Pre-training defence: drop the captions with the fewest letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.filters.score_filter import PairScores, ScoreFilter
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset


@DEFENSES.register("odd-captions")
class OddCaptions(ScoreFilter):
    """Drop the shortest captions."""

    name: ClassVar[str] = "odd-captions"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "drops the pairs with the shortest captions"
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = "clean pairs with short captions"
    streams = True
    uses_trusted = True
    default_cut = Cut(clean_loss=0.1)

    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """The shorter a caption, the larger."""
        return PairScores(1 / np.array([1 + len(str(caption)) for caption in pairs.captions]))
