"""Scores the evidence against each item, a pair or an image with its captions, and finds suspicious clusters.

Each conflicting item asks how many others are like it on both sides, captions and images, against how many would be if
the captions and images of conflicting items had nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._conflict import (
    Index,
    Vectors,
    Views,
    crowded,
    unit,
)

CONFLICTING = 0.15
"""Share of the pairs that are examined; poison is nearly always among them."""

NEARNESS = 5.0
"""Two pairs count for each other by exp(5 (cosine - 1)) of their captions and the same of their images."""

CAPTION_NEARNESS = 20.0
"""As `NEARNESS`, for captions that say the same: their own share of conflict."""

CONFLICT_WEIGHT = 0.25
"""What a robust standard deviation of conflict adds to the logarithm of the excess."""

FEWEST_ALIKE = 2.0
"""A cluster with fewer conflicting pairs alike to its middle counts less: rare topics conflict by themselves."""

SAME_TOPIC = (0.5, 0.8)
"""Mean cosine below which captions are on different topics, and from which they are on one; topics are at about 0."""

SAME_KIND = (0.3, 0.6)
"""The same of images."""

FEWEST_EXPECTED = 5

FEW = 0.1
EXPECTED_AT_LEAST = 0.5

CLUSTERS_AMONG = 0.02
"""Share of the items, those with the most evidence, that may form a cluster.

With 0.04 the scores of clean sets grow more than those of poison: their 1% level rises from 10 to 46, the median of
carrier `own` on photos from 11 to 15 (seeds 0 to 4). The price: of more poison only a part is in clusters.
"""

MOST_IN_CLUSTERS = 5000
MOST_CLUSTERS = 8
CLUSTER_NEARNESS = 3.0
"""As `NEARNESS`, in clusters: those of an attacker's own images are wide."""

ALIKE = float(np.exp(-0.8 * CLUSTER_NEARNESS))
"""A pair belongs to a cluster from this nearness to its middle, captions and images together."""

WEIGHT_POWER = 1.5
"""Few pairs with much evidence count more than many with little: clean data have the latter."""

ROWS = 1024
AT_ONCE = 1 << 24
"""Nearnesses held at a time, 64 MB: fewer rows a block where there are more than 16,384 others to compare with."""


@dataclass(frozen=True)
class SuspiciousCluster:
    """Pairs alike on both sides, with much evidence against them.

    Attributes:
        rows: The pairs, sorted.
        score: Evidence of all pairs alike to the middle one, summed, times one minus the cosine between what they
            say and what is expected of their images, and `misplaced`, and less where hardly any pair is alike.
        found: How many conflicting pairs are alike to the middle one on both sides.
        expected: How many would be if captions and images of conflicting pairs were independent.
        middle: The middle one; -1 where clusters were joined.
    """

    rows: Index
    score: float
    found: float = 0.0
    expected: float = 0.0
    middle: int = -1


@dataclass(frozen=True)
class Evidence:
    """Scores of the evidence against each pair.

    Attributes:
        score: The higher, the more, shape `(N,)`; pairs that hardly conflict come last, by their conflict.
        clusters: The strongest first.
    """

    score: npt.NDArray[np.float64]
    clusters: tuple[SuspiciousCluster, ...]


def evidence_of(
    views: Views,
    conflict: npt.NDArray[np.float32],
    difference: Callable[[Index], float] | None = None,
) -> Evidence:
    """Score every pair: the logarithm of how many conflicting pairs are like it on both sides, against the expected.

    A quarter of its conflict is added, in robust standard deviations, and the logarithm of the share of captions like
    its own that do not conflict: who attacks sheep finds captions about sheep that are right, while a caption that is
    odd wherever it occurs is odd by nature.

    Args:
        views: The data.
        conflict: Conflict of each pair, shape `(N,)`.
        difference: How different what some pairs say is from what is expected of their images, in [0, 1]; by default
            from the other captions of the images (`unlike`).
    """
    border = np.quantile(conflict, 1 - CONFLICTING)
    rows = np.flatnonzero(conflict > border)
    middle = float(np.median(conflict))
    spread = 1.4826 * float(np.median(np.abs(conflict - middle)))
    deviation = (conflict.astype(np.float64) - middle) / max(spread, 1e-6)
    score = deviation.copy()
    if not len(rows):
        return Evidence(score, ())
    text, image = views.text[views.caption_of[rows]], views.image[views.image_of[rows]]
    alike, apart = _alike(text, image, owners_of(views, rows))
    vouched = _vouched(views, rows, conflict <= border)
    excess = np.log((alike + FEW) / (EXPECTED_AT_LEAST + apart))
    score[rows] = excess + np.log(vouched) + CONFLICT_WEIGHT * deviation[rows]
    # what hardly conflicts stays behind everything else
    others = conflict <= border
    score[others] += score[rows].min() - deviation[others].max() - 1
    consistent = np.flatnonzero(conflict <= border)

    def measured(found: Index) -> float:
        differs = unlike(views, found) if difference is None else difference(found)
        return differs * misplaced(views, found, consistent)

    counts = np.zeros((2, len(views)))
    counts[:, rows] = alike, apart
    clusters = clusters_of(views, rows, score, counts, measured)
    return Evidence(score, tuple(sorted(clusters, key=lambda cluster: -cluster.score)))


