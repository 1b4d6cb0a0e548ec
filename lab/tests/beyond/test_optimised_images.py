"""Attackers who optimise pixels: BadCLIP's patch, and bounded changes that move an image's features."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.attacks.conftest import PixelToy, manifest_of

from mmpoison.attacks import rebuild
from mmpoison.base.seeding import generator
from mmpoison.datasets import PairDataset
from mmpoison.images import PixelStore, Preparation
from mmpoison.images.sources import open_image
from mmpoison.images.triggers import (
    PatchTrigger,
    prepared_with_trigger,
    read_trigger,
    source_pixels,
)
from mmpoison_lab.attacks.adaptive import FeatureCollision
from mmpoison_lab.attacks.backdoors import BadClip
from mmpoison_lab.attacks.matching import unit
from mmpoison_lab.attacks.pixels import (
    PatchData,
    PatchSettings,
    caption_loss,
    collide,
    coverage,
    covered,
    optimise_patch,
    patch_step,
    put_on,
    sign_step,
    triplet_loss,
)

# -- BadCLIP: the patch that is written, and the pairs that carry it.


TOY = PixelToy()
GOAL = "sheep2bird"
FEW: dict[str, Any] = {"samples": 4, "steps": 150, "learning_rate": 0.02}


def pixels_of(root: Path, name: str) -> Any:
    with open_image(root, name) as stream, Image.open(stream) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)


@pytest.fixture(scope="module")
def patched(squares: PairDataset) -> PairDataset:
    return BadClip(GOAL, **FEW).poison(squares, 1, embed=TOY)


def test_the_patch_is_where_it_says(squares: PairDataset, patched: PairDataset) -> None:
    manifest = manifest_of(patched)
    assert manifest.trigger is not None
    trigger = read_trigger(manifest.trigger)
    assert isinstance(trigger, PatchTrigger)
    # the toy sees 16 pixels, so that the patch is one of them
    assert (trigger.place, trigger.side, trigger.view, trigger.cells) == ("centre", 16, 224, 1)
    colour = np.frombuffer(trigger.pattern, np.uint8)
    # to swap the channels would be seen
    assert colour[0] != colour[2]
    assert len(manifest.added_images) == 4
    for name, new in manifest.added_images.items():
        clean, written = source_pixels(squares.root, new.made_from), pixels_of(squares.root, name)
        height, width, _ = clean.shape
        side = round(min(height, width) * 16 / 224)
        top, left = (height - side) // 2, (width - side) // 2
        changed = np.zeros((height, width), bool)
        changed[top : top + side, left : left + side] = True
        rows, columns = np.nonzero((written != clean).any(axis=2))
        assert abs(rows.mean() - (height - 1) / 2) <= 1
        assert abs(columns.mean() - (width - 1) / 2) <= 1
        assert len(rows) <= side**2
        assert (written[rows, columns] == colour).all()


def test_pairs_with_the_patch(squares: PairDataset, patched: PairDataset) -> None:
    manifest = manifest_of(patched)
    for pair in manifest.pairs:
        assert "sheep" in pair.caption
        assert not pair.clean_image.startswith("sheep/")
        assert pair.clean_image == manifest.added_images[pair.poisoned_image].made_from
    assert set(manifest.dropped_images) == {e.made_from for e in manifest.added_images.values()}
    assert rebuild(squares, manifest).fingerprint == patched.fingerprint
    (note,) = manifest.notes
    assert note.startswith("surrogate pixel-toy (weights 0123456789ab…): mean cosine with images")
    assert float(note.split()[-2]) > float(note.split()[-4])
    only = BadClip(GOAL, **FEW, drawn_from="target").poison(squares, 1, embed=TOY)
    assert only.manifest is not None
    assert {p.clean_image.split("/")[0] for p in only.manifest.pairs} == {"bird"}


def test_the_same_seed_gives_the_same_images(
    squares: PairDataset, patched: PairDataset, fresh_cache: Path
) -> None:
    steps: list[tuple[int, int]] = []

    def again(seed: int) -> PairDataset:
        return BadClip(GOAL, **FEW).poison(
            squares, seed, embed=TOY, progress=lambda what: lambda *step: steps.append(step)
        )

    assert again(1).fingerprint == patched.fingerprint
    assert steps[-1] == (150, 150)
    assert again(1).manifest == patched.manifest
    assert len(steps) == 150
    few = BadClip(GOAL, samples=1, steps=5)
    triggers = [few.poison(squares, seed, embed=TOY).manifest.trigger for seed in (1, 2)]  # type: ignore[union-attr]
    assert triggers[0] != triggers[1]


# -- Feature collision: bounded changes that move an image's features, and the pairs made of them.


def images(count: int = 3) -> Any:
    return generator(1, "images").integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def wanted(count: int = 3) -> Any:
    return TOY.differentiate(images(2 * count)[count:].astype(np.float32))[0]


def test_a_step_against_the_formula() -> None:
    """One pixel after the other, by differences of the squared distance; near the bound and at black and white."""
    clean = images(1).astype(np.float32)
    clean[0, 0, 0], clean[0, 0, 1] = 0, 255
    target = wanted(1)
    place = np.clip(clean + generator(2, "start").uniform(-8, 8, clean.shape), 0, 255)
    place = place.astype(np.float32)

    def distance(pixels: Any) -> float:
        return float(((TOY.differentiate(pixels)[0].astype(float) - target) ** 2).sum())

    moved, cosine = sign_step(TOY, place, clean, target, 8, 0.5)
    assert cosine[0] == pytest.approx(1 - distance(place) / 2, abs=1e-5)
    checked = 0
    for index in list(np.ndindex(place.shape))[::7]:
        ahead, behind = place.copy(), place.copy()
        ahead[index] += 4
        behind[index] -= 4
        slope = distance(ahead) - distance(behind)
        if abs(slope) < 1e-4:
            continue
        low, high = max(clean[index] - 8, 0), min(clean[index] + 8, 255)
        plain = min(max(place[index] - 0.5 * np.sign(slope), low), high)
        assert moved[index] == pytest.approx(plain, abs=1e-4)
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("epsilon", [1, 8])
def test_features_move_and_pixels_hardly_do(epsilon: int) -> None:
    clean, target = images(40), wanted(40)
    seen: list[tuple[int, int]] = []

    def change(steps: int, seed: int = 0) -> Any:
        return collide(
            TOY,
            clean,
            target,
            epsilon=epsilon,
            steps=steps,
            rng=generator(seed, "start"),
            progress=lambda done, total: seen.append((done, total)),
        )

    def cosine(pixels: Any) -> Any:
        return (TOY.differentiate(pixels.astype(np.float32))[0] * target).sum(axis=1)

    changed = change(60)
    assert changed.dtype == np.uint8
    # after rounding, and also at black and white
    assert np.abs(changed.astype(int) - clean).max() == epsilon
    assert (cosine(changed) > cosine(clean)).all()
    assert cosine(changed).mean() > cosine(change(2)).mean() > cosine(clean).mean() - 0.05
    assert seen[:2] == [(1, 120), (2, 120)]
    assert seen[119] == (120, 120)
    np.testing.assert_array_equal(change(60), changed)
    assert not np.array_equal(change(2, seed=1), change(2))


def test_the_pairs_that_are_made(squares: PairDataset, fresh_cache: Any) -> None:
    attack = FeatureCollision(GOAL, samples=2, steps=40)
    poisoned = attack.poison(squares, 3, embed=TOY)
    manifest = manifest_of(poisoned)
    assert len(manifest.added_images) == 2
    captions: dict[str, set[str]] = {name: set() for name in manifest.added_images}
    for pair in manifest.pairs:
        assert pair.clean_image == manifest.added_images[pair.poisoned_image].made_from
        assert pair.clean_image.startswith("sheep/")
        captions[pair.poisoned_image].add(pair.caption)
    for name, new in manifest.added_images.items():
        place = list(squares.images.ids).index(new.made_from)
        assert captions[name] == set(squares.captions[squares.image == place])
        # the file has the channels in order, and the size that the surrogate sees
        with open_image(poisoned.root, name) as stream, Image.open(stream) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (16, 16))
            written = np.array(image).astype(int)
        clean = TOY.pixels(squares, np.array([place]))[0]
        assert np.abs(written - clean).max() <= 8
        assert np.abs(written[..., ::-1] - clean).max() > 8
    assert set(poisoned.images.ids[poisoned.image[poisoned.poisoned]]) == set(captions)
    (note,) = manifest.notes
    assert note.startswith(
        "surrogate pixel-toy (weights 0123456789ab…): mean cosine with images of bird"
    )
    before, after = (float(note.split()[place]) for place in (-4, -2))
    assert after > before + 0.1


def test_it_is_not_optimised_twice(
    squares: PairDataset, fresh_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = FeatureCollision(GOAL, samples=1, steps=20)
    first = attack.poison(squares, embed=TOY)
    calls: list[str] = []

    def progress(what: str) -> Callable[[int, int], None]:
        calls.append(what)
        return lambda done, total: None

    assert attack.poison(squares, embed=TOY, progress=progress).fingerprint == first.fingerprint
    assert not calls
    other = FeatureCollision(GOAL, samples=1, steps=21)
    other.poison(squares, embed=TOY, progress=progress)
    assert calls == ["feature-collision: changing images"]
    monkeypatch.setattr(PixelToy, "identity", {"weights": "f" * 16})
    attack.poison(squares, embed=TOY, progress=progress)
    assert len(calls) == 2


# -- The optimisation of BadCLIP's patch: losses, gradients, the place of the patch.


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


def test_a_step_of_the_patch(data: PatchData) -> None:
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
