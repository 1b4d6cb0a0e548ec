"""How often clean data contain a group of a given strength, measured on clean sets of seven kinds."""

from __future__ import annotations

from typing import Literal

import numpy as np

FEWEST_IMAGES = 5
"""Minimum number of images of a group, because clean data have many smaller ones.

An image with far too many captions is an exception.
"""

LIKELY, LOOK = 0.01, 0.1
"""Largest shares of ordinary clean sets with a group this strong for the grades "likely" and "look"."""

RAREST = 0.001
"""Smallest share reported; a smaller one would need more measured clean sets."""

TRACED = 0.05
"""A group of traced pairs is called poisoning if at most this share of clean data and models have one this strong."""

Clean = Literal["ordinary", "hardest", "traced"]

LEVELS: dict[Clean, tuple[tuple[float, float], ...]] = {
    "ordinary": (
        (0.0, 1.0),
        (0.2, 0.5),
        (0.45, 0.2),
        (0.8, 0.1),
        (1.2, 0.05),
        (1.5, 0.02),
        (2.0, 0.01),
        (3.7, 0.002),
        (5.5, 0.001),
    ),
    "hardest": (
        (0.0, 1.0),
        (0.34, 0.5),
        (1.94, 0.2),
        (2.21, 0.1),
        (3.38, 0.05),
        (5.59, 0.02),
        (8.19, 0.01),
        (19.9, 0.002),
        (29.1, 0.001),
    ),
    # measured on two dozen clean and poisoned sets, which support no smaller share
    "traced": ((0.0, 1.0), (0.6, 0.5), (1.4, 0.2), (2.0, 0.049)),
}
"""Strengths, and the share of clean sets of the worst kind that have a stronger group.

Fitted by `benchmarks/false_alarms.py --fit` on seeds 0 to 4 (40 parts of Flickr8k, 50 of all real data, 30 sets with
titles of brands, 200 odd batches and 30 sets of each other synthetic kind), to the worst kind. Ordinary strengths are
20% larger than fitted, because real data sets vary more than these. Shares below one set are extrapolated.
"""


def false_alarms_at(strength: float, clean: Clean = "ordinary") -> float:
    """Return the share of clean sets that have a group at least this strong, in (0, 1], by log-linear interpolation.

    The result is never smaller than the last share of the table; that would need more measured clean sets.

    Args:
        strength: Strength of the group.
        clean: Kind of clean sets: ordinary; with systematic mislabelling, which resembles poison; or models trained on
            clean sets, compared with models trained on what a scan keeps.

    >>> false_alarms_at(0.0)
    1.0
    """
    strengths, shares = np.array(LEVELS[clean]).T
    return float(np.exp(np.interp(strength, strengths, np.log(shares))))
