"""What a claim of the paper is, and what the rules of all claims share.

The claims themselves are in `paper_values.json`: the paper's values, the table or figure that each rests on, short
words for it, the data that it names, the rule by which it holds and the runs that it needs. `claims.py`
tests the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mmpoison.reporting import Measured, Results, Row, change, decimal
from mmpoison.statistics import UNBOUNDED, Estimate, Summary
from mmpoison_lab.paper.measured import of_model, p_of

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


def ends(estimate: Summary | Estimate | None) -> Interval | None:
    """Return the 95% interval of an estimate; None without one."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def interval(measured: Measured) -> Interval | None:
    """Return the 95% interval of the mean over seeds; None for one seed, which says nothing about others.

    An exact number is its own interval.

    >>> from mmpoison.statistics import summarize
    >>> interval(Measured(summarize([0.5]))), interval(Measured(summarize([0.5]), exact=True))
    (None, (0.5, 0.5))
    """
    if measured.exact and measured.mean is not None:
        return measured.mean, measured.mean
    return ends(measured.summary)


def is_between(
    found: Interval | None, least: float = -math.inf, largest: float = math.inf
) -> Verdict:
    """Say whether a number lies between two limits: its whole interval does, or none of it.

    That a difference is none is tested so, with a margin on both sides of 0: a 95% interval within it is two one-sided
    tests at 2.5% each (Schuirmann 1987). Few seeds give a wide interval, so they make "no difference" harder to show,
    not easier.

    >>> print(*(is_between(one, -0.1, 0.1) for one in ((-0.05, 0.1), (0.2, 0.3), (-0.4, 0.4))), sep=", ")
    holds, does not hold, undecided
    >>> print(*(is_between(one, least=1) for one in ((1, 2), (0, 0.5), (0, 1), None)), sep=", ")
    holds, does not hold, undecided, undecided
    """
    if found is None:
        return UNDECIDED
    low, high = found
    if least <= low and high <= largest:
        return HOLDS
    return FAILS if high < least or low > largest else UNDECIDED


def is_above(found: Interval | None, limit: float) -> Verdict:
    """Say whether a number is above a limit.

    >>> print(*(is_above(one, 0) for one in ((1, 2), (-2, 0), (-1, 1), None)), sep=", ")
    holds, does not hold, undecided, undecided
    """
    return is_between(found, least=math.nextafter(limit, math.inf))


def is_larger(changed: Measured) -> Verdict:
    """Say whether a paired difference is above 0: the interval above 0 is the paired t-test at p < 0.05.

    Differences that are all the same have no spread to test against: undecided, unless they are exact.
    """
    # differences that are equal but for rounding
    values = changed.by_seed.values()
    rounding = 1e-12 * max(map(abs, values), default=0.0)
    if changed.exact or max(values, default=0.0) - min(values, default=0.0) > rounding:
        return is_above(interval(changed), 0.0)
    return UNDECIDED


def is_smaller(changed: Measured) -> Verdict:
    """Say whether a paired difference is below 0; as `is_larger`."""
    return is_larger(paired_formula([changed], lambda value: -value))


