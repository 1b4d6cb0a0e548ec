"""Numbers over seeds: an interval stays where its number can be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmpoison.reporting.results import MAIN, Results, change

SHARES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6)


def of(column: str, values: list[float]) -> Results:
    rows = ({"run": f"r{n}", "seed": n, "study": MAIN, column: v} for n, v in enumerate(values))
    return Results(tuple(rows), {})


def t_interval(values: list[float]) -> tuple[float, float]:
    """SciPy's, without bounds."""
    spread = stats.sem(values)
    half = spread * stats.t.ppf(0.975, len(values) - 1)
    return np.mean(values) - half, np.mean(values) + half


@pytest.mark.parametrize(
    ("column", "least", "largest"),
    [
        ("hit@10", 0, 1),
        ("utility.image_retrieval.hit@10", 0, 1),
        ("run.poisoning_rate", 0, 1),
        ("min_rank", 0, math.inf),
        ("drift.text", 0, 2),
        ("order_drift.image", 0, 2),
        ("x", -math.inf, math.inf),
    ],
)
@given(values=SHARES)
def test_an_interval_ends_where_its_number_does(
    column: str, least: float, largest: float, values: list[float]
) -> None:
    summary = of(column, values).measured(column).summary
    assert summary is not None
    assert summary.low is not None
    assert summary.high is not None
    low, high = t_interval(values)
    assert summary.low == pytest.approx(max(low, least), abs=1e-6)
    assert summary.high == pytest.approx(min(high, largest), abs=1e-6)
    assert summary.low <= summary.mean <= summary.high


def test_a_difference_of_shares_has_no_such_bounds() -> None:
    first, second = of("hit@10", [0.0, 0.1]), of("hit@10", [1.0, 0.8])
    changed = change(first.measured("hit@10"), second.measured("hit@10")).summary
    assert changed is not None
    assert changed.low is not None
    assert changed.high is not None
    assert changed.low < 0 < 1 < changed.high
