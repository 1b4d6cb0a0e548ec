"""Decides what numbers over seeds say of a limit: yes, no, or undecided where their interval holds both answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

from mmpoison.paper.measured import Measured

Interval = tuple[float, float]
"""Lower and upper end."""


class Verdict(StrEnum):
    """What some results say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    UNTESTED = "cannot be tested here"


HOLDS, FAILS, UNDECIDED, UNTESTED = Verdict


def interval(measured: Measured) -> Interval | None:
    """Return the 95% interval of the mean over seeds; None for one seed, which says nothing about others.

    An exact number is its own interval.

    >>> from mmpoison.statistics import summarize
    >>> interval(Measured(summarize([0.5]))), interval(Measured(summarize([0.5]), exact=True))
    (None, (0.5, 0.5))
    """
    summary = measured.summary
    if summary is None:
        return None
    if measured.exact:
        return summary.mean, summary.mean
    if summary.low is None or summary.high is None:
        return None
    return summary.low, summary.high


def is_above(found: Interval | None, limit: float) -> Verdict:
    """Say whether a number is above a limit.

    >>> print(*(is_above(one, 0) for one in ((1, 2), (-2, 0), (-1, 1), None)), sep=", ")
    holds, does not hold, undecided, undecided
    """
    if found is None:
        return UNDECIDED
    low, high = found
    if low > limit:
        return HOLDS
    return FAILS if high <= limit else UNDECIDED


def is_at_least(found: Interval | None, limit: float) -> Verdict:
    """Say whether a number is at a limit or above.

    >>> print(*(is_at_least(one, 1) for one in ((1, 2), (0, 0.5), (0, 1))), sep=", ")
    holds, does not hold, undecided
    """
    if found is None:
        return UNDECIDED
    low, high = found
    if low >= limit:
        return HOLDS
    return FAILS if high < limit else UNDECIDED


def is_at_most(found: Interval | None, limit: float) -> Verdict:
    """Say whether a number is at a limit or below; as `is_at_least`."""
    return is_at_least(None if found is None else (-found[1], -found[0]), -limit)


def is_within(found: Interval | None, margin: float) -> Verdict:
    """Say whether a difference is none: its whole interval lies within a margin on both sides of 0.

    A 95% interval within the margin is two one-sided tests at 2.5% each (Schuirmann 1987): few seeds give a wide
    interval, so they make "no difference" harder to show, not easier.

    >>> print(*(is_within(one, 0.1) for one in ((-0.05, 0.1), (0.2, 0.3), (-0.4, 0.4))), sep=", ")
    holds, does not hold, undecided
    """
    if found is None:
        return UNDECIDED
    low, high = found
    if -margin <= low and high <= margin:
        return HOLDS
    return FAILS if low > margin or high < -margin else UNDECIDED


def is_larger(changed: Measured) -> Verdict:
    """Say whether a paired difference is above 0: the interval above 0 is the paired t-test at p < 0.05.

    Differences that are all the same have no spread to test against: undecided, unless they are exact.
    """
    ends = interval(changed)
    if ends is not None and not changed.exact and not _has_spread(changed):
        return UNDECIDED
    return is_above(ends, 0.0)


def is_smaller(changed: Measured) -> Verdict:
    """Say whether a paired difference is below 0; as `is_larger`."""
    return is_larger(negated(changed))


def negated(measured: Measured) -> Measured:
    """Return a number with the other sign."""
    by_seed = {seed: -value for seed, value in measured.by_seed.items()}
    return Measured.of(by_seed, measured.rows, exact=measured.exact)


def _has_spread(measured: Measured) -> bool:
    values = list(measured.by_seed.values())
    # differences that are equal but for rounding
    return max(values) - min(values) > 1e-12 * max(1e-300, *map(abs, values))


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the parts of a claim that says all of them.

    >>> str(every([HOLDS, UNDECIDED])), str(every([HOLDS, UNDECIDED, FAILS])), str(every([HOLDS]))
    ('undecided', 'does not hold', 'holds')
    """
    found = list(verdicts)
    for first in (FAILS, UNTESTED, UNDECIDED):
        if first in found:
            return first
    return HOLDS if found else UNTESTED


def most(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the parts of a claim that says more than half of them.

    >>> str(most([HOLDS, HOLDS, FAILS])), str(most([HOLDS, FAILS])), str(most([HOLDS, UNDECIDED, FAILS]))
    ('holds', 'does not hold', 'undecided')
    """
    found = list(verdicts)
    if not found:
        return UNTESTED
    half = len(found) / 2
    if found.count(HOLDS) > half:
        return HOLDS
    return FAILS if len(found) - found.count(FAILS) <= half else UNDECIDED


def log_ratio(first: Measured, second: Measured) -> Measured:
    """Return the base-2 logarithm of the second number over the first, paired by seed.

    A rank is raised to 0.1 first: 0 is a rank, and has no logarithm.
    """
    common = sorted(set(first.by_seed) & set(second.by_seed))
    by_seed = {
        seed: math.log2(max(second.by_seed[seed], 0.1) / max(first.by_seed[seed], 0.1))
        for seed in common
    }
    rows = (*first.rows, *second.rows)
    return Measured.of(by_seed, rows, exact=first.exact and second.exact)
