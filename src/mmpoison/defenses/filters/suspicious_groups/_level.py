"""Computes how often clean data show a cluster as strong as a given one, as measured on clean sets of several kinds."""

from __future__ import annotations

import numpy as np

LEVELS = (
    (0.0, 1.0),
    (0.01, 0.5),
    (0.64, 0.2),
    (1.26, 0.1),
    (3.4, 0.05),
    (6.4, 0.02),
    (10.34, 0.01),
    (16.7, 0.005),
    (37.54, 0.002),
    (99.04, 0.001),
)
"""Score, and the share of clean sets of the worst kind that have a cluster with a larger one.

Measured by `benchmarks/false_alarms.py --fit` on seeds 0 to 4, 600 sets a kind; the last two are extrapolated.
docs/decisions/0035-filters.md says how.
"""


def false_alarms_at(score: float) -> float:
    """Return the share of clean sets that have a cluster at least so strong, in (0, 1], linear in its logarithm.

    No share is smaller than the last of the table: more clean sets would have to be measured.

    >>> false_alarms_at(0.0)
    1.0
    """
    scores, shares = np.array(LEVELS).T
    return float(np.exp(np.interp(score, scores, np.log(shares))))
