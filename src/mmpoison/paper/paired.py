"""Two kinds of our models, paired by seed."""

from __future__ import annotations

from mmpoison.paper.measured import Results
from mmpoison.statistics import Comparison, compare


def paired(first: Results, second: Results, column: str, other: str = "") -> Comparison | None:
    """Compare a column of two kinds of rows over the seeds that both have; None where they share fewer than two.

    Args:
        first: Rows of one kind.
        second: Of the other.
        column: The column.
        other: Another column for the second kind, for two columns of the same rows.
    """
    one, two = first.over_seeds(column), second.over_seeds(other or column)
    common = sorted(set(one) & set(two))
    if len(common) < 2:
        return None
    return compare([one[seed] for seed in common], [two[seed] for seed in common])
