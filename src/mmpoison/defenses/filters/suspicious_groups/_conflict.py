"""Scores how much captions and images disagree: each caption with its image, and all captions of an image with it.

No aligned encoder is needed: the data set itself says which captions go with which images. Both scores are sums of
standardised distances (median 0, standard deviation 1 each), so that they hold for any encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# -- Vectors that the scan compares: one a caption, one an image, each from a model of its own modality.


Vectors = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

DIMENSIONS = 64
"""Principal components used: clusters are no worse than with all of them, at a tenth of the time."""


@dataclass(frozen=True)
class Views:
    """A data set as the scan sees it.

    Attributes:
        text: Unit vectors of the distinct captions, shape `(U, d)`.
        image: Unit vectors of the images, shape `(I, e)`.
        caption_of: Which caption each pair has, shape `(N,)`, index into `text`.
        image_of: Which image each pair has, shape `(N,)`, index into `image`.
    """

    text: Vectors
    image: Vectors
    caption_of: Index
    image_of: Index

    def __len__(self) -> int:
        return len(self.caption_of)

    @classmethod
    def of(
        cls, text: npt.ArrayLike, image: npt.ArrayLike, caption_of: Index, image_of: Index
    ) -> Views:
        """Centre, reduce and normalise raw features.

        Embeddings of one modality share a large common part, which makes any two of them alike. Without it a cosine of
        zero means "no more alike than two taken at random", and thresholds hold for any encoder.
        """
        return cls(_centred(text), _centred(image), np.asarray(caption_of), np.asarray(image_of))


def _centred(features: npt.ArrayLike) -> Vectors:
    from sklearn.decomposition import PCA

    # one copy, which is changed in place: features of all captions of a large set are gigabytes
    vectors = unit(np.asarray(features, dtype=np.float32))
    vectors -= vectors.mean(axis=0)
    vectors /= _lengths(vectors)
    dimensions = min(DIMENSIONS, *vectors.shape)
    reduced = PCA(dimensions, copy=False, random_state=0).fit_transform(vectors)
    return unit(reduced.astype(np.float32))


def unit(vectors: Vectors) -> Vectors:
    """Return the rows divided by their length; a row of zeros stays one, shape as given."""
    scaled: Vectors = vectors / _lengths(vectors)
    return scaled


def _lengths(vectors: Vectors) -> Vectors:
    """Return the lengths of the rows, at least 1e-9, shape `(..., 1)`."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    lengths: Vectors = np.maximum(length, np.float32(1e-9))
    return lengths


def group_sums(vectors: Vectors, group: Index, groups: int) -> Vectors:
    """Sum of the vectors of each group, shape `(groups, d)`.

    >>> group_sums(np.float32([[1, 0], [2, 0], [0, 5]]), np.array([1, 1, 0]), 3).tolist()
    [[0.0, 5.0], [3.0, 0.0], [0.0, 0.0]]
    """
    from scipy.sparse import csr_matrix

    ones = np.ones(len(group), dtype=np.float32)
    membership = csr_matrix((ones, (group, np.arange(len(group)))), shape=(groups, len(group)))
    return np.asarray(membership @ vectors, dtype=np.float32)


# -- Predicts the vectors of one side from those of the other, each item by a fit to other images.


FOLDS = 5
RIDGE = 1.0
AT_ONCE = 1 << 16
FEWEST_ITEMS = 20
"""Of fewer items nothing is learned: what is predicted is zero."""


def folds_of(images: int, seed: int) -> Index:
    """Draw the fold of each image, folds of equal size, shape `(images,)`."""
    return np.random.default_rng(seed).permutation(np.arange(images) % FOLDS)


def predict(x: Vectors, y: Vectors, weight: npt.NDArray[np.float32], fold: Index) -> Vectors:
    """Predict `y` from `x` by ridge regression with an intercept, fitted on the items of the other folds.

    Only sums over items are needed, one for each fold; the sums of the other folds give the fit.

    Args:
        x: Shape `(n, d)`.
        y: Shape `(n, e)`.
        weight: How much each item counts in the fits, not negative, shape `(n,)`.
        fold: Fold of each item, shape `(n,)`; all items of one image are in one fold.

    Returns:
        Unit vectors, shape `(n, e)`; zeros for fewer than 20 items of positive weight.
    """
    predicted = np.zeros_like(y)
    if np.count_nonzero(weight) < FEWEST_ITEMS:
        return predicted
    folds = [np.flatnonzero(fold == number) for number in range(FOLDS)]
    sums = [_sums_of_rows(x, y, weight, rows) for rows in folds]
    for rows, line in zip(folds, solve_folds(sums), strict=True):
        for some in _pieces(rows):
            predicted[some] = (x[some].astype(np.float64) - line.x_mean) @ line.slope + line.y_mean
    return unit(predicted)


def _sums_of_rows(
    x: Vectors, y: Vectors, weight: npt.NDArray[np.float32], rows: Index
) -> tuple[npt.NDArray[np.float64], ...]:
    """Sum over some items, a piece at a time: copies in 64-bit are twice as large as the data."""
    parts = [
        sums_of(x[some].astype(np.float64), y[some].astype(np.float64), weight[some])
        for some in _pieces(rows) or [rows]
    ]
    return tuple(np.asarray(sum(part)) for part in zip(*parts, strict=True))


def _pieces(rows: Index) -> list[Index]:
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


