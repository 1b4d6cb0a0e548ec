"""Confidence intervals over queries in which the queries of one image are one cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.statistics._arrays import FloatVector, as_values, check_confidence
from mmpoison.statistics._summary import t_quantile


@dataclass(frozen=True)
class Estimate:
    """A number over queries and its interval.

    Attributes:
        n: Number of queries.
        clusters: Number of images they belong to.
        value: The number.
        low: Lower end of its interval; None with one cluster, from which no spread can be estimated.
        high: Upper end.
        confidence: Of the interval.
    """

    n: int
    clusters: int
    value: float
    low: float | None
    high: float | None
    confidence: float = 0.95

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain JSON values."""
        return asdict(self)


def clustered_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Estimate:
    """Compute a mean with the cluster-robust interval.

    The residuals are summed within each cluster before they are squared, so captions of one image that fail together
    count as one failure. The usual correction for few clusters, C / (C - 1), and Student's t with C - 1 degrees of
    freedom. With one value a cluster it is the t-interval of `summarize`.

    Args:
        values: Shape (n,), one number a query, such as its rank.
        clusters: Shape (n,), any labels of clusters, such as the image of each caption.
        confidence: Between 0 and 1.

    Raises:
        InputError: No values, one that is not finite, or clusters of another shape.

    Example:
        >>> independent = clustered_mean([0, 1, 0, 1], [0, 1, 2, 3])
        >>> together = clustered_mean([0, 1, 0, 1], [0, 1, 0, 1])
        >>> together.high > independent.high
        True
    """
    array, code, count = _read(values, clusters, confidence)
    mean = math.fsum(array) / len(array)
    if count == 1:
        return Estimate(len(array), 1, mean, None, None, confidence)
    half = t_quantile(confidence, count - 1) * _standard_error(array, code, count)
    return Estimate(len(array), count, mean, mean - half, mean + half, confidence)


def clustered_share(
    hits: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Estimate:
    """Compute a share with an interval that stays in [0, 1] and has a width at 0 and at 1 too.

    Korn and Graubard (1998): the exact binomial interval of Clopper and Pearson for as many independent queries as
    would have the cluster-robust variance. Where all queries agree the data hold no variance; then each cluster counts
    as one query, as if captions of an image always failed together.

    Args:
        hits: Shape (n,), 0 or 1 (or boolean), one a query.
        clusters: Shape (n,), as for `clustered_mean`.
        confidence: Between 0 and 1.

    Raises:
        InputError: As `clustered_mean`, or a hit that is neither 0 nor 1.

    Example:
        >>> none = clustered_share([False] * 125, [query // 5 for query in range(125)])
        >>> none.value, none.low, round(none.high, 3)
        (0.0, 0.0, 0.137)
    """
    array, code, count = _read(hits, clusters, confidence)
    if not np.isin(array, (0, 1)).all():
        raise InputError("hits must be 0 or 1, one a query")
    n = len(array)
    share = math.fsum(array) / n
    if count == 1:
        return Estimate(n, 1, share, None, None, confidence)
    if share in (0, 1):
        effective = float(count)
    else:
        error = _standard_error(array, code, count)
        independent = share * (1 - share) / error**2 if error > 0 else float(n)
        # fewer degrees of freedom than queries make the interval wider
        independent *= (t_quantile(confidence, n - 1) / t_quantile(confidence, count - 1)) ** 2
        effective = min(float(n), max(1.0, independent))
    low, high = _clopper_pearson(share * effective, effective, confidence)
    return Estimate(n, count, share, low, high, confidence)


def cluster_bootstrap(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    statistic: Callable[[FloatVector], float],
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Compute any statistic with a percentile interval: whole clusters are resampled, never single queries.

    Use it for statistics without a formula, such as a median of ranks; else `clustered_mean` or `clustered_share`.

    Args:
        values: Shape (n,).
        clusters: Shape (n,), as for `clustered_mean`.
        statistic: Takes values of shape (m,), gives a number.
        seed: Of the drawing.
        resamples: How often to draw.
        confidence: Between 0 and 1.

    Raises:
        InputError: As `clustered_mean`, or fewer than 100 resamples.

    Example:
        >>> ranks, image = [0, 1, 0, 9, 8, 9], [0, 0, 0, 1, 1, 1]
        >>> median = cluster_bootstrap(ranks, image, np.median, seed=0)
        >>> median.value, median.low, median.high
        (4.5, 0.0, 9.0)
    """
    array, code, count = _read(values, clusters, confidence)
    if resamples < 100:
        raise InputError(f"resamples {resamples}: at least 100 are needed for an interval")
    value = float(statistic(array))
    if count == 1:
        return Estimate(len(array), 1, value, None, None, confidence)
    order = np.argsort(code, kind="stable")
    members = np.split(array[order], np.flatnonzero(np.diff(code[order])) + 1)
    rng = np.random.default_rng(seed)
    drawn = [
        float(statistic(np.concatenate([members[c] for c in rng.integers(0, count, count)])))
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(len(array), count, value, float(low), float(high), confidence)


def probability_below_zero(mean: Estimate) -> float | None:
    """Compute the probability that a mean of `clustered_mean` is below 0, by the distribution that gives its interval.

    The interval is value ± q x error, with q of Student's t with C - 1 degrees of freedom. Read as what is believed of
    the mean after the measurement (all means alike before it), this is value + error x T, which is below 0 with the
    probability P(T < -value / error). It is above 0.975 exactly where the 95% interval is below 0.

    Args:
        mean: Of paired differences, for example.

    Returns:
        None with one cluster. Without any spread 0 or 1, and 0.5 if the mean is 0.

    Example:
        >>> probability_below_zero(clustered_mean([-0.1, 0.1], [0, 1]))
        0.5
        >>> round(probability_below_zero(clustered_mean([-0.1, -0.2, -0.3], [0, 1, 2])), 3)
        0.963
    """
    if mean.high is None:
        return None
    # differences that are equal but for rounding have no spread
    value, half = round(mean.value, 12), round(mean.high - mean.value, 12)
    if half == 0:
        return 0.5 if value == 0 else float(value < 0)
    from scipy import stats  # takes half a second to import

    error = half / t_quantile(mean.confidence, mean.clusters - 1)
    return float(stats.t.cdf(-value / error, mean.clusters - 1))


def _read(
    values: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float
) -> tuple[FloatVector, npt.NDArray[np.intp], int]:
    array = as_values(values)
    check_confidence(confidence)
    labels = np.asarray(clusters)
    if labels.shape != array.shape:
        raise InputError(f"clusters of shape {labels.shape} do not fit values of {array.shape}")
    names, code = np.unique(labels, return_inverse=True)
    return array, code, len(names)


def _standard_error(array: FloatVector, code: npt.NDArray[np.intp], count: int) -> float:
    sums = np.bincount(code, weights=array - array.mean(), minlength=count)
    return math.sqrt(count / (count - 1) * float(sums @ sums)) / len(array)


def _clopper_pearson(hits: float, n: float, confidence: float) -> tuple[float, float]:
    from scipy import stats  # takes half a second to import

    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high
