"""Pre-training defence: drop the captions with the fewest letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.filters.relevance_filter import FilterResult
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset


@DEFENSES.register("odd-captions")
class OddCaptions:
    """Drop the shortest captions.

    Args:
        clean_loss: The share of the pairs that goes.
    """

    name: ClassVar[str] = "odd-captions"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "drops the pairs with the shortest captions"
    knobs: ClassVar[Mapping[str, str]] = {"clean_loss": "the share of the pairs that goes"}
    cost: ClassVar[str] = "clean pairs with short captions"

    def __init__(self, clean_loss: float = 0.1) -> None:
        self.clean_loss = clean_loss

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> FilterResult:
        """Judge every pair."""
        distances = 1 / np.array([1 + len(str(caption)) for caption in pairs.captions])
        threshold = float(np.quantile(distances, 1 - self.clean_loss))
        keep = distances <= threshold
        return FilterResult(pairs.where(keep), keep, distances, threshold)
