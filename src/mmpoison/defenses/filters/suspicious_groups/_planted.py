"""Measures what a scan for suspicious groups would find in a data set, by planting goals into a copy of its vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._level import false_alarms_at
from mmpoison.defenses.filters.suspicious_groups._scan import scan
from mmpoison.defenses.filters.suspicious_groups._views import Index, Views

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
