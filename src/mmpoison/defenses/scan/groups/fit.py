"""Fits what the passes over all rows are given to a sample: spaces, regressions without suspicious items, cells.

Poison would teach the regressions what it pretends, so the fit is repeated without items that conflict as many others
do. What is usual is measured on the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.growth import (
    SEEDS_AMONG,
    Pool,
    suspicious_items,
)
from mmpoison.defenses.scan.groups.items import (
    FOLDS,
    IMAGES,
    PAIRS,
    Items,
    Reduced,
    Scored,
    cells_of,
    fit_cells,
    group_sums,
    reduce_sample,
    reduce_shard,
    view_items,
)
from mmpoison.defenses.scan.read.vector_shard import (
    Index,
    Sample,
    Space,
    Stored,
    Values,
    Vectors,
    VectorShard,
    unit,
)
from mmpoison.errors import InputError

# -- Scores how much captions and images disagree, by ridge regressions between them that are fitted on other images.
#
# No aligned encoder is needed: the data set itself says which captions go with which images. There are two views. One
# compares each caption with its image and with the image's other captions; the other all captions of an image with it,
# because the captions of an attacker's own image vouch for each other. Scores are sums of standardised distances
# (median 0, standard deviation 1 each), so that they hold for any encoder.


RIDGE = 1.0
FEWEST_ITEMS = 20
"""Of fewer items nothing is learned: what is predicted is zero."""

LIKE_IMAGES = 2.0
"""Weight of what alike images are captioned with, in captions of the image's own."""

IMAGE_SIDE = 0.5
"""Weight of the distance between an image and the image that its caption predicts, in the view of pairs."""

