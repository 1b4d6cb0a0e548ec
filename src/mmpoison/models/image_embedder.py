"""Embeds some images of a table for an attack (attack I's centre of a class)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embeddings, embed_images
from mmpoison.models.inputs import ProgressFor, prepare_pixels
from mmpoison.pairs.table import IntArray, PairDataset


def image_embedder(
    encoder: DualEncoder, progress: ProgressFor | None = None
) -> Callable[[PairDataset, IntArray], Embeddings]:
    """Make a function that embeds images by index: indices `(n,)` to unit embeddings `(n, d)`.

    Args:
        encoder: The model.
        progress: Gives a progress callback for a named step.
    """

    def embed(pairs: PairDataset, images: IntArray) -> Embeddings:
        # captions are not needed
        bare = pairs.where(np.zeros(len(pairs), dtype=bool))
        inputs = prepare_pixels(encoder, bare, images=images, progress=progress)
        return embed_images(encoder, inputs, images)

    return embed
