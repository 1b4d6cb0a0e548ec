"""Compares a matrix with the claims of its defences' papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpoison.base import ABSENT
from mmpoison.statistics import Estimate, clustered_share, probability_below_zero
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED
from mmpoison_lab.matrix.summary import (
    ColumnSummary,
    MatrixSummary,
    RowSummary,
    difference,
    mean,
    of_column,
)

# -- Formats estimates, and compares their intervals with limits.


def interval(estimate: Estimate | None, digits: int = 2, *, share: bool = False) -> str | None:
    """Format a number with its interval, `0.50 [0.25, 0.75]`; return None if there is no number.

    Args:
        estimate: The estimate, without an interval if only one goal was measured.
        digits: Decimal places.
        share: Whether it is a share, in [0, 1], instead of a difference of shares, in [-1, 1].
    """
    if estimate is None:
        return None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    low, high = max(estimate.low, 0.0 if share else -1.0), min(estimate.high, 1.0)
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def share(estimate: Estimate | None) -> str:
    """Format a share with its interval, for a sentence."""
    return interval(estimate, share=True) or ABSENT


def probability(change: Estimate) -> str:
    """Format the probability that a change is below 0; never as 0 or 1, as the goals are few."""
    value = probability_below_zero(change)
    if value is None:
        return ABSENT
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def above(estimate: Estimate | None, limit: float) -> bool:
    """Check whether the whole interval is above a limit; false without an interval."""
    return estimate is not None and estimate.low is not None and estimate.low > limit


def below(estimate: Estimate | None, limit: float) -> bool:
    """Check whether the whole interval is below a limit; false without an interval."""
    return estimate is not None and estimate.high is not None and estimate.high < limit


def at_most(estimate: Estimate | None, limit: float) -> bool:
    """Check whether the interval ends at or below a limit; false without an interval."""
    return estimate is not None and estimate.high is not None and estimate.high <= limit


def defences(summary: MatrixSummary) -> list[ColumnSummary]:
    """List the defence columns that result in a model, without the random control."""
    return [
        column
        for column in summary.defended
        if column.name not in (CLEAN_MODEL, UNDEFENDED) and column.method != "random-drop"
    ]


Agreement = Literal["agrees", "does not agree", "undecided", "cannot be tested"]

BACKDOORS = ("patch-backdoor", "blend-backdoor")
TARGETED = "single-target-image"
"""The paper's attack on a single target image, like those in SafeCLIP and RoCLIP."""

LEVEL = 0.05
"""Significance level of the test that a scan flags more models with a trigger than without."""

HALF = 0.5
"""The claim fails if a scan flags less than this share with a trigger, or more without one."""


@dataclass(frozen=True)
class PublishedComparison:
    """A paper's claim and the matrix's result on it.

    Attributes:
        source: The paper.
        claim: What it says.
        rule: The measurement, and when it agrees with the claim.
        measured: The numbers.
        verdict: The verdict by the interval: `undecided` if the interval allows both answers.
        reason: Reason why it cannot be tested, or empty.
    """

    source: str
    claim: str
    rule: str
    measured: str
    verdict: Agreement
    reason: str = ""


def compare_claims(summary: MatrixSummary) -> list[PublishedComparison]:
    """Compare papers' claims with a matrix, for the defences that it contains.

    Args:
        summary: Summary of the pieces. Columns are found by their names in the shipped recipe.
    """
    known = {column.name for column in summary.columns}
    compared = [
        _left(
            summary,
            "safeclip",
            ("SafeCLIP, ICML 2024", "targeted poisoning: 94% before, 0% after"),
            0.05,
        ),
        _left(
            summary,
            "roclip",
            ("RoCLIP, NeurIPS 2023", "targeted poisoning: 94% before, 12.5% after"),
            0.2,
        ),
        _repaired(summary),
        _denser(summary),
        _silent(summary),
    ]
    needed = ({"safeclip"}, {"roclip"}, {"par", "cleanclip"}, set(_DENSITIES), {"decree"})
    return [one for one, columns in zip(compared, needed, strict=True) if columns <= known]


_DENSITIES = ("local-density-image", "local-density-image-slof", "local-density-image-dao")


