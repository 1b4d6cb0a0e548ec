"""Measures whether pairs of two embeddings belong together: the AUROC of true against shuffled pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.statistics._clusters import Estimate, clustered_mean

Floats = npt.NDArray[np.floating[Any]]

SAME_CAPTION = 1 - 1e-5
"""Captions whose cosine is larger are the same: embeddings of one caption in two batches differ by rounding."""


def true_pair_auroc(
    text: Floats, image: Floats, *, fewest: int = 30, most: int = 1024
) -> Estimate | None:
    """Compute the chance that a true pair is closer than a shuffled one.

    A true pair is a caption with its own image, a shuffled one a caption with another image, whose own caption is not
    the same. All shuffled pairs are counted, so nothing is random but which pairs were taken. Each pair enters three
    times: as a true pair, by its caption, and by its image. The sum of the three influences (the infinitesimal
    jackknife) gives the interval, in which the captions of one image count as one piece of evidence.

    What part of the pairs is poisoned hardly matters: a share s of wrong pairs moves the AUROC from A to about
    A - s (A - 0.5).

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`; the same image may be in several pairs.
        fewest: With fewer images nothing is said.
        most: Of more pairs a random choice is tested: the time grows with their square.

    Returns:
        The AUROC in [0, 1] with its 95% interval, where `clusters` counts images; None with fewer than `fewest` images,
        or if all captions are the same.

    Example:
        >>> one = np.eye(40)
        >>> true_pair_auroc(one, one).value
        1.0
    """
    if len(text) > most:
        rows = np.random.default_rng(0).permutation(len(text))[:most]
        text, image = text[rows], image[rows]
    _, code = np.unique(image, axis=0, return_inverse=True)
    code = code.reshape(-1)
    if not len(code) or int(code.max()) + 1 < fewest:
        return None
    distances = 1 - text @ image.T
    # a caption that several images share fits all of them
    shuffled = (code[:, None] != code[None, :]) & (text @ text.T < SAME_CAPTION)
    if not shuffled.any():
        return None
    true = distances.diagonal()
    beyond = 1 - _shares_below(true, distances[shuffled])
    value = float(beyond.mean())
    # of each shuffled pair, the share of the true pairs that are closer
    surplus = np.where(shuffled, _shares_below(distances, true) - value, 0.0)
    influence = beyond + (surplus.sum(axis=0) + surplus.sum(axis=1)) * len(true) / shuffled.sum()
    found = clustered_mean(influence, code)
    assert found.low is not None
    assert found.high is not None
    return Estimate(found.n, found.clusters, value, max(found.low, 0.0), min(found.high, 1.0))


def twice_below(values: Floats, others: Floats) -> npt.NDArray[np.intp]:
    """Count the others below each value, times two, so that ties count one; shape of `values`.

    >>> twice_below(np.array([2.0, 3.0]), np.array([1.0, 2.0])).tolist()
    [3, 4]
    """
    ordered = np.sort(others, axis=None)
    below = np.searchsorted(ordered, values, side="left")
    return np.asarray(below + np.searchsorted(ordered, values, side="right"))


def _shares_below(values: Floats, others: Floats) -> Floats:
    """Return for each value the share of others that are smaller, ties counted half."""
    return np.asarray(twice_below(values, others) / (2 * others.size))
