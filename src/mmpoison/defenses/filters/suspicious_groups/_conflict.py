"""Scores how much captions and images disagree: each caption with its image, and all captions of an image with it.

No aligned encoder is needed: the data set itself says which captions go with which images. Both scores are sums of
standardised distances (median 0, standard deviation 1 each), so that they hold for any encoder.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._regression import folds_of, predict
from mmpoison.defenses.filters.suspicious_groups._views import Vectors, Views, group_sums, unit

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
