"""Mean, standard deviation and interval over seeds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy.typing as npt

from mmpoison.statistics._arrays import as_values, check_confidence


@dataclass(frozen=True)
class Summary:
    """One number measured over several seeds.

    Attributes:
        n: Number of seeds.
        mean: Their mean.
        sd: Sample standard deviation (n - 1); None for one seed.
        low: Lower end of the interval of the mean; None for one seed.
        high: Upper end.
        confidence: Of the interval.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain JSON values."""
        return asdict(self)


UNBOUNDED = (-math.inf, math.inf)
"""Bounds of a number that can be anything."""


def summarize(
    values: npt.ArrayLike,
    confidence: float = 0.95,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Summary:
    """Compute mean, standard deviation and t-interval of one number per seed (as in tables 11 and 12 of the paper).

    The interval is Student's with n - 1 degrees of freedom: that of the *mean* over seeds. With five seeds it is 1.24
    standard deviations to each side. It ends at `bounds`: the mean of a share is never outside of [0, 1], and an
    interval that reaches 0 or 1 says that n is too small for it.

    Args:
        values: Shape (n,), one finite number a seed.
        confidence: Between 0 and 1.
        bounds: The least and the largest possible value, for example (0, 1) of a share.

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
    # a value outside of the bounds is the caller's mistake: the interval still contains the mean
    low, high = max(mean - half, min(least, mean)), min(mean + half, max(largest, mean))
    return Summary(len(array), mean, sd, float(low), float(high), confidence)


def t_quantile(confidence: float, degrees: int) -> float:
    """Return the half-width of a two-sided interval in standard errors.

    >>> round(t_quantile(0.95, 4), 4)
    2.7764
    """
    from scipy import stats  # takes half a second to import

    return float(stats.t.ppf(0.5 + confidence / 2, degrees))
