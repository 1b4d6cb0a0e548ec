"""Distances between embeddings, and between two models' embeddings of the same inputs."""

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.metrics._arrays import as_matrix, unit_rows

_CHUNK_VALUES = 1 << 20
"""Matrix entries converted to float64 at a time: 8 MB."""


def cosine_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute the cosine distance, 1 - cos, between the rows of two matrices.

    Computed in float64 as half the squared distance of the unit vectors. This equals 1 - cos but avoids cancellation:
    equal rows give exactly 0, and tiny distances stay precise.

    Source: the paper's pre-training defence (distance of an image and its caption).

    Args:
        a: Shape (N, d), embeddings; they need not be of unit length.
        b: Shape (N, d), embeddings to compare row by row.

    Returns:
        Shape (N,), float64, from 0 (same direction) over 1 (orthogonal) to 2 (opposite).

    Raises:
        InputError: Shapes differ or are not (N, d), or a row is zero or not finite.

    Example:
        >>> cosine_distance([[1, 0], [1, 0], [1, 0]], [[2, 0], [0, 1], [-3, 0]]).tolist()
        [0.0, 1.0, 2.0]
    """
    left, right = as_matrix(a, "a", "(N, d)"), as_matrix(b, "b", "(N, d)")
    if left.shape != right.shape:
        raise InputError(f"the shapes of a and b differ: {left.shape} and {right.shape}")
    distances = np.empty(len(left), dtype=np.float64)
    step = max(1, _CHUNK_VALUES // left.shape[1])
    for start in range(0, len(left), step):
        rows = slice(start, start + step)
        gap = unit_rows(left[rows], "a", start)
        gap -= unit_rows(right[rows], "b", start)
        distances[rows] = 0.5 * np.einsum("nd,nd->n", gap, gap)
    return np.clip(distances, 0.0, 2.0)


def drift(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute the mean cosine distance between the embeddings of the same inputs under two models.

    Source: the paper's evaluation of how far poisoning moves the image and the text encoder.

    Args:
        a: Shape (N, d), embeddings of N inputs under one model.
        b: Shape (N, d), embeddings of the same inputs, in order, under the other.

    Returns:
        From 0.0 (identical embeddings) to 2.0.

    Raises:
        InputError: As `cosine_distance`, or no rows.

    Example:
        >>> drift([[1, 0], [1, 0]], [[1, 0], [0, 1]])
        0.5
    """
    distances = cosine_distance(a, b)
    if len(distances) == 0:
        raise InputError(f"a and b hold no embeddings: shape {as_matrix(a, 'a', '(N, d)').shape}")
    return float(distances.mean())
