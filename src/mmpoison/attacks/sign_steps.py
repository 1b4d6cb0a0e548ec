"""Changes images within a bound so that a surrogate embeds them elsewhere: projected steps by the gradient's sign."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmpoison.attacks.surrogate import PixelSurrogate, PixelValues, Vectors
from mmpoison.images.preparation import Pixels

BATCH = 32
STEP = 0.2
"""Size of a step in levels of 255, as in the released code; halved for the second half of the steps."""


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
        surrogate: The model that the attacker knows.
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
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Change images so that a surrogate embeds each near its target (projected gradient descent, L-infinity).

    It starts at random within the bound, and each image's best place is returned, rounded to whole numbers. As the
    bound is a whole number, no rounded value is outside of it.

    Args:
        surrogate: The model that the attacker knows.
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
    batches = range(0, len(pixels), BATCH)
    for number, start in enumerate(batches):
        rows = slice(start, start + BATCH)
        clean = pixels[rows].astype(np.float32)
        noise = rng.uniform(-epsilon, epsilon, clean.shape)
        place = np.clip(clean + noise, 0, 255).astype(np.float32)
        best, nearest = clean.copy(), np.full(len(clean), -np.inf, dtype=np.float32)
        for step in range(steps):
            size = STEP if 2 * step < steps else STEP / 2
            moved, cosine = sign_step(surrogate, place, clean, target[rows], epsilon, size)
            better = cosine > nearest
            best[better], nearest[better] = place[better], cosine[better]
            place = moved
            if progress is not None:
                progress(number * steps + step + 1, len(batches) * steps)
        changed[rows] = np.round(best)
    return changed
