"""Reads float16 vectors in blocks, several times faster than NumPy's own conversion to float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
AnyVectors = npt.NDArray[np.floating[Any]]
"""Of float16 or float32."""

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
