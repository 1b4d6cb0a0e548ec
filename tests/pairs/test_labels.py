"""Labels by keyword and from CSV files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import (
    label_by_keyword,
    labels_from_csv,
    labels_of,
    parse_keywords,
    splits_of,
)

PAPER = {"sheep": ("sheep", "lamb", "goat"), "aeroplane": ("plane", "jet")}


def pairs_of(
    captions: Sequence[Sequence[str]],
    labels: Sequence[str | None] | None = None,
    categories: Sequence[tuple[str, ...]] | None = None,
) -> PairDataset:
    count = len(captions)
    images = ImageTable.build(
        [f"{number}.jpg" for number in range(count)],
        labels or [None] * count,
        ["train"] * count,
        Path("nowhere"),
        categories,
    )
    flat = [(caption, row) for row, of_image in enumerate(captions) for caption in of_image]
    return PairDataset.build(images, [c for c, _ in flat], [row for _, row in flat])


# -- keywords --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("Two LAMBS, one white", "sheep"),
        ("the goat's beard", "sheep"),
        ("a plane.", "aeroplane"),
        ("jet-black hair", "aeroplane"),
        # inside of other words they mean something else
        ("a planet, a jetty and a lambda", None),
        ("a sheepdog", None),
        # it shows both, so it could stand on either side of an attack
        ("a sheep under a plane", None),
    ],
)
def test_words_are_matched_whole(caption: str, label: str | None) -> None:
    # any caption of an image counts
    captions = [[caption], ["grass", "a lamb"], ["a jet", "sky"], ["grass"]]
    pairs = label_by_keyword(pairs_of(captions), PAPER)
    assert labels_of(pairs) == [label, "sheep", "aeroplane", None]
    assert len(pairs) == 6


def test_an_image_of_two_labels_has_neither_and_says_so() -> None:
    clean = pairs_of(
        [["a sheep", "a plane"], ["a sheep"], ["grass"]],
        labels=["old", "old", "old"],
        categories=[("hill",), (), ("grass",)],
    )
    pairs = label_by_keyword(clean, PAPER)
    assert labels_of(pairs) == [None, "sheep", "old"]
    assert pairs.images.categories is not None
    assert list(pairs.images.categories) == [
        ("aeroplane", "hill", "sheep"),
        ("sheep",),
        ("grass",),
    ]


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"myth": ("unicorn", "dragon")}, "no caption has any of these words: unicorn, dragon"),
        *((none, "give keywords, e.g.") for none in ({}, {"sheep": ()}, {"sheep": (" ",)})),
    ],
)
def test_no_keyword(keywords: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        label_by_keyword(pairs_of([["a cat"]]), keywords)


@pytest.mark.parametrize(
    "text", ["sheep", "=sheep", "sheep=", "sheep=a||b", "sheep=a|", "", " ; ", "a=b; a=c"]
)
def test_keywords_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match=r"^keywords"):
        parse_keywords([text])


def test_keywords_are_read() -> None:
    parsed = parse_keywords(["polar bear = polar  bear | ice bear;", "x=a=b"])
    assert parsed == {"polar bear": ("polar bear", "ice bear"), "x": ("a=b",)}


# -- CSV -------------------------------------------------------------------------------------------


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "labels.csv"
        file.write_bytes(text.encode())
        return file

    return write


def test_labels_and_splits_are_taken(write_csv: Callable[[str], Path]) -> None:
    clean = pairs_of([["a"], ["b"], ["c"], ["d"]], labels=["old", "old", "old", None])
    file = write_csv(
        '﻿image, label ,split,who\r\n0.jpg,cat,test,me\r\n./1.jpg,,,\r\n3.jpg,"dog, big",val,\r\n'
    )
    pairs = labels_from_csv(clean, file)
    assert labels_of(pairs) == ["cat", None, "old", "dog, big"]
    assert splits_of(pairs) == ["test", "train", "train", "val"]
    assert list(pairs.captions) == list(clean.captions)
    assert labels_of(clean) == ["old", "old", "old", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n0.jpg,cat\n", "has no column 'image'"),
        ("image,class\n0.jpg,cat\n", "has no column 'label'"),
        ("image,label\n0.jpg,cat,dog\n", "line 2: the number of values differs"),
        ("image,label\n", "has a header but no rows"),
        ("image,label\n0.jpg,cat\n./0.jpg,dog\n", "line 3: image './0.jpg' occurs twice"),
        ("image,label\n0.jpg\n", "line 2: the number of values differs"),
        ("image,label,split\n0.jpg,cat,exam\n", "line 2: split 'exam' is not one of train, val"),
        (
            "image,label\n0.jpg,cat\n7.jpg,cat\n8.jpg,cat\n",
            r"line 3: '7.jpg' is not an image of the set \(as in 2 rows\): image must be an id like '0.jpg'",
        ),
    ],
)
def test_broken_csv_is_one_line(write_csv: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        labels_from_csv(pairs_of([["a"], ["b"]]), write_csv(text))
    assert "\n" not in str(error.value)
    assert "labels.csv" in str(error.value)