def owners_of(views: Views, rows: Index) -> Index:
    """Return the image of each pair; -1 where it has so many captions that they count for each other (attack I)."""
    many = crowded(np.bincount(views.image_of, minlength=len(views.image)))
    owner = views.image_of[rows]
    return np.where(many[owner], -1, owner)


def nearness(left: Vectors, right: Vectors, steepness: float) -> Vectors:
    """Return how far vectors count for each other, exp(steepness (cosine - 1)), shape `(n, m)`."""
    near: Vectors = left @ right.T
    near -= np.float32(1)
    near *= np.float32(steepness)
    return np.exp(near, out=near)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield consecutive rows of a table of nearnesses, few enough that their part of it fits into memory."""
    step = max(1, min(ROWS, AT_ONCE // max(columns, 1)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _other(owners: Index, block: slice) -> npt.NDArray[np.bool_]:
    """Return whether two pairs are on different images; False on the diagonal."""
    mine = owners[block, None]
    other: npt.NDArray[np.bool_] = (mine != owners[None, :]) | (mine < 0)
    other[np.arange(len(mine)), np.arange(block.start, block.start + len(mine))] = False
    return other


def _alike(text: Vectors, image: Vectors, owners: Index) -> tuple[npt.NDArray[np.float64], ...]:
    """Count the pairs similar to each on both sides, and the count expected of unrelated sides, shapes `(n,)`."""
    pairs = len(text)
    alike, apart = np.empty(pairs), np.empty(pairs)
    for block in blocks(pairs, pairs):
        other = _other(owners, block)
        captions = nearness(text[block], text, NEARNESS)
        captions *= other
        images = nearness(image[block], image, NEARNESS)
        images *= other
        apart[block] = captions.mean(axis=1) * images.sum(axis=1)
        captions *= images
        alike[block] = captions.sum(axis=1)
    return alike, apart


def _vouched(views: Views, rows: Index, quiet: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the share of similar captions that do not conflict, in (0, 1), shape `(n,)`."""
    captions = len(views.text)
    right = np.bincount(views.caption_of[quiet], minlength=captions).astype(np.float32)
    odd = np.bincount(views.caption_of[rows], minlength=captions).astype(np.float32)
    used, back = np.unique(views.caption_of[rows], return_inverse=True)
    share = np.empty(len(used))
    for block in blocks(len(used), captions):
        near = nearness(views.text[used[block]], views.text, CAPTION_NEARNESS)
        fitting = near @ right
        share[block] = (fitting + FEW) / (fitting + near @ odd + FEW)
    return share[back]


