"""Which captions and images an attacker with a surrogate chooses among, and which captions first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.amount import captions_of
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.pairing import Carrier
from mmpoison.errors import InputError
from mmpoison.pairs.table import IntArray, PairDataset

KNOWN = 0.8
CHOICE = 10
"""The attacker chooses among 80% of the images of each class, but at most ten times as many as he uses."""


def draw_candidates(
    train: PairDataset,
    goal: Goal,
    targets: IntArray,
    used: int,
    carrier: Carrier,
    rng: np.random.Generator,
) -> tuple[IntArray, IntArray]:
    """Draw the captions of the original class and the images of the target class that the attacker knows.

    Args:
        train: The clean training pairs.
        goal: The goal.
        targets: Training images of the target class, shape `(m,)`.
        used: Number of images of the original class whose captions attack II would use.
        carrier: With `existing` he knows all images of the target class.
        rng: Draws both.

    Returns:
        Rows of `train`, sorted, and images.

    Raises:
        InputError: If the carrier is `own` and the target class has fewer images than are used.
    """
    rows = captions_of(train, goal)
    sources = np.unique(train.source[rows])
    drawn = rng.permutation(sources)[: _choice(used, len(sources))]
    rows = rows[np.isin(train.source[rows], drawn)]
    if carrier == "existing":
        return rows, targets
    require_own_images(goal, targets, used)
    return rows, rng.permutation(targets)[: _choice(used, len(targets))]


def require_own_images(goal: Goal, targets: IntArray, used: int) -> None:
    """Refuse carrier `own` where the target class has too few training images.

    Raises:
        InputError: If there are fewer than are used.
    """
    if used > len(targets):
        raise InputError(
            f"goal {goal}: carrier 'own' needs {used} train images of class {goal.target!r}, there are "
            f"{len(targets)}: at most samples={len(targets)}"
        )


def most_like(
    captions: Sequence[str], likeness: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.intp]:
    """Sort captions by likeness, the largest first; the same caption comes again only after all others.

    Args:
        captions: The captions, `n` of them.
        likeness: How much each is wanted, shape `(n,)`.

    Returns:
        Their places, shape `(n,)`.

    >>> most_like(["a cat", "a cat", "a dog"], np.array([0.9, 0.9, 0.1])).tolist()
    [0, 2, 1]
    """
    seen: Counter[str] = Counter()
    before = np.empty(len(captions), dtype=np.intp)
    for place, caption in enumerate(captions):
        before[place] = seen[caption]
        seen[caption] += 1
    return np.lexsort((-likeness, before))


def _choice(used: int, available: int) -> int:
    """Return among how many images the attacker chooses, where he uses some of those available."""
    return max(used, min(CHOICE * used, int(KNOWN * available)))
