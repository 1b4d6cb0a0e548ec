"""Distances of captions to images of other pairs: what a caption that does not match looks like."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.metrics import cosine_distance

Floats = npt.NDArray[np.float32]


def mismatched_distances(
    text: Floats, image: Floats, *, count: int = 20_000, seed: int = 0
) -> Floats:
    """Compute the distances of captions to images of other pairs, drawn at random.

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`.
        count: How many are drawn.
        seed: Of the draw.

    Returns:
        Shape `(count,)`; empty where there is only one image, or none.
    """
    if not len(text):
        return np.empty(0, dtype=np.float32)
    rng = np.random.default_rng(seed)
    one = rng.integers(0, len(text), count)
    other = rng.integers(0, len(text), count)
    # the same image may be in several pairs
    differ = (image[one] != image[other]).any(axis=1)
    return np.asarray(cosine_distance(text[one[differ]], image[other[differ]]), dtype=np.float32)