def clusters_of(
    views: Views,
    rows: Index,
    score: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    difference: Callable[[Index], float],
    counted_as: npt.NDArray[np.float64] | None = None,
) -> list[SuspiciousCluster]:
    """Find clusters among the items with the most evidence, in the order in which items are assigned to them.

    Args:
        views: The data.
        rows: The conflicting items.
        score: Evidence of each item, shape `(N,)`.
        counts: How many conflicting items are alike to each item on both sides, and how many are expected, `(2, N)`.
        difference: How different what some items say is from what is expected, in [0, 1].
        counted_as: How many items each item is counted as, shape `(N,)`; one by default.
    """
    count = most_clustered(len(rows), len(views))
    order = rows[np.argsort(-score[rows], kind="stable")]
    if count < 2:
        return []
    chosen = np.sort(order[:count])
    weight = (score[chosen] - score[order[count - 1]]) ** WEIGHT_POWER
    text, image = views.text[views.caption_of[chosen]], views.image[views.image_of[chosen]]
    near = nearness(text, text, CLUSTER_NEARNESS)
    near *= nearness(image, image, CLUSTER_NEARNESS)
    counted = near * _other(owners_of(views, chosen), slice(0, count))
    if counted_as is not None:
        counted *= counted_as[chosen].astype(np.float32)
    clusters: list[SuspiciousCluster] = []
    while len(clusters) < MOST_CLUSTERS:
        total = counted @ weight
        total[weight <= 0] = 0
        middle = int(total.argmax())
        if total[middle] <= 0:
            break
        members = (near[middle] >= ALIKE) & (weight > 0)
        found = chosen[members]
        alike, expected = map(float, counts[:, chosen[middle]])
        strength = float(total[middle]) * difference(found) * min(1.0, alike / FEWEST_ALIKE)
        clusters.append(SuspiciousCluster(found, strength, alike, expected, int(chosen[middle])))
        weight = np.where(members, 0, weight)
    return clusters


def most_clustered(conflicting: int, items: int) -> int:
    """Return how many of the items, those with the most evidence, may form clusters."""
    return min(MOST_IN_CLUSTERS, conflicting, round(CLUSTERS_AMONG * items) + 1)


def misplaced(views: Views, rows: Index, consistent: Index, share: float = 1.0) -> float:
    """Compute how far captions like those of a cluster belong to images of another kind, in [0, 1].

    Poison misuses captions that have a meaning in the data, on images of a kind that has captions of its own. Captions
    that are only ever with these images name these images: a rare topic, or a word that the text encoder does not know.
    So it is 1 where as many consistent captions as the cluster has are on its topic, as many consistent images are of
    its kind, and the images of the former have nothing in common with those of the cluster.

    Args:
        views: The data.
        rows: Items of the cluster.
        consistent: Items without conflict.
        share: Which share of the data set the consistent items are drawn from; all of it by default.
    """
    if not len(consistent):
        return 0.0
    count = min(max(round(share * len(rows)), FEWEST_EXPECTED), len(consistent))
    text, image = views.text[views.caption_of], views.image[views.image_of]
    topic, place = (unit(side[rows].mean(axis=0)) for side in (text, image))
    same = 1.0
    for side, middle, (low, high) in ((image, place, SAME_KIND), (text, topic, SAME_TOPIC)):
        alike = side[consistent] @ middle
        nearest = np.argpartition(-alike, count - 1)[:count]
        same *= float(np.clip((alike[nearest].mean() - low) / (high - low), 0, 1))
    home = unit(image[consistent[nearest]].mean(axis=0))  # of the captions, which came last
    return same * float(np.clip(1 - home @ place, 0, 1))


def unlike(views: Views, rows: Index) -> float:
    """Compute 1 - cosine between captions and the other captions of their images, in [0, 1].

    Captions that are odd in their wording ("a picture that shows a yellow bicycle", where others name a place) form
    clusters too, but speak of the same things.
    """
    others = np.isin(views.image_of, np.unique(views.image_of[rows]))
    others[rows] = False
    if not others.any():
        return 1.0
    said, known = (unit(views.text[views.caption_of[some]].mean(axis=0)) for some in (rows, others))
    return float(np.clip(1 - said @ known, 0, 1))


# -- Computes how often clean data show a cluster as strong as a given one, as measured on clean sets of
# several kinds.


LEVELS = (
    (0.0, 1.0),
    (0.01, 0.5),
    (0.64, 0.2),
    (1.26, 0.1),
    (3.4, 0.05),
    (6.4, 0.02),
    (10.34, 0.01),
    (16.7, 0.005),
    (37.54, 0.002),
    (99.04, 0.001),
)
"""Score, and the share of clean sets of the worst kind that have a cluster with a larger one.

Measured by `benchmarks/false_alarms.py --fit` on seeds 0 to 4, 600 sets a kind; the last two are extrapolated.
docs/decisions/0035-filters.md says how.
"""


def false_alarms_at(score: float) -> float:
    """Return the share of clean sets that have a cluster at least so strong, in (0, 1], linear in its logarithm.

    No share is smaller than the last of the table: more clean sets would have to be measured.

    >>> false_alarms_at(0.0)
    1.0
    """
    scores, shares = np.array(LEVELS).T
    return float(np.exp(np.interp(score, scores, np.log(shares))))
