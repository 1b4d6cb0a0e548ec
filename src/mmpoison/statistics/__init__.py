"""Uncertainty: over seeds, over captions that share an image, and between two settings.

- `summarize`: mean, standard deviation and 95% interval of one number per seed.
- `clustered_mean`, `clustered_share`: intervals of means and shares over queries.
  An image's five captions are correlated, so they count as one observation, not five.
- `probability_below_zero`: the probability that a mean difference is negative.
- `compare`: compares two settings paired by seed: two-tailed t-test and Wilcoxon test, with effect sizes.
- `true_pair_auroc`: whether embeddings distinguish true pairs from shuffled pairs.

All are pure functions of NumPy arrays; the tests are SciPy's. Undefined numbers (the deviation of one seed, a test
without spread) are None, never 0 or NaN.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mmpoison.errors import InputError

__all__ = [
    "FEWEST_SEEDS",
    "UNBOUNDED",
    "Comparison",
    "Estimate",
    "Summary",
    "clustered_mean",
    "clustered_share",
    "compare",
    "probability_below_zero",
    "summarize",
    "true_pair_auroc",
    "twice_below",
]

FloatVector = npt.NDArray[np.float64]


def as_values(values: npt.ArrayLike, name: str = "values") -> FloatVector:
    """Convert finite numbers of shape (n,), n at least 1, to float64.

    Raises:
        InputError: If the values have another shape or are not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not numbers: {error}") from error
    if array.ndim != 1:
        raise InputError(f"{name} must have shape (n,), not {array.shape}")
    if not len(array):
        raise InputError(f"{name} are empty")
    if not np.isfinite(array).all():
        raise InputError(f"{name} hold NaN or infinity")
    return array


def check_confidence(confidence: float) -> float:
    """Check that a confidence is between 0 and 1.

    Raises:
        InputError: If the confidence is out of range.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1 (0.95 is 95%)")
    return confidence


# -- Mean, standard deviation and interval over seeds.


@dataclass(frozen=True)
class _Result:
    def to_json(self) -> dict[str, float | int | None]:
        """Return plain JSON values."""
        return asdict(self)


FEWEST_SEEDS = 4
"""Minimum number of seeds for a comparison.

With two seeds the interval extends 9 standard deviations to each side, so it contains nearly any number.
"""


@dataclass(frozen=True)
class Summary(_Result):
    """One number measured over several seeds.

    Attributes:
        n: Number of seeds.
        mean: Mean of the numbers.
        sd: Sample standard deviation (n - 1); None for one seed.
        low: Lower end of the interval of the mean; None for one seed.
        high: Upper end.
        confidence: Confidence of the interval, in (0, 1).
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95


UNBOUNDED = (-math.inf, math.inf)
"""Bounds of an unbounded number."""


