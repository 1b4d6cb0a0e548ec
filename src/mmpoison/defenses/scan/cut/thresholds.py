"""Computes score thresholds, each with its expected cost.

There are two rules: an acceptable loss of clean pairs, and labels of a few random pairs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from mmpoison.defenses.catalogue import Interval, Threshold
from mmpoison.errors import InputError

Values = npt.NDArray[np.floating[Any]]

LOSS = 0.01
"""The share dropped if no label says drop, so the position of bad pairs is unknown."""

REPEATS = 400

IN_BOOTSTRAP = 20_000
"""Maximum number of pairs per bootstrap repeat. Beyond that an even selection is used: all pairs would take minutes."""


def loss_threshold(
    distances: Values,
    loss: float,
    *,
    trusted: Values | None = None,
    groups: npt.NDArray[np.integer[Any]] | None = None,
) -> Threshold:
    """Return the distance exceeded by a given share of clean pairs.

    Args:
        distances: Distances of the judged pairs, shape `(N,)`.
        loss: The share, in (0, 1).
        trusted: Distances of known clean pairs, shape `(n,)`. Without them, the share refers to the judged pairs
            themselves, whether clean or not.
        groups: Image of each trusted pair: captions of one image are not independent.
    """
    if trusted is None or not len(trusted):
        return Threshold(
            float(np.quantile(distances, 1 - loss)),
            "loss",
            note=f"no trusted pairs were given, so the most distant {loss:.2%} of the judged pairs are dropped, "
            "clean or not",
        )
    value = float(np.quantile(trusted, 1 - loss))
    cuts, losses = [], []
    for rows in _resampled(len(trusted), groups):
        cuts.append(np.quantile(trusted[rows], 1 - loss))
        losses.append((trusted[rows] > value).mean())
    return Threshold(
        value, "loss", _interval(cuts), float((trusted > value).mean()), _interval(losses)
    )


def check_labelled(bad: npt.NDArray[np.bool_]) -> None:
    """Refuse labels without a single `keep`.

    Args:
        bad: Mask of labelled pairs to drop, shape `(n,)`.

    Raises:
        InputError: If there are no labels, or all say drop.
    """
    if bad.all():
        raise InputError(f"no label says keep ({len(bad)} say drop): label some pairs as keep too")


def label_threshold(
    distances: Values, labelled: Values, bad: npt.NDArray[np.bool_], loss: float | None = None
) -> Threshold:
    """Find the distance that best separates good from bad pairs, based on a few labels.

    The probability that a pair is bad is assumed to increase with its distance, and fitted to the labels without
    further assumptions (isotonic regression). Labels may favour some distances, as those of `pairs_to_label` do, but
    among pairs of similar distance they must be random. The chosen threshold maximises the share of bad pairs dropped
    minus the share of good pairs dropped. Few labels cannot tell how many bad pairs lie below it, because hardly any of
    the many close pairs are labelled.

    Args:
        distances: Distances of all judged pairs, shape `(N,)`.
        labelled: Distances of the labelled pairs, shape `(n,)`.
        bad: Their labels, shape `(n,)`.
        loss: Largest share of good pairs to drop, in (0, 1).

    Raises:
        InputError: If there are no labels, or no good pair among them.
    """
    check_labelled(bad)
    ordered = np.sort(np.asarray(distances, dtype=np.float64))
    value, lost = _best_cut(ordered, labelled, bad, loss)
    few = ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), IN_BOOTSTRAP)).astype(int)]
    cuts, losses = [], []
    for rows in _resampled(len(labelled)):
        if not bad[rows].all():
            cuts.append(_best_cut(few, labelled[rows], bad[rows], loss)[0])
            losses.append(_lost(few, labelled[rows], bad[rows], value))
    note = ""
    if not bad.any():
        note = (
            "no pair is labelled drop, so the scores of bad pairs are unknown: the most distant "
            f"{LOSS if loss is None else loss:.2%} are dropped"
        )
    return Threshold(value, "labels", _interval(cuts), lost, _interval(losses), note)


def _best_cut(
    ordered: Values, labelled: Values, bad: npt.NDArray[np.bool_], loss: float | None
) -> tuple[float, float]:
    """Return the best cut, and the share of good pairs that it drops."""
    chance = _chances(ordered, labelled, bad)
    good_beyond = _beyond(1 - chance)
    if chance.any():
        gain: Values = _beyond(chance) - good_beyond
    else:
        loss = LOSS if loss is None else loss
        gain = good_beyond
    if loss is not None:
        gain = np.where(good_beyond <= loss, gain, -1.0)
    # among equals the largest, which drops least
    best = len(gain) - 1 - int(np.argmax(gain[::-1]))
    upper = ordered[best + 1] if best + 1 < len(ordered) else ordered[best]
    return float((ordered[best] + upper) / 2), float(good_beyond[best])


def _lost(ordered: Values, labelled: Values, bad: npt.NDArray[np.bool_], cut: float) -> float:
    good = 1 - _chances(ordered, labelled, bad)
    return float(good[ordered > cut].sum() / good.sum())


def _chances(ordered: Values, labelled: Values, bad: npt.NDArray[np.bool_]) -> Values:
    """Return the probability that each pair is bad, a step function of the distance; shape `(N,)`."""
    order = np.argsort(labelled, kind="stable")
    points = np.asarray(labelled[order], dtype=np.float64)
    fitted = np.asarray(isotonic_regression(bad[order].astype(np.float64)).x)
    middles = (points[1:] + points[:-1]) / 2
    return np.asarray(fitted[np.searchsorted(middles, ordered, side="right")])


def _beyond(weights: Values) -> Values:
    """Return the share of the total weight after each position of an ordered list."""
    total = weights.sum()
    return np.asarray(1 - np.cumsum(weights) / total) if total > 0 else np.zeros_like(weights)


def _resampled(
    count: int, groups: npt.NDArray[np.integer[Any]] | None = None
) -> list[npt.NDArray[np.int64]]:
    """Return bootstrap samples of rows, or of whole groups if there are groups."""
    rng = np.random.default_rng(0)
    if groups is None:
        return [rng.integers(0, count, count) for _ in range(REPEATS)]
    _, group = np.unique(groups, return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(int(group.max()) + 2))
    members = [order[a:b] for a, b in pairwise(bounds)]
    return [
        np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))])
        for _ in range(REPEATS)
    ]


def _interval(values: list[Any]) -> Interval | None:
    if not values:
        return None
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.025, 0.975])
    return float(low), float(high)
