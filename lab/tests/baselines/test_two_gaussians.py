"""Two Gaussians against a slow EM, SciPy's densities and drawn data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from mmpoison_lab.defenses.two_gaussians import TwoGaussians, fit_two_gaussians


def slow_fit(values: list[float]) -> tuple[list[float], list[float], list[float]]:
    """EM from the halves below and above the median, value by value."""
    ordered = sorted(values)
    half = len(values) // 2
    upper = {value: float(place >= half) for place, value in enumerate(ordered)}
    for _ in range(400):
        means, deviations, shares = [], [], []
        for side in (0, 1):
            weights = [upper[v] if side else 1 - upper[v] for v in values]
            total = sum(weights)
            mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
            variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
            means.append(mean)
            deviations.append(math.sqrt(variance / total))
            shares.append(total / len(values))
        for v in values:
            low, high = (
                shares[i] / deviations[i] * math.exp(-(((v - means[i]) / deviations[i]) ** 2) / 2)
                for i in (0, 1)
            )
            upper[v] = high / (low + high)
    return means, deviations, shares


def test_the_fit_is_that_of_a_slow_em() -> None:
    stream = np.random.default_rng(0)
    values = np.concatenate([stream.normal(0.1, 0.05, 20), stream.normal(0.4, 0.1, 40)])
    two = fit_two_gaussians(values)
    means, deviations, shares = slow_fit(values.tolist())
    np.testing.assert_allclose(two.means, means, atol=1e-3)
    np.testing.assert_allclose(two.deviations, deviations, atol=1e-3)
    np.testing.assert_allclose(two.shares, shares, atol=5e-3)


def test_it_finds_what_was_drawn() -> None:
    stream = np.random.default_rng(1)
    values = np.concatenate([stream.normal(-1, 0.3, 3_000), stream.normal(2, 0.6, 7_000)])
    two = fit_two_gaussians(stream.permutation(values))
    np.testing.assert_allclose(two.means, [-1, 2], atol=0.05)
    np.testing.assert_allclose(two.deviations, [0.3, 0.6], atol=0.03)
    np.testing.assert_allclose(two.shares, [0.3, 0.7], atol=0.02)


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