def summarize(
    values: npt.ArrayLike,
    confidence: float = 0.95,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Summary:
    """Compute mean, standard deviation and t-interval of one number per seed (as in tables 11 and 12 of the paper).

    The interval is Student's t for the *mean* over seeds, with n - 1 degrees of freedom. With five seeds it extends
    1.24 standard deviations to each side. It is clipped to `bounds`, because a mean share cannot leave [0, 1]. An
    interval that reaches a bound means that n is too small.

    Args:
        values: Shape (n,), one finite number per seed.
        confidence: Between 0 and 1.
        bounds: Smallest and largest possible value, for example (0, 1) for a share.

    Raises:
        InputError: No values, or one that is not finite.

    Example:
        >>> s = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> s.n, s.mean, round(s.sd, 4), round(s.low, 4), round(s.high, 4)
        (5, 3.0, 1.5811, 1.0368, 4.9632)
        >>> summarize([0.5])
        Summary(n=1, mean=0.5, sd=None, low=None, high=None, confidence=0.95)
        >>> share = summarize([0.9, 1.0], bounds=(0, 1))
        >>> round(share.low, 3), share.high
        (0.315, 1.0)
    """
    array = as_values(values)
    check_confidence(confidence)
    mean = math.fsum(array) / len(array)
    if len(array) == 1:
        return Summary(1, mean, None, None, None, confidence)
    sd = float(array.std(ddof=1))
    half = t_quantile(confidence, len(array) - 1) * sd / math.sqrt(len(array))
    least, largest = bounds
    # values outside the bounds are the caller's mistake; the interval contains the mean even then
    low, high = max(mean - half, min(least, mean)), min(mean + half, max(largest, mean))
    return Summary(len(array), mean, sd, float(low), float(high), confidence)


def t_quantile(confidence: float, degrees: int) -> float:
    """Return the half-width of a two-sided interval in standard errors.

    >>> round(t_quantile(0.95, 4), 4)
    2.7764
    """
    return float(special.stdtrit(degrees, 0.5 + confidence / 2))


# -- Confidence intervals over queries; the queries of one image form one cluster.


@dataclass(frozen=True)
class Estimate(_Result):
    """A number over queries, with its interval.

    Attributes:
        n: Number of queries.
        clusters: Number of images they belong to.
        value: The number.
        low: Lower end of the interval; None with one cluster, because one cluster has no spread.
        high: Upper end.
        confidence: Confidence of the interval, in (0, 1).
    """

    n: int
    clusters: int
    value: float
    low: float | None
    high: float | None
    confidence: float = 0.95


def clustered_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float = 0.95
) -> Estimate:
    """Compute a mean with the cluster-robust interval.

    Residuals are summed within each cluster before squaring, so captions of one image that fail together count as one
    failure. The interval uses the usual correction for few clusters, C / (C - 1), and Student's t with C - 1 degrees of
    freedom. With one value per cluster it equals the t-interval of `summarize`.

    Args:
        values: Shape (n,), one number per query, such as its rank.
        clusters: Shape (n,), cluster labels of any type, such as the image of each caption.
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
    """Compute a share with an interval that stays in [0, 1] and has non-zero width even at 0 and 1.

    Korn and Graubard (1998): the exact binomial interval of Clopper and Pearson, for the number of independent queries
    that has the cluster-robust variance. If all queries agree there is no variance; each cluster then counts as one
    query, as if captions of an image always failed together.

    Args:
        hits: Shape (n,), 0 or 1 (or boolean), one per query.
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
        raise InputError("hits must be 0 or 1, one per query")
    n = len(array)
    share = math.fsum(array) / n
    if count == 1:
        return Estimate(n, 1, share, None, None, confidence)
    if share in (0, 1):
        effective = float(count)
    else:
        error = _standard_error(array, code, count)
        independent = share * (1 - share) / error**2 if error > 0 else float(n)
        # fewer degrees of freedom than queries widen the interval
        independent *= (t_quantile(confidence, n - 1) / t_quantile(confidence, count - 1)) ** 2
        effective = min(float(n), max(1.0, independent))
    low, high = _clopper_pearson(share * effective, effective, confidence)
    return Estimate(n, count, share, low, high, confidence)


def probability_below_zero(mean: Estimate) -> float | None:
    """Compute the probability that a mean of `clustered_mean` is below 0.

    The interval is value ± q x error, where q is a quantile of Student's t with C - 1 degrees of freedom. Under a flat
    prior, the posterior of the mean is value + error x T, so it is below 0 with probability P(T < -value / error). This
    exceeds 0.975 exactly when the 95% interval lies below 0.

    Args:
        mean: For example, a mean of paired differences.

    Returns:
        The probability; None with one cluster. Without any spread it is 0 or 1, or 0.5 if the mean is 0.

    Example:
        >>> probability_below_zero(clustered_mean([-0.1, 0.1], [0, 1]))
        0.5
        >>> round(probability_below_zero(clustered_mean([-0.1, -0.2, -0.3], [0, 1, 2])), 3)
        0.963
    """
    if mean.high is None:
        return None
    # differences that are equal up to rounding have no spread
    value, half = round(mean.value, 12), round(mean.high - mean.value, 12)
    if half == 0:
        return 0.5 if value == 0 else float(value < 0)
    error = half / t_quantile(mean.confidence, mean.clusters - 1)
    return float(special.stdtr(mean.clusters - 1, -value / error))


