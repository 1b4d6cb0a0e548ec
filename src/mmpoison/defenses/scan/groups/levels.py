"""How often clean data show a group as strong as a given one, as measured on clean sets of five kinds."""

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
        (1.16, 0.5),
        (2.61, 0.2),
        (3.52, 0.1),
        (4.28, 0.05),
        (4.76, 0.02),
        (5.16, 0.01),
        (8.0, 0.002),
        (10.7, 0.001),
    ),
    "hardest": (
        (0.0, 1.0),
        (1.39, 0.5),
        (3.73, 0.2),
        (4.95, 0.1),
        (6.05, 0.05),
        (9.64, 0.02),
        (13.8, 0.01),
        (31.8, 0.002),
        (45.6, 0.001),
    ),
    # two dozen clean and poisoned sets: no smaller share can be said
    "traced": ((0.0, 1.0), (0.6, 0.5), (1.4, 0.2), (2.0, 0.049)),
}
"""Strength, and the share of clean sets of the worst kind that have a stronger group.

Measured by `benchmarks/false_alarms.py --fit` on seeds 0 to 4 (80 synthetic sets a kind, 100 parts of real photos), and
on 75 more parts of real photos, the worst of the ordinary kinds. Shares below one set in all are extrapolated.
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
