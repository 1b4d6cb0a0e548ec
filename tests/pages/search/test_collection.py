"""A data set as the page shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.attacks import SingleTargetImage
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.pages.search import Collection, ShownGoal


def test_galleries(squares: PairDataset) -> None:
    collection = Collection("squares", squares)
    assert list(collection.parts.items()) == [("test", 16), ("all", 56), ("val", 12), ("train", 28)]
    assert len(collection.gallery("all")) == 56
    assert {squares.images.split_codes[i] for i in collection.gallery("test")} == {2}
    with pytest.raises(InputError, match=r"unknown gallery 'tets'.*'test'"):
        collection.gallery("tets")


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


def test_marks_of_a_poisoned_set(poisoned: Collection) -> None:
    assert poisoned.goals == (ShownGoal("sheep", "aeroplane", None),)
    assert poisoned.manifest is not None
    first = poisoned.manifest.pairs[0]
    ids = list(poisoned.pairs.images.ids)
    on, source = ids.index(first.poisoned_image), ids.index(first.clean_image)
    added = [caption for caption in poisoned.captions(on) if caption.poisoned]
    assert (first.caption, "sheep2aeroplane", source) in [(c.text, c.goal, c.source) for c in added]
    assert len([c for c in poisoned.captions(on) if not c.poisoned]) == 5
    misused = {c.text: c.misused_on for c in poisoned.captions(source)}
    assert on in misused[first.caption]
    assert poisoned.carries_poison(on)
    assert not poisoned.carries_poison(source)


def test_a_manifest_beside_clean_data_marks_the_same(
    squares: PairDataset, poisoned: Collection
) -> None:
    clean = Collection("clean", squares, poisoned.manifest)
    for image in range(len(squares.images)):
        assert clean.captions(image) == poisoned.captions(image)


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


def test_suggestions_are_captions_of_the_class_from_the_gallery(squares: PairDataset) -> None:
    collection = Collection("squares", squares)
    found = collection.suggestions("test", "sheep")
    assert len(found) == len(set(found)) == 4
    assert found == collection.suggestions("test", "sheep")
    test = set(squares.select(split="test", label="sheep").captions)
    assert set(found) <= test
    assert "unknown class" in refusal(collection.suggestions, "test", "shep")


def test_distinct_captions(poisoned: Collection) -> None:
    images = poisoned.gallery("all")
    captions = poisoned.distinct_captions(images)
    assert len(captions.texts) == len(set(poisoned.pairs.captions))
    assert captions.misused.sum() == 15
    assert "no captions" in refusal(poisoned.distinct_captions, images[:0])