def _read(
    values: npt.ArrayLike, clusters: npt.ArrayLike, confidence: float
) -> tuple[FloatVector, npt.NDArray[np.intp], int]:
    array = as_values(values)
    check_confidence(confidence)
    labels = np.asarray(clusters)
    if labels.shape != array.shape:
        raise InputError(f"clusters of shape {labels.shape} do not match values of {array.shape}")
    names, code = np.unique(labels, return_inverse=True)
    return array, code, len(names)


def _standard_error(array: FloatVector, code: npt.NDArray[np.intp], count: int) -> float:
    sums = np.bincount(code, weights=array - array.mean(), minlength=count)
    return math.sqrt(count / (count - 1) * float(sums @ sums)) / len(array)


def _clopper_pearson(hits: float, n: float, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(special.betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


# -- Paired comparison of two settings, by seed.


_EXACT_PAIRS = 12
"""Maximum number of pairs to try all 2^n signs if ranks tie: SciPy's exact distribution does not handle ties."""


@dataclass(frozen=True)
class Comparison(_Result):
    """The difference between two settings over pairs (seeds, or captions under two models).

    Attributes:
        n: Number of pairs.
        mean: Mean of the differences, second minus first.
        sd: Sample standard deviation of the differences; None for one pair.
        low: Lower end of the interval of the mean difference; None for one pair.
        high: Upper end.
        t: Student's paired t; None for one pair or if all differences are equal.
        t_p: Its two-tailed p.
        wilcoxon: Wilcoxon's signed-rank statistic, the smaller sum of ranks; None if every difference is 0.
        wilcoxon_p: Its two-tailed p; 1 if every difference is 0.
        cohen_d: Effect size of the t-test: mean over standard deviation of the differences (Cohen's d_z).
        rank_biserial: Effect size of the Wilcoxon test, in [-1, 1]: share of the rank sum in favour of the second
            setting, minus the share against it.
        confidence: Confidence of the interval, in (0, 1).
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    t: float | None
    t_p: float | None
    wilcoxon: float | None
    wilcoxon_p: float | None
    cohen_d: float | None
    rank_biserial: float | None
    confidence: float = 0.95


def compare(first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95) -> Comparison:
    """Compare two settings measured on the same seeds: paired two-tailed tests with effect sizes (tables 11 and 12).

    With five pairs, the smallest two-tailed p of Wilcoxon's test is 0.0625. However clear the difference, p < 0.05
    needs at least six pairs.

    Args:
        first: Shape (n,), one number per seed.
        second: Shape (n,), the other setting's numbers for the same seeds, in the same order.
        confidence: Confidence of the interval of the mean difference.

    Raises:
        InputError: Lengths differ, there are none, or one is not finite.

    Example:
        >>> c = compare([0.1, 0.2, 0.3, 0.1, 0.2], [0.5, 0.4, 0.6, 0.5, 0.7])
        >>> round(c.mean, 3), round(c.t_p, 4), c.wilcoxon_p, c.rank_biserial
        (0.36, 0.0021, 0.0625, 1.0)
    """
    before, after = as_values(first, "first"), as_values(second, "second")
    if before.shape != after.shape:
        raise InputError(
            f"{len(before)} and {len(after)} values cannot be paired: give one value per setting and seed"
        )
    difference = after - before
    summary = summarize(difference, confidence)
    t = t_p = effect = None
    # differences that are equal up to rounding have no spread to test against
    if summary.sd is not None and summary.sd > 1e-12 * max(1e-300, np.abs(difference).max()):
        effect = summary.mean / summary.sd
        t = effect * math.sqrt(summary.n)
        t_p = float(2 * special.stdtr(summary.n - 1, -abs(t)))
    statistic, wilcoxon_p, biserial = _wilcoxon(difference)
    return Comparison(
        n=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        low=summary.low,
        high=summary.high,
        t=t,
        t_p=t_p,
        wilcoxon=statistic,
        wilcoxon_p=wilcoxon_p,
        cohen_d=effect,
        rank_biserial=biserial,
        confidence=confidence,
    )


def _wilcoxon(difference: FloatVector) -> tuple[float | None, float, float | None]:
    from scipy import stats  # takes a second to import

    # equal shares of different seeds must tie; rounding must not order them
    scale = max(1e-300, float(np.abs(difference).max()))
    rounded = np.round(difference / scale, 12)
    moved = rounded[rounded != 0]
    if not len(moved):
        return None, 1.0, None
    tied = len(np.unique(np.abs(moved))) < len(moved)
    method = "exact" if len(moved) <= 50 and not tied else "asymptotic"
    if tied and len(moved) <= _EXACT_PAIRS:
        method = stats.PermutationMethod(n_resamples=2**_EXACT_PAIRS)
    result = stats.wilcoxon(moved, method=method)
    ranks = stats.rankdata(np.abs(moved))
    biserial = float(ranks[moved > 0].sum() - ranks[moved < 0].sum()) / float(ranks.sum())
    return float(result.statistic), float(result.pvalue), biserial


# -- AUROC of true against shuffled pairs: do the two embeddings of a pair belong together?


Floats = npt.NDArray[np.floating[Any]]

SAME_CAPTION = 1 - 1e-5
"""Captions with a larger cosine are the same caption, whose embeddings in two batches differ by rounding."""


def true_pair_auroc(
    text: Floats, image: Floats, *, fewest: int = 30, most: int = 1024
) -> Estimate | None:
    """Compute the chance that a true pair is closer than a shuffled one.

    A true pair is a caption with its own image; a shuffled pair is a caption with another image that has a different
    caption. All shuffled pairs are counted, so only the sample of pairs is random. Each pair contributes three times:
    as a true pair, through its caption, and through its image. The sum of the three influences (the infinitesimal
    jackknife) gives the interval; captions of one image count as one observation.

    Poisoned pairs hardly matter: a share s of wrong pairs moves the AUROC from A to about A - s (A - 0.5).

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`; the same image may be in several pairs.
        fewest: Return None with fewer images.
        most: Test a random sample of this many pairs if there are more: the time grows with the square.

    Returns:
        The AUROC in [0, 1] with its 95% interval, where `clusters` counts images; None with fewer than `fewest` images,
        or if all captions are the same.

    Example:
        >>> one = np.eye(40)
        >>> true_pair_auroc(one, one).value
        1.0
    """
    if len(text) > most:
        rows = np.random.default_rng(0).permutation(len(text))[:most]
        text, image = text[rows], image[rows]
    _, code = np.unique(image, axis=0, return_inverse=True)
    code = code.reshape(-1)
    if not len(code) or int(code.max()) + 1 < fewest:
        return None
    distances = 1 - text @ image.T
    # a caption shared by several images fits all of them
    shuffled = (code[:, None] != code[None, :]) & (text @ text.T < SAME_CAPTION)
    if not shuffled.any():
        return None
    true = distances.diagonal()
    beyond = 1 - _shares_below(true, distances[shuffled])
    value = float(beyond.mean())
    # for each shuffled pair, the share of true pairs that are closer
    surplus = np.where(shuffled, _shares_below(distances, true) - value, 0.0)
    influence = beyond + (surplus.sum(axis=0) + surplus.sum(axis=1)) * len(true) / shuffled.sum()
    found = clustered_mean(influence, code)
    assert found.low is not None
    assert found.high is not None
    return Estimate(found.n, found.clusters, value, max(found.low, 0.0), min(found.high, 1.0))


def twice_below(values: Floats, others: Floats) -> npt.NDArray[np.intp]:
    """For each value, count the others below it twice and ties once; shape of `values`.

    >>> twice_below(np.array([2.0, 3.0]), np.array([1.0, 2.0])).tolist()
    [3, 4]
    """
    ordered = np.sort(others, axis=None)
    below = np.searchsorted(ordered, values, side="left")
    return np.asarray(below + np.searchsorted(ordered, values, side="right"))


def _shares_below(values: Floats, others: Floats) -> Floats:
    """For each value, return the share of others that are smaller; ties count half."""
    return np.asarray(twice_below(values, others) / (2 * others.size))
