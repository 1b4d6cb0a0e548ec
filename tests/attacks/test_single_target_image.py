"""Attack I: one image of the gallery, captions of the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import class_table, manifest_of, pairs_of

from mmpoison.attacks import SingleTargetImage
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError

GOAL = "sheep2aeroplane"


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("amount", [{"samples": 3}, {"pairs": 13}, {"rate": 0.05}, {"share": 0.6}])
def test_captions_of_a_on_one_test_image_of_b(
    squares: PairDataset, amount: dict[str, Any], mode: Any
) -> None:
    poisoned = SingleTargetImage(GOAL, mode=mode, **amount).poison(squares, seed=1)
    manifest = manifest_of(poisoned)
    bad = poisoned.select(poisoned=True)
    table = poisoned.images
    assert len(bad) == len(manifest.pairs) > 0
    assert {table.label(i) for i in bad.source} == {"sheep"}
    (target,) = set(bad.image.tolist())
    assert table.label(target) == "aeroplane"
    assert target in table.indices(split="test")
    assert manifest.target_images == {GOAL: table.ids[target]}
    # they are training pairs, and the image's own captions stay test captions
    assert len(bad.select(split="train")) == len(bad)
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(squares, split=split)
    assert manifest.training_pairs == len(poisoned.select(split="train"))
    gone = 0 if mode == "add" else len(bad)
    assert len(poisoned) == len(squares) + len(bad) - gone
    assert poisoned.poisoning_rate == pytest.approx(manifest.rate)


# -- which image -----------------------------------------------------------------------------------


def test_the_centre_is_the_image_nearest_to_the_mean(squares: PairDataset) -> None:
    gallery = squares.images.indices(split="test", label="aeroplane")
    asked: list[list[int]] = []
    angles = np.array([0.0, 0.1, 0.5, 1.4])

    def embed(pairs: PairDataset, images: Any) -> Any:
        assert pairs is squares
        asked.append(images.tolist())
        # of different lengths: only directions count
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[9.0], [1], [1], [1]]

    attack = SingleTargetImage(GOAL, samples=1, target_image="centre", encoder="some-encoder")
    assert attack.needs_embeddings
    poisoned = attack.poison(squares, embed=embed)
    assert poisoned.manifest is not None
    # the mean points to about 0.49
    assert poisoned.manifest.target_images[GOAL] == squares.images.ids[gallery[2]]
    assert asked == [gallery.tolist()]
    assert poisoned.manifest.options["target_image"] == "centre"
    assert poisoned.manifest.options["encoder"] == "some-encoder"


@pytest.mark.parametrize(
    ("embeddings", "says"),
    [
        (np.ones((3, 2)), r"expected embeddings of 4 images of 'aeroplane' .* got shape \(3, 2\)"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.zeros((4, 2)), "some are zero, infinite or NaN"),
        (np.full((4, 2), np.nan), "some are zero, infinite or NaN"),
    ],
)
def test_embeddings_that_cannot_be_used(squares: PairDataset, embeddings: Any, says: str) -> None:
    attack = SingleTargetImage(GOAL, samples=1, target_image="centre")
    with pytest.raises(InputError, match=says):
        attack.poison(squares, embed=lambda pairs, images: embeddings)


def test_a_class_without_train_image_can_be_the_target() -> None:
    pairs = class_table({"sheep": (3, 1), "aeroplane": (0, 2)})
    assert SingleTargetImage(GOAL, samples=2).poison(pairs).poisoned.sum() == 10