def _left(
    summary: MatrixSummary, column: str, paper: tuple[str, str], most: float
) -> PublishedComparison:
    rule = f"success of `{TARGETED}` after it is at most {most} above the clean model's"
    rows = [row for row in summary.counted(with_trigger=False) if row.attack == TARGETED]
    if not rows:
        return _untested(paper, rule, f"no row of `{TARGETED}` succeeds")
    pooled = summary.pooled(rows)
    excess = difference(pooled, CLEAN_MODEL, column)
    measured = f"{share(mean(pooled, UNDEFENDED))} before, {share(mean(pooled, column))} after"
    verdict = _verdict(excess, agrees=at_most(excess, most), not_so=above(excess, most))
    return PublishedComparison(*paper, rule, measured, verdict)


def _repaired(summary: MatrixSummary) -> PublishedComparison:
    paper = ("PAR, 2024", "CleanCLIP fails on structured triggers, PAR does not")
    first, second = "par", "cleanclip"
    rule = f"success of the fixed triggers is higher after {second} than after {first}"
    rows = [row for row in summary.counted(with_trigger=True) if row.attack in BACKDOORS]
    if not rows:
        return _untested(paper, rule, "no attack with a fixed trigger succeeds")
    pooled = summary.pooled(rows)
    verdict = _is_larger(difference(pooled, first, second))
    measured = ", ".join(f"{share(mean(pooled, name))} after {name}" for name in (second, first))
    return PublishedComparison(
        *paper, rule, f"{share(mean(pooled, UNDEFENDED))} before, {measured}", verdict
    )


def _denser(summary: MatrixSummary) -> PublishedComparison:
    paper = ("Huang et al., ICLR 2025", "DAO finds triggers better than SLOF and k-dist")
    rule = "AUROC of images, on attacks with a trigger: highest for DAO"
    rows = [row for row in summary.rows if not row.clean and row.triggered]
    if not rows:
        return _untested(paper, rule, "no attack with a trigger was measured")
    pooled = summary.pooled(rows)
    distance, simplified, aware = _DENSITIES
    verdicts = [
        _is_larger(difference(pooled, other, aware, "auroc")) for other in (simplified, distance)
    ]
    verdict: Agreement = "undecided"
    if "does not agree" in verdicts:
        verdict = "does not agree"
    elif set(verdicts) == {"agrees"}:
        verdict = "agrees"
    measured = ", ".join(
        f"{name} {share(mean(pooled, column, 'auroc'))}"
        for name, column in (("DAO", aware), ("SLOF", simplified), ("k-dist", distance))
    )
    return PublishedComparison(*paper, rule, measured, verdict)


def _silent(summary: MatrixSummary) -> PublishedComparison:
    paper = ("DECREE, CVPR 2023", "finds encoders with a trigger; expected silent without one")
    rule = (
        "more models flagged with a trigger than without (Fisher's exact test, 5%); does not agree where the 95% "
        "interval is below a half of those with one, or above a half of those without"
    )
    with_one, without = (
        _flagged(summary.counted(with_trigger=trigger)) for trigger in (True, False)
    )
    if not (with_one and without):
        return _untested(paper, rule, "needs successful attacks with and without a trigger")
    measured = f"{sum(with_one)} of {len(with_one)} with a trigger, {sum(without)} of {len(without)} without"
    # each model is a cluster of its own
    found, alarms = (clustered_share(group, range(len(group))) for group in (with_one, without))
    verdict: Agreement = "undecided"
    if _flags_more(with_one, without):
        verdict = "agrees"
    elif below(found, HALF) or above(alarms, HALF):
        verdict = "does not agree"
    return PublishedComparison(*paper, rule, measured, verdict)


def _flags_more(first: Sequence[bool], second: Sequence[bool]) -> bool:
    from scipy.stats import fisher_exact  # importing it takes half a second

    counts = [[sum(group), len(group) - sum(group)] for group in (first, second)]
    return bool(fisher_exact(counts, alternative="greater").pvalue < LEVEL)


def _flagged(rows: Sequence[RowSummary]) -> list[bool]:
    return [
        bool(alarms) for row in rows for alarms in of_column(row.cells, "decree")["alarms"].dropna()
    ]


def _untested(paper: tuple[str, str], rule: str, reason: str) -> PublishedComparison:
    return PublishedComparison(*paper, rule, ABSENT, "cannot be tested", reason)


def _verdict(estimate: Estimate | None, *, agrees: bool, not_so: bool) -> Agreement:
    """Return the verdict for an estimate whose interval supports one answer, the other, or neither."""
    if estimate is None:
        return "cannot be tested"
    if agrees:
        return "agrees"
    return "does not agree" if not_so else "undecided"


def _is_larger(found: Estimate | None) -> Agreement:
    """Return the verdict on a claim that a difference is above 0."""
    return _verdict(found, agrees=above(found, 0), not_so=below(found, 0))
