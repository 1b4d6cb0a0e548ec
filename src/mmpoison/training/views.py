"""Views of an image, a caption or a feature: random changes after which it still shows or says the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ImageView = Callable[[Tensor, np.random.Generator], Tensor]
"""Changes pixels, shape `(n, side, side, 3)`, uint8; returns new ones of the same shape."""

TextView = Callable[[Sequence[str], np.random.Generator], list[str]]
"""Changes captions; returns as many."""

FeatureView = Callable[[Tensor, np.random.Generator], Tensor]
"""Changes features of a frozen trunk, shape `(n, f)`; returns new ones of the same shape."""


@dataclass(frozen=True)
class FeatureNoise:
    """Views of the features of a frozen trunk: dropout, then Gaussian noise.

    This is another method than views of pixels and words: it says nothing of crops, colours or synonyms. It is what can
    be done where the trunk's outputs are computed once.

    Attributes:
        dropout: Share of the features set to zero; the others are scaled by `1 / (1 - dropout)`.
        noise: Standard deviation of the noise, as a share of the root mean square of the row.
    """

    dropout: float = 0.1
    noise: float = 0.1

    def __call__(self, features: Tensor, stream: np.random.Generator) -> Tensor:
        """Return changed features."""
        drawn = torch.Generator().manual_seed(int(stream.integers(1 << 62)))
        shape = features.shape
        kept = torch.rand(shape, generator=drawn) >= self.dropout
        spread = self.noise * features.square().mean(dim=-1, keepdim=True).sqrt()
        noise = spread * torch.randn(shape, generator=drawn)
        return features * kept / (1 - self.dropout) + noise
