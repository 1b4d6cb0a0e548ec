"""A data set as the page shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.attacks import SingleTargetImage
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.pages.search import Collection


def test_the_key_is_of_the_table(squares: PairDataset, poisoned: Collection) -> None:
    assert Collection("a", squares).key == Collection("b", squares).key
    assert Collection("a", squares).key != poisoned.key


def test_targets(squares: PairDataset) -> None:
    collection = Collection("squares", squares)
    mask = collection.targets("class:aeroplane")
    assert mask.sum() == 12
    assert {squares.images.label(int(i)) for i in np.flatnonzero(mask)} == {"aeroplane"}
    assert np.flatnonzero(collection.targets("image:7")).tolist() == [7]
    assert not collection.targets("").any()
    for wrong in ("class:plane", "image:56", "image:-1", "image:", "image:²", "aeroplane"):
        with pytest.raises(InputError):
            collection.targets(wrong)


def test_a_manifest_beside_clean_data_marks_the_same(
    squares: PairDataset, poisoned: Collection
) -> None:
    clean = Collection("clean", squares, poisoned.manifest)
    for image in range(len(squares.images)):
        assert clean.captions(image) == poisoned.captions(image)
    assert poisoned.manifest is not None
    first, ids = poisoned.manifest.pairs[0], list(squares.images.ids)
    captions = clean.captions(ids.index(first.clean_image))
    (used,) = [caption for caption in captions if caption.text == first.caption]
    assert ids.index(first.poisoned_image) in used.misused_on


def test_a_target_image(squares: PairDataset) -> None:
    attack = SingleTargetImage(goal="sheep2aeroplane", samples=3)
    manifest = attack.poison(squares).manifest
    assert manifest is not None
    (goal,) = Collection("squares", squares, manifest).goals
    assert goal.image is not None
    assert squares.images.ids[goal.image] == manifest.target_images["sheep2aeroplane"]


def test_a_manifest_that_does_not_fit(squares: PairDataset, poisoned: Collection) -> None:
    assert poisoned.manifest is not None
    for change in (
        {"goals": ("dog2aeroplane",)},
        {"target_images": {"sheep2aeroplane": "nowhere.png"}},
        {"pairs": (replace(poisoned.manifest.pairs[0], poisoned_image="nowhere.png"),)},
    ):
        manifest = replace(poisoned.manifest, **change)
        with pytest.raises(InputError, match=r"dog|nowhere\.png"):
            Collection("squares", squares, manifest).check()


def test_distinct_captions(poisoned: Collection) -> None:
    images = poisoned.gallery("all")
    captions = poisoned.distinct_captions(images)
    assert len(captions.texts) == len(set(poisoned.pairs.captions))
    assert captions.misused.sum() == 15
    assert "no captions" in refusal(poisoned.distinct_captions, images[:0])
