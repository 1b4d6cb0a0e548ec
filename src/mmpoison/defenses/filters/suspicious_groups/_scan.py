"""Scores pairs by two views of the data, and joins them: each caption with its image, and each image with its captions.

The first finds captions that do not agree with the other captions of an image, the second images whose captions agree
with each other but not with the image. An attacker who posts his own images is seen by the second alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._conflict import (
    Index,
    Values,
    Vectors,
    Views,
    conflict_of_images,
    conflict_of_pairs,
    image_views,
    unit,
)
from mmpoison.defenses.filters.suspicious_groups._evidence import (
    Evidence,
    SuspiciousCluster,
    evidence_of,
    false_alarms_at,
)

FITS = 3
LEFT_OUT = 0.03
"""Share with the most evidence that the next fit leaves out: poison would teach the regressions what it pretends."""


LINKED = 0.5
"""Clusters of the two views are one if the smaller shares this much of its pairs with the larger."""

IMAGE_SCORE = 2.0
"""Factor of the score of a cluster of images: an image stands for all of its captions, which are alike."""


def scan(views: Views, seed: int = 0) -> Evidence:
    """Score all pairs by both views.

    Args:
        views: The data.
        seed: Seed of the folds of the regressions.

    Returns:
        The score of each pair (`joined_score`), and the clusters of both views, the strongest first.
    """
    parts = evidence_of_pairs(views, seed), evidence_of_images(views, seed)
    score = joined_score(*(part.score for part in parts))
    return Evidence(score, joined_clusters(*(part.clusters for part in parts)))


def evidence_of_pairs(views: Views, seed: int) -> Evidence:
    """Score each pair by what else is known of its image."""
    return _fitted(
        lambda weight: evidence_of(views, conflict_of_pairs(views, weight, seed)), len(views)
    )


def evidence_of_images(views: Views, seed: int) -> Evidence:
    """Score each image, with all of its captions, by what other images are captioned with; pairs get their image's."""
    images, item = image_views(views)
    evidence = _fitted(lambda weight: fit_images(images, weight, seed), len(images))
    clusters = tuple(
        replace(
            cluster,
            rows=np.flatnonzero(np.isin(item, cluster.rows)),
            score=IMAGE_SCORE * cluster.score,
            middle=-1,
        )
        for cluster in evidence.clusters
    )
    return Evidence(evidence.score[item], clusters)


def fit_images(images: Views, weight: Values, seed: int) -> Evidence:
    """Score each image by fits to other images, in which each counts as far as it is trusted.

    Args:
        images: One item an image (`image_views`).
        weight: How far each image is trusted, in [0, 1], shape `(I,)`.
        seed: Seed of the folds of the regressions.
    """
    conflict, expected = conflict_of_images(images, weight, seed)
    return evidence_of(images, conflict, difference_from(images.text, expected))


def difference_from(text: Vectors, expected: Vectors) -> Callable[[Index], float]:
    """Return a function of items: 1 - cosine between what they say and what is expected of them, in [0, 1].

    Args:
        text: What each item says, shape `(n, d)`.
        expected: What is expected of it, shape `(n, d)`.
    """

    def difference(rows: Index) -> float:
        said, usual = (unit(side[rows].mean(axis=0)) for side in (text, expected))
        return float(np.clip(1 - said @ usual, 0, 1))

    return difference


