"""Triggers: each pixel equals a slow version written from the description, at any size of image."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import refusal

from mmpoison.images.triggers import (
    LONGEST_SHORT_SIDE,
    BlendTrigger,
    PatchTrigger,
    Trigger,
    random_bytes,
    read_trigger,
    source_pixels,
    trigger_record,
    triggered_pixels,
)

PATCH = PatchTrigger(random_bytes("a test", 48), 4)
SIZES = [(40, 36), (36, 140), (224, 224), (7, 90), (1, 1)]


def picture_of(size: tuple[int, int], seed: int = 0) -> Any:
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rounded(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def cell_mean(grid: Any, across: int, down: int, side: int) -> list[int]:
    """The mean colour of what one of side x side pixels covers of a grid of cells."""
    cells = len(grid)

    def weights(pixel: int) -> dict[int, Fraction]:
        start, stop = Fraction(pixel * cells, side), Fraction((pixel + 1) * cells, side)
        parts = {c: min(stop, Fraction(c + 1)) - max(start, Fraction(c)) for c in range(cells)}
        return {c: part for c, part in parts.items() if part > 0}

    whole = Fraction(cells, side) ** 2
    return [
        rounded(
            sum(
                (
                    u * v * int(grid[y][x][band])
                    for y, v in weights(down).items()
                    for x, u in weights(across).items()
                ),
                Fraction(0),
            )
            / whole
        )
        for band in range(3)
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", [(1000, 1000), (0, 0), (500, 500), (137, 862)])
def test_a_patch(size: tuple[int, int], place: tuple[int, int]) -> None:
    before = picture_of(size)
    after = PATCH.apply(before, {"across": place[0], "down": place[1]})
    assert np.array_equal(before, picture_of(size))
    short = min(size)
    side = max(1, rounded(Fraction(16 * short, 224)))
    left, top = (
        (length - short) // 2 + rounded(Fraction((short - side) * part, 1000))
        for length, part in zip(size, place, strict=True)
    )
    grid = np.frombuffer(PATCH.pattern, np.uint8).reshape(4, 4, 3)
    expected = before.copy()
    for y in range(side):
        for x in range(side):
            expected[top + y, left + x] = cell_mean(grid, x, y, side)
    assert np.array_equal(after, expected)


@pytest.mark.parametrize("size", [(40, 36), (36, 40), (100, 75), (1, 1)])
@pytest.mark.parametrize("noise", ["fixed", "per-image"])
@pytest.mark.parametrize("cell", [4, 28])
def test_blended_noise(size: tuple[int, int], noise: Any, cell: int) -> None:
    trigger = BlendTrigger(3, noise, cell=cell)
    how = trigger.draw(np.random.default_rng(0))
    before = picture_of(size)
    after = trigger.apply(before, how)
    stream = "blend/3" if noise == "fixed" else f"blend/3/{how['number']}"
    cells, short = 224 // cell, min(size)
    grid = np.frombuffer(random_bytes(stream, 3 * cells**2), np.uint8).reshape(cells, cells, 3)
    left, top = ((length - short) // 2 for length in size)
    for y, x in {(0, 0), (size[1] - 1, size[0] - 1), (size[1] // 2, size[0] // 3)}:
        other = cell_mean(grid.tolist(), (x - left) % short, (y - top) % short, short)
        for band in range(3):
            mixed = Fraction(8 * int(before[y, x, band]) + 2 * other[band], 10)
            assert after[y, x, band] == rounded(mixed)


def test_the_same_bytes_everywhere() -> None:
    assert random_bytes("blend/0", 4).hex() == "e2562f39"
    places = {
        place: PatchTrigger(bytes(3), 1, place).draw(np.random.default_rng(0))
        for place in ("corner", "centre")
    }
    assert places == {
        "corner": {"across": 1000, "down": 1000},
        "centre": {"across": 500, "down": 500},
    }
    rng = np.random.default_rng(0)
    drawn = [PatchTrigger(bytes(3), 1, "random").draw(rng) for _ in range(20)]
    assert len({tuple(place.values()) for place in drawn}) == 20


@pytest.mark.parametrize("trigger", [PATCH, BlendTrigger(2, "per-image", 150, 7)])
def test_a_record_comes_back(trigger: Trigger) -> None:
    assert read_trigger(trigger_record(trigger)) == trigger


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "kind"),
        ({"kind": "script"}, "script"),
        ({"kind": "patch", "pattern": "AAAA", "cells": 4}, "4 x 4 RGB cells"),
        ({"kind": "patch", "pattern": "AAAA", "cells": 1, "side": 300}, "is larger than 224"),
        ({"kind": "blend", "seed": 0, "view": 10**9}, "1024"),
        ({"kind": "blend", "seed": 0, "path": "/"}, "path"),
    ],
)
def test_a_record_that_is_none(record: dict[str, Any], says: str) -> None:
    assert says in refusal(read_trigger, record)


@pytest.mark.parametrize("how", [{}, {"across": 1001, "down": 0}, {"across": 0, "down": 0, "x": 1}])
def test_a_place_that_is_none(how: dict[str, Any]) -> None:
    assert "place of a patch" in refusal(PATCH.apply, picture_of((40, 36)), how)


def test_large_images_are_reduced(tmp_path: Path) -> None:
    Image.fromarray(picture_of((1300, 600))).save(tmp_path / "large.png")
    Image.fromarray(picture_of((500, 375))).save(tmp_path / "usual.png")
    assert source_pixels(tmp_path, "large.png").shape == (LONGEST_SHORT_SIDE, 1109, 3)
    assert np.array_equal(source_pixels(tmp_path, "usual.png"), picture_of((500, 375)))
    made = triggered_pixels(tmp_path, "large.png", PATCH, {"across": 1000, "down": 1000})
    assert made.shape == (LONGEST_SHORT_SIDE, 1109, 3)
