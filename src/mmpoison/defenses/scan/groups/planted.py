"""Measures what a scan would find in a data set, by planting test goals into a copy of its vectors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import Progress
from mmpoison.defenses.scan.groups.fit import crowd_of, fit_pairs
from mmpoison.defenses.scan.groups.growth import grow_groups
from mmpoison.defenses.scan.groups.items import IMAGES, Reduced
from mmpoison.defenses.scan.groups.levels import false_alarms_at
from mmpoison.defenses.scan.read.vector_shard import Index

SIZES = (10, 25, 50)
GOALS = 6

KINDS = 30
"""Number of caption and image kinds to draw goals from, if there are no labels."""

IN_KIND = 20
"""Approximate smallest number of images in a kind."""

NAMED = 0.5
"""A goal is found if a group contains this share of its pairs, and they make up this share of the group."""


@dataclass(frozen=True)
class PlantedSize:
    """Number of planted goals of one size that were found.

    Attributes:
        images: Images of each goal.
        planted: Number of goals planted, one after another.
        found: Number of goals found as a group that few ordinary clean sets contain.
    """

    images: int
    planted: int
    found: int

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95% binomial interval of the share found."""
        from scipy.stats import binomtest  # importing it takes half a second

        ends = binomtest(self.found, self.planted).proportion_ci()
        return float(ends.low), float(ends.high)


def plant_goals(
    pairs: Reduced,
    level: float,
    labels: npt.NDArray[np.intp] | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    goals: int = GOALS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[PlantedSize]:
    """Plant goals into copies of some pairs, as attackers would, and count those that a scan finds.

    A goal puts captions of one kind on images of another kind. Alternately, the images keep their true captions
    (existing images) or carry only the false ones (own images). The number of false captions per image equals the usual
    number of captions per image in the data.

    Args:
        pairs: The pairs.
        level: A goal is found if at most this share of ordinary clean sets have a group this strong.
        labels: Kind of each image, shape `(I,)`, -1 for none; by default kinds are found from the vectors.
        sizes: Numbers of images per goal; kinds with fewer images are not used as targets.
        goals: Number of goals per size.
        seed: Seed for the kinds and the goals.
        progress: Called with the number of scans done and their total.

    Returns:
        One count per size; none if there are no two large enough kinds.
    """
    rng = np.random.default_rng(seed)
    kind = _kinds(pairs, seed) if labels is None else labels
    captions = max(1, round(len(pairs.text) / max(len(pairs.image), 1)))
    counts = []
    for number, size in enumerate(sizes):
        found = planted = 0
        for goal in range(goals):
            chosen = _draw(kind, size, rng)
            if chosen is None:
                break
            planted += 1
            own = goal % 2 == 1
            poisoned, bad = _poisoned(pairs, kind, *chosen, captions, rng, own=own)
            found += _is_found(poisoned, bad, level)
            if progress is not None:
                progress(number * goals + goal + 1, len(sizes) * goals)
        if planted:
            counts.append(PlantedSize(size, planted, found))
    if progress is not None:
        progress(len(sizes) * goals, len(sizes) * goals)
    return counts


def _kinds(pairs: Reduced, seed: int) -> Index:
    """Return kinds of images with similar content and similar captions."""
    from scipy.cluster.vq import kmeans2

    from mmpoison.defenses.scan.groups.items import image_items

    items = image_items(pairs)
    both = np.concatenate([items.text, items.image], axis=1)
    count = min(KINDS, len(both) // IN_KIND)
    if count < 2:
        return np.zeros(len(both), dtype=np.intp)
    with warnings.catch_warnings():
        # an empty cluster stays empty, and no goal uses it
        warnings.simplefilter("ignore", UserWarning)
        labels = kmeans2(both, count, minit="++", rng=np.random.default_rng(seed))[1]
    return np.asarray(labels, dtype=np.intp)


def _draw(kind: Index, size: int, rng: np.random.Generator) -> tuple[int, Index] | None:
    """Draw a caption kind, and images of another kind to carry them; None if no kind is large enough."""
    sizes = np.bincount(kind[kind >= 0])
    goals = [
        (int(original), int(target))
        for original in np.flatnonzero(sizes)
        for target in np.flatnonzero(sizes >= size)
        if original != target
    ]
    if not goals:
        return None
    original, target = goals[int(rng.integers(len(goals)))]
    images = rng.choice(np.flatnonzero(kind == target), size, replace=False)
    return original, np.sort(images)


def _poisoned(
    pairs: Reduced,
    kind: Index,
    original: int,
    images: Index,
    captions: int,
    rng: np.random.Generator,
    *,
    own: bool,
) -> tuple[Reduced, npt.NDArray[np.bool_]]:
    """Return a poisoned copy, and a mask of its false pairs."""
    said = np.flatnonzero(kind[pairs.image_at] == original)
    count = len(images) * captions
    chosen = rng.permutation(said)[:count]
    if len(chosen) < count:
        chosen = np.concatenate([chosen, rng.choice(said, count - len(chosen))])
    stays = ~np.isin(pairs.image_at, images) if own else np.ones(len(pairs.text), dtype=bool)
    text = np.concatenate([pairs.text[stays], pairs.text[chosen]])
    image_at = np.concatenate([pairs.image_at[stays], np.repeat(images, captions)])
    poisoned = replace(pairs, row=np.arange(len(text)), text=text, image_at=image_at)
    return poisoned, np.arange(len(text)) >= int(stays.sum())


def _is_found(pairs: Reduced, bad: npt.NDArray[np.bool_], level: float) -> bool:
    for view, (_, pool) in fit_pairs(pairs, crowd_of(pairs)).items():
        grown = grow_groups(pool)
        for rows, strength in zip(grown.rows, grown.strength, strict=True):
            if false_alarms_at(float(strength)) > level:
                break
            inside = (
                np.isin(pairs.image_at, rows)
                if view == IMAGES
                else np.isin(np.arange(len(bad)), rows)
            )
            if (inside & bad).sum() >= NAMED * max(min(bad.sum(), inside.sum()), 1):
                return True
    return False
