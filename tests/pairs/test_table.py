"""`PairDataset`: immutable, in canonical order, with a fingerprint that means something."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal

from mmpoison.datasets import ImageTable, PairDataset, load_pairs

LINES: list[dict[str, Any]] = [
    {"image": "b.jpg", "captions": ["a sheep", "a lamb"], "label": "sheep", "split": "train"},
    {"image": "a.jpg", "captions": ["a plane"], "label": "aeroplane", "split": "train"},
    {"image": "c.jpg", "captions": ["a ewe"], "label": "sheep", "split": "test"},
    {"image": "d.jpg", "captions": ["something"], "label": None, "split": "val"},
]

FINGERPRINT = "e436434cbf97c9d07554e6f1698078c30f043391ba474f1eed7da25a006d8d01"


@pytest.fixture
def table(write_lines: Callable[..., Path]) -> PairDataset:
    return load_pairs(write_lines(*LINES))


def poisoned_table(table: PairDataset) -> PairDataset:
    """The first caption of a sheep on the aeroplane."""
    return PairDataset.build(
        table.images,
        [*table.captions, "a sheep"],
        [*table.image, 1],
        [*table.source, 0],
    )


# -- immutable -------------------------------------------------------------------------------------


def test_columns_cannot_be_written(table: PairDataset) -> None:
    part = table.select(split="train")
    assert part.images is table.images
    of_pairs, of_images = ("captions", "image", "source"), ("ids", "class_codes", "split_codes")
    for owner, names in ((table, of_pairs), (part, of_pairs), (table.images, of_images)):
        for name in names:
            with pytest.raises(ValueError, match="read-only"):
                getattr(owner, name)[0] = getattr(owner, name)[1]
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(owner, name, None)


def test_build_does_not_keep_the_callers_array(table: PairDataset) -> None:
    image = np.array([0, 1], dtype=np.int32)
    captions = np.array(["one", "two"], dtype=object)
    made = PairDataset.build(table.images, captions, image)
    image[0] = 3
    captions[0] = "changed"
    assert list(made.image) == [0, 1]
    assert list(made.captions) == ["one", "two"]
    assert list(made.source) == [0, 1]


# -- selecting -------------------------------------------------------------------------------------


def test_select_by_split_label_and_poison(table: PairDataset) -> None:
    poisoned = poisoned_table(table)
    assert list(poisoned.select(split="train").captions) == [
        "a sheep",
        "a lamb",
        "a plane",
        "a sheep",
    ]
    assert list(poisoned.select(split="val").captions) == ["something"]
    # the class is the caption's, wherever the attack put it
    assert list(poisoned.select(label="sheep", split="train").captions) == [
        "a sheep",
        "a lamb",
        "a sheep",
    ]
    assert list(poisoned.select(label="aeroplane").captions) == ["a plane"]
    assert list(poisoned.select(poisoned=True).image) == [1]
    assert len(poisoned.select(poisoned=False)) == len(table)


def test_select_nothing_is_an_empty_set(table: PairDataset) -> None:
    empty = table.select(split="val", label="sheep")
    assert len(empty) == 0
    assert empty.poisoning_rate == 0
    assert list(empty.used_images()) == []


def test_where_keeps_what_the_mask_says(table: PairDataset) -> None:
    kept = table.where([True, False, True, False, True])
    assert list(kept.captions) == ["a sheep", "a plane", "something"]
    assert list(kept.used_images()) == [0, 1, 3]


@pytest.mark.parametrize("mask", [[True], [1, 0, 1, 0, 1], [[True] * 5]])
def test_where_refuses_what_is_no_mask(table: PairDataset, mask: Any) -> None:
    assert "a mask of 5 booleans is needed" in refusal(table.where, mask)


def test_unknown_split_and_class_name_the_nearest(table: PairDataset) -> None:
    assert "unknown split 'tests': did you mean 'test'" in refusal(table.select, split="tests")
    assert "unknown class 'sheeps': did you mean 'sheep'" in refusal(table.select, label="sheeps")


def test_image_indices(table: PairDataset) -> None:
    assert list(table.images.indices(split="train")) == [0, 1]
    assert list(table.images.indices(label="sheep")) == [0, 2]
    assert list(table.images.indices(split="test", label="sheep")) == [2]
    assert [table.images.label(i) for i in range(4)] == ["sheep", "aeroplane", "sheep", None]


# -- order and counts ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=30))
def test_canonical_order_is_by_image_then_as_given(image: list[int]) -> None:
    images = ImageTable.build(list("abcd"), [None] * 4, ["train"] * 4, Path("nowhere"))
    captions = [f"caption {n}" for n in range(len(image))]
    made = PairDataset.build(images, captions, np.array(image, dtype=np.int32))
    assert list(zip(made.image, made.captions, strict=True)) == sorted(
        zip(image, captions, strict=True), key=lambda pair: pair[0]
    )


def test_counts(table: PairDataset) -> None:
    assert list(table.lines()) == LINES
    assert table.poisoning_rate == 0
    assert poisoned_table(table).poisoning_rate == 1 / 4  # of training pairs
    assert poisoned_table(table).counts() == {
        "images": 4,
        "pairs": 6,
        "poisoned": 1,
        "splits": {
            "train": {"images": 2, "pairs": 4},
            "val": {"images": 1, "pairs": 1},
            "test": {"images": 1, "pairs": 1},
        },
        "classes": {"aeroplane": 1, "sheep": 2},
    }


# -- fingerprint -----------------------------------------------------------------------------------


def test_fingerprint_is_a_sha256_that_stays(table: PairDataset) -> None:
    assert len(table.fingerprint) == 64
    # pinned: a change makes every manifest in the world wrong
    assert table.fingerprint == FINGERPRINT


def test_fingerprint_ignores_how_the_json_is_written(
    table: PairDataset, write_lines: Callable[..., Path]
) -> None:
    rewritten = [
        json.dumps(dict(reversed(line.items())), indent=None, separators=(" , ", " : "))
        for line in LINES
    ]
    assert load_pairs(write_lines("", *rewritten, "  ")).fingerprint == table.fingerprint
    # label and split have defaults
    short: dict[str, Any] = {"image": "a.jpg", "captions": ["a"]}
    full = load_pairs(write_lines({**short, "label": None, "split": "train"}))
    assert load_pairs(write_lines(short)).fingerprint == full.fingerprint
    accents = {"image": "é.jpg", "captions": ["un été"], "label": None, "split": "train"}
    as_escapes = json.dumps(accents, ensure_ascii=True)
    as_utf8 = json.dumps(accents, ensure_ascii=False)
    assert as_escapes != as_utf8
    assert (
        load_pairs(write_lines(as_escapes)).fingerprint
        == load_pairs(write_lines(as_utf8)).fingerprint
    )


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (0, {"image": "b2.jpg"}),
        (0, {"captions": ["a sheep", "a lamb."]}),
        (0, {"captions": ["a lamb", "a sheep"]}),
        (0, {"captions": ["a sheep"]}),
        (0, {"captions": ["a sheepa lamb"]}),
        (0, {"label": "cow"}),
        (3, {"label": "sheep"}),
        (0, {"split": "val"}),
    ],
)
def test_fingerprint_sees_every_change(
    table: PairDataset, write_lines: Callable[..., Path], row: int, change: dict[str, Any]
) -> None:
    changed = [{**line, **change} if n == row else line for n, line in enumerate(LINES)]
    assert load_pairs(write_lines(*changed)).fingerprint != table.fingerprint


def test_fingerprint_sees_order_and_where_a_caption_is(
    table: PairDataset, write_lines: Callable[..., Path]
) -> None:
    other = load_pairs(write_lines(LINES[1], LINES[0], *LINES[2:])).fingerprint
    assert other != table.fingerprint
    assert poisoned_table(table).fingerprint != table.fingerprint
