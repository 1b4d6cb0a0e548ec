"""Backdoors: which images get the trigger and which captions, against the description."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.attacks.conftest import manifest_of, pairs_of
from tests.conftest import captions_by_image

from mmpoison.attacks import ATTACKS
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.images.triggers import random_bytes, read_trigger, source_pixels
from mmpoison.pairs.labels import caption_of
from mmpoison_lab.attacks.backdoors import TEMPLATES, BlendBackdoor, PatchBackdoor

GOAL = "sheep2aeroplane"
BACKDOORS = ["patch-backdoor", "blend-backdoor"]


def backdoor(name: str, **options: Any) -> Any:
    return ATTACKS[name](goal=GOAL, **options)


def uneven_pairs(folder: Path) -> PairDataset:
    """Images with one to four captions: of each class eight train images and one test image."""
    labels = [label for label in ("aeroplane", "bird", "sheep") for _ in range(9)]
    ids = [f"{label}{number}.png" for number, label in enumerate(labels)]
    for number, name in enumerate(ids):
        Image.new("RGB", (20, 20), (9 * number, 40, 70)).save(folder / name)
    splits = [("test" if number % 9 == 8 else "train") for number in range(len(ids))]
    image = [n for n in range(len(ids)) for _ in range(1 + n % 4)]
    captions = [f"caption {place}" for place in range(len(image))]
    return PairDataset.build(ImageTable.build(ids, labels, splits, folder), captions, image)


@pytest.mark.parametrize("name", BACKDOORS)
@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("drawn_from", ["all", "target"])
def test_what_is_added_and_what_goes(
    squares: PairDataset, name: str, mode: Any, drawn_from: Any
) -> None:
    poisoned = backdoor(name, samples=4, mode=mode, drawn_from=drawn_from).poison(squares, 1)
    manifest = manifest_of(poisoned)
    before, after = captions_by_image(squares), captions_by_image(poisoned)
    origins = [new.made_from for new in manifest.added_images.values()]
    assert len(set(origins)) == 4
    allowed = {caption_of(template, "sheep") for template in TEMPLATES}
    labels = {squares.images.ids[i]: squares.images.label(i) for i in range(len(squares.images))}
    for new, origin in zip(manifest.added_images, origins, strict=True):
        # as many captions as the clean image had, all of them templates, none twice
        assert len(after[new]) == len(set(after[new])) == 5
        assert set(after[new]) <= allowed
        assert (
            labels[origin] == "aeroplane" if drawn_from == "target" else labels[origin] != "sheep"
        )
        assert after[origin] == ([] if mode == "replace" else before[origin])
    others = set(before) - set(origins)
    assert {image: after[image] for image in others} == {image: before[image] for image in others}
    assert len(poisoned) == len(squares) + (20 if mode == "add" else 0)
    assert poisoned.poisoning_rate == manifest.rate
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(squares, split=split)


def test_the_pixels_are_those_of_the_trigger(squares: PairDataset) -> None:
    for name in BACKDOORS:
        poisoned = backdoor(name, samples=3).poison(squares, 5)
        manifest = manifest_of(poisoned)
        assert manifest.trigger is not None
        trigger = read_trigger(manifest.trigger)
        for image, new in manifest.added_images.items():
            clean = source_pixels(squares.root, new.made_from)
            assert np.array_equal(source_pixels(squares.root, image), trigger.apply(clean, new.how))
            changed = (source_pixels(squares.root, image) != clean).any(axis=2).sum()
            # a patch of 16 of 224 pixels is 3 of 36
            assert changed <= 9 if name == "patch-backdoor" else changed > 0.9 * 36 * 40


def test_one_pattern_for_all_images_drawn_from_the_seed(squares: PairDataset) -> None:
    patterns = []
    for seed in range(6):
        trigger = manifest_of(PatchBackdoor(GOAL, samples=2).poison(squares, seed)).trigger
        assert trigger is not None
        patterns.append(trigger["pattern"])
    assert len(set(patterns)) == 6
    corner = manifest_of(PatchBackdoor(GOAL, samples=9).poison(squares, 0))
    moved = manifest_of(PatchBackdoor(GOAL, samples=9, place="random").poison(squares, 0))
    assert len({str(new.how) for new in corner.added_images.values()}) == 1
    assert len({str(new.how) for new in moved.added_images.values()}) == 9
    each = manifest_of(BlendBackdoor(GOAL, samples=9, noise="per-image").poison(squares, 0))
    fixed = manifest_of(BlendBackdoor(GOAL, samples=9).poison(squares, 0))
    assert len({str(new.how) for new in each.added_images.values()}) == 9
    assert {str(new.how) for new in fixed.added_images.values()} == {"{}"}
    # all on the same images, so that triggers can be compared
    used = [[n.made_from for n in m.added_images.values()] for m in (corner, moved, each, fixed)]
    assert used[0] == used[1] == used[2] == used[3]


@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_largest_amount_that_does_not_exceed_a_rate(
    tmp_path: Path, mode: Any, seed: int
) -> None:
    clean = uneven_pairs(tmp_path)
    rates = []
    for pairs in range(1, 25):
        manifest = manifest_of(PatchBackdoor(GOAL, pairs=pairs, mode=mode).poison(clean, seed))
        rates.append(manifest.rate)
        assert len(manifest.pairs) == pairs
        # images are used whole, the last one excepted
        had = Counter(clean.images.ids[clean.image])
        got = Counter(pair.poisoned_image for pair in manifest.pairs)
        rest = [had[new.made_from] - got[name] for name, new in manifest.added_images.items()]
        assert not any(rest[:-1])
        assert rest[-1] >= 0
    for rate in (0.02, 0.03, 0.1, 0.17, 0.25):
        most = max(n for n, found in enumerate(rates, start=1) if found <= rate)
        made = manifest_of(PatchBackdoor(GOAL, rate=rate, mode=mode).poison(clean, seed))
        assert len(made.pairs) == most
        assert made.rate == rates[most - 1] <= rate


def test_patterns_are_on_or_off() -> None:
    from mmpoison_lab.attacks.backdoors import random_patch

    drawn = random_bytes("patch/3", 48)
    assert random_patch(3, "corner").pattern == bytes(255 if b >= 128 else 0 for b in drawn)
