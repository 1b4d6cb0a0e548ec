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

Clean = Literal["ordinary", "hardest"]

LEVELS: dict[Clean, tuple[tuple[float, float], ...]] = {
    "ordinary": ((0.0, 1.0), (2.7, 0.1), (6.1, 0.01), (12.2, 0.001)),
    "hardest": ((0.0, 1.0), (4.2, 0.1), (8.4, 0.01), (16.8, 0.001)),
}
"""Strength, and the share of clean sets that have a stronger group."""


def false_alarms_at(strength: float, clean: Clean = "ordinary") -> float:
    """Return the share of clean sets that have a group at least so strong, in (0, 1], linear in its logarithm.

    No share is smaller than the last of the table: more clean sets would have to be measured.

    Args:
        strength: Of the group.
        clean: Ordinary sets, or those whose mistakes have favourites by construction, as poison has.

    >>> false_alarms_at(0.0)
    1.0
    """
    strengths, shares = np.array(LEVELS[clean]).T
    return float(np.exp(np.interp(strength, strengths, np.log(shares))))
