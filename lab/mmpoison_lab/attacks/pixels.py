"""Optimises pixels through a surrogate: images within a bound, or the pattern of a patch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.attacks import PixelSurrogate, PixelValues, Vectors
from mmpoison.base import CacheKey, ContentCache, Progress, code_version, fast_gradients
from mmpoison.images import PatchTrigger, Pixels, Preparation, source_pixels
from mmpoison.pairs import IntArray, PairDataset

Array = npt.NDArray[Any]

EMBED_BATCH = 64
"""Images embedded at a time."""


def optimised(
    surrogate: PixelSurrogate,
    attack: str,
    make: Callable[[], Array],
    *,
    inputs: Sequence[Array],
    settings: Mapping[str, Any],
    code: str,
) -> Array:
    """Compute the result of an optimisation, or read it from the cache.

    A resumed run poisons its data again. It must get the same pixels, without recomputing them.

    Args:
        surrogate: The attacker's own model.
        attack: Name of the attack.
        make: Computes the result.
        inputs: Arrays that the result depends on.
        settings: Further settings that it depends on, including the seed, as JSON values.
        code: Module that computes the result.
    """

    def result() -> dict[str, Array]:
        with fast_gradients():
            return {"result": make()}

    digest = hashlib.sha256()
    for array in inputs:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    key = CacheKey(
        "attack-pixels",
        {
            "attack": attack,
            "surrogate": dict(surrogate.identity),
            "inputs": digest.hexdigest(),
            "settings": dict(settings),
            "code": code_version(code),
        },
        f"pixels of {attack} by {surrogate.name}",
    )
    return ContentCache().arrays(key, result, "result")[0]


def surrogate_note(surrogate: PixelSurrogate, measured: str) -> str:
    """Return a manifest note on an attack's surrogate, and what the attack achieved on it.

    Args:
        surrogate: The model.
        measured: Measurement on the surrogate, for example "cosine 0.2 before, 0.7 after".
    """
    weights = str(surrogate.identity.get("weights", ""))[:12]
    return f"surrogate {surrogate.name} (weights {weights}…): {measured}"


def nearer_note(surrogate: PixelSurrogate, label: str, before: float, after: float) -> str:
    """Return a `surrogate_note` on how near images were moved to those of a class."""
    return surrogate_note(
        surrogate, f"mean cosine with images of {label} {before:.3f} before, {after:.3f} after"
    )


def embed_pixels(surrogate: PixelSurrogate, pixels: Array) -> Vectors:
    """Embed images `(n, size, size, 3)` without gradients; returns unit embeddings `(n, d)`."""
    parts = [
        surrogate.differentiate(pixels[start : start + EMBED_BATCH].astype(np.float32))[0]
        for start in range(0, len(pixels), EMBED_BATCH)
    ]
    return np.concatenate(parts)


# -- images within a bound -------------------------------------------------------------------------

SIGN_BATCH = 32

SIGN_STEP = 0.2
"""Step size in levels of 255, as in the released code; halved for the second half of the steps."""


def sign_step(
    surrogate: PixelSurrogate,
    pixels: PixelValues,
    clean: PixelValues,
    target: Vectors,
    epsilon: int,
    step: float,
) -> tuple[PixelValues, Vectors]:
    """Move images one step towards target embeddings, and back into the bound.

    Args:
        surrogate: The attacker's own model.
        pixels: RGB in [0, 255], shape `(n, size, size, 3)`.
        clean: The images before any step, shape as `pixels`.
        target: Unit embeddings, shape `(n, d)`.
        epsilon: Largest change of a value, in levels of 255.
        step: Change of every value, in levels of 255.

    Returns:
        The new images, and the cosine of the old ones with their targets, shape `(n,)`.
    """
    vectors, pull_back = surrogate.differentiate(pixels)
    # the squared distance of unit vectors is two minus twice the cosine
    gradient = pull_back(-2 * target)
    moved = pixels - np.float32(step) * np.sign(gradient)
    bound = np.clip(moved, clean - epsilon, clean + epsilon)
    return np.clip(bound, 0, 255).astype(np.float32), (vectors * target).sum(axis=1)


def collide(
    surrogate: PixelSurrogate,
    pixels: Pixels,
    target: Vectors,
    *,
    epsilon: int,
    steps: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Pixels:
    """Move the surrogate's embeddings of images to their targets (projected gradient descent, L-infinity).

    Starts at random within the bound, and returns the best version of each image, rounded to whole numbers. The bound
    is a whole number, so rounded values stay within it.

    Args:
        surrogate: The attacker's own model.
        pixels: Clean images, shape `(n, size, size, 3)`.
        target: Unit embeddings, shape `(n, d)`.
        epsilon: Largest change of a value, in levels of 255.
        steps: Number of steps.
        rng: Draws the starts.
        progress: Called with (done, total).

    Returns:
        The changed images, shape as `pixels`.
    """
    changed = np.empty_like(pixels)
    batches = range(0, len(pixels), SIGN_BATCH)
    for number, start in enumerate(batches):
        rows = slice(start, start + SIGN_BATCH)
        clean = pixels[rows].astype(np.float32)
        noise = rng.uniform(-epsilon, epsilon, clean.shape)
        place = np.clip(clean + noise, 0, 255).astype(np.float32)
        best, nearest = clean.copy(), np.full(len(clean), -np.inf, dtype=np.float32)
        for step in range(steps):
            size = SIGN_STEP if 2 * step < steps else SIGN_STEP / 2
            moved, cosine = sign_step(surrogate, place, clean, target[rows], epsilon, size)
            better = cosine > nearest
            best[better], nearest[better] = place[better], cosine[better]
            place = moved
            if progress is not None:
                progress(number * steps + step + 1, len(batches) * steps)
        changed[rows] = np.round(best)
    return changed


# -- a patch ---------------------------------------------------------------------------------------

PATCH_BATCH = 64

BETAS = (0.9, 0.999)

TINY = 1e-8
"""Constants of Adam."""


@dataclass(frozen=True)
class PatchSettings:
    """Settings for optimising a patch.

    Attributes:
        steps: Steps of Adam.
        learning_rate: Adam's learning rate, for pixels in [0, 1].
        triplet_weight: Weight of the triplet loss; the caption loss has weight one.
        margin: Margin by which the positive must be nearer than the negative, as a distance of unit vectors.
    """

    steps: int
    learning_rate: float
    triplet_weight: float
    margin: float


@dataclass(frozen=True)
class PatchData:
    """Data for optimising a patch.

    Attributes:
        pixels: Clean images of other classes, shape `(n, size, size, 3)`.
        rows: Coverage of their rows by each cell of the pattern, from `coverage`, shape `(n, size, cells)`.
        columns: The same for their columns.
        clean: Their unit embeddings, shape `(n, d)`.
        own: Unit embeddings of one true caption per image, shape `(n, d)`.
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
    """Compute CLIP's image-to-caption loss, in which each image must match its target caption better than the others.

    The others are the true captions of the batch. Unlike in the released code, target captions of a batch are not
    compared with each other: all name one class, so comparing them carries no information about the class.

    Args:
        images: Unit embeddings, shape `(n, d)`.
        target: Embedding of each image's target caption, shape `(n, d)`.
        others: Embeddings of the other captions, shape `(k, d)`.
        scale: Multiplies the cosines.

    Returns:
        The mean loss, and its gradient with respect to the images, shape `(n, d)`.

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
        positive: An image of the target class for each, shape `(n, d)`.
        negative: The same images without the patch, shape `(n, d)`.
        margin: Margin by which the positive must be nearer.

    Returns:
        The loss, and its gradient with respect to the images, shape `(n, d)`.

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
    """Return the share of each pixel of a line that each cell of a pattern covers.

    Args:
        size: Pixels of the line.
        begin: Start of the pattern, in pixels.
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
    """Put a pattern onto images.

    Args:
        pixels: RGB in [0, 255], shape `(n, size, size, 3)`.
        pattern: RGB in [0, 255], shape `(cells, cells, 3)`.
        rows: From `coverage`, shape `(n, size, cells)`.
        columns: From `coverage`, shape `(n, size, cells)`.

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
        surrogate: The attacker's own model.
        data: Data for the optimisation.
        pattern: RGB in [0, 1], shape `(cells, cells, 3)`.
        batch: The images of the batch, shape `(n,)`.
        captions: The target caption of each, shape `(n,)`.
        images: The image of the target class of each, shape `(n,)`.
        settings: Weight and margin of the triplet loss.

    Returns:
        The loss, and its gradient with respect to the pattern, in the pattern's shape.
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
    progress: Progress | None = None,
) -> tuple[Pixels, list[float]]:
    """Optimise a patch with Adam.

    Args:
        surrogate: The attacker's own model.
        data: Data for the optimisation.
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
    batch = min(PATCH_BATCH, len(data.pixels))
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


def covered(
    pairs: PairDataset,
    images: IntArray,
    trigger: PatchTrigger,
    preparation: Preparation,
    cells: int,
) -> tuple[Vectors, Vectors]:
    """Return a trigger's coverage of the rows and columns of preprocessed images, shapes `(n, size, cells)`."""
    size = preparation.image_size
    how = trigger.draw(np.random.default_rng(0))
    rows: list[Vectors] = []
    columns: list[Vectors] = []
    for index in images:
        height, width, _ = source_pixels(pairs.root, str(pairs.images.ids[index])).shape
        left, top, side = trigger.where(height, width, how)
        for lines, begin, length in ((rows, top, height), (columns, left, width)):
            both = (height, width)
            whole = {"shortest": min(both), "longest": max(both), "squash": length}
            scale = size / whole[preparation.resize_mode]
            # the centre of an image stays the centre
            seen = (begin - length / 2) * scale + size / 2
            lines.append(coverage(size, seen, side * scale, cells))
    return np.stack(rows), np.stack(columns)
