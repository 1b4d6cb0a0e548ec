"""BadCLIP: the patch that is written, and the pairs that carry it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.attacks.conftest import PixelToy, ToySurrogate
from tests.conftest import refusal

from mmpoison.attacks import BadClip, rebuild
from mmpoison.datasets import PairDataset
from mmpoison.images.sources import open_image
from mmpoison.images.triggers import PatchTrigger, read_trigger, source_pixels

TOY = PixelToy()
GOAL = "sheep2bird"
FEW: dict[str, Any] = {"samples": 4, "steps": 150, "learning_rate": 0.02}


def pixels_of(root: Path, name: str) -> Any:
    with open_image(root, name) as stream, Image.open(stream) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    return BadClip(GOAL, **FEW).poison(squares, 1, embed=TOY)


def test_the_patch_is_where_it_says(squares: PairDataset, poisoned: PairDataset) -> None:
    manifest = poisoned.manifest
    assert manifest is not None
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


def test_the_pairs_that_are_made(squares: PairDataset, poisoned: PairDataset) -> None:
    manifest = poisoned.manifest
    assert manifest is not None
    for pair in manifest.pairs:
        assert "sheep" in pair.caption
        assert not pair.clean_image.startswith("sheep/")
        assert pair.clean_image == manifest.added_images[pair.poisoned_image].made_from
    assert set(manifest.dropped_images) == {e.made_from for e in manifest.added_images.values()}
    assert rebuild(squares, manifest).fingerprint == poisoned.fingerprint
    (note,) = manifest.notes
    assert note.startswith("surrogate pixel-toy (weights 0123456789ab…): mean cosine with images")
    assert float(note.split()[-2]) > float(note.split()[-4])
    only = BadClip(GOAL, **FEW, drawn_from="target").poison(squares, 1, embed=TOY)
    assert only.manifest is not None
    assert {p.clean_image.split("/")[0] for p in only.manifest.pairs} == {"bird"}


def test_the_same_seed_gives_the_same_images(
    squares: PairDataset, poisoned: PairDataset, fresh_cache: Path
) -> None:
    steps: list[tuple[int, int]] = []

    def again(seed: int) -> PairDataset:
        return BadClip(GOAL, **FEW).poison(
            squares, seed, embed=TOY, progress=lambda what: lambda *step: steps.append(step)
        )

    assert again(1).fingerprint == poisoned.fingerprint
    assert steps[-1] == (150, 150)
    assert again(1).manifest == poisoned.manifest
    assert len(steps) == 150
    few = BadClip(GOAL, samples=1, steps=5)
    triggers = [few.poison(squares, seed, embed=TOY).manifest.trigger for seed in (1, 2)]  # type: ignore[union-attr]
    assert triggers[0] != triggers[1]


def test_what_it_refuses(squares: PairDataset) -> None:
    attack = BadClip(GOAL, samples=1)
    assert "needs a surrogate whose image encoder is known" in refusal(attack.poison, squares)
    assert "needs a surrogate whose" in refusal(attack.poison, squares, embed=ToySurrogate())
    wrong: dict[str, tuple[Any, ...]] = {
        "steps": (0, 1.5, True),
        "learning_rate": (0, 1.1, "x"),
        "triplet_weight": (-1, float("nan")),
        "margin": (-0.1, 2.1, True),
        "drawn_from": ("none",),
    }
    for name, values in wrong.items():
        for value in values:
            assert name in refusal(BadClip, GOAL, samples=1, **{name: value})
