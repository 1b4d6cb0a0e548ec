"""Embeds images and captions for an attack: attack I's centre of a class, and attackers who know a surrogate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embeddings, embed_captions, embed_images
from mmpoison.models.inputs import ProgressFor, prepare_pixels
from mmpoison.pairs.table import IntArray, PairDataset

AT_ONCE = 512
"""Images whose pixels are in memory at once."""


class Embedder:
    """A dual encoder as attacks take it (`mmpoison.attacks.surrogate.Surrogate`).

    Args:
        encoder: The model.
        progress: Gives a progress callback for a named step.
    """

    def __init__(self, encoder: DualEncoder, progress: ProgressFor | None = None) -> None:
        self._encoder, self._progress = encoder, progress

    def __call__(self, pairs: PairDataset, images: IntArray) -> Embeddings:
        """Embed images by their indices `(n,)`: unit embeddings `(n, d)`."""
        # captions are not needed
        bare = pairs.where(np.zeros(len(pairs), dtype=bool))
        parts: list[Embeddings] = []
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            inputs = prepare_pixels(self._encoder, bare, images=part, progress=self._progress)
            parts.append(embed_images(self._encoder, inputs, part))
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    def captions(self, captions: Sequence[str]) -> Embeddings:
        """Embed captions: unit embeddings `(n, d)`."""
        progress = self._progress("embedding captions") if self._progress else None
        return embed_captions(self._encoder, captions, progress=progress)