def joined_score(*scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Join scores of the same pairs: minus log10 of the share of pairs that have as much evidence in one of the views.

    >>> joined_score(np.array([0.0, 1.0, 9.0, 2.0]), np.array([8.0, 0.0, 1.0, 0.5])).round(2).tolist()
    [0.6, 0.12, 0.6, 0.3]
    """
    from scipy.stats import rankdata

    pairs = len(scores[0])
    share = [1 - (rankdata(score) - 1) / pairs for score in scores]
    return np.asarray(-np.log10(np.min(share, axis=0)) + 0.0)


def joined_clusters(
    first: Sequence[SuspiciousCluster], second: Sequence[SuspiciousCluster]
) -> tuple[SuspiciousCluster, ...]:
    """Join the clusters of two views that are about the same pairs; the strongest first."""
    joined = list(first)
    for cluster in second:
        shared = [
            len(np.intersect1d(cluster.rows, one.rows)) / min(len(cluster.rows), len(one.rows))
            for one in joined
        ]
        best = int(np.argmax(shared)) if shared else -1
        if best < 0 or shared[best] < LINKED:
            joined.append(cluster)
            continue
        stronger = max(cluster, joined[best], key=lambda one: one.score)
        rows = np.union1d(cluster.rows, joined[best].rows)
        joined[best] = replace(stronger, rows=rows)
    return tuple(sorted(joined, key=lambda one: -one.score))


def _fitted(fit: Callable[[Values], Evidence], items: int) -> Evidence:
    """Fit several times, each time without the items that the fit before has the most evidence against."""
    return fit(trusted_weight(fit, items))


def trusted_weight(fit: Callable[[Values], Evidence], items: int) -> Values:
    """Return how far the last fit trusts each item: not those that the fits before have the most evidence against.

    Args:
        fit: From the weight of each item, shape `(items,)`, to the evidence.
        items: How many there are.
    """
    weight = np.ones(items, dtype=np.float32)
    for _ in range(FITS - 1):
        score = fit(weight).score
        weight = np.ones(items, dtype=np.float32)
        weight[np.argsort(-score, kind="stable")[: int(LEFT_OUT * items)]] = 0
    return weight


# -- Measures what a scan for suspicious groups would find in a data set, by planting goals into a copy of
# its vectors.


SIZES = (10, 25, 50, 100)
GOALS = 5

TOPICS = 40
"""Clusters of captions and of images from which the original and the target class of a goal are drawn."""

IN_TOPIC = 20
"""A cluster has about so many captions or images at least: a class of a small set is no larger."""

MOST = 0.02
"""Larger shares of the data are no attack by stealth, and the scan is not made for them."""

LEVEL = 0.01
NAMED = 0.5
"""A goal is found if a group that clean sets show at most so often (`LEVEL`) has this share of its pairs."""


@dataclass(frozen=True)
class PlantedSize:
    """How many planted goals of one size were found.

    Attributes:
        pairs: False pairs of each goal.
        planted: How many goals were planted, one after the other.
        found: How many of them the scan named.
    """

    pairs: int
    planted: int
    found: int


def plant_goals(
    views: Views,
    sizes: Sequence[int] = SIZES,
    goals: int = GOALS,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[PlantedSize]:
    """Plant goals into copies of a data set, and count those that a scan of each copy names.

    A goal takes captions of one cluster and gives each to an image of another cluster, in place of its own. Both
    clusters are drawn at random among those of the data. Attackers post false captions to images of others, or images
    of their own with false captions alone: every second goal makes single pairs of many images false, the others all
    pairs of few images, which is the same where each image has one caption.

    Args:
        views: The data, or a sample of it.
        sizes: False pairs of a goal; sizes above 2% of the pairs are left out.
        goals: How many goals of each size.
        seed: Seed of the clusters and the goals.
        progress: Called with the scans that are done and their number.

    Returns:
        A count a size; none for a set of fewer than 500 pairs, or of fewer than two clusters.
    """
    rng = np.random.default_rng(seed)
    topics, kinds = (_clusters(side, seed) for side in (views.text, views.image))
    topic, kind = topics[views.caption_of], kinds[views.image_of]
    fitting = [size for size in sizes if size <= MOST * len(views)]
    if topic.max(initial=0) < 1 or kind.max(initial=0) < 1:
        return []
    counts = []
    for number, size in enumerate(fitting):
        found = 0
        for goal in range(goals):
            rows, captions = _draw(views, topic, kind, size, rng, whole_images=goal % 2 == 0)
            caption_of = views.caption_of.copy()
            caption_of[rows] = captions
            poisoned = Views(views.text, views.image, caption_of, views.image_of)
            found += any(
                np.isin(rows, group.rows).mean() >= NAMED
                for group in scan(poisoned, seed).clusters
                if false_alarms_at(group.score) <= LEVEL
            )
            if progress is not None:
                progress(number * goals + goal + 1, len(fitting) * goals)
        counts.append(PlantedSize(size, goals, found))
    return counts


def _clusters(vectors: npt.NDArray[np.float32], seed: int) -> Index:
    from scipy.cluster.vq import kmeans2

    count = min(TOPICS, len(vectors) // IN_TOPIC)
    if count < 2:
        return np.zeros(len(vectors), dtype=np.intp)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        # a cluster that becomes empty stays so, and no goal is drawn from it
        warnings.simplefilter("ignore", UserWarning)
        labels = kmeans2(vectors, count, minit="++", rng=rng)[1]
    return np.asarray(labels, dtype=np.intp)


def _draw(
    views: Views,
    topic: Index,
    kind: Index,
    size: int,
    rng: np.random.Generator,
    *,
    whole_images: bool,
) -> tuple[Index, Index]:
    """Draw the pairs that become false, and their new captions.

    The kind of images is one that holds less than a tenth of the pairs of the topic: else the captions would be true.
    """
    count = int(topic.max()) + 1
    for original in rng.permutation(count):
        of_topic = np.flatnonzero(topic == original)
        at_home = np.bincount(kind[of_topic], minlength=int(kind.max()) + 1) / max(len(of_topic), 1)
        for target in rng.permutation(len(at_home)):
            rows = np.flatnonzero((kind == target) & (topic != original))
            if at_home[target] < 0.1 and len(rows) >= size and len(of_topic):
                if whole_images:
                    order = rng.permutation(len(views.image))[views.image_of[rows]]
                    chosen = np.sort(rows[np.argsort(order, kind="stable")[:size]])
                else:
                    chosen = np.sort(rng.choice(rows, size, replace=False))
                return chosen, views.caption_of[rng.choice(of_topic, size)]
    # every cluster is too small: any pairs, with captions of others
    chosen = np.sort(rng.choice(len(views), size, replace=False))
    return chosen, views.caption_of[rng.choice(len(views), size)]
