"""Paints a place: light, a horizon or a floor line, texture, and what marks the place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmpoison.datasets.openmoji.scene_data import Layout, Place, Pool, Ramp

# -- Banks of seeded noise: a scene cuts a random window out of one, which costs next to nothing.


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


Canvas = NDArray[np.float32]

# Each pool draws its colours from its own part of every ramp, and has a texture of its own.
_RAMP_RANGE: Mapping[Pool, tuple[float, float]] = {"pretraining": (0.0, 0.7), "demo": (0.3, 1.0)}
_TEXTURES: Mapping[Pool, tuple[Texture, ...]] = {
    "pretraining": ("blobs", "grain", "brush"),
    "demo": ("blobs", "grain", "cells"),
}
_SLEEPER = np.array((104, 76, 56), np.float32)
_STEEL = np.array((92, 92, 100), np.float32)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Canvas, Canvas]:
    """Return rows ``(size, 1, 1)`` and columns ``(1, size, 1)``, both from 0 to 1."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return axis[:, None, None], axis[None, :, None]


@dataclass(frozen=True)
class _Brush:
    """The tools of every painter: the generator, the pool's choices and the coordinates."""

    rng: np.random.Generator
    pool: Pool
    size: int
    y: Canvas
    x: Canvas

    def colour(self, ramp: Ramp) -> Canvas:
        """Draw a colour from the pool's part of the ramp: ``(3,)``."""
        low, high = _RAMP_RANGE[self.pool]
        t = low + (high - low) * self.rng.random()
        a, b = np.asarray(ramp, np.float32)
        mixed: Canvas = a + (b - a) * np.float32(t)
        return mixed + (self.rng.random(3, np.float32) - np.float32(0.5)) * 26

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def noise(self, texture: Texture | None = None) -> Canvas:
        if texture is None:
            options = _TEXTURES[self.pool]
            texture = options[int(self.rng.random() * len(options))]
        return window(self.rng, texture, self.size)

    def flat(self, colour: Canvas) -> Canvas:
        return np.broadcast_to(colour, (self.size, self.size, 3)).copy()


def paint(place: Place, rng: np.random.Generator, pool: Pool, size: int) -> tuple[Canvas, float]:
    """Paint a place.

    Returns:
        The canvas ``(size, size, 3)`` in 0..255 as float32, not clipped, and the horizon: the
        height, as a fraction from the top, from which the ground reaches down (1 in the sky).
    """
    y, x = _grid(size)
    brush = _Brush(rng, pool, size, y, x)
    canvas, horizon = _PAINTERS[place.layout](place, brush)
    _light(canvas, brush)
    return canvas, horizon


def _light(canvas: Canvas, b: _Brush) -> None:
    """Make a gradient of light from a random side, with a little grain."""
    dx, dy, strength = b.between(-1, 1), b.between(-1, 0.4), b.between(0.06, 0.22)
    canvas *= (1 + strength * (dx * (b.x - 0.5) + dy * (b.y - 0.5))) * b.between(0.9, 1.06)
    canvas += b.noise("grain") * np.float32(b.between(1, 4))


def _sky(b: _Brush, top: Canvas, bottom: Canvas, clouds: float) -> Canvas:
    canvas = top + (bottom - top) * b.y + np.zeros_like(b.x)
    if clouds > 0:
        cover = np.clip(b.noise("clouds") - np.float32(0.9 - clouds), 0, 0.8)
        canvas += (np.float32(250) - canvas) * cover
    return canvas


def _upper(place: Place, b: _Brush) -> Canvas:
    top = b.colour(place.upper)
    return _sky(b, top, top + (np.float32(246) - top) * np.float32(0.5), b.between(0.1, 0.7))


def _ground(canvas: Canvas, b: _Brush, ramp: Ramp, edge: Canvas | float, depth: float) -> None:
    """Fill below ``edge`` with a textured colour that darkens towards the viewer."""
    strength = np.float32(b.between(9, 19))
    soil = b.colour(ramp) * (1.08 - depth * b.y) + b.noise() * strength
    _cover(canvas, soil, b, edge)


def _cover(canvas: Canvas, paint_: Canvas, b: _Brush, edge: Canvas | float) -> None:
    """Lay ``paint_`` over everything below ``edge``, with a one-pixel soft border."""
    mask = np.clip((b.y - np.float32(edge)) * b.size + np.float32(0.5), 0, 1)
    canvas += (paint_ - canvas) * mask


