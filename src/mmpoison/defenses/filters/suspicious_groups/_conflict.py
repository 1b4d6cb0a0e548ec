"""Scores how much each caption disagrees with what else is known of its image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.suspicious_groups._views import Vectors, Views, group_sums, unit

LIKE_IMAGES = 2.0
"""Weight of what alike images are captioned with, in captions of the image's own."""

FOLDS = 5
FEWEST_IMAGES = 20


def conflict_of(views: Views, seed: int = 0) -> npt.NDArray[np.float32]:
    """Compute 1 - cosine between each caption and the predicted caption of its image, in [0, 2], shape `(N,)`.

    What an image should be captioned with is the sum of its other captions and of two more that a ridge regression from
    images to captions predicts, fitted on other images. No aligned encoder is needed: the data set itself says which
    captions go with which images. An image with far more captions than the rest has nothing to vouch for it but similar
    images: all of its captions may be poison (attack I).
    """
    caption = views.text[views.caption_of]
    images = len(views.image)
    per_image = np.bincount(views.image_of, minlength=images)
    sums = group_sums(caption, views.image_of, images)
    expected = sums[views.image_of] - caption
    expected[crowded(per_image)[views.image_of]] = 0
    expected += LIKE_IMAGES * _predicted(views.image, sums, per_image, seed)[views.image_of]
    agreement = (unit(expected) * caption).sum(axis=1)
    return np.asarray(1 - agreement, dtype=np.float32)


def crowded(per_image: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the images with more than ten captions and more than twice as many as nearly all others, shape `(I,)`."""
    used = per_image[per_image > 0]
    usual = float(np.quantile(used, 0.95)) if len(used) else 0.0
    return np.asarray(per_image > max(10.0, 2 * usual))


def _predicted(
    image: Vectors, sums: Vectors, per_image: npt.NDArray[np.int64], seed: int
) -> Vectors:
    """Predict the caption of each image from similar images, unit vectors `(I, d)`; zeros for too few images."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict

    predicted = np.zeros_like(sums)
    used = np.flatnonzero(per_image)
    if len(used) < FEWEST_IMAGES:
        return predicted
    # an image counts once, however many captions it has
    mean = sums[used] / per_image[used, None].astype(np.float32)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    predicted[used] = unit(
        np.asarray(cross_val_predict(Ridge(alpha=1.0), image[used], mean, cv=folds), np.float32)
    )
    return predicted
