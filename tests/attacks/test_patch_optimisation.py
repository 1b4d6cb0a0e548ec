"""The optimisation of BadCLIP's patch: losses, gradients, the place of the patch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import PixelToy

from mmpoison.attacks.pixels import (
    PatchData,
    PatchSettings,
    caption_loss,
    coverage,
    covered,
    optimise_patch,
    patch_step,
    put_on,
    triplet_loss,
)
from mmpoison.attacks.surrogate import unit
from mmpoison.base.seeding import generator
from mmpoison.datasets import PairDataset
from mmpoison.images import PixelStore, Preparation
from mmpoison.images.triggers import PatchTrigger, prepared_with_trigger

TOY = PixelToy()
SETTINGS = PatchSettings(steps=200, learning_rate=0.01, triplet_weight=2.0, margin=0.1)


def vectors(name: str, count: int, size: int = 24) -> Any:
    return unit(generator(0, name).standard_normal((count, size)))


def by_differences(loss: Any, place: Any, size: float = 1e-3) -> Any:
    gradient = np.zeros_like(place, dtype=float)
    for index in np.ndindex(place.shape):
        ahead, behind = place.astype(float), place.astype(float)
        ahead[index] += size
        behind[index] -= size
        gradient[index] = (loss(ahead) - loss(behind)) / (2 * size)
    return gradient


def test_the_loss_by_captions_by_hand() -> None:
    image = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    target = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    others = np.array([[1.0, 0.0]], np.float32)
    # the cosines are 0 and 1 of the first image, 0.8 and 0.6 of the second; times 2
    first = -math.log(math.exp(0) / (math.exp(0) + math.exp(2)))
    second = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2)))
    loss, gradient = caption_loss(image, target, others, 2.0)
    assert loss == pytest.approx((first + second) / 2, rel=1e-5)
    plain = by_differences(lambda place: caption_loss(place, target, others, 2.0)[0], image)
    np.testing.assert_allclose(gradient, plain, atol=1e-4)


def test_target_captions_are_no_rivals_of_each_other() -> None:
    """The released code compares the target captions of a batch with each other, and that loss stays as it is."""
    caption = vectors("one", 1).repeat(4, axis=0)
    apart, near = vectors("image", 4), caption
    own = vectors("own", 4)
    assert caption_loss(apart, caption, caption[1:], 10.0)[0] == pytest.approx(math.log(4))
    assert caption_loss(near, caption, caption[1:], 10.0)[0] == pytest.approx(math.log(4))
    assert (
        caption_loss(near, caption, own, 10.0)[0] < caption_loss(apart, caption, own, 10.0)[0] - 1
    )


def test_the_triplet_loss_by_hand() -> None:
    image = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    positive = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    negative = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    # the second is 0 from its positive and the square root of 2 from its negative: no loss, no gradient
    first = math.sqrt(2) - math.sqrt(0.4**2 + 0.8**2) + 0.1
    loss, gradient = triplet_loss(image, positive, negative, 0.1)
    assert loss == pytest.approx(first / 2, rel=1e-5)
    assert not gradient[1].any()
    plain = by_differences(lambda place: triplet_loss(place, positive, negative, 0.1)[0], image)
    np.testing.assert_allclose(gradient[0], plain[0], atol=1e-3)


@pytest.mark.parametrize(
    ("size", "side", "cells"), [(224, 16.0, 16), (64, 64 / 14, 5), (9, 3.0, 3)]
)
def test_how_much_of_each_pixel_is_covered(size: int, side: float, cells: int) -> None:
    covered = coverage(size, (size - side) / 2, side, cells)
    assert covered.shape == (size, cells)
    np.testing.assert_allclose(covered.sum(axis=0), side / cells, rtol=1e-4)
    share = covered.sum(axis=1)
    assert share.max() == pytest.approx(1)
    np.testing.assert_allclose(share, share[::-1], atol=1e-5)
    inside = np.flatnonzero(share)
    assert inside[0] == math.floor((size - side) / 2)
    assert inside[-1] == math.ceil((size + side) / 2) - 1


def lines(count: int, begin: float, side: float, cells: int, size: int = 16) -> Any:
    return np.repeat(coverage(size, begin, side, cells)[None], count, axis=0)


def test_a_patch_is_put_where_it_is_seen() -> None:
    pixels = generator(0, "pixels").integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pattern = generator(0, "pattern").integers(0, 256, (2, 2, 3)).astype(np.float32)
    result = put_on(pixels, pattern, lines(2, 3, 2, 2, 8), lines(2, 4, 2, 2, 8))
    expected = pixels.astype(np.float32)
    expected[:, 3:5, 4:6] = pattern
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_a_model_sees_it_there(squares: PairDataset, mode: Any) -> None:
    """The trigger puts a patch into the file, which is prepared; against putting it on the prepared image."""
    preparation = Preparation(20, mode)
    images = squares.images.indices(split="train", label="sheep")[:3]
    colours = generator(0, "colours").integers(0, 256, (1, 1, 3), dtype=np.uint8)
    trigger = PatchTrigger(colours.tobytes(), 1, place="centre", side=80)
    rows, columns = covered(squares, images, trigger, preparation, 1)
    ids = [str(squares.images.ids[index]) for index in images]
    how = trigger.draw(np.random.default_rng(0))
    true = np.stack(
        [prepared_with_trigger(squares.root, name, trigger, how, preparation) for name in ids]
    ).astype(float)
    clean = PixelStore.decode(squares, preparation, indices=images).pixels
    ours = put_on(clean, colours.astype(np.float32), rows, columns)
    assert np.abs(ours - true).mean() < 0.15 * np.abs(true - clean).mean()


@pytest.fixture(scope="module")
def data() -> PatchData:
    pixels = generator(0, "clean").integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    clean = TOY.differentiate(pixels)[0]
    target = vectors("target", 1)
    return PatchData(
        pixels,
        lines(12, 6, 4.0, 4),
        lines(12, 5.5, 4.0, 4),
        clean,
        unit(clean + 0.1 * vectors("own captions", 12)),
        unit(target + 0.1 * vectors("captions", 5)),
        unit(target + 0.1 * vectors("images", 4)),
    )


def test_a_step_against_the_formula(data: PatchData) -> None:
    pattern = generator(0, "start").uniform(0.2, 0.8, (4, 4, 3)).astype(np.float32)
    rows, captions, images = np.array([3, 0, 7]), np.array([1, 1, 4]), np.array([0, 3, 2])

    def step(place: Any) -> Any:
        return patch_step(TOY, data, place, rows, captions, images, SETTINGS)

    loss, gradient = step(pattern)
    seen = TOY.differentiate(
        put_on(data.pixels[rows], 255 * pattern, data.rows[rows], data.columns[rows])
    )[0]
    by_text = []
    by_image = []
    for place, row in enumerate(rows):
        right = math.exp(10 * float(seen[place] @ data.captions[captions[place]]))
        wrong = sum(math.exp(10 * float(seen[place] @ data.own[other])) for other in rows)
        by_text.append(-math.log(right / (right + wrong)))
        near = np.linalg.norm(seen[place] - data.images[images[place]])
        # its own clean image, not another one's
        far = np.linalg.norm(seen[place] - data.clean[row])
        by_image.append(max(0.0, float(near - far) + 0.1))
    assert loss == pytest.approx(np.mean(by_text) + 2 * np.mean(by_image), rel=1e-4)
    plain = by_differences(lambda place: step(place)[0], pattern, 1e-2)
    np.testing.assert_allclose(gradient, plain, rtol=0.02, atol=2e-3)


def test_the_loss_goes_down(data: PatchData) -> None:
    seen: list[tuple[int, int]] = []

    def run(seed: int) -> Any:
        return optimise_patch(
            TOY, data, SETTINGS, generator(seed, "x"), lambda *step: seen.append(step)
        )

    pattern, losses = run(0)
    assert pattern.dtype == np.uint8
    assert pattern.shape == (4, 4, 3)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.2
    assert (len(losses), seen[-1]) == (200, (200, 200))
    again, same = run(0)
    np.testing.assert_array_equal(again, pattern)
    assert same == losses
    assert not np.array_equal(run(1)[0], pattern)
