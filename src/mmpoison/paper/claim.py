"""What a predicate of a claim is, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmpoison.base.registry import Registry
from mmpoison.paper.measured import Measured, Results
from mmpoison.reporting.parameters import Row
from mmpoison.reporting.text import decimal
from mmpoison.statistics import compare


@dataclass(frozen=True)
class Finding:
    """What our runs say of a claim on one data set.

    Attributes:
        holds: Whether it holds.
        number: Ours, in words and digits.
        rows: Where it comes from.
    """

    holds: bool
    number: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Claim:
    """A claim that can be tested.

    Attributes:
        rule: When it counts as holding.
        needs: What runs it takes.
        test: Gives a finding for the rows of one data set, or None where they do not hold what it takes.
    """

    rule: str
    needs: str
    test: Callable[[Results], Finding | None]


CLAIMS: Registry[Claim] = Registry("claim", "mmpoison.paper.claims")


def claim(
    name: str, rule: str, needs: str
) -> Callable[[Callable[[Results], Finding | None]], Callable[[Results], Finding | None]]:
    """Register the predicate of a claim.

    Args:
        name: Its id in the paper's numbers, `claim-12`.
        rule: When it counts as holding.
        needs: What runs it takes, for whoever has none.
    """

    def decorate(test: Callable[[Results], Finding | None]) -> Callable[[Results], Finding | None]:
        CLAIMS.register(name)(Claim(rule, needs, test))
        return test

    return decorate


def reference(
    results: Results, *, varies: tuple[str, ...] = (), keep: tuple[str, ...] = ()
) -> Results:
    """The setting with the most seeds among several, so that a sweep over a knob does not blur what is at its default.

    Args:
        results: Rows of one data set.
        varies: Knobs in which the rows may differ.
        keep: Knobs of defences that tell settings apart.
    """
    groups = results.settings(varies=varies, keep=keep)
    if not groups:
        return results
    return max((group for _, group in groups), key=lambda group: len(group.values("seed")))


def main_goal(results: Results) -> Results:
    """The rows of the goal with the most seeds; of the first of several."""
    goals = list(results.by("goal"))
    return (
        max((rows for _, rows in goals), key=lambda rows: len(rows.values("seed")))
        if goals
        else results
    )


def shown(measured: Measured, digits: int = 3) -> str:
    """Mean, and interval where there are several seeds.

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
    first: Measured, second: Measured, holds: Callable[[float, float], bool], digits: int = 3
) -> Finding | None:
    """A finding about the means of two numbers, with the p of a paired t-test over seeds; None where one is absent.

    The verdict is that of the means: the paper's claims are of one run. The p tells what is left of it by chance.
    """
    if first.mean is None or second.mean is None:
        return None
    said = f"{shown(first, digits)} to {shown(second, digits)}"
    common = sorted(set(first.by_seed) & set(second.by_seed))
    if len(common) > 1:
        test = compare(
            [first.by_seed[seed] for seed in common], [second.by_seed[seed] for seed in common]
        )
        if test.t_p is not None:
            said += f", p = {test.t_p:.2g} (n = {test.n})"
    return Finding(holds(first.mean, second.mean), said, (*first.rows, *second.rows))
