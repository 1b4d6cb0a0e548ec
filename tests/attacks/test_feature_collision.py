"""Feature collision: bounded changes that move an image's features, and the pairs made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.attacks.conftest import PixelToy, ToySurrogate
from tests.conftest import refusal

from mmpoison.attacks import FeatureCollision
from mmpoison.attacks.pixels import collide, sign_step
from mmpoison.base.seeding import generator
from mmpoison.datasets import PairDataset
from mmpoison.images.sources import open_image

TOY = PixelToy()
GOAL = "sheep2bird"


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
    manifest = poisoned.manifest
    assert manifest is not None
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


def test_what_it_refuses(squares: PairDataset) -> None:
    attack = FeatureCollision(GOAL, samples=1)
    assert "needs a surrogate whose image encoder is known" in refusal(attack.poison, squares)
    assert "needs a surrogate whose" in refusal(attack.poison, squares, embed=ToySurrogate())
    for wrong in (0, 256, 1.5, True):
        assert "epsilon" in refusal(FeatureCollision, GOAL, samples=1, epsilon=wrong)
        if wrong != 256:
            assert "steps" in refusal(FeatureCollision, GOAL, samples=1, steps=wrong)
