"""What an interval says of a limit, against SciPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmpoison.reporting.results import change
from mmpoison_lab.paper import Measured
from mmpoison_lab.paper.claim import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Verdict,
    every,
    interval,
    is_between,
    is_larger,
    is_smaller,
    most,
)

VALUES = st.lists(st.integers(-50, 50).map(lambda n: n / 100), min_size=2, max_size=8)


def of(values: list[float]) -> Measured:
    return Measured.of(dict(enumerate(values)), ())


@given(VALUES, st.data())
def test_a_direction_is_the_paired_t_test(values: list[float], data: st.DataObject) -> None:
    others = data.draw(
        st.lists(st.sampled_from(values), min_size=len(values), max_size=len(values))
    )
    changed = change(of(values), of(others))
    said = is_larger(changed)
    assert said == {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}[is_smaller(changed)]
    differences = np.array(others) - values
    if np.ptp(differences) < 1e-9:
        assert said == UNDECIDED
        return
    p = float(stats.ttest_rel(others, values).pvalue)
    if abs(p - 0.05) > 1e-6:
        wanted = UNDECIDED if p > 0.05 else HOLDS if differences.mean() > 0 else FAILS
        assert said == wanted


@given(VALUES, st.floats(0.01, 0.4))
def test_no_difference_is_two_one_sided_tests(values: list[float], margin: float) -> None:
    said = is_between(interval(of(values)), -margin, margin)
    if np.ptp(values) < 1e-9:
        return
    below, above = (
        float(stats.ttest_1samp(values, limit, alternative=way).pvalue)
        for limit, way in ((margin, "less"), (-margin, "greater"))
    )
    worst = max(below, above)
    if abs(worst - 0.025) > 1e-6:
        assert (said == HOLDS) == (worst < 0.025)


@given(VALUES, st.floats(-0.5, 0.5))
def test_a_limit_is_asked_from_both_sides(values: list[float], limit: float) -> None:
    ends = interval(of(values))
    assert ends is not None
    low, high = ends
    at_least, at_most = is_between(ends, least=limit), is_between(ends, largest=limit)
    assert (at_least == HOLDS) == (low >= limit)
    assert (at_most == HOLDS) == (high <= limit)
    assert {at_least, at_most} != {FAILS}


@given(st.lists(st.sampled_from([HOLDS, FAILS, UNDECIDED]), min_size=1, max_size=7))
def test_undecided_parts_could_be_either(parts: list[Verdict]) -> None:
    """An undecided part is whatever it turns out to be: a combination is decided only if both ways give the same."""
    for combine in (every, most):
        certain = {
            combine([way if part == UNDECIDED else part for part in parts])
            for way in (HOLDS, FAILS)
        }
        assert combine(parts) == (certain.pop() if len(certain) == 1 else UNDECIDED)
