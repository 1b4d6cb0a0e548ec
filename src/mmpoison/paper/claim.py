"""The registry of the paper's claims that can be tested, and what their rules share.

The claims themselves are in `paper_values.json`: the paper's values, the table or figure that each rests on, short
words for it, the data that it names, the rule by which it holds and the runs that it needs. One without a rule here is
a setting or a fact of the paper's data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mmpoison.paper.measured import p_of
from mmpoison.paper.paper_values import paper
from mmpoison.reporting.results import Measured, Results, Row, change
from mmpoison.reporting.text import decimal

# -- Decides what numbers over seeds say of a limit: yes, no, or undecided where their interval holds both
# answers.


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


TAKEN = 0.5
"""Mean Hit@10 from which an attack counts as taken: where none took, nothing can be said of what weakens it."""


@dataclass(frozen=True)
class ClaimResult:
    """What some results say of a claim.

    Attributes:
        verdict: The answer.
        number: What was measured, in words and digits, or why it cannot be tested.
        rows: Where it comes from.
        n: How many seeds it rests on, where the rows are not there.
    """

    verdict: Verdict
    number: str
    rows: tuple[Row, ...]
    n: int | None = None

    @property
    def seeds(self) -> int | None:
        """How many distinct seeds it rests on; None where that is not known.

        >>> ClaimResult(Verdict.HOLDS, "", ({"seed": 0}, {"seed": 3}, {"seed": 0})).seeds
        2
        """
        return self.n or seeds_of(self.rows)


def seeds_of(rows: Iterable[Row]) -> int | None:
    """Count the distinct seeds of some rows; None where none has one."""
    return len({row["seed"] for row in rows if "seed" in row}) or None


class Absent(Exception):
    """Raised if the results do not hold what a rule needs; its text says what, where some of it is there."""


@dataclass(frozen=True)
class Claim:
    """A claim that can be tested.

    Attributes:
        id: `claim-12`.
        entry: The table or figure that it rests on: `table-2`.
        short: What it says, in a few words that begin with a small letter.
        rule: When it counts as holding.
        needs: Which runs it needs, for a reader who has none.
        test: Gives a finding for the rows of one data set; None where they hold nothing of what it takes.
        data: The paper's data sets that it names; empty where it names none.
        not_counted: Why it is not counted; empty where it is.
        not_on: Why it cannot be tested on some data, by name.
        sizes: Whether it compares parts of one data set.
    """

    id: str
    entry: str
    short: str
    rule: str
    needs: str
    test: Callable[[Results], ClaimResult | None]
    data: tuple[str, ...] = ()
    not_counted: str = ""
    not_on: Mapping[str, str] = field(default_factory=dict)
    sizes: bool = False


CLAIMS: dict[str, Claim] = {}
"""The claims by the id that each has in the paper's numbers: `claim-12`."""

Test = Callable[[Results], ClaimResult]


def claim(number: int, *, sizes: bool = False) -> Callable[[Test], Test]:
    """Add the rule of a claim to `CLAIMS`."""

    def decorate(test: Test) -> Test:
        def find(results: Results) -> ClaimResult | None:
            try:
                return test(results)
            except Absent as absent:
                why = str(absent)
                return ClaimResult(Verdict.UNTESTED, why, ()) if why else None

        said = said_of(f"claim-{number:02}")
        CLAIMS[said["id"]] = Claim(
            said["id"],
            said["entry"],
            said["short"],
            said["rule"],
            said["needs"],
            find,
            tuple(said.get("on", ())),
            said.get("not_counted", ""),
            said.get("not_on", {}),
            sizes,
        )
        return test

    return decorate


def said_of(name: str) -> Mapping[str, Any]:
    """Return what the paper says in a claim."""
    (said,) = (one for one in paper()["claims"] if one["id"] == name)
    found: Mapping[str, Any] = said
    return found


def need(given: bool, why: str = "") -> None:
    """Give up where the rows do not hold enough.

    Args:
        given: Whether they do.
        why: What is missing, where the rest is there; empty where nothing is.
    """
    if not given:
        raise Absent(why)


def mean(measured: Measured) -> float:
    """Return the mean of a number, which some run must have."""
    if measured.mean is None:
        raise Absent
    return measured.mean


def need_taken(hits: Measured) -> None:
    """Give up where the attack did not take."""
    reached = mean(hits)
    need(reached >= TAKEN, f"the attack did not take: Hit@10 {decimal(reached)}, less than {TAKEN}")


def reference(
    results: Results, *, varies: tuple[str, ...] = (), keep: tuple[str, ...] = ()
) -> Results:
    """Return the setting with the most seeds among several, so that a sweep over a parameter does not blur its default.

    Args:
        results: Rows of one data set.
        varies: Parameters in which the rows may differ.
        keep: Parameters of defences that distinguish settings.
    """
    groups = [group for _, group in results.settings(varies=varies, keep=keep)]
    return max(groups, key=lambda group: len(group.values("seed")), default=results)


def main_goal(results: Results) -> Results:
    """Return the rows of the goal with the most seeds; of the first of several."""
    goals = [rows for _, rows in results.by("goal")]
    return max(goals, key=lambda rows: len(rows.values("seed")), default=results)


def one_goal(results: Results, attack: Callable[[Row], bool], **keys: str) -> Results:
    """Select rows of one attack's reference setting and goal, on the whole data set."""
    return main_goal(reference(results.where(attack, **keys).whole_data()))


def both_models(rows: Results, column: str) -> tuple[Measured, Measured]:
    """Return a column of the clean and of the poisoned model."""
    clean, poisoned = (rows.where(model=m).measured(column) for m in ("clean_model", "poisoned"))
    return clean, poisoned


def shown(measured: Measured, digits: int = 3) -> str:
    """Format a mean, with its interval if there are several seeds.

    >>> from mmpoison.statistics import summarize
    >>> shown(Measured(summarize([0.5])))
    '0.500'
    """
    summary = measured.summary
    if summary is None:
        return "–"
    text = decimal(summary.mean, digits)
    if summary.low is not None:
        text += f" [{decimal(summary.low, digits)}, {decimal(summary.high, digits)}]"
    return text


def versus(
    first: Measured,
    second: Measured,
    says: Callable[[Measured], Verdict],
    digits: int = 3,
    times: float = 1.0,
) -> ClaimResult:
    """Make a finding about two numbers that are compared by seed.

    Args:
        first: One number.
        second: The other.
        says: What their difference, the second less a multiple of the first, says of the claim.
        digits: As many are shown.
        times: The multiple.
    """
    mean(first)
    mean(second)
    changed = change(first, second, times)
    number = f"{shown(first, digits)} to {shown(second, digits)}"
    return ClaimResult(says(changed), number + p_text(changed, times), changed.rows)


def p_text(changed: Measured, times: float = 1.0) -> str:
    """Say what a paired test of a difference gave: its p, or why there is none."""
    if changed.exact:
        return ""
    seeds = len(changed.by_seed)
    if seeds < 2:
        return ", one seed: no test"
    p = p_of(changed)
    of = "" if times == 1 else f" of {times:g} times"
    return f", p{of} = {p:.2g} (n = {seeds})" if p is not None else f", no spread (n = {seeds})"
