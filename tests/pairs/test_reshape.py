"""Smaller and balanced sets: counts, nesting, the same test part, pinned choices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import label_by_keyword, labels_from_csv, labels_of
from mmpoison.pairs.splits import (
    balanced,
    cap_captions,
    hash_order,
    hash_pick,
    split_per_class,
    subset_per_class,
)

SIZES = {"bird": 10, "cat": 5, "dog": 1, None: 8}


def made(folder: str = "photos", captions: int = 5, test: int = 3) -> PairDataset:
    """Classes of different sizes, whose files have the same names; a few test images beside."""
    ids, labels, splits = [], [], []
    for label, size in SIZES.items():
        for number in range(size + (test if label else 0)):
            ids.append(f"{folder}/{label or 'none'}/{number:04d}.jpg")
            labels.append(label)
            splits.append("train" if number < size else "test")
    images = ImageTable.build(ids, labels, splits, Path("nowhere"))
    row = np.repeat(np.arange(len(ids)), captions)
    texts = [
        f"{labels[i]} {ids[i][-8:]} caption {n}" for i in range(len(ids)) for n in range(captions)
    ]
    return PairDataset.build(images, texts, row)


def train_counts(pairs: PairDataset) -> dict[str | None, int]:
    names = labels_of(pairs)
    return dict(Counter(names[index] for index in pairs.images.indices(split="train")))


def pairs_by_image(pairs: PairDataset) -> dict[str, list[str]]:
    return {line["image"]: line["captions"] for line in pairs.lines()}


# -- captions --------------------------------------------------------------------------------------


def test_caps_are_nested_and_in_order() -> None:
    whole = pairs_by_image(made())
    for most in range(1, 6):
        few = pairs_by_image(cap_captions(made(), most, 3))
        more = pairs_by_image(cap_captions(made(), most + 1, 3))
        for image, captions in few.items():
            assert len(captions) == most
            assert captions == sorted(captions) == [c for c in whole[image] if c in captions]
            assert set(captions) <= set(more[image])


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.5, {"bird": 5, "cat": 3, "dog": 1, None: 4}),
        (0.25, {"bird": 3, "cat": 1, "dog": 1, None: 2}),
        (0.01, {"bird": 1, "cat": 1, "dog": 1, None: 1}),
        (1, SIZES),
    ],
)
def test_a_share_of_each_class(share: float, expected: dict[str | None, int]) -> None:
    part = subset_per_class(made(), share, 0)
    assert train_counts(part) == expected
    # the test data are the same
    lines = [line for line in part.lines() if line["split"] == "test"]
    assert lines == [line for line in made().lines() if line["split"] == "test"]
    assert part.counts()["pairs"] == 5 * len(part.images)


def test_split_per_class() -> None:
    large = made().piece([n for n, label in enumerate(labels_of(made())) if label != "dog"])
    pairs = split_per_class(large, 4, 0)
    test = pairs.images.indices(split="test")
    assert Counter(labels_of(pairs)[i] for i in test) == {"bird": 4, "cat": 4}
    assert pairs.counts()["splits"]["train"]["images"] == len(pairs.images) - 8
    assert "val" not in pairs.counts()["splits"]
    # a split of four is part of one of five
    five = split_per_class(large, 5, 0)
    assert set(test) < set(five.images.indices(split="test"))


def test_choices_are_pinned() -> None:
    # published splits and labels depend on these: a change here changes everyone's data
    ids = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert hash_order(ids, 0, "split") == [1, 2, 0, 3, 4]
    assert hash_order(ids, 1, "split") == [3, 4, 2, 0, 1]
    assert hash_order(ids, 0, "captions") == [3, 2, 4, 1, 0]
    assert [hash_pick(10, name, 0, "label") for name in ids] == [3, 8, 3, 6, 2]
    digests = {
        "split": split_per_class(made(), 3, 0),
        "half": subset_per_class(made(), 0.5, 0),
        "balanced": balanced(made(), 0),
    }
    assert {name: pairs.fingerprint[:16] for name, pairs in digests.items()} == PINNED


PINNED = {
    "split": "c0c7a156aeceb152",
    "half": "a26b0db6d080c673",
    "balanced": "87c7eb6bcf7b65ae",
}


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (cap_captions, (0,), "captions per image: 0 is too few"),
        (subset_per_class, (0,), "share 0 of the images"),
        (subset_per_class, (1.5,), "share 1.5 of the images"),
        (subset_per_class, (float("nan"),), "share nan of the images"),
        (split_per_class, (0,), "test images per class: 0 is too few"),
    ],
)
def test_bad_arguments_are_one_line(
    function: Any, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        function(made(), *arguments)


def test_no_labels() -> None:
    unlabelled = made().piece(np.flatnonzero(made().images.class_codes < 0))
    assert "has no labels, so it cannot be split by class" in refusal(
        split_per_class, unlabelled, 1
    )


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (balanced, "cut to fewer captions"),
        (lambda pairs: subset_per_class(pairs, 0.5), "cut to fewer images"),
        (lambda pairs: split_per_class(pairs, 1), "split"),
        (lambda pairs: label_by_keyword(pairs, {"x": ["sheep"]}), "labelled"),
        (lambda pairs: labels_from_csv(pairs, "labels.csv"), "labelled"),
    ],
)
def test_poisoned_sets_are_refused(function: Any, says: str, squares: PairDataset) -> None:
    poisoned = SingleTargetLabel(goal="sheep2aeroplane", samples=2).poison(squares, seed=0)
    with pytest.raises(InputError, match=f"a poisoned set cannot be {says}"):
        function(poisoned)
