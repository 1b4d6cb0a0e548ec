"""How often clean data show a group as strong as a given one, as measured on clean sets of seven kinds."""

from __future__ import annotations

from typing import Literal

import numpy as np

FEWEST_IMAGES = 5
"""Fewer images make no group, but for captions of an image with far too many: clean data have many such groups."""

LIKELY, LOOK = 0.01, 0.1
"""A group is called poisoning if at most this share of ordinary clean sets have one as strong, worth a look if that."""

RAREST = 0.001
"""No smaller share is said: more clean sets would have to be measured."""

TRACED = 0.05
"""A group of traced pairs is called poisoning if at most this share of clean data and models have one as strong."""

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
    # two dozen clean and poisoned sets: no smaller share can be said
    "traced": ((0.0, 1.0), (0.6, 0.5), (1.4, 0.2), (2.0, 0.049)),
}
"""Strength, and the share of clean sets of the worst kind that have a stronger group.

Fitted by `benchmarks/false_alarms.py --fit` on seeds 0 to 4 (40 parts of Flickr8k, 50 of all real data, 30 sets with
titles of brands, 200 odd batches and 30 sets of each other synthetic kind), to the worst kind; ordinary strengths are a
fifth larger than fitted, because sets differ more than these do. Shares below one set in all are extrapolated.
"""


def false_alarms_at(strength: float, clean: Clean = "ordinary") -> float:
    """Return the share of clean sets that have a group at least so strong, in (0, 1], linear in its logarithm.

    No share is smaller than the last of the table: more clean sets would have to be measured.

    Args:
        strength: Of the group.
        clean: Ordinary sets, or those whose mistakes have favourites by construction, as poison has; or models that
            were trained on clean sets, compared with what a scan keeps of them.

    >>> false_alarms_at(0.0)
    1.0
    """
    strengths, shares = np.array(LEVELS[clean]).T
    return float(np.exp(np.interp(strength, strengths, np.log(shares))))
