"""Fits what the passes over all rows are given to a sample: spaces, regressions without suspicious items, cells.

Poison would teach the regressions what it pretends, so the fit is repeated without items that conflict as many others
do. What is usual is measured on the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups.cells import fit_cells
from mmpoison.defenses.filters.suspicious_groups.growth import (
    SEEDS_AMONG,
    Grown,
    Pool,
    grow_groups,
    suspicious_items,
)
from mmpoison.defenses.filters.suspicious_groups.items import (
    IMAGES,
    PAIRS,
    Items,
    Reduced,
    Values,
    image_items,
    item_keys,
    pair_items,
    reduce_sample,
    reduce_shard,
)
from mmpoison.defenses.filters.suspicious_groups.regressions import (
    ViewFit,
    image_sums,
    pair_sums,
)
from mmpoison.defenses.filters.suspicious_groups.shard import (
    Index,
    Sample,
    Space,
    Stored,
    VectorShard,
)
from mmpoison.embedded.distance import Vectors
from mmpoison.errors import InputError

FITS = 3
LEFT_OUT = 0.03
"""Share of the items, those with the most conflicting ones alike to them, that the next fit leaves out."""

FITTED = 25_000
"""Pairs of the sample that the first regressions are fitted to: all of their seeds are compared with each other."""

FEWEST = 20
BLOCK = 1024


@dataclass(frozen=True)
class Fitted:
    """Regressions that were fitted to some pairs, and what they find in them.

    Attributes:
        items: The items of each view, by its name.
        fits: The regressions.
        weights: How far each item was trusted in them, 0 or 1.
        pools: The items with their conflict, as groups are looked for among them.
    """

    items: Mapping[str, Items]
    fits: Mapping[str, ViewFit]
    weights: Mapping[str, Values]
    pools: Mapping[str, Pool]

    def grow(self) -> dict[str, Grown]:
        """Find the groups of each view."""
        return {view: grow_groups(pool) for view, pool in self.pools.items()}


def crowd_of(reduced: Reduced) -> float:
    """Return how many captions an image may have at most for them to vouch for each other.

    An image with far more than others has nothing to vouch for it but similar images (attack I).
    """
    return max(10.0, 2 * float(np.quantile(np.bincount(reduced.image_at), 0.95)))


def fit_pairs(reduced: Reduced, crowd: float) -> Fitted:
    """Fit the regressions to pairs again and again, each time without what the last fit finds suspicious.

    Args:
        reduced: The pairs.
        crowd: As `crowd_of` gives it.
    """
    sizes = {IMAGES: len(reduced.image), PAIRS: len(reduced.text)}
    views = (IMAGES, PAIRS) if sizes[IMAGES] < sizes[PAIRS] else (IMAGES,)
    weights = {view: np.ones(sizes[view], dtype=np.float32) for view in views}
    fitted = _fit_once(reduced, crowd, weights)
    for _ in range(FITS - 1):
        weights = {view: np.ones(sizes[view], dtype=np.float32) for view in views}
        for view, pool in fitted.pools.items():
            weights[view][suspicious_items(pool, LEFT_OUT)] = 0
        fitted = _fit_once(reduced, crowd, weights)
    return fitted


def _fit_once(reduced: Reduced, crowd: float, weights: Mapping[str, Values]) -> Fitted:
    items, fits, pools = {}, {}, {}
    for view, weight in weights.items():
        if view == IMAGES:
            some = image_items(reduced)
            sums = image_sums(some, weight)
        else:
            some = pair_items(reduced, crowd, weight)
            sums = pair_sums(reduced, some, weight)
        fit = ViewFit.of(view, sums, reduced.image.shape[1], some)
        key = item_keys(reduced, some, crowd)
        items[view], fits[view] = some, fit
        pools[view] = Pool.of(some.text, some.image, key, fit.conflict(some)[0])
    return Fitted(items, fits, weights, pools)


@dataclass(frozen=True)
class Known(Stored):
    """The conflicting items of the sample, and which of them the fits left out.

    A limit of the conflict alone would not do: items astray anywhere conflict as much as poison does, and are more.

    Attributes:
        border: Conflict up to which an item is trusted.
        both: Caption and image of each conflicting item, shape `(n, k + l)`.
        left_out: Whether it was left out, shape `(n,)`.
    """

    border: float
    both: Vectors
    left_out: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, items: Items, conflict: Values, weight: Values) -> Known:
        """Remember the conflicting items of a sample and their weights."""
        border = float(np.quantile(conflict, 1 - SEEDS_AMONG))
        high = conflict > border
        both = np.concatenate([items.text[high], items.image[high]], axis=1)
        return cls(border, both, weight[high] == 0)

    def trust(self, items: Items, conflict: Values) -> Values:
        """Return 0 for conflicting items whose most similar known item was left out, else 1, shape `(m,)`."""
        weight = np.ones(len(items), dtype=np.float32)
        if not self.left_out.any():
            return weight
        high = np.flatnonzero(conflict > self.border)
        for start in range(0, len(high), BLOCK):
            some = high[start : start + BLOCK]
            both = np.concatenate([items.text[some], items.image[some]], axis=1)
            weight[some[self.left_out[(both @ self.both.T).argmax(axis=1)]]] = 0
        return weight


@dataclass(frozen=True)
class Start(Stored):
    """The regressions as the sample gives them.

    Attributes:
        text: The space of captions.
        image: The space of images.
        seed: Of the run.
        crowd: An image with more captions has nothing to vouch for it but similar images.
        fits: The regressions of each view, by its name.
        known: Which captions are trusted, in the view of pairs.
    """

    text: Space
    image: Space
    seed: int
    crowd: float
    fits: Mapping[str, ViewFit]
    known: Mapping[str, Known]

    def reduce(self, shard: VectorShard, rows: Index | None = None) -> Reduced:
        """Reduce a shard, or some rows of it."""
        return reduce_shard(shard, self.text, self.image, self.seed, rows)

    def items(self, view: str, reduced: Reduced) -> Items:
        """Return the items of a view; captions that are not trusted do not vouch for others of their image."""
        if view == IMAGES:
            return image_items(reduced)
        items = pair_items(reduced, self.crowd)
        trusted = self.known[view].trust(items, self.fits[view].conflict(items)[0])
        return pair_items(reduced, self.crowd, trusted)


@dataclass(frozen=True)
class GroupModel(Stored):
    """What the later passes need.

    Attributes:
        start: The fit to the sample.
        border: Conflict in each view above which items may be seeds: 15% of the sample.
        captions: Middles of the cells of captions, shape `(c, k)`.
        images: Middles of the cells of images, shape `(c, k)`.
    """

    start: Start
    border: Mapping[str, float]
    captions: Vectors
    images: Vectors

    @property
    def views(self) -> tuple[str, ...]:
        """The views, `images` first."""
        return tuple(self.start.fits)


@dataclass(frozen=True)
class Background:
    """The sampled items of a view.

    Attributes:
        items: The items.
        key: Image of each as a number (`keys`), shape `(m,)`.
        conflict: Conflict of each, shape `(m,)`.
    """

    items: Items
    key: Index
    conflict: Values


def fit_start(sample: Sample, seed: int = 0) -> Start:
    """Fit the spaces and the first regressions to the sample.

    Args:
        sample: Of all shards.
        seed: Of the folds.

    Raises:
        InputError: If it has fewer than 20 pairs.
    """
    if len(sample) < FEWEST:
        raise InputError(f"{len(sample)} usable pairs: suspicious-groups needs at least {FEWEST}")
    # each once: an image with many captions, or a frequent caption, is no more usual
    text, image = (Space.fit(np.unique(side, axis=0)) for side in (sample.text, sample.image))
    reduced = reduce_sample(sample.first(FITTED), text, image, seed)
    crowd = crowd_of(reduced)
    fitted = fit_pairs(reduced, crowd)
    known = {
        view: Known.of(items, fitted.fits[view].conflict(items)[0], fitted.weights[view])
        for view, items in fitted.items.items()
        if view == PAIRS
    }
    return Start(text, image, seed, crowd, fitted.fits, known)


def fit_model(start: Start, sample: Sample) -> tuple[GroupModel, dict[str, Background]]:
    """Measure on the sample what is usual, and choose the cells that rows are counted in.

    Returns:
        The model, for all parts of later passes, and the sampled items of each view.
    """
    reduced = reduce_sample(sample, start.text, start.image, start.seed)
    border, background = {}, {}
    for view, fit in start.fits.items():
        items = start.items(view, reduced)
        conflict = fit.conflict(items)[0]
        border[view] = float(np.quantile(conflict, 1 - SEEDS_AMONG))
        background[view] = Background(items, item_keys(reduced, items, start.crowd), conflict)
    # in the order of the hashes: the first items are random
    order = np.argsort(np.unique(reduced.image_at, return_index=True)[1], kind="stable")
    images = image_items(reduced)
    captions, places = (fit_cells(side[order]) for side in (images.text, images.image))
    return GroupModel(start, border, captions, places), background
