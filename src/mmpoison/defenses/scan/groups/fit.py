"""Fits to a sample what the passes over all rows need: spaces, regressions without suspicious items, cells.

Poison would bias the regressions, so the fit is repeated without items that conflict in the same way as many others.
Usual distances are measured on the sample.
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

# -- Scores how much captions and images disagree, with ridge regressions that are fitted on other images.
#
# No aligned encoder is needed: the data set itself shows which captions belong to which images. There are two views.
# One compares each caption with its image and with the image's other captions. The other compares all captions of an
# image with the image, because the captions of an attacker's own image confirm each other. Scores are sums of
# standardised distances (median 0, standard deviation 1 each), so they are comparable across encoders.


RIDGE = 1.0
FEWEST_ITEMS = 20
"""Minimum number of items for a regression; with fewer it predicts zero."""

LIKE_IMAGES = 2.0
"""Weight of similar images' captions, in units of the image's own captions."""

IMAGE_SIDE = 0.5
"""In the view of pairs, weight of the distance between an image and the image predicted from its caption."""

Matrices = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Sums over items for the regressions of a view.

    Attributes:
        to_text: Sums of w z z' over each fold's items, with z = (image, caption, 1), for predicting captions; shape
            `(5, k + l + 1, k + l + 1)`.
        to_image: The same for predicting images.
    """

    to_text: Matrices
    to_image: Matrices


def sums_of(reduced: Reduced, items: Items, weight: Values) -> Sums:
    """Sum over items so that every image counts once, however many captions it has.

    Args:
        reduced: The rows.
        items: Their items.
        weight: 0 for items to leave out, else 1; shape `(m,)`.
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
    """The two regressions of a view, and the usual distances from their predictions.

    Attributes:
        to_text: For each fold, slope, mean image and mean caption, for predicting captions.
        to_image: The same for predicting images from captions.
        usual: Medians of the two distances, shape `(2,)`.
        spread: Their standard deviations, shape `(2,)`.
        image_side: Weight of the image distance relative to the caption distance.
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
            sums: Sums over all items.
            images: Dimension of the image vectors.
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
        """Compute the cosine distances of captions and images from their predictions; shapes `(m,)`."""
        expected = _predict(self.to_text, items.image, items.fold)
        if items.others is not None:
            expected = unit(items.others + np.float32(LIKE_IMAGES) * expected)
        likely = _predict(self.to_image, items.text, items.fold)
        return (
            1 - np.einsum("ij,ij->i", expected, items.text),
            1 - np.einsum("ij,ij->i", likely, items.image),
        )

    def conflict(self, items: Items) -> Values:
        """Score how much captions and images disagree; shape `(m,)`."""
        text, image = (np.stack(self.distances(items)) - self.usual[:, None]) / self.spread[:, None]
        return np.asarray(text + np.float32(self.image_side) * image)


def _lines(sums: Matrices, images: int, *, to_text: bool) -> tuple[Vectors, Vectors, Vectors]:
    """For each fold, solve the ridge regression with intercept on the items of the other folds.

    Args:
        sums: Sums of w z z' per fold, with z = (image, caption, 1).
        images: Dimension of the image vectors.
        to_text: Whether captions are predicted from images, or images from captions.

    Returns:
        For each fold: the slope, the mean of the inputs and the mean of the targets.
    """
    image, text = slice(0, images), slice(images, sums.shape[1] - 1)
    x, y = (image, text) if to_text else (text, image)
    # with fewer items, predict zero
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
"""Share of items that the next fit leaves out: those with the most similar conflicting items."""

FITTED = 25_000
"""Maximum number of sampled pairs for the first regressions: all of their seeds are compared with each other."""

FEWEST = 20


def crowd_of(reduced: Reduced) -> float:
    """Return the largest number of captions per image that may confirm each other.

    Images with far more captions are judged by similar images only (attack I).
    """
    return max(10.0, 2 * float(np.quantile(np.bincount(reduced.image_at), 0.95)))


def fit_pairs(reduced: Reduced, crowd: float) -> dict[str, tuple[ViewFit, Pool]]:
    """Fit the regressions repeatedly, each time without the items that the previous fit finds suspicious.

    Args:
        reduced: The pairs.
        crowd: The result of `crowd_of`.

    Returns:
        For each view, the regressions, and the candidate items for group search with their conflict.
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
    """The model fitted to the sample, for all later passes.

    Attributes:
        text: The space of captions.
        image: The space of images.
        seed: Of the run.
        crowd: Images with more captions are judged by similar images only.
        fits: The regressions of each view, by name, `images` first.
        border: For each view, the conflict above which items may be seeds: 15% of the sample.
        topics: Centres of the caption cells, shape `(c, k)`.
        kinds: Centres of the image cells, shape `(c, k)`.
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
        """Return the cells of items, shape `(m,)`, given those of all images."""
        return cells_of(items.text, self.topics) * len(self.kinds) + kind[items.at]


def fit_model(sample: Sample, seed: int = 0) -> tuple[GroupModel, dict[str, Scored]]:
    """Fit spaces and regressions to the sample, measure usual distances, and choose the cells for counting rows.

    Args:
        sample: The sample of all shards.
        seed: Of the folds.

    Returns:
        The model, and the sampled items of each view.

    Raises:
        InputError: If it has fewer than 20 pairs.
    """
    if len(sample) < FEWEST:
        raise InputError(f"{len(sample)} usable pairs: suspicious-groups needs at least {FEWEST}")
    # each once: many captions, or a frequent caption, do not make an item more usual
    text, image = (Space.fit(np.unique(side, axis=0)) for side in (sample.text, sample.image))
    few = reduce_sample(sample.first(FITTED), text, image, seed)
    crowd = crowd_of(few)
    fits = {view: fit for view, (fit, _) in fit_pairs(few, crowd).items()}
    reduced = reduce_sample(sample, text, image, seed)
    items = {view: view_items(view, reduced, crowd) for view in fits}
    conflict = {view: fit.conflict(items[view]) for view, fit in fits.items()}
    border = {view: float(np.quantile(one, 1 - SEEDS_AMONG)) for view, one in conflict.items()}
    # in hash order, so the first items are random
    order = np.argsort(np.unique(reduced.image_at, return_index=True)[1], kind="stable")
    images = items[IMAGES]
    topics, kinds = (fit_cells(side[order]) for side in (images.text, images.image))
    model = GroupModel(text, image, seed, crowd, fits, border, topics, kinds)
    kind = cells_of(reduced.image, kinds)
    return model, {
        view: Scored(
            one.text, one.image, one.context, one.key, conflict[view], model.cells(one, kind)
        )
        for view, one in items.items()
    }
