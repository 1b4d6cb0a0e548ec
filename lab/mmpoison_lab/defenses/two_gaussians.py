"""Fits two Gaussians to one-dimensional values, to split them into two kinds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from mmpoison.base import torch_seed

Values = npt.NDArray[np.float64]

LEAST_VARIANCE = 1e-6
"""Added to the variances, because a Gaussian on equal values would be a spike."""

TOLERANCE, ITERATIONS = 1e-7, 2000
"""EM stops if the mean log-likelihood gains less; scikit-learn's 1e-3 stops at once if two Gaussians overlap."""


@dataclass(frozen=True)
class TwoGaussians:
    """Two one-dimensional Gaussians, the one with the smaller mean first.

    Attributes:
        means: Shape `(2,)`, sorted.
        deviations: Standard deviations, shape `(2,)`.
        shares: Shares of the values, shape `(2,)`, sum 1.
    """

    means: Values
    deviations: Values
    shares: Values

    @property
    def separation(self) -> float:
        """Difference of the means, in root mean squares of the two deviations."""
        return float((self.means[1] - self.means[0]) / np.sqrt((self.deviations**2).mean()))

    def log_odds(self, values: npt.ArrayLike) -> Values:
        """Compute the log odds of the lower Gaussian, continued beyond the two means along the tangents.

        The log odds of two Gaussians with different widths are a parabola: far out, the wider one always wins, on both
        sides. With the tangents, they never rise with the value.

        Args:
            values: Shape `(N,)`.

        Returns:
            Shape `(N,)`; never increasing in the values.

        >>> one = TwoGaussians(np.array([0.0, 1.0]), np.array([0.1, 0.5]), np.array([0.5, 0.5]))
        >>> bool(one.log_odds([-9.0])[0] > one.log_odds([0.0])[0])
        True
        """
        x = np.asarray(values, dtype=np.float64)
        within = x.clip(*self.means)
        lower, upper = (
            np.log(self.shares[i] / self.deviations[i])
            - ((within - self.means[i]) / self.deviations[i]) ** 2 / 2
            for i in (0, 1)
        )
        # at a mean, only the other Gaussian contributes to the slope
        gap = self.means[1] - self.means[0]
        slope = np.where(x < self.means[0], gap / self.deviations[1] ** 2, 0.0)
        slope += np.where(x > self.means[1], gap / self.deviations[0] ** 2, 0.0)
        return np.asarray(lower - upper - slope * (x - within))

    def upper(self, values: npt.ArrayLike) -> Values:
        """Compute the posterior probability of the upper Gaussian from `log_odds`.

        Args:
            values: Shape `(N,)`.

        Returns:
            Shape `(N,)`, in [0, 1]; never falls with the value.
        """
        return np.asarray(expit(-self.log_odds(values)))


def fit_two_gaussians(values: npt.ArrayLike, *, seed: int = 0) -> TwoGaussians:
    """Fit two Gaussians by expectation maximisation.

    Args:
        values: Finite values, at least two different ones, shape `(N,)`.
        seed: Seed for the initial clustering.

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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        2,
        tol=TOLERANCE,
        max_iter=ITERATIONS,
        reg_covar=LEAST_VARIANCE,
        random_state=torch_seed(seed, "two-gaussians") % 2**32,
    )
    with warnings.catch_warnings():
        # a fit that still changes in the seventh digit is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x[:, None])
    order = np.argsort(model.means_[:, 0])
    return TwoGaussians(
        model.means_[order, 0],
        np.sqrt(model.covariances_[order, 0, 0]),
        model.weights_[order],
    )