def paired_formula(
    numbers: Sequence[Measured],
    formula: Callable[..., float],
    bounds: Interval = UNBOUNDED,
) -> Measured:
    """Compute a number of each seed from several numbers, over the seeds that have them all."""
    common = sorted(set.intersection(*(set(number.by_seed) for number in numbers)))
    by_seed = {seed: formula(*(number.by_seed[seed] for number in numbers)) for seed in common}
    rows = [row for number in numbers for row in number.rows]
    return Measured.of(by_seed, rows, exact=all(n.exact for n in numbers), bounds=bounds)


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the parts of a claim that says all of them.

    >>> str(every([HOLDS, UNDECIDED])), str(every([HOLDS, UNDECIDED, FAILS])), str(every([HOLDS]))
    ('undecided', 'does not hold', 'holds')
    """
    found = list(verdicts)
    return _at_least(found, len(found))


def most(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the parts of a claim that says more than half of them.

    >>> str(most([HOLDS, HOLDS, FAILS])), str(most([HOLDS, FAILS])), str(most([HOLDS, UNDECIDED, FAILS]))
    ('holds', 'does not hold', 'undecided')
    """
    found = list(verdicts)
    return _at_least(found, len(found) // 2 + 1)


def _at_least(found: Sequence[Verdict], number: int) -> Verdict:
    """Combine the parts of a claim of which so many must hold."""
    if not found:
        return UNTESTED
    if found.count(HOLDS) >= number:
        return HOLDS
    if len(found) - found.count(FAILS) < number:
        return FAILS
    return UNTESTED if UNTESTED in found else UNDECIDED


TAKEN = 0.5
"""Mean Hit@10 from which an attack counts as successful: if none succeeds, nothing shows what weakens it."""


@dataclass(frozen=True)
class ClaimResult:
    """What some results say of a claim.

    Attributes:
        verdict: The answer.
        number: What was measured, in words and digits, or why it cannot be tested.
        rows: Where it comes from.
    """

    verdict: Verdict
    number: str
    rows: tuple[Row, ...] = ()

    @property
    def seeds(self) -> int:
        """How many distinct seeds it rests on.

        >>> ClaimResult(Verdict.HOLDS, "", ({"seed": 0}, {"seed": 3}, {"seed": 0})).seeds
        2
        """
        return len({row["seed"] for row in self.rows})


def all_of(parts: Mapping[str, ClaimResult]) -> ClaimResult:
    """Join the findings of a claim that says all of them, each after its name."""
    return ClaimResult(
        every(part.verdict for part in parts.values()),
        "; ".join(f"{name} {part.number}" for name, part in parts.items()),
        tuple(row for part in parts.values() for row in part.rows),
    )


class Absent(Exception):
    """Raised if the results do not hold what a rule needs; its text says what, where some of it is there."""


Rule = Callable[[Results], ClaimResult]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: `claim-12`.
        where: The section of the paper.
        claim: What it says.
        values: The paper's values.
        test_rule: Tests the rule on the rows of one data set; None for a setting or a fact of the paper's data.
        entry: The table or figure that it rests on: `table-2`.
        short: What it says, in a few words that begin with a small letter.
        rule: When it counts as holding.
        needs: Which runs it needs, for a reader who has none.
        on: The paper's data sets that it names; empty where it names none.
        not_counted: Why it is not counted; empty where it is.
        not_on: Why it cannot be tested on some data, by name.
        sizes: Whether it compares parts of one data set.
        printed: The paper's numbers for it: the name of a table, or rows of the long table; `entry` by default.
        unprinted: Why the paper's numbers cannot be put to the rule; empty where they can.
        contradicted: Where the paper contradicts it; empty where it does not.
    """

    id: str
    where: str
    claim: str
    values: Mapping[str, Any]
    test_rule: Rule | None = None
    entry: str = ""
    short: str = ""
    rule: str = ""
    needs: str = ""
    on: Sequence[str] = ()
    not_counted: str = ""
    not_on: Mapping[str, str] = field(default_factory=dict)
    sizes: bool = False
    printed: str | Sequence[Row] = ""
    unprinted: str = ""
    contradicted: str = ""

    def test(self, results: Results) -> ClaimResult | None:
        """Test the rule on the rows of one data set; None where they hold nothing of what it takes."""
        if self.test_rule is None:
            return None
        try:
            return self.test_rule(results)
        except Absent as absent:
            why = str(absent)
            return ClaimResult(Verdict.UNTESTED, why) if why else None


def need(given: bool, why: str = "") -> None:
    """Raise `Absent` where the rows do not hold enough.

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
    """Raise `Absent` where the attack failed."""
    reached = mean(hits)
    need(reached >= TAKEN, f"the attack failed: Hit@10 {decimal(reached)}, less than {TAKEN}")


def largest(groups: Iterable[tuple[Any, Results]], default: Results, *columns: str) -> Results:
    """Return the group with the most values in some columns, seeds by default; the first of several."""
    return max(
        (group for _, group in groups),
        key=lambda group: [len(group.values(column)) for column in columns or ("seed",)],
        default=default,
    )


def reference(
    results: Results, *columns: str, varies: Sequence[str] = (), keep: Sequence[str] = ()
) -> Results:
    """Return one setting among several, so that a sweep over a parameter does not blur its default.

    Args:
        results: Rows of one data set.
        columns: The setting with the most values in these is taken; the most seeds by default.
        varies: Parameters in which the rows may differ.
        keep: Parameters of defences that distinguish settings.
    """
    return largest(results.settings(varies=varies, keep=keep), results, *columns)


def main_goal(results: Results) -> Results:
    """Return the rows of the goal with the most seeds; of the first of several."""
    return largest(results.by("goal"), results)


def one_goal(results: Results, attack: Callable[[Row], bool], **keys: str) -> Results:
    """Select rows of one attack's reference setting and goal, on the whole data set."""
    return main_goal(reference(results.where(attack, **keys).whole_data()))


def both_models(rows: Results, column: str) -> tuple[Measured, Measured]:
    """Return a column of the clean and of the poisoned model."""
    clean, poisoned = (of_model(rows, m).measured(column) for m in ("clean_model", "poisoned"))
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
    first: Measured, second: Measured, says: Callable[[Measured], Verdict], digits: int = 3
) -> ClaimResult:
    """Make a finding about two numbers that are compared by seed.

    Args:
        first: One number.
        second: The other.
        says: What their difference, the second less the first, says of the claim.
        digits: As many are shown.
    """
    mean(first)
    mean(second)
    changed = change(first, second)
    number = f"{shown(first, digits)} to {shown(second, digits)}"
    return ClaimResult(says(changed), number + p_text(changed), changed.rows)


def p_text(changed: Measured) -> str:
    """Say what a paired test of a difference gave: its p, or why there is none."""
    if changed.exact:
        return ""
    seeds = len(changed.by_seed)
    if seeds < 2:
        return ", one seed: no test"
    p = p_of(changed)
    return f", p = {p:.2g} (n = {seeds})" if p is not None else f", no spread (n = {seeds})"
