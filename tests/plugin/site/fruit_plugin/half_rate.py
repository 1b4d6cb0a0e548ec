"""In-training defence: train at a part of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

from mmpoison.defenses.catalogue import DEFENSES, DefenseKind, TrainingServices
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.training import TrainingResult, TrainingSettings, finetune


@DEFENSES.register("half-rate")
class HalfRate:
    """Train slowly.

    Args:
        share: Of the learning rate.
    """

    name: ClassVar[str] = "half-rate"
    kind: ClassVar[DefenseKind] = "in-training"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "trains at a part of the learning rate"
    parameters: ClassVar[Mapping[str, str]] = {"share": "a smaller one learns less of everything"}
    cost: ClassVar[str] = "what would have been learned"

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def apply(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        inputs: PairInputs,
        settings: TrainingSettings,
        *,
        seed: int,
        **services: Unpack[TrainingServices],
    ) -> TrainingResult:
        """Train a copy of an encoder."""
        rate = self.share * settings.learning_rate
        slower = settings.model_copy(update={"learning_rate": rate})
        return finetune(encoder, pairs, inputs, slower, seed=seed, **services)
