"""Statistics against formulas written out, and against SciPy called directly."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmpoison.errors import InputError
from mmpoison.statistics import (
    clustered_mean,
    clustered_share,
    compare,
    probability_below_zero,
    summarize,
)

NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=12)


# -- over seeds ------------------------------------------------------------------------------------


@given(NUMBERS)
def test_summary_equals_scipys_interval(values: list[float]) -> None:
    got = summarize(values)
    assert got.n == len(values)
    assert got.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert got.sd == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)
    assert got.low is not None
    assert got.high is not None
    if got.sd and got.sd > 1e-6:
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert (got.low, got.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_equal_seeds_have_no_spread() -> None:
    got = summarize([0.25] * 4)
    assert (got.sd, got.low, got.high) == (0, 0.25, 0.25)


# -- captions of one image -------------------------------------------------------------------------

CASES = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 50), min_size=n, max_size=n),
        st.lists(st.integers(0, 6), min_size=n, max_size=n),
    )
)


@given(CASES)
def test_clustered_mean_equals_the_formula(case: tuple[list[int], list[int]]) -> None:
    values, clusters = case
    got = clustered_mean(values, clusters)
    names = sorted(set(clusters))
    mean = sum(values) / len(values)
    assert (got.n, got.clusters) == (len(values), len(names))
    assert got.value == pytest.approx(mean)
    if len(names) == 1:
        assert got.low is None
        assert got.high is None
        return
    squares = sum(
        sum(v - mean for v, c in zip(values, clusters, strict=True) if c == name) ** 2
        for name in names
    )
    error = math.sqrt(len(names) / (len(names) - 1) * squares) / len(values)
    half = stats.t.ppf(0.975, len(names) - 1) * error
    assert (got.low, got.high) == pytest.approx((mean - half, mean + half), abs=1e-9)


@pytest.mark.parametrize("shift", [-1.0, 0.2, 3.0])
def test_the_probability_of_a_mean_is_that_of_means_drawn_one_by_one(shift: float) -> None:
    values, clusters = [-1.0, 0.5, 2.0, -0.5, 1.0, -2.0], [0, 0, 1, 1, 2, 3]
    values = [value + shift for value in values]
    mean, count = sum(values) / 6, 4
    sums = [
        sum(v - mean for v, c in zip(values, clusters, strict=True) if c == name)
        for name in range(count)
    ]
    error = math.sqrt(count / (count - 1) * sum(one * one for one in sums)) / 6
    rng = np.random.default_rng(0)
    below, draws = 0, 40_000
    for _ in range(draws):
        # Student's t by its definition
        chi_square = sum(rng.normal() ** 2 for _ in range(count - 1))
        below += mean + error * rng.normal() / math.sqrt(chi_square / (count - 1)) < 0
    got = probability_below_zero(clustered_mean(values, clusters))
    assert got == pytest.approx(below / draws, abs=0.01)


@given(CASES)
def test_the_probability_fits_the_interval(case: tuple[list[int], list[int]]) -> None:
    values, clusters = case
    mean = clustered_mean(values, clusters)
    got = probability_below_zero(mean)
    if mean.high is None or mean.low is None:
        assert got is None
        return
    assert got is not None
    opposite = probability_below_zero(clustered_mean([-value for value in values], clusters))
    assert opposite == pytest.approx(1 - got, abs=1e-9)
    if abs(mean.high) > 1e-9:
        assert (mean.high < 0) == (got > 0.975)


def test_differences_without_spread_are_certain_only_where_there_is_one() -> None:
    rounding = [0.1 + 0.2 - 0.3, 0.3 - 0.1 - 0.2, 0.0]
    for values, wanted in (([0.0] * 3, 0.5), (rounding, 0.5), ([-0.3] * 3, 1.0), ([0.3] * 3, 0.0)):
        assert probability_below_zero(clustered_mean(values, range(3))) == wanted


@given(CASES)
def test_a_share_stays_a_share(case: tuple[list[int], list[int]]) -> None:
    values, clusters = case
    hits = [value < 10 for value in values]
    got = clustered_share(hits, clusters)
    assert got.value == pytest.approx(np.mean(hits))
    if got.clusters > 1:
        assert got.low is not None
        assert got.high is not None
        assert 0 <= got.low <= got.value <= got.high <= 1
        assert got.low < got.high


def test_a_share_of_independent_queries_is_near_clopper_and_pearson() -> None:
    hits = [True] * 30 + [False] * 170
    got = clustered_share(hits, range(200))
    exact = stats.binomtest(30, 200).proportion_ci()
    assert (got.low, got.high) == pytest.approx((exact.low, exact.high), abs=0.002)
    none = clustered_share([False] * 40, range(40))
    assert none.high == pytest.approx(stats.binomtest(0, 40).proportion_ci().high)


def test_a_share_covers_the_truth_where_captions_hang_together() -> None:
    """Images differ in how easy they are; an interval that takes captions for independent is too short."""
    rng = np.random.default_rng(1)
    images, naive, clustered = np.repeat(np.arange(25), 5), 0, 0
    for _ in range(300):
        easy = rng.beta(0.3, 0.7, 25)  # mean 0.3
        hits = rng.random(125) < easy[images]
        got = clustered_share(hits, images)
        assert got.low is not None
        assert got.high is not None
        clustered += got.low <= 0.3 <= got.high
        plain = stats.binomtest(int(hits.sum()), 125).proportion_ci()
        naive += plain.low <= 0.3 <= plain.high
    assert clustered / 300 >= 0.93
    assert naive / 300 < 0.85


# -- two settings ----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_an_interval_of_a_share_ends_at_0_and_1(values: list[float]) -> None:
    free, bounded = summarize(values), summarize(values, bounds=(0, 1))
    assert (bounded.n, bounded.mean, bounded.sd) == (free.n, free.mean, free.sd)
    if free.low is None or free.high is None:
        assert (bounded.low, bounded.high) == (None, None)
        return
    assert bounded.low is not None
    assert bounded.high is not None
    assert bounded.low == pytest.approx(max(free.low, 0), abs=1e-12)
    assert bounded.high == pytest.approx(min(free.high, 1), abs=1e-12)
    assert bounded.low <= bounded.mean <= bounded.high


@given(st.lists(st.tuples(st.integers(0, 125), st.integers(0, 125)), min_size=2, max_size=10))
def test_compare_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(side) / 125 for side in zip(*pairs, strict=True))
    got = compare(first, second)
    difference = np.array([b - a for a, b in pairs])
    assert got.n == len(pairs)
    assert got.mean == pytest.approx((second - first).mean(), abs=1e-12)
    if len(set(difference)) == 1:
        assert got.t is None
        assert got.t_p is None
        assert got.cohen_d is None
    else:
        expected = stats.ttest_rel(second, first)
        assert got.t == pytest.approx(expected.statistic)
        assert got.t_p == pytest.approx(expected.pvalue)
        assert got.cohen_d == pytest.approx(got.mean / np.std(second - first, ddof=1))
        interval = expected.confidence_interval()
        assert (got.low, got.high) == pytest.approx((interval.low, interval.high))
    moved = difference[difference != 0]
    if not len(moved):
        assert (got.wilcoxon, got.wilcoxon_p, got.rank_biserial) == (None, 1.0, None)
        return
    # every assignment of signs, written out
    ranks = stats.rankdata(np.abs(moved))
    total, observed = ranks.sum(), ranks[moved > 0].sum()
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(moved))
    ]
    lower = sum(s <= observed + 1e-9 for s in sums) / len(sums)
    upper = sum(s >= observed - 1e-9 for s in sums) / len(sums)
    assert got.wilcoxon_p == pytest.approx(min(1.0, 2 * min(lower, upper)))
    assert got.wilcoxon == pytest.approx(min(observed, total - observed))
    assert got.rank_biserial == pytest.approx((2 * observed - total) / total)


def test_five_seeds_cannot_convince_wilcoxon() -> None:
    got = compare([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.91, 0.92, 0.93, 0.94])
    assert got.wilcoxon_p == 0.0625
    assert got.t_p is not None
    assert got.t_p < 0.01


def test_one_pair_tests_nothing() -> None:
    got = compare([0.1], [0.4])
    assert got.mean == pytest.approx(0.3)
    assert (got.sd, got.low, got.t, got.t_p, got.cohen_d) == (None,) * 5
    assert got.wilcoxon_p == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: summarize([]), "values are empty"),
        (lambda: summarize([[1.0]]), r"shape \(n,\), not \(1, 1\)"),
        (lambda: summarize([1.0, float("nan")]), "hold NaN"),
        (lambda: summarize(["a"]), "not numbers"),
        (lambda: summarize([1.0, 2.0], confidence=95), "confidence 95 is not between 0 and 1"),
        (lambda: clustered_mean([1, 2], [1]), "do not match"),
        (lambda: clustered_share([0, 2], [0, 1]), "hits must be 0 or 1"),
        (lambda: compare([1, 2], [1]), "2 and 1 values cannot be paired"),
    ],
)
def test_bad_input(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()