Matrices = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Sums over items that the regressions of a view need.

    Attributes:
        to_text: Sums of w z z' with z = (image, caption, 1), of the items of each fold, for the prediction of captions,
            shape `(5, k + l + 1, k + l + 1)`.
        to_image: The same for the prediction of images.
    """

    to_text: Matrices
    to_image: Matrices


def sums_of(reduced: Reduced, items: Items, weight: Values) -> Sums:
    """Sum over items, in which an image counts once, however many captions it has.

    Args:
        reduced: The rows.
        items: Their items.
        weight: 0 for items that are left out, else 1, shape `(m,)`.
    """
    at, images = items.at, len(reduced.image)
    used = np.bincount(at, weight, minlength=images).astype(np.float32)
    mean = group_sums(items.text * weight[:, None], at, images) / np.maximum(used, 1)[:, None]
    once = (weight / np.maximum(used, 1)[at]).astype(np.float32)
    shown = (used > 0).astype(np.float32)
    return Sums(
        _sums(reduced.image, np.asarray(mean, dtype=np.float32), shown, reduced.fold),
        _sums(items.image, items.text, once, items.fold),
    )


def _sums(image: Vectors, text: Vectors, weight: Values, fold: Index) -> Matrices:
    sides = image.shape[1], text.shape[1]
    found = np.empty((FOLDS, sum(sides) + 1, sum(sides) + 1))
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number)
        both = np.ones((len(mine), sum(sides) + 1))
        both[:, : sides[0]], both[:, sides[0] : -1] = image[mine], text[mine]
        found[number] = (both * weight[mine, None]).T @ both
    return found


@dataclass(frozen=True)
class ViewFit(Stored):
    """The two regressions of a view, and what distances from their predictions are usual.

    Attributes:
        to_text: For each fold, slope, mean of images and mean of captions: the prediction of captions.
        to_image: The same for the prediction of images from captions.
        usual: Medians of the two distances, shape `(2,)`.
        spread: Their standard deviations, shape `(2,)`.
        image_side: What the distance between images counts, against that between captions.
    """

    to_text: tuple[Vectors, Vectors, Vectors]
    to_image: tuple[Vectors, Vectors, Vectors]
    usual: Values
    spread: Values
    image_side: float

    @classmethod
    def of(cls, view: str, sums: Sums, images: int, sample: Items) -> ViewFit:
        """Solve the regressions, and measure the distances of sampled items.

        Args:
            view: `images` or `pairs`.
            sums: Over all items.
            images: Dimensions of images.
            sample: A sample of the items.
        """
        fit = cls(
            _lines(sums.to_text, images, to_text=True),
            _lines(sums.to_image, images, to_text=False),
            np.zeros(2, dtype=np.float32),
            np.ones(2, dtype=np.float32),
            1.0 if view == IMAGES else IMAGE_SIDE,
        )
        both = np.stack(fit.distances(sample))
        return replace(
            fit,
            usual=np.median(both, axis=1).astype(np.float32),
            spread=np.maximum(both.std(axis=1), 1e-6).astype(np.float32),
        )

    def distances(self, items: Items) -> tuple[Values, Values]:
        """Compute how far captions and images are from what is expected: cosine distances, shapes `(m,)`."""
        expected = _predict(self.to_text, items.image, items.fold)
        if items.others is not None:
            expected = unit(items.others + np.float32(LIKE_IMAGES) * expected)
        likely = _predict(self.to_image, items.text, items.fold)
        return (
            1 - np.einsum("ij,ij->i", expected, items.text),
            1 - np.einsum("ij,ij->i", likely, items.image),
        )

    def conflict(self, items: Items) -> Values:
        """Score how much captions and images disagree, shape `(m,)`."""
        text, image = (np.stack(self.distances(items)) - self.usual[:, None]) / self.spread[:, None]
        return np.asarray(text + np.float32(self.image_side) * image)


def _lines(sums: Matrices, images: int, *, to_text: bool) -> tuple[Vectors, Vectors, Vectors]:
    """Solve the ridge regression of each fold with an intercept, from the sums over the items of the other folds.

    Args:
        sums: Of w z z' with z = (image, caption, 1), for each fold.
        images: Dimensions of images.
        to_text: Whether captions are predicted from images, or images from captions.

    Returns:
        For each fold the slope, the mean of what is known and the mean of what is predicted.
    """
    image, text = slice(0, images), slice(images, sums.shape[1] - 1)
    x, y = (image, text) if to_text else (text, image)
    # fewer items teach nothing: what is predicted is zero
    if sums[:, -1, -1].sum() < FEWEST_ITEMS:
        sums = np.zeros_like(sums)
    found = []
    for others in sums.sum(axis=0) - sums:
        count = others[-1, -1]
        x_mean, y_mean = others[x, -1] / max(count, 1e-9), others[y, -1] / max(count, 1e-9)
        square = others[x, x] - count * np.outer(x_mean, x_mean) + RIDGE * np.eye(len(x_mean))
        slope = np.linalg.solve(square, others[x, y] - count * np.outer(x_mean, y_mean))
        found.append((slope, x_mean, y_mean))
    slopes, froms, tos = (np.stack(part).astype(np.float32) for part in zip(*found, strict=True))
    return slopes, froms, tos


def _predict(lines: tuple[Vectors, Vectors, Vectors], x: Vectors, fold: Index) -> Vectors:
    slope, x_mean, y_mean = lines
    predicted = np.empty((len(x), slope.shape[2]), dtype=np.float32)
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number)
        predicted[mine] = (x[mine] - x_mean[number]) @ slope[number] + y_mean[number]
    return unit(predicted)


FITS = 3
LEFT_OUT = 0.03
"""Share of the items, those with the most conflicting ones alike to them, that the next fit leaves out."""

FITTED = 25_000
"""Pairs of the sample that the first regressions are fitted to: all of their seeds are compared with each other."""

FEWEST = 20


def crowd_of(reduced: Reduced) -> float:
    """Return how many captions an image may have at most for them to vouch for each other.

    An image with far more than others has nothing to vouch for it but similar images (attack I).
    """
    return max(10.0, 2 * float(np.quantile(np.bincount(reduced.image_at), 0.95)))


def fit_pairs(reduced: Reduced, crowd: float) -> dict[str, tuple[ViewFit, Pool]]:
    """Fit the regressions to pairs again and again, each time without what the last fit finds suspicious.

    Args:
        reduced: The pairs.
        crowd: As `crowd_of` gives it.

    Returns:
        Of each view the regressions, and the items with their conflict, as groups are looked for among them.
    """
    views = [IMAGES, PAIRS] if len(reduced.image) < len(reduced.text) else [IMAGES]
    return {view: _fit_view(view, reduced, crowd) for view in views}


def _fit_view(view: str, reduced: Reduced, crowd: float) -> tuple[ViewFit, Pool]:
    items = view_items(view, reduced, crowd)
    left_out = np.arange(0)
    for _ in range(FITS):
        weight = np.ones(len(items), dtype=np.float32)
        weight[left_out] = 0
        sums = sums_of(reduced, items, weight)
        fit = ViewFit.of(view, sums, reduced.image.shape[1], items)
        pool = Pool.of(items.text, items.image, items.key, fit.conflict(items))
        left_out = suspicious_items(pool, LEFT_OUT)
    return fit, pool


@dataclass(frozen=True)
class GroupModel(Stored):
    """What the sample says, for all parts of later passes.

    Attributes:
        text: The space of captions.
        image: The space of images.
        seed: Of the run.
        crowd: An image with more captions has nothing to vouch for it but similar images.
        fits: The regressions of each view, by its name, `images` first.
        border: Conflict in each view above which items may be seeds: 15% of the sample.
        topics: Middles of the cells of captions, shape `(c, k)`.
        kinds: Middles of the cells of images, shape `(c, k)`.
    """

    text: Space
    image: Space
    seed: int
    crowd: float
    fits: Mapping[str, ViewFit]
    border: Mapping[str, float]
    topics: Vectors
    kinds: Vectors

    def reduce(self, shard: VectorShard, rows: Index | None = None) -> Reduced:
        """Reduce a shard, or some rows of it."""
        return reduce_shard(shard, self.text, self.image, self.seed, rows)

    def cells(self, items: Items, kind: Index) -> Index:
        """Return the cells of items, shape `(m,)`, from those of all images."""
        return cells_of(items.text, self.topics) * len(self.kinds) + kind[items.at]


def fit_model(sample: Sample, seed: int = 0) -> tuple[GroupModel, dict[str, Scored]]:
    """Fit spaces and regressions to the sample, measure what is usual, and choose the cells that rows are counted in.

    Args:
        sample: Of all shards.
        seed: Of the folds.

    Returns:
        The model, and the sampled items of each view.

    Raises:
        InputError: If it has fewer than 20 pairs.
    """
    if len(sample) < FEWEST:
        raise InputError(f"{len(sample)} usable pairs: suspicious-groups needs at least {FEWEST}")
    # each once: an image with many captions, or a frequent caption, is no more usual
    text, image = (Space.fit(np.unique(side, axis=0)) for side in (sample.text, sample.image))
    few = reduce_sample(sample.first(FITTED), text, image, seed)
    crowd = crowd_of(few)
    fits = {view: fit for view, (fit, _) in fit_pairs(few, crowd).items()}
    reduced = reduce_sample(sample, text, image, seed)
    items = {view: view_items(view, reduced, crowd) for view in fits}
    conflict = {view: fit.conflict(items[view]) for view, fit in fits.items()}
    border = {view: float(np.quantile(one, 1 - SEEDS_AMONG)) for view, one in conflict.items()}
    # in the order of the hashes: the first items are random
    order = np.argsort(np.unique(reduced.image_at, return_index=True)[1], kind="stable")
    images = items[IMAGES]
    topics, kinds = (fit_cells(side[order]) for side in (images.text, images.image))
    model = GroupModel(text, image, seed, crowd, fits, border, topics, kinds)
    kind = cells_of(reduced.image, kinds)
    return model, {
        view: Scored(one.text, one.image, one.key, conflict[view], model.cells(one, kind))
        for view, one in items.items()
    }
