"""Information that an attacker extracts from a surrogate: nearest classes, and how well captions match images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmpoison.attacks import Surrogate, Vectors
from mmpoison.base import generator
from mmpoison.errors import InputError
from mmpoison.pairs import IntArray, PairDataset

IMAGES_OF_CLASS = 50
"""Maximum number of training images of a class used for its mean."""


def unit(vectors: npt.ArrayLike) -> Vectors:
    """Normalise rows to unit length; rows of zeros stay. The shape is unchanged.

    Raises:
        InputError: If a value is infinite or NaN.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise InputError("embeddings of the surrogate: some are infinite or NaN")
    scaled: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
    return scaled


def embed_captions(embed: Surrogate, pairs: PairDataset, rows: npt.NDArray[np.integer]) -> Vectors:
    """Embed captions of a table, given their rows `(n,)`; returns unit embeddings `(n, d)`."""
    return unit(embed.captions([str(caption) for caption in pairs.captions[rows]]))


def nearest_classes(
    pairs: PairDataset,
    embed: Surrogate,
    count: int = 5,
    *,
    by: Literal["images", "captions"] = "images",
) -> dict[str, tuple[str, ...]]:
    """Rank classes by how near their images, or captions, are to those of each class.

    Class means are compared by cosine, after subtracting the mean of all classes. Only images or only captions are
    compared, so the surrogate's captions and images need not share a space.

    Args:
        pairs: A clean set. The first 50 training images of each class, or all their captions, are embedded.
        embed: Embeds images, or captions.
        count: Number of classes to list.
        by: Whether images or captions are compared.

    Returns:
        For each class with training images (or captions), the names of the nearest other classes, nearest first.
    """
    means: dict[str, Vectors] = {}
    for name in pairs.classes:
        images = pairs.images.indices(split="train", label=name)[:IMAGES_OF_CLASS]
        if by == "images" and len(images):
            means[name] = unit(embed(pairs, images)).mean(axis=0)
        elif by == "captions":
            rows = np.flatnonzero(np.isin(pairs.image, images))
            if len(rows):
                means[name] = embed_captions(embed, pairs, rows).mean(axis=0)
    if not means:
        return {}
    names, every = list(means), np.stack(list(means.values()))
    centred = unit(every - every.mean(axis=0))
    cosine = centred @ centred.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(names) - 1)]
    return {
        name: tuple(names[other] for other in row) for name, row in zip(names, order, strict=True)
    }


FIT_ON = 4_000
"""Maximum number of training images used to measure what is usual; more would change little and cost embeddings."""

ALIGNED = 0.8
"""Share of true pairs with a larger cosine than a shuffled pair from which the towers count as one space; 0.5 is
chance."""

RIDGE = 0.1
"""Ridge penalty, as a share of the mean variance of an image feature times the number of images."""

FOLDS = 2


class Matching:
    """How well captions match images, as an attacker estimates it from the clean pairs.

    If the surrogate's towers share a space, the cosine of the centred embeddings decides. Otherwise a ridge regression
    predicts the mean of an image's captions from the image. It is fitted on the clean pairs in two folds, so that no
    image is predicted by a regression that saw its captions.

    Args:
        train: The clean training pairs.
        embed: The surrogate.
        seed: Draws the images for the estimate, and the folds.
    """

    def __init__(self, train: PairDataset, embed: Surrogate, seed: int) -> None:
        rng = generator(seed, "attack/matching")
        self._train, self._embed = train, embed
        known = np.sort(rng.permutation(train.used_images())[:FIT_ON])
        self._fold = rng.integers(FOLDS, size=len(train.images))
        rows = np.flatnonzero(np.isin(train.image, known))
        texts = embed_captions(embed, train, rows)
        raw = unit(embed(train, known.astype(np.int32)))
        self._text_mean, self._image_mean = texts.mean(axis=0), raw.mean(axis=0)
        captions, images = unit(texts - self._text_mean), unit(raw - self._image_mean)
        of_image = np.searchsorted(known, train.image[rows])
        shuffled = captions[rng.permutation(len(rows))]
        self._weights: list[npt.NDArray[np.float32]] = []
        if not _aligned(images[of_image], captions, shuffled):
            target = np.zeros((len(known), captions.shape[1]), dtype=np.float32)
            np.add.at(target, of_image, captions)
            target = unit(target)
            folds = self._fold[known]
            self._weights = [
                _ridge(images[folds != fold], target[folds != fold]) for fold in range(FOLDS)
            ]
        matched = np.einsum("nd,nd->n", captions, self._comparable(images, known)[of_image])
        self._conflicts = np.sort(1 - matched)

    @property
    def aligned(self) -> bool:
        """Whether the surrogate's captions and images share a space, measured on the clean pairs."""
        return not self._weights

    def usual_conflict(self, share: float) -> float:
        """Return the quantile of the clean pairs' conflict (one minus the cosine) for a share in [0, 1]."""
        return float(np.quantile(self._conflicts, share))

    def captions(self, captions: Sequence[str]) -> Vectors:
        """Return unit vectors of captions, shape `(n, d)`."""
        return unit(unit(self._embed.captions(captions)) - self._text_mean)

    def images(self, images: IntArray) -> Vectors:
        """Return unit vectors of training images in the space of the captions, shape `(n, d)`."""
        own = unit(unit(self._embed(self._train, images)) - self._image_mean)
        return self._comparable(own, images)

    def _comparable(self, own: Vectors, images: npt.NDArray[np.integer]) -> Vectors:
        if self.aligned:
            return own
        both = np.stack([own @ weights for weights in self._weights])
        return unit(both[self._fold[images], np.arange(len(images))])


def _aligned(images: Vectors, captions: Vectors, shuffled: Vectors) -> bool:
    if images.shape[1] != captions.shape[1]:
        return False
    true = np.einsum("nd,nd->n", images, captions)
    return bool((true > np.einsum("nd,nd->n", images, shuffled)).mean() >= ALIGNED)


def _ridge(images: Vectors, captions: Vectors) -> npt.NDArray[np.float32]:
    """Return the weights `(e, d)` that predict captions from images; zeros if there are no images."""
    size = images.shape[1]
    # rows have unit length, so the trace is the number of images
    penalty = RIDGE * max(len(images), 1) / size
    gram = images.T @ images + penalty * np.eye(size, dtype=np.float32)
    return np.linalg.solve(gram, images.T @ captions).astype(np.float32)