def _ridge(b: _Brush, base: float, height: float, waves: float) -> Canvas:
    """Make a skyline: heights ``(1, size, 1)`` around ``base``."""
    phase = b.rng.random(3, np.float32) * np.float32(2 * np.pi)
    x = b.x * np.float32(2 * np.pi * waves)
    wave = (
        np.sin(x + phase[0]) + 0.5 * np.sin(2.1 * x + phase[1]) + 0.3 * np.sin(4.3 * x + phase[2])
    )
    line: Canvas = base - height * (0.5 + 0.4 * wave)
    return line


def _open(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    horizon = b.between(0.38, 0.6)
    if place.far is not None:
        line = _ridge(b, horizon, b.between(0.06, 0.22), b.between(0.5, 1.8))
        far = b.colour(place.far) + b.noise("blobs") * np.float32(8)
        _cover(canvas, far, b, line)
    edge = _ridge(b, horizon, b.between(0.0, 0.05), b.between(0.3, 1.0))
    _ground(canvas, b, place.lower, edge, 0.28)
    return canvas, horizon


def _sky_only(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _sky(b, b.colour(place.upper), b.colour(place.lower), b.between(0.2, 1.1))
    return canvas, 1.0


def _water(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    horizon = b.between(0.36, 0.56)
    if place.far is not None:
        line = _ridge(b, horizon, b.between(0.05, 0.14), b.between(0.5, 1.5))
        _cover(canvas, b.colour(place.far) + b.noise("blobs") * np.float32(8), b, line)
    sea = b.colour(place.lower) * (1.1 - 0.3 * b.y)
    sea = sea + b.noise("streaks") * np.float32(b.between(10, 22))
    _cover(canvas, sea, b, horizon)
    return canvas, horizon


def _road(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    horizon = b.between(0.36, 0.52)
    if place.far is not None:
        _ground(canvas, b, place.far, _ridge(b, horizon, b.between(0, 0.1), 1.0), 0.2)
    top = horizon + b.between(0.06, 0.16)
    _tarmac(canvas, b, place.lower, top, dashed=True)
    return canvas, top


def _tarmac(canvas: Canvas, b: _Brush, ramp: Ramp, top: float, *, dashed: bool) -> None:
    _ground(canvas, b, ramp, top, 0.2)
    line = top + (1 - top) * b.between(0.5, 0.7)
    mark = np.abs(b.y - np.float32(line)) < 0.02
    if dashed:
        phase = b.rng.random()
        mark = mark & ((b.x * 3 + np.float32(phase)) % 1 < 0.55)
    canvas += (np.float32(238) - canvas) * (mark * np.float32(0.85))
    kerb = np.abs(b.y - np.float32(top + 0.02)) < 0.012
    canvas += (np.float32(216) - canvas) * (kerb * np.float32(0.6))


def _street(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    foot = b.between(0.48, 0.6)
    if place.far is not None:
        _houses(canvas, b, place.far, foot)
    _ground(canvas, b, ((190, 186, 180), (176, 170, 168)), foot, 0.1)
    top = foot + b.between(0.05, 0.1)
    _tarmac(canvas, b, place.lower, top, dashed=b.rng.random() < 0.6)
    return canvas, top


def _houses(canvas: Canvas, b: _Brush, ramp: Ramp, foot: float) -> None:
    """Draw a row of houses with lit or dark windows, from the left to the right edge."""
    size, bottom, left = b.size, round(foot * b.size), 0
    step = max(3, round(size * 0.085))
    while left < size:
        right = min(size, left + round(size * b.between(0.2, 0.4)))
        top = round(size * b.between(0.02, 0.3))
        wall = b.colour(ramp)
        house = canvas[top:bottom, left:right]
        house[:] = wall
        pane = wall * np.float32(0.55) if b.rng.random() < 0.7 else wall * np.float32(1.3)
        for offset in range(step // 2):
            rows = house[step // 2 + offset :: step + 1]
            for column in range(step // 2):
                rows[:, step // 2 + column :: step + 1] = pane
        house[:, :1] *= np.float32(0.8)
        left = right


def _rails(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    horizon = b.between(0.4, 0.55)
    if place.far is not None:
        _ground(canvas, b, place.far, _ridge(b, horizon, b.between(0.02, 0.12), 1.0), 0.15)
    top = horizon + b.between(0.12, 0.2)
    _ground(canvas, b, place.lower, top, 0.2)
    rail = min(0.93, top + b.between(0.2, 0.26))
    sleepers = (np.abs(b.y - np.float32(rail)) < 0.05) & (b.x * 10 % 1 < 0.5)
    canvas += (_SLEEPER - canvas) * (sleepers * np.float32(0.9))
    for line in (rail - 0.035, rail + 0.03):
        steel = np.abs(b.y - np.float32(line)) < 0.012
        canvas += (_STEEL - canvas) * (steel * np.float32(0.95))
    return canvas, top


def _runway(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = _upper(place, b)
    horizon = b.between(0.4, 0.56)
    if place.far is not None:
        _ground(canvas, b, place.far, horizon - 0.05, 0.1)
    _ground(canvas, b, place.lower, horizon, 0.2)
    # white bars that run towards a vanishing point, as on a threshold
    spread = (b.x - np.float32(b.between(0.35, 0.65))) / (b.y - np.float32(horizon - 0.1) + 1e-3)
    bars = (np.abs(spread) < 0.9) & (spread * 2.5 % 1 < 0.3) & (b.y > horizon + 0.12)
    canvas += (np.float32(236) - canvas) * (bars * np.float32(0.7))
    return canvas, horizon


def _room(place: Place, b: _Brush) -> tuple[Canvas, float]:
    wall = b.colour(place.upper)
    canvas = b.flat(wall) + b.noise("blobs") * np.float32(6)
    style = b.rng.random()
    if style < 0.3:  # striped wallpaper
        canvas -= (b.x * np.float32(b.between(5, 11)) % 1 < 0.5) * np.float32(b.between(6, 16))
    elif style < 0.5 and b.pool == "pretraining":  # tiles
        joint = (b.x * 8 % 1 < 0.12) | (b.y * 8 % 1 < 0.12)
        canvas -= joint * np.float32(16)
    elif style < 0.5:  # wainscot
        canvas -= (b.y > np.float32(b.between(0.35, 0.5))) * np.float32(b.between(14, 26))
    floor = b.between(0.6, 0.74)
    boards = b.colour(place.lower) * (1.12 - 0.22 * b.y) + b.noise("streaks") * np.float32(7)
    joint = (b.y - np.float32(floor)) * np.float32(b.between(10, 16)) % 1 < 0.14
    _cover(canvas, boards * (1 - joint * np.float32(0.14)), b, floor)
    skirting = (b.y > np.float32(floor - 0.035)) & (b.y < np.float32(floor))
    canvas += (np.float32(246) - canvas) * (skirting * np.float32(0.65))
    return canvas, floor


def _shelf(place: Place, b: _Brush) -> tuple[Canvas, float]:
    wall = b.colour(place.upper)
    canvas = b.flat(wall) + b.noise("blobs") * np.float32(5)
    if b.rng.random() < 0.5:
        joint = (b.x * 6 % 1 < 0.08) | (b.y * 6 % 1 < 0.08)
        canvas -= joint * np.float32(15)
    top = b.between(0.74, 0.82)
    wood = b.colour(place.lower) + b.noise("streaks") * np.float32(12)
    _cover(canvas, wood, b, top)
    edge = b.y > np.float32(min(0.97, top + 0.14))
    canvas *= 1 - edge * np.float32(0.25)
    return canvas, top


def _barn(place: Place, b: _Brush) -> tuple[Canvas, float]:
    canvas = b.flat(b.colour(place.upper)) + b.noise("grain") * np.float32(6)
    gap = b.x * np.float32(b.between(6, 9)) % 1 < 0.1
    canvas *= 1 - gap * np.float32(0.35)
    floor = b.between(0.55, 0.7)
    _ground(canvas, b, place.lower, _ridge(b, floor, 0.03, 1.5), 0.2)
    return canvas, floor


_PAINTERS: Mapping[Layout, Callable[[Place, _Brush], tuple[Canvas, float]]] = {
    "open": _open,
    "sky": _sky_only,
    "water": _water,
    "road": _road,
    "street": _street,
    "rails": _rails,
    "runway": _runway,
    "room": _room,
    "shelf": _shelf,
    "barn": _barn,
}
