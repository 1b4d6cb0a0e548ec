"""Tests a judge on the pairs that it judges: are captions closer to their own image than to random other images?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import PairFilter
from mmpoison.errors import ResultError
from mmpoison.statistics import Estimate, true_pair_auroc

Floats = npt.NDArray[np.floating[Any]]

REFUSED_BELOW = 0.7
"""A judge whose AUROC lies below this, with its whole interval, is refused: at 0.74 a loss of 2% caught 14% of the
poison (median of 12 goals, rsicd-ucm)."""

WEAK_BELOW = 0.9
"""A judge whose AUROC is smaller is called weak: at 0.88 to 0.90 the same loss caught 21% and 40%, at 0.92 to 0.95
33% to 59%."""

FEWEST_IMAGES = 30
"""With fewer images nothing is said of the judge."""

MOST_PAIRS = 1024
"""Of more pairs a random choice is tested: the time grows with their square."""


def judge_auroc(text: Floats, image: Floats) -> Estimate | None:
    """Compute the AUROC of a judge: the chance that a true pair is closer than a shuffled one.

    See `statistics.true_pair_auroc`, which counts all shuffled pairs.

    What part of the pairs is poisoned hardly matters: a share s of wrong pairs moves the AUROC from A to about
    A - s (A - 0.5).

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`; the same image may be in several pairs.

    Returns:
        The AUROC in [0, 1] with its 95% interval, where `clusters` counts images; None with fewer than `FEWEST_IMAGES`,
        or if all captions are the same.

    Example:
        >>> one = np.eye(40)
        >>> judge_auroc(one, one).value
        1.0
    """
    return true_pair_auroc(text, image, fewest=FEWEST_IMAGES, most=MOST_PAIRS)


def is_refused(found: Estimate | None) -> bool:
    """Return whether a judge is known to be no better than `REFUSED_BELOW`; None says nothing against it."""
    return found is not None and found.high is not None and found.high < REFUSED_BELOW


def check_judge(found: Estimate | None, method: PairFilter, judge: str) -> None:
    """Refuse a judge that cannot distinguish true from shuffled pairs.

    Args:
        found: AUROC of the judge on the pairs.
        method: Compares captions with images.
        judge: Name of the judge.

    Raises:
        ResultError: If its AUROC is below `REFUSED_BELOW`.
    """
    if found is not None and is_refused(found):
        raise ResultError(
            f"judge {judge!r} cannot distinguish true from shuffled pairs: AUROC {auroc_text(found)} on {found.n:,} "
            f"pairs, 0.5 is guessing, and {method.name} needs {REFUSED_BELOW}; take a model that is aligned on such "
            "images (`mmpoison models list`), or a method that needs none (`--method suspicious-groups`); --force "
            "(force=True) filters by this judge all the same"
        )


def judge_note(found: Estimate) -> str:
    """Describe how well a judge distinguishes true from shuffled pairs, as one line for the user."""
    line = f"judge: distinguishes true from shuffled pairs in {found.value:.1%} of comparisons"
    if found.low is not None and found.high is not None:
        line += f" (95% confidence {found.low:.1%} to {found.high:.1%})"
    if is_refused(found):
        return f"{line}: 50% is guessing, its verdicts say nothing of the pairs"
    if found.value < WEAK_BELOW:
        return f"{line}: a weak judge, which misses much of the poison"
    return line


def auroc_text(found: Estimate) -> str:
    """Return an AUROC with its interval.

    >>> auroc_text(Estimate(500, 100, 0.531, 0.5, 0.56))
    '0.53 (95% confidence 0.50 to 0.56)'
    """
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} (95% confidence {found.low:.2f} to {found.high:.2f})"
