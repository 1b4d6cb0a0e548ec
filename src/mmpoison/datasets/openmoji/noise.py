"""Banks of seeded noise: a scene cuts a random window out of one, which costs next to nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Texture = Literal["blobs", "grain", "brush", "cells", "streaks", "clouds"]

# feature sizes in 64ths of the image: (width, height) of one lattice cell for each octave
_OCTAVES: dict[Texture, tuple[tuple[float, float], ...]] = {
    "blobs": ((16, 12), (8, 6), (3, 3)),
    "grain": ((4, 4), (2, 2), (1, 1)),
    "brush": ((2, 10), (1, 5), (1, 2)),
    "streaks": ((24, 3), (12, 2), (5, 1)),
    "clouds": ((32, 18), (16, 9), (8, 5), (4, 3)),
}
_WINDOWS = 4  # the bank's side, in images


@lru_cache(maxsize=32)
def noise_bank(texture: Texture, size: int) -> NDArray[np.float32]:
    """Make the bank of one texture for images of ``size``: ``(4 size, 4 size)``, in about [-1, 1]."""
    rng = np.random.default_rng((size, len(texture), ord(texture[0]), ord(texture[-1])))
    side = _WINDOWS * size
    field = _cells(rng, side, size) if texture == "cells" else _fractal(rng, texture, side, size)
    field -= field.mean()
    bank: NDArray[np.float32] = np.clip(field / (2 * field.std()), -1.2, 1.2).astype(np.float32)
    return bank


def _fractal(
    rng: np.random.Generator, texture: Texture, side: int, size: int
) -> NDArray[np.float32]:
    field = np.zeros((side, side), np.float32)
    for octave, (width, height) in enumerate(_OCTAVES[texture]):
        columns = max(2, round(side / (width * size / 64)))
        rows = max(2, round(side / (height * size / 64)))
        lattice = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
        smooth = lattice.resize((side, side), Image.Resampling.BICUBIC)
        field += np.asarray(smooth) * 0.7**octave
    return field


def _cells(rng: np.random.Generator, side: int, size: int) -> NDArray[np.float32]:
    """Round patches with dark seams, as of pebbles: the distance to the nearest seed."""
    step = size / 8
    count = round(side / step)
    corners = np.arange(count) * step
    seeds = np.stack(np.meshgrid(corners, corners), -1) + rng.random((count, count, 2)) * step
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    row, column = (y / step).astype(int), (x / step).astype(int)
    nearest = np.full((side, side), np.inf, np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            seed = seeds[np.clip(row + dy, 0, count - 1), np.clip(column + dx, 0, count - 1)]
            distance = np.hypot(seed[..., 0] - x, seed[..., 1] - y).astype(np.float32)
            np.minimum(nearest, distance, out=nearest)
    return -nearest


def window(rng: np.random.Generator, texture: Texture, size: int) -> NDArray[np.float32]:
    """Return a random ``(size, size, 1)`` view into the texture's bank."""
    bank = noise_bank(texture, size)
    span = (_WINDOWS - 1) * size
    y, x = int(rng.random() * span), int(rng.random() * span)
    return bank[y : y + size, x : x + size, None]
