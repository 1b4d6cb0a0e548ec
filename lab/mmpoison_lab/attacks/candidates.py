"""Candidate captions and images of an attacker with a surrogate, and the amounts to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmpoison.attacks import Goal, Settings, captions_of, choose_captions, target_images
from mmpoison.errors import InputError
from mmpoison.pairs import IntArray, PairDataset

KNOWN = 0.8
CHOICE = 10
"""The attacker chooses among 80% of each class's images, but among at most ten times the number used."""


class Candidates(NamedTuple):
    """Candidate captions and images of an attacker with a surrogate, and the amounts to use.

    Attributes:
        train: The clean training pairs.
        rows: Captions of the original class, rows of `train`, sorted.
        captions: Their texts.
        images: Images of the target class.
        pairs: Number of captions that attack II would use.
        used: Number of images of the original class with these captions.
    """

    train: PairDataset
    rows: IntArray
    captions: list[str]
    images: IntArray
    pairs: int
    used: int


def draw_candidates(
    pairs: PairDataset, goal: Goal, settings: Settings, rng: np.random.Generator
) -> Candidates:
    """Draw the captions of the original class and the images of the target class that the attacker knows.

    Args:
        pairs: A clean set.
        goal: The goal.
        settings: The amount. With the carrier `existing`, the attacker knows all images of the target class.
        rng: Draws both.

    Raises:
        InputError: As for attack II, or if the carrier is `own` and the target class has too few images.
    """
    targets = target_images(pairs, goal)
    train = pairs.select(split="train")
    (asked,) = choose_captions(train, [goal], settings, [rng])
    used = len(np.unique(train.source[asked]))
    rows = captions_of(train, goal)
    sources = np.unique(train.source[rows])
    drawn = rng.permutation(sources)[: _choice(used, len(sources))]
    rows = rows[np.isin(train.source[rows], drawn)]
    if settings.carrier == "own":
        require_own_images(goal, targets, used)
        targets = rng.permutation(targets)[: _choice(used, len(targets))]
    captions = [str(caption) for caption in train.captions[rows]]
    return Candidates(train, rows, captions, targets, len(asked), used)


def require_own_images(goal: Goal, targets: IntArray, used: int) -> None:
    """Refuse the carrier `own` if the target class has too few training images.

    Raises:
        InputError: If there are fewer images than needed.
    """
    if used > len(targets):
        raise InputError(
            f"goal {goal}: carrier 'own' needs {used} train images of class {goal.target!r}, but there are "
            f"{len(targets)}: give at most samples={len(targets)}"
        )


def most_like(
    captions: Sequence[str], likeness: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.intp]:
    """Sort captions by likeness, largest first; repetitions come after all distinct captions.

    Args:
        captions: `n` captions.
        likeness: Likeness of each caption, shape `(n,)`.

    Returns:
        Their positions, shape `(n,)`.

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
    """Return the number of images among which the attacker chooses, given the numbers used and available."""
    return max(used, min(CHOICE * used, int(KNOWN * available)))
