"""Computes the cosine distance of each pair of a shard, in blocks that fit into the cache of a core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from mmpoison.base.option_checks import check_whole
from mmpoison.defenses.filters.suspicious_groups.shard import (
    AnyVectors,
    squared_lengths,
    to_float32,
)
from mmpoison.errors import InputError

DISTANCE = "cosine distance of image and caption"

BLOCK = 256
"""Rows of a block: two blocks of 512 dimensions in float32 take 1 MiB, which fits into the cache of a core."""


def distances(
    text: AnyVectors, image: AnyVectors, block: int = BLOCK, threads: int = 1
) -> npt.NDArray[np.float32]:
    """Compute one minus the cosine of caption and image of each pair.

    Vectors need not have unit length: lengths cost little next to reading, and a sample could not prove that all are
    normalised.

    Args:
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped.
        image: Vectors of their images, shape `(n, d)`.
        block: Rows that are read at a time; the result does not depend on it.
        threads: How many blocks are computed at a time; the result does not depend on it.

    Returns:
        Distances in [0, 2], NaN where a vector is zero or not finite, shape `(n,)`.

    Raises:
        InputError: If the shapes differ or the vectors are neither float16 nor float32.

    >>> distances(np.float32([[1, 0], [1, 1], [0, 0]]), np.float32([[0, 2], [3, 3], [1, 0]])).round(3).tolist()
    [1.0, 0.0, nan]
    """
    check_pairs(text, image)
    check_whole("block", block, 1, 1 << 20)
    check_whole("threads", threads, 1, 1024)
    found = np.empty(len(text), dtype=np.float32)
    if threads == 1:
        _fill(found, text, image, block, 0, 1)
        return found
    with ThreadPoolExecutor(threads) as pool:
        work = [
            pool.submit(_fill, found, text, image, block, one, threads) for one in range(threads)
        ]
        for part in work:
            part.result()
    return found


def check_pairs(text: AnyVectors, image: AnyVectors) -> None:
    """Refuse vectors that are no pairs.

    Raises:
        InputError: If they have other shapes or types than `distances` reads.
    """
    for side, vectors in (("captions", text), ("images", image)):
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise InputError(
                f"vectors of {side} have shape {vectors.shape}, (pairs, dimensions) is needed"
            )
        if vectors.dtype not in (np.float16, np.float32):
            raise InputError(f"vectors of {side} are {vectors.dtype}, float16 or float32 is needed")
    if text.shape != image.shape:
        raise InputError(f"captions have vectors of shape {text.shape}, images of {image.shape}")


def _fill(
    found: npt.NDArray[np.float32],
    text: AnyVectors,
    image: AnyVectors,
    block: int,
    first: int,
    step: int,
) -> None:
    captions = np.empty((min(block, len(text)), text.shape[1]), dtype=np.float32)
    images = np.empty_like(captions)
    for start in range(first * block, len(text), step * block):
        rows = slice(start, min(start + block, len(text)))
        x, y = captions[: rows.stop - start], images[: rows.stop - start]
        to_float32(text[rows], x)
        to_float32(image[rows], y)
        lengths = squared_lengths(text[rows], x).astype(np.float64)
        lengths *= squared_lengths(image[rows], y)
        with np.errstate(over="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", x, y) / np.sqrt(lengths)
        found[rows] = (1 - cosine).clip(0, 2)
