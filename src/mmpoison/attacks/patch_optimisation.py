"""Optimises a patch through a surrogate, so that images which carry it are embedded near a target class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.surrogate import PixelSurrogate, PixelValues, Vectors
from mmpoison.images.preparation import Pixels

BATCH = 64
BETAS = (0.9, 0.999)
TINY = 1e-8
"""Constants of Adam."""


@dataclass(frozen=True)
class PatchSettings:
    """How a patch is optimised.

    Attributes:
        steps: Steps of Adam.
        learning_rate: Of Adam, where pixels are in [0, 1].
        triplet_weight: What the triplet loss is multiplied with; the loss by captions has weight one.
        margin: By how much the positive must be nearer than the negative, as a distance of unit vectors.
    """

    steps: int
    learning_rate: float
    triplet_weight: float
    margin: float


@dataclass(frozen=True)
class PatchData:
    """What a patch is optimised on.

    Attributes:
        pixels: Clean images of other classes, shape `(n, size, size, 3)`.
        rows: How much each cell of the pattern covers of their rows, of `coverage`, shape `(n, size, cells)`.
        columns: The same of their columns.
        clean: Their unit embeddings, shape `(n, d)`.
        own: Unit embeddings of a true caption of each, shape `(n, d)`.
        captions: Unit embeddings of captions of the target class, shape `(m, d)`.
        images: Unit embeddings of images of the target class, shape `(p, d)`.
    """

    pixels: Pixels
    rows: Vectors
    columns: Vectors
    clean: Vectors
    own: Vectors
    captions: Vectors
    images: Vectors


def caption_loss(
    images: Vectors, target: Vectors, others: Vectors, scale: float
) -> tuple[float, Vectors]:
    """Compute CLIP's loss of images by captions: each is to choose its target caption among the others.

    The others are the true captions of the batch. The target captions of a batch are not compared with each other, as
    in the released code: all of them name one class, so that their comparison says nothing of the class.

    Args:
        images: Unit embeddings, shape `(n, d)`.
        target: The target caption of each, shape `(n, d)`.
        others: Captions that it is compared with, shape `(k, d)`.
        scale: Multiplies the cosines.

    Returns:
        The mean loss, and its gradient by the images, shape `(n, d)`.

    >>> one = np.eye(2, dtype=np.float32)
    >>> round(caption_loss(one[:1], one[:1], one[1:], 1.0)[0], 4)  # -log(e / (e + 1))
    0.3133
    """
    logits = scale * np.concatenate(
        [(images * target).sum(axis=1, keepdims=True), images @ others.T], axis=1
    )
    logits -= logits.max(axis=1, keepdims=True)
    share = np.exp(logits)
    share /= share.sum(axis=1, keepdims=True)
    loss = float(-np.log(np.maximum(share[:, 0], 1e-30)).mean())
    gradient = (share[:, :1] - 1) * target + share[:, 1:] @ others
    return loss, (gradient * (scale / len(images))).astype(np.float32)


def triplet_loss(
    images: Vectors, positive: Vectors, negative: Vectors, margin: float
) -> tuple[float, Vectors]:
    """Compute the triplet loss, the mean of `max(0, |i - p| - |i - n| + margin)`.

    Args:
        images: Unit embeddings of images with the patch, shape `(n, d)`.
        positive: For each an image of the target class, shape `(n, d)`.
        negative: Each without the patch, shape `(n, d)`.
        margin: By how much the positive must be nearer.

    Returns:
        The loss, and its gradient by the images, shape `(n, d)`.

    >>> one = np.eye(2, dtype=np.float32)
    >>> round(triplet_loss(one[:1], one[1:], one[:1], 0.1)[0], 4)  # the square root of 2, and the margin
    1.5142
    """
    to_positive, to_negative = images - positive, images - negative
    near = np.linalg.norm(to_positive, axis=1, keepdims=True)
    far = np.linalg.norm(to_negative, axis=1, keepdims=True)
    excess = near - far + margin
    gradient = to_positive / np.maximum(near, 1e-6) - to_negative / np.maximum(far, 1e-6)
    loss = float(np.maximum(excess, 0).mean())
    return loss, (gradient * (excess > 0) / len(images)).astype(np.float32)


def coverage(size: int, begin: float, side: float, cells: int) -> Vectors:
    """Return how much of each pixel of a line each cell of a pattern covers.

    Args:
        size: Pixels of the line.
        begin: Where the pattern begins, in pixels.
        side: Its length, in pixels.
        cells: Cells of the pattern.

    Returns:
        Shares in [0, 1], shape `(size, cells)`; a row's sum is the share of the pixel that the pattern covers.

    >>> coverage(4, 0.5, 3.0, 1).T.tolist()
    [[0.5, 1.0, 1.0, 0.5]]
    """
    edges = begin + side * np.arange(cells + 1) / cells
    pixel = np.arange(size)[:, None]
    overlap = np.minimum(pixel + 1, edges[1:]) - np.maximum(pixel, edges[:-1])
    return np.asarray(np.maximum(overlap, 0), dtype=np.float32)


def put_on(
    pixels: npt.NDArray[Any], pattern: PixelValues, rows: Vectors, columns: Vectors
) -> PixelValues:
    """Put a pattern on images.

    Args:
        pixels: RGB in [0, 255], shape `(n, size, size, 3)`.
        pattern: RGB in [0, 255], shape `(cells, cells, 3)`.
        rows: Of `coverage`, shape `(n, size, cells)`.
        columns: Of `coverage`, shape `(n, size, cells)`.

    Returns:
        New images, shape as `pixels`.
    """
    hidden = rows.sum(axis=2)[:, :, None, None] * columns.sum(axis=2)[:, None, :, None]
    seen = np.einsum("nra,abk,ncb->nrck", rows, pattern, columns, optimize=True)
    return np.asarray(pixels * (1 - hidden) + seen, dtype=np.float32)


def patch_step(
    surrogate: PixelSurrogate,
    data: PatchData,
    pattern: PixelValues,
    batch: npt.NDArray[np.intp],
    captions: npt.NDArray[np.intp],
    images: npt.NDArray[np.intp],
    settings: PatchSettings,
) -> tuple[float, PixelValues]:
    """Compute the loss of a patch on a batch, and its gradient.

    Args:
        surrogate: The model that the attacker knows.
        data: What it is optimised on.
        pattern: RGB in [0, 1], shape `(cells, cells, 3)`.
        batch: The images of the batch, shape `(n,)`.
        captions: The target caption of each, shape `(n,)`.
        images: The image of the target class of each, shape `(n,)`.
        settings: Weight and margin of the triplet loss.

    Returns:
        The loss, and its gradient by the pattern, shape as the pattern.
    """
    rows, columns = data.rows[batch], data.columns[batch]
    seen = put_on(data.pixels[batch], pattern * np.float32(255), rows, columns)
    vectors, pull_back = surrogate.differentiate(seen)
    by_text, text_gradient = caption_loss(
        vectors, data.captions[captions], data.own[batch], surrogate.logit_scale
    )
    by_image, image_gradient = triplet_loss(
        vectors, data.images[images], data.clean[batch], settings.margin
    )
    weight = np.float32(settings.triplet_weight)
    by_pixels = pull_back(text_gradient + weight * image_gradient)
    by_pattern = np.einsum("nra,nrck,ncb->abk", rows, by_pixels, columns, optimize=True)
    return by_text + settings.triplet_weight * by_image, 255 * by_pattern


def optimise_patch(
    surrogate: PixelSurrogate,
    data: PatchData,
    settings: PatchSettings,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Pixels, list[float]]:
    """Optimise a patch with Adam.

    Args:
        surrogate: The model that the attacker knows.
        data: What it is optimised on.
        settings: Steps, rate, weight and margin.
        rng: Draws the first patch and the batches.
        progress: Called with (done, total).

    Returns:
        The pattern in whole numbers, shape `(cells, cells, 3)`; and the loss before each step.
    """
    cells = data.rows.shape[2]
    pattern = np.clip(rng.normal(0.5, 0.25, (cells, cells, 3)), 0, 1).astype(np.float32)
    first, second = np.zeros_like(pattern), np.zeros_like(pattern)
    losses: list[float] = []
    batch = min(BATCH, len(data.pixels))
    order = np.empty(0, dtype=np.intp)
    for step in range(1, settings.steps + 1):
        if len(order) < batch:
            order = rng.permutation(len(data.pixels))
        chosen, order = order[:batch], order[batch:]
        captions = rng.integers(len(data.captions), size=batch)
        images = rng.integers(len(data.images), size=batch)
        loss, gradient = patch_step(surrogate, data, pattern, chosen, captions, images, settings)
        losses.append(loss)
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, spread = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
        change = settings.learning_rate * mean / (np.sqrt(spread) + TINY)
        pattern = np.clip(pattern - change, 0, 1).astype(np.float32)
        if progress is not None:
            progress(step, settings.steps)
    return np.round(pattern * 255).astype(np.uint8), losses
