"""Computes the cosine distance of each pair of a shard, in blocks that fit into the cache of a core."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
AnyVectors = npt.NDArray[np.floating[Any]]
"""Of float16 or float32."""

DISTANCE = "cosine distance of image and caption"

BLOCK = 256
"""Rows of a block: two blocks of 512 dimensions in float32 take 1 MiB, which fits into the cache of a core."""

TOO_LONG = np.float32(65536.0**2)
"""A row with an infinite or undefined float16 has at least this squared length after `to_float32`."""

_SIGN_AND_REST = np.uint32(0x8FFFE000)
_SCALE = np.float32(2.0**112)


def to_float32(block: AnyVectors, out: Vectors) -> None:
    """Convert a block of vectors to float32.

    The bits of a float16 are moved to where a float32 has them, and the exponent is corrected by a multiplication. It
    is exact for all finite numbers, also those below the normal range. An infinite or undefined number becomes one of
    at least 65,536, which `squared_lengths` recognises.

    Args:
        block: Shape `(n, d)`.
        out: Is filled, shape `(n, d)`.
    """
    if block.dtype != np.float16:
        np.copyto(out, block)
        return
    bits = out.view(np.uint32)
    # the copy of a signed number also copies its sign into the upper half
    np.copyto(out.view(np.int32), block.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_REST, out=bits)
    np.multiply(out, _SCALE, out=out)


def squared_lengths(block: AnyVectors, converted: Vectors) -> Vectors:
    """Return the squared length of each vector, NaN where it is zero or not finite, shape `(n,)`.

    Args:
        block: The vectors as they are stored, shape `(n, d)`.
        converted: What `to_float32` made of them, shape `(n, d)`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares: Vectors = np.einsum("ij,ij->i", converted, converted)
        squares[squares == 0] = np.nan
        # few or none: long vectors are possible, so that the stored numbers decide
        suspect = np.flatnonzero(~(squares < TOO_LONG))
    if len(suspect):
        broken = ~np.isfinite(np.asarray(block[suspect])).all(axis=1)
        squares[suspect[broken]] = np.nan
        squares[~np.isfinite(squares)] = np.nan
    return squares


def distances(text: AnyVectors, image: AnyVectors, block: int = BLOCK) -> Vectors:
    """Compute one minus the cosine of caption and image of each pair.

    Vectors need not have unit length: lengths cost little next to reading, and a sample could not prove that all are
    normalised.

    Args:
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped.
        image: Vectors of their images, shape `(n, d)`.
        block: Rows that are read at a time; the result does not depend on it.

    Returns:
        Distances in [0, 2], NaN where a vector is zero or not finite, shape `(n,)`.

    >>> distances(np.float32([[1, 0], [1, 1], [0, 0]]), np.float32([[0, 2], [3, 3], [1, 0]])).round(3).tolist()
    [1.0, 0.0, nan]
    """
    found = np.empty(len(text), dtype=np.float32)
    captions = np.empty((min(block, len(text)), text.shape[1]), dtype=np.float32)
    images = np.empty_like(captions)
    for start in range(0, len(text), block):
        rows = slice(start, min(start + block, len(text)))
        x, y = captions[: rows.stop - start], images[: rows.stop - start]
        to_float32(text[rows], x)
        to_float32(image[rows], y)
        lengths = squared_lengths(text[rows], x).astype(np.float64)
        lengths *= squared_lengths(image[rows], y)
        with np.errstate(over="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", x, y) / np.sqrt(lengths)
        found[rows] = (1 - cosine).clip(0, 2)
    return found
