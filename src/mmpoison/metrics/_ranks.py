"""Ranks target images in the results of a query; Hit@K, MinRank and quantiles of the ranks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.metrics._arrays import FloatArray, as_array, as_float, as_matrix

_CHUNK_VALUES = 1 << 20
"""Similarities processed at a time: a few MB of temporaries fit into the processor's cache."""

_CONSTANT_TOLERANCE = 8 * float(np.finfo(np.float32).eps)
"""Relative spread within which scores are equal: float32 matrix products differ by a few eps."""


def target_ranks(similarity: npt.ArrayLike, targets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """For each query, rank the best-scored target image in the gallery.

    The rank is the number of gallery images scored above the best target, from 0 (the first image
    shown is a target) to G - 1. Further target images never count.

    Ties are resolved against the target: a non-target with exactly the best target's score counts
    as ranked above it. An encoder that scores all images equally therefore gets the worst rank, G minus the number of
    targets, instead of a perfect one.

    Source: the paper's evaluation; "Hit@K" and "MinRank" use these ranks.

    Args:
        similarity: Shape (Q, G), similarity of each query to each gallery image, higher is nearer.
            Integers and half precision are compared as float32 or wider. Infinity is a number.
        targets: Boolean; true where the gallery image is a target. Shape (G,) for one target set shared by all queries,
            or (Q, G) for one per query.

    Returns:
        Shape (Q,), int64, 0-based ranks.

    Raises:
        InputError: Shapes do not match, the gallery is empty, a query has no target, `targets` is
            not boolean, or a similarity is NaN.

    Example:
        >>> similarity = [[0.9, 0.5, 0.1], [0.2, 0.3, 0.7], [0.4, 0.4, 0.4]]
        >>> target_ranks(similarity, [False, True, False]).tolist()
        [1, 1, 2]
        >>> target_ranks(similarity, [False, True, True]).tolist()
        [1, 0, 1]
    """
    scores, mask = _read(similarity, targets)
    ranks = np.empty(len(scores), dtype=np.int64)
    for rows, block, best, others in _blocks(scores, mask):
        # row by row: in a large gallery NumPy counts eight times faster without an axis
        ranks[rows] = [np.count_nonzero(row) for row in (block >= best) & others]
    return ranks


def tie_count(similarity: npt.ArrayLike, targets: npt.ArrayLike) -> int:
    """Count the queries whose best target ties with an image outside the target set.

    For these queries the tie rule of `target_ranks` decides the rank. A high count means that the encoder has collapsed
    or that the gallery holds an image twice.

    Args:
        similarity: Shape (Q, G), as for `target_ranks`.
        targets: Boolean, shape (G,) or (Q, G), as for `target_ranks`.

    Returns:
        From 0 to Q.

    Raises:
        InputError: As `target_ranks`.

    Example:
        >>> tie_count([[0.9, 0.5, 0.5], [0.2, 0.3, 0.7]], [False, True, False])
        1
    """
    scores, mask = _read(similarity, targets)
    tied = [
        ((block == best) & others).any(axis=1) for _, block, best, others in _blocks(scores, mask)
    ]
    return int(np.count_nonzero(np.concatenate([*tied, []])))


def constant_rows(similarity: npt.ArrayLike) -> float:
    """Compute the share of queries that score all gallery images equally; 1.0 means a collapsed encoder.

    Scores count as equal if they differ by at most 8 float32 eps (about 1e-6) of the largest. Matrix products leave
    differences of that size between identical embeddings. `target_ranks` counts only exact ties, so check this before
    using a rank.

    Args:
        similarity: Shape (Q, G), similarity of each query to each gallery image. With one gallery
            image every row is constant.

    Returns:
        From 0.0 to 1.0.

    Raises:
        InputError: No matrix, no query, an empty gallery, or a similarity is NaN.

    Example:
        >>> constant_rows([[0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
        0.5
    """
    scores = as_matrix(similarity, "similarity", "(Q, G)")
    if len(scores) == 0:
        raise InputError(f"similarity has no queries: shape {scores.shape}, expected (Q, G)")
    constant = 0
    for rows in _row_slices(scores.shape):
        block = as_float(scores[rows])
        high, low = block.max(axis=1), block.min(axis=1)
        _refuse_nan(high, rows, scores.shape)
        with np.errstate(invalid="ignore", over="ignore"):  # infinities: only equal ones are equal
            spread = high - low
            allowed = _CONSTANT_TOLERANCE * np.maximum(np.abs(high), np.abs(low))
        near = np.isfinite(spread) & (spread <= allowed)
        constant += int(np.count_nonzero(near | (high == low)))
    return constant / len(scores)


def _read(
    similarity: npt.ArrayLike, targets: npt.ArrayLike
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Check the two arguments of a rank: shapes and target sets."""
    scores = as_matrix(similarity, "similarity", "(Q, G)")
    mask = as_array(targets, "targets")
    if mask.dtype != np.bool_:
        raise InputError(
            f"targets must be a boolean mask over the gallery, not {mask.dtype} of shape "
            f"{mask.shape}"
        )
    if mask.shape not in (scores.shape, scores.shape[1:]):
        raise InputError(
            f"targets of shape {mask.shape} do not match similarity of shape {scores.shape}: "
            "expected (G,) or (Q, G)"
        )
    has_target = np.atleast_1d(mask.any(axis=-1))
    if not has_target.all():
        where = "" if mask.ndim == 1 else f" for query {int(has_target.argmin())}"
        raise InputError(f"no target image{where} in targets of shape {mask.shape}")
    return scores, mask


def _row_slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield consecutive row ranges of about `_CHUNK_VALUES` values."""
    step = max(1, _CHUNK_VALUES // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _blocks(
    scores: npt.NDArray[Any], mask: npt.NDArray[np.bool_]
) -> Iterator[tuple[slice, FloatArray, FloatArray, npt.NDArray[np.bool_]]]:
    """Yield row blocks as (rows, scores, best target score `(n, 1)`, images that are no targets)."""
    for rows in _row_slices(scores.shape):
        block = as_float(scores[rows])
        _refuse_nan(block.max(axis=1), rows, scores.shape)  # the maximum of NaN is NaN
        targets = mask if mask.ndim == 1 else mask[rows]
        # one target set for all queries: its few columns are looked up
        own = block[:, mask.nonzero()[0]] if mask.ndim == 1 else np.where(targets, block, -np.inf)
        yield rows, block, own.max(axis=1, keepdims=True), ~targets


def _refuse_nan(row_values: FloatArray, rows: slice, shape: tuple[int, ...]) -> None:
    """Raise if a row's maximum shows that the row contains NaN."""
    nan = np.isnan(row_values)
    if nan.any():
        raise InputError(
            f"similarities of query {rows.start + int(nan.argmax())} contain NaN; shape {shape}"
        )


def hit_at_k(ranks: npt.ArrayLike, k: int) -> float:
    """Compute the share of queries that find their target among the first k images.

    Source: the paper's evaluation, "Hit@K".

    Args:
        ranks: Shape (Q,), 0-based integer ranks such as from `target_ranks`.
        k: Number of images shown, at least 1.

    Returns:
        From 0.0 to 1.0: the share of ranks below k.

    Raises:
        InputError: No ranks, ranks that are not 0-based integers of shape (Q,), or k below 1.

    Example:
        >>> hit_at_k([0, 3, 7, 12], k=5)
        0.5
    """
    values = _as_ranks(ranks)
    return int(np.count_nonzero(values < _as_k(k))) / len(values)


def hit_table(ranks: npt.ArrayLike, ks: Iterable[int] = (1, 5, 10, 20, 30, 50)) -> dict[str, float]:
    """Compute Hit@K for several K, under the keys of `metrics.json`.

    Source: the paper's evaluation, "Hit@K".

    Args:
        ranks: Shape (Q,), 0-based integer ranks.
        ks: The values of K, each at least 1; the default is the paper's.

    Returns:
        {"hit@1": ..., "hit@5": ..., ...} in the order of `ks`, each from 0.0 to 1.0.

    Raises:
        InputError: As `hit_at_k`.

    Example:
        >>> hit_table([0, 3, 7, 12], ks=(1, 5, 10))
        {'hit@1': 0.25, 'hit@5': 0.5, 'hit@10': 0.75}
    """
    values = _as_ranks(ranks)
    return {f"hit@{_as_k(k)}": hit_at_k(values, k) for k in ks}


def min_rank(ranks: npt.ArrayLike) -> float:
    """Compute the mean rank of the best target image, 0-based: 0.0 is a perfect attack.

    Source: the paper's evaluation, "MinRank": the rank of the best target image (the minimum over
    the target set), averaged over queries. The paper also counts from 0.

    Args:
        ranks: Shape (Q,), 0-based integer ranks such as from `target_ranks`.

    Returns:
        The mean, in images, from 0.0.

    Raises:
        InputError: No ranks, or ranks that are not 0-based integers of shape (Q,).

    Example:
        >>> min_rank([0, 3, 7, 12])
        5.5
    """
    return float(_as_ranks(ranks).mean(dtype=np.float64))


def rank_quantiles(
    ranks: npt.ArrayLike, q: npt.ArrayLike = (0.25, 0.5, 0.75)
) -> npt.NDArray[np.float64]:
    """Compute quantiles of the ranks. They show the few queries that fail badly, which a mean such as `min_rank` hides.

    Args:
        ranks: Shape (Q,), 0-based integer ranks.
        q: Shape (n,), quantiles from 0 to 1; the default is the quartiles.

    Returns:
        Shape (n,), in images, interpolated linearly between ranks.

    Raises:
        InputError: No ranks, ranks that are not 0-based integers of shape (Q,), or a quantile
            outside [0, 1].

    Example:
        >>> rank_quantiles([0, 3, 7, 12, 90]).tolist()
        [3.0, 7.0, 12.0]
    """
    values = _as_ranks(ranks)
    wanted = as_array(q, "q")
    if wanted.ndim != 1 or wanted.dtype.kind not in "fiu":
        raise InputError(f"q must be numbers of shape (n,), not {wanted.dtype} {wanted.shape}")
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise InputError(f"q must lie in [0, 1], not {wanted.tolist()}")
    return np.quantile(values.astype(np.float64), wanted.astype(np.float64))


def _as_ranks(ranks: npt.ArrayLike) -> npt.NDArray[np.integer[Any]]:
    """Check that ranks are 0-based integers of shape (Q,), at least one."""
    values = as_array(ranks, "ranks")
    if values.ndim != 1:
        raise InputError(f"ranks must have shape (Q,), not {values.shape}")
    if len(values) == 0:
        raise InputError(f"ranks are empty, shape {values.shape}: no query was ranked")
    if values.dtype.kind not in "iu":
        raise InputError(f"ranks must be integers, not {values.dtype}; shape {values.shape}")
    if values.min() < 0:
        raise InputError(f"ranks are 0-based, but one is {values.min()}; shape {values.shape}")
    return values


def _as_k(k: int) -> int:
    """Check that K is an integer of at least 1."""
    try:
        number = operator.index(k)
    except TypeError as error:
        raise InputError(f"k must be an integer, not {k!r}") from error
    if number < 1:
        raise InputError(f"k must be at least 1, not {k!r}")
    return number
