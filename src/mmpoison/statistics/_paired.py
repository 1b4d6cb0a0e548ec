"""Paired comparison of two settings, by seed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.statistics._arrays import FloatVector, as_values
from mmpoison.statistics._summary import summarize

_EXACT_PAIRS = 12
"""Largest number of pairs for which all 2^n signs are tried if ranks tie; SciPy's exact distribution has no ties."""


@dataclass(frozen=True)
class Comparison:
    """The difference of two settings over pairs (seeds, or captions under two models).

    Attributes:
        n: Number of pairs.
        mean: Mean of the differences, second minus first.
        sd: Their sample standard deviation; None for one pair.
        low: Lower end of the interval of the mean difference; None for one pair.
        high: Upper end.
        t: Student's paired t; None for one pair or where all differences are the same.
        t_p: Its two-tailed p.
        wilcoxon: Wilcoxon's signed-rank statistic, the smaller sum of ranks; None where every difference is 0.
        wilcoxon_p: Its two-tailed p; 1 where every difference is 0.
        cohen_d: Effect size of the t-test: mean over standard deviation of the differences (Cohen's d_z).
        rank_biserial: Effect size of the Wilcoxon test, in [-1, 1]: share of the rank sum that speaks for the second
            setting less the share that speaks against it.
        confidence: Of the interval.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    t: float | None
    t_p: float | None
    wilcoxon: float | None
    wilcoxon_p: float | None
    cohen_d: float | None
    rank_biserial: float | None
    confidence: float = 0.95

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain JSON values."""
        return asdict(self)


def compare(first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95) -> Comparison:
    """Compare two settings measured on the same seeds: paired two-tailed tests with effect sizes (tables 11 and 12).

    With five pairs the smallest two-tailed p that Wilcoxon's test can give is 0.0625: it can never fall under 0.05,
    however clear the difference. At least six pairs are needed for that.

    Args:
        first: Shape (n,), one number a seed.
        second: Shape (n,), the other setting's numbers of the same seeds in the same order.
        confidence: Of the interval of the mean difference.

    Raises:
        InputError: Lengths differ, there are none, or one is not finite.

    Example:
        >>> c = compare([0.1, 0.2, 0.3, 0.1, 0.2], [0.5, 0.4, 0.6, 0.5, 0.7])
        >>> round(c.mean, 3), round(c.t_p, 4), c.wilcoxon_p, c.rank_biserial
        (0.36, 0.0021, 0.0625, 1.0)
    """
    before, after = as_values(first, "first"), as_values(second, "second")
    if before.shape != after.shape:
        raise InputError(
            f"{len(before)} and {len(after)} values cannot be paired: one of each setting a seed is needed"
        )
    difference = after - before
    summary = summarize(difference, confidence)
    t = t_p = effect = None
    # differences that are equal but for rounding have no spread to test against
    if summary.sd is not None and summary.sd > 1e-12 * max(1e-300, np.abs(difference).max()):
        from scipy import stats  # takes half a second to import

        effect = summary.mean / summary.sd
        t = effect * math.sqrt(summary.n)
        t_p = float(2 * stats.t.sf(abs(t), summary.n - 1))
    statistic, wilcoxon_p, biserial = _wilcoxon(difference)
    return Comparison(
        n=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        low=summary.low,
        high=summary.high,
        t=t,
        t_p=t_p,
        wilcoxon=statistic,
        wilcoxon_p=wilcoxon_p,
        cohen_d=effect,
        rank_biserial=biserial,
        confidence=confidence,
    )


def _wilcoxon(difference: FloatVector) -> tuple[float | None, float, float | None]:
    from scipy import stats  # takes half a second to import

    # equal shares of different seeds must tie, not be ordered by rounding
    scale = max(1e-300, float(np.abs(difference).max()))
    rounded = np.round(difference / scale, 12)
    moved = rounded[rounded != 0]
    if not len(moved):
        return None, 1.0, None
    tied = len(np.unique(np.abs(moved))) < len(moved)
    method = "exact" if len(moved) <= 50 and not tied else "asymptotic"
    if tied and len(moved) <= _EXACT_PAIRS:
        method = stats.PermutationMethod(n_resamples=2**_EXACT_PAIRS)
    result = stats.wilcoxon(moved, method=method)
    ranks = stats.rankdata(np.abs(moved))
    biserial = float(ranks[moved > 0].sum() - ranks[moved < 0].sum()) / float(ranks.sum())
    return float(result.statistic), float(result.pvalue), biserial
