"""Post-training defence that trains nothing: add noise to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from mmpoison.defenses.catalogue import DEFENSES, DefenseKind, require_clean
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.training import TrainingResult


@DEFENSES.register("jitter")
class Jitter:
    """Add noise to the weights.

    Args:
        scale: Standard deviation of the noise.
    """

    name: ClassVar[str] = "jitter"
    kind: ClassVar[DefenseKind] = "post-training"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "adds noise to the weights"
    parameters: ClassVar[Mapping[str, str]] = {"scale": "a larger one forgets more"}
    cost: ClassVar[str] = "utility"

    def __init__(self, scale: float = 1e-4) -> None:
        self.scale = scale

    def apply(
        self, encoder: DualEncoder, clean_pairs: PairDataset, inputs: PairInputs, *, seed: int
    ) -> TrainingResult:
        """Repair a copy of an encoder."""
        require_clean(clean_pairs)
        repaired = encoder.copy(f"{encoder.name}-jittered")
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in repaired.module.parameters():
                value.add_(torch.randn(value.shape, generator=noise), alpha=self.scale)
        return TrainingResult(repaired, [], 0, 0.0)
