"""Two Gaussians fitted to numbers on a line, to split them in two kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

ITERATIONS, TOLERANCE = 1000, 1e-8
"""EM ends where the mean log-likelihood gains less."""

LEAST_SHARE_OF_VARIANCE = 1e-6
"""A Gaussian on equal values would be a spike: its variance is at least this share of the variance of all values."""


@dataclass(frozen=True)
class TwoGaussians:
    """Two Gaussians, the one with the smaller mean first.

    Attributes:
        means: Shape `(2,)`, sorted.
        deviations: Standard deviations, shape `(2,)`.
        shares: Of the values, shape `(2,)`, sum 1.
    """

    means: Values
    deviations: Values
    shares: Values

    def upper(self, values: npt.ArrayLike) -> Values:
        """Compute the posterior probability of the Gaussian with the larger mean.

        The wider of two Gaussians wins far out on both sides. Here the probability of a value beyond a mean is that of
        the mean, so it never falls with the value.

        Args:
            values: Shape `(N,)`.

        Returns:
            Shape `(N,)`, in [0, 1].

        >>> wide_below = TwoGaussians(np.array([0.0, 1.0]), np.array([1.0, 0.1]), np.array([0.5, 0.5]))
        >>> wide_below.upper([1.0, 9.0]).round(3).tolist()  # not 0 for 9
        [0.943, 0.943]
        """
        within = np.asarray(values, dtype=np.float64).clip(*self.means)
        lower, upper = _log_densities(within, self.means, self.deviations, self.shares)
        return np.asarray(np.exp(upper - np.logaddexp(lower, upper)))


def fit_two_gaussians(values: npt.ArrayLike) -> TwoGaussians:
    """Fit two Gaussians by expectation maximisation, from the halves below and above the median.

    Args:
        values: Shape `(N,)`, finite, with two different ones at least.

    Raises:
        ValueError: If all values are equal or one is not finite.

    >>> two = fit_two_gaussians([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 5.3])
    >>> two.means.round(3).tolist(), two.shares.round(3).tolist()
    ([0.1, 5.15], [0.429, 0.571])
    """
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("a value is not finite")
    if not len(x) or np.ptp(x) == 0:
        raise ValueError("all values are equal")
    least = LEAST_SHARE_OF_VARIANCE * x.var()
    order = np.argsort(np.argsort(x, kind="stable"))
    upper = (order >= len(x) // 2).astype(np.float64)
    before = -np.inf
    for _ in range(ITERATIONS):
        weights = np.stack([1 - upper, upper])
        totals = weights.sum(axis=1).clip(min=1e-12)
        means = weights @ x / totals
        variances = (weights * (x - means[:, None]) ** 2).sum(axis=1) / totals
        deviations = np.sqrt(np.maximum(variances, least))
        shares = totals / totals.sum()
        low, high = _log_densities(x, means, deviations, shares)
        both = np.logaddexp(low, high)
        upper = np.exp(high - both)
        likelihood = float(both.mean())
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
    by_mean = np.argsort(means, kind="stable")
    return TwoGaussians(means[by_mean], deviations[by_mean], shares[by_mean])


def _log_densities(
    x: Values, means: Values, deviations: Values, shares: Values
) -> tuple[Values, Values]:
    """Log of share times density, of each Gaussian; a constant is left out."""
    lower, upper = (
        np.log(shares[i] / deviations[i]) - ((x - means[i]) / deviations[i]) ** 2 / 2
        for i in (0, 1)
    )
    return lower, upper
