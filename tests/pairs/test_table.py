"""`PairDataset`: immutable, in canonical order, with a fingerprint that means something."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import refusal

from mmpoison.datasets import PairDataset, load_pairs

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


def test_where_keeps_what_the_mask_says(table: PairDataset) -> None:
    kept = table.where([True, False, True, False, True])
    assert list(kept.captions) == ["a sheep", "a plane", "something"]
    assert list(kept.used_images()) == [0, 1, 3]


def test_unknown_split_and_class_name_the_nearest(table: PairDataset) -> None:
    assert "unknown split 'tests': did you mean 'test'" in refusal(table.select, split="tests")
    assert "unknown class 'sheeps': did you mean 'sheep'" in refusal(table.select, label="sheeps")


def test_image_indices(table: PairDataset) -> None:
    assert list(table.images.indices(split="train")) == [0, 1]
    assert list(table.images.indices(label="sheep")) == [0, 2]
    assert list(table.images.indices(split="test", label="sheep")) == [2]
    assert [table.images.label(i) for i in range(4)] == ["sheep", "aeroplane", "sheep", None]


# -- order and counts ------------------------------------------------------------------------------


def test_counts(table: PairDataset) -> None:
    assert list(table.lines()) == LINES
    assert table.poisoning_rate == 0
    assert table.select(split="val", label="sheep").poisoning_rate == 0
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
