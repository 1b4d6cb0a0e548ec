"""Two Gaussians against densities of SciPy; `test_score_filters.py` compares the fit with a slow EM."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from mmpoison_lab.defenses.two_gaussians import TwoGaussians, fit_two_gaussians


def test_between_the_means_it_is_the_posterior() -> None:
    two = TwoGaussians(np.array([0.0, 1.0]), np.array([0.2, 0.6]), np.array([0.3, 0.7]))
    values = np.linspace(0, 1, 21)
    low, high = 0.3 * norm.pdf(values, 0, 0.2), 0.7 * norm.pdf(values, 1, 0.6)
    np.testing.assert_allclose(two.upper(values), high / (low + high))


@pytest.mark.parametrize("deviations", [(0.2, 0.6), (0.6, 0.2), (0.1, 3.0)])
def test_it_never_falls_with_the_value(deviations: tuple[float, float]) -> None:
    """The plain posterior does: far out the wider Gaussian wins on both sides."""
    two = TwoGaussians(np.array([0.0, 1.0]), np.array(deviations), np.array([0.5, 0.5]))
    values = np.linspace(-9, 9, 500)
    assert (np.diff(two.upper(values)) >= 0).all()
    plain = norm.pdf(values, 1, deviations[1]) / norm.pdf(
        values[:, None], [0.0, 1.0], deviations
    ).sum(axis=1)
    assert (np.diff(plain) < 0).any()


@pytest.mark.parametrize(
    ("values", "says"), [([], "equal"), ([2.0, 2.0], "equal"), ([1.0, math.nan], "not finite")]
)
def test_what_cannot_be_fitted(values: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit_two_gaussians(values)
