"""Chooses the images of the target class that carry the poison, and assigns one to each misused caption."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmpoison.pairs.table import IntArray

Spread = Literal["captions", "samples"]
SPREADS: tuple[Spread, ...] = ("captions", "samples")
Carrier = Literal["existing", "own"]
"""`existing` images keep their honest captions; the attacker's `own` images have only his captions."""
CARRIERS: tuple[Carrier, ...] = ("existing", "own")


def spread_evenly(
    source: IntArray, images: IntArray, spread: Spread, rng: np.random.Generator
) -> IntArray:
    """Give each caption an image: all images equally often, the remainder at random without repetition.

    Args:
        source: The image that each caption was written for, shape `(n,)`.
        images: Images of the target class, shape `(m,)`.
        spread: What is distributed: single `captions`, or whole `samples`, where all captions of one image go to the
            same target image (as in the authors' released code).
        rng: Draws the order.

    Returns:
        An image for each caption, shape `(n,)`.

    >>> rng = np.random.default_rng(0)
    >>> spread_evenly(np.array([4, 4, 5, 5]), np.array([7, 8]), "samples", rng).tolist()
    [7, 7, 8, 8]
    """
    _, unit = np.unique(source, return_inverse=True)
    if spread == "captions":
        unit = np.arange(len(source))
    count = int(unit.max()) + 1 if len(unit) else 0
    whole, rest = divmod(count, len(images))
    assigned = np.concatenate([np.tile(images, whole), rng.choice(images, rest, replace=False)])
    return rng.permutation(assigned)[unit].astype(np.int32)
