"""CLIP's symmetric contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(text: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """Compute the mean of a batch's two cross-entropies: each caption against all images, and the reverse (section 2).

    Args:
        text: Unit embeddings of the captions, shape `(N, d)`.
        image: Unit embeddings of their images, shape `(N, d)`.
        scale: exp(tau), a scalar.

    Returns:
        A scalar; log(N) for embeddings that say nothing.

    >>> e = torch.ones(4, 1)
    >>> round(float(contrastive_loss(e, e, torch.tensor(1.0))), 4)  # log(4)
    1.3863
    """
    logits = scale * text @ image.T
    diagonal = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