@dataclass(frozen=True)
class Regression:
    """A linear function of vectors: `(x - x_mean) @ slope + y_mean`.

    Attributes:
        slope: Shape `(d, e)`.
        x_mean: Shape `(d,)`.
        y_mean: Shape `(e,)`.
    """

    slope: npt.NDArray[np.float64]
    x_mean: npt.NDArray[np.float64]
    y_mean: npt.NDArray[np.float64]


def solve_folds(sums: Sequence[tuple[npt.NDArray[np.float64], ...]]) -> list[Regression]:
    """Solve the ridge regression of each fold, from the sums over the items of the other folds.

    Args:
        sums: What `sums_of` gives for the items of each fold; sums over parts of a data set may be added before.
    """
    total = [sum(parts) for parts in zip(*sums, strict=True)]
    lines = []
    for own in sums:
        xx, xy, x_sum, y_sum, count = (whole - part for whole, part in zip(total, own, strict=True))
        x_mean, y_mean = x_sum / max(count, 1e-9), y_sum / max(count, 1e-9)
        square = xx - count * np.outer(x_mean, x_mean) + RIDGE * np.eye(len(x_mean))
        slope = np.linalg.solve(square, xy - count * np.outer(x_mean, y_mean))
        lines.append(Regression(slope, x_mean, y_mean))
    return lines


def sums_of(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], weight: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the weighted sums that a regression of `y` on `x` needs: x'x, x'y, x, y and the weights."""
    weighted = x * weight[:, None]
    return (
        weighted.T @ x,
        weighted.T @ y,
        weighted.sum(axis=0),
        weight @ y,
        np.asarray(weight.sum(), dtype=np.float64),
    )


LIKE_IMAGES = 2.0
"""Weight of what alike images are captioned with, in captions of the image's own."""

IMAGE_SIDE = 0.5
"""Weight of the distance between an image and the image that its caption predicts."""

Values = npt.NDArray[np.float32]


def conflict_of_pairs(views: Views, weight: Values | None = None, seed: int = 0) -> Values:
    """Score how much each caption disagrees with what else is known of its image, shape `(N,)`.

    What an image should be captioned with is the sum of its other captions and of two more that a ridge regression from
    images to captions predicts, fitted on other images. An image with far more captions than the rest has nothing to
    vouch for it but similar images: all of its captions may be poison (attack I). A second regression predicts the
    image of a caption.

    Args:
        views: The data.
        weight: How far each pair is trusted to say what is usual, in [0, 1], shape `(N,)`; fully by default.
        seed: Seed of the folds of the regressions.
    """
    weight = np.ones(len(views), dtype=np.float32) if weight is None else weight
    caption, images = views.text[views.caption_of], len(views.image)
    trusted = np.bincount(views.image_of, weight, minlength=images).astype(np.float32)
    sums = group_sums(caption * weight[:, None], views.image_of, images)
    fold = folds_of(images, seed)
    # an image counts once, however many captions it has
    mean = np.asarray(sums / np.maximum(trusted, 1)[:, None], dtype=np.float32)
    predicted = predict(views.image, mean, (trusted > 0).astype(np.float32), fold)
    expected = sums[views.image_of] - caption * weight[:, None]
    per_image = np.bincount(views.image_of, minlength=images)
    expected[crowded(per_image)[views.image_of]] = 0
    expected += LIKE_IMAGES * predicted[views.image_of]
    once = np.asarray(weight / np.maximum(trusted, 1)[views.image_of], dtype=np.float32)
    image = views.image[views.image_of]
    likely_image = predict(caption, image, once, fold[views.image_of])
    return _standardised(unit(expected), caption) + IMAGE_SIDE * _standardised(likely_image, image)


def conflict_of_images(
    views: Views, weight: Values | None = None, seed: int = 0
) -> tuple[Values, Vectors]:
    """Score how much all captions of an image together disagree with it, shape `(I,)`.

    An image has no say in what is expected of it, so that captions of one attacker, on an image of his own, do not
    vouch for each other. Two ridge regressions, fitted on other images, predict its mean caption and from that the
    image.

    Args:
        views: One item an image: its mean caption and its vector (`image_views`).
        weight: How far each image is trusted to say what is usual, in [0, 1], shape `(I,)`; fully by default.
        seed: Seed of the folds of the regressions.

    Returns:
        The scores, and the predicted mean captions, unit vectors `(I, d)`.
    """
    weight = np.ones(len(views), dtype=np.float32) if weight is None else weight
    fold = folds_of(len(views), seed)
    caption = predict(views.image, views.text, weight, fold)
    image = predict(views.text, views.image, weight, fold)
    return _standardised(caption, views.text) + _standardised(image, views.image), caption


def image_views(views: Views) -> tuple[Views, npt.NDArray[np.intp]]:
    """Return a data set of one item an image, its mean caption and its vector, and the item of each pair."""
    used, item = np.unique(views.image_of, return_inverse=True)
    caption = unit(group_sums(views.text[views.caption_of], item, len(used)))
    own = np.arange(len(used))
    return Views(caption, views.image[used], own, own), item


def crowded(per_image: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the images with more than ten captions and more than twice as many as nearly all others, shape `(I,)`."""
    used = per_image[per_image > 0]
    usual = float(np.quantile(used, 0.95)) if len(used) else 0.0
    return np.asarray(per_image > max(10.0, 2 * usual))


def _standardised(predicted: Vectors, there: Vectors) -> Values:
    """Return the cosine distances of unit vectors, with median 0 and standard deviation 1, shape `(n,)`."""
    distance = 1 - (predicted * there).sum(axis=1)
    spread = max(float(distance.std()), 1e-6)
    return np.asarray((distance - np.median(distance)) / spread, dtype=np.float32)
