"""Computes Hit@K, MinRank and quantiles from one rank per query."""

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.metrics._arrays import as_array


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
