"""`pascal-sentences`: its layouts in small, halves that two people share, and the real sentences where they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SHARED

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.datasets.published.flickr_pascal import CLASSES, load_pascal_sentences
from mmpoison.errors import MmpoisonWarning

SAMPLE = SHARED / "pascal_sentences"
needs_sample = pytest.mark.skipif(
    not (SAMPLE / "pascal_sentences.json").is_file(),
    reason=f"pascal_sentences is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)

LABELS = ("aeroplane", "sheep")


def _name(label: str, number: int) -> str:
    return f"2008_{LABELS.index(label)}{number:05d}"


def _content(per_class: int = 6) -> dict[str, Any]:
    return {
        f"{_name(label, n)}.jpg": {
            "category": label,
            "captions": [f"A {label} number {n}.", f"One {label} more ."],
        }
        for label in LABELS
        for n in range(per_class)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of one JSON, all images there."""
    folder = tmp_path / "pascal"
    (folder / "images").mkdir(parents=True)
    content = _content()
    for name in content:
        (folder / "images" / name).touch()
    (folder / "pascal_sentences.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def scraped(tmp_path: Path) -> Path:
    """The layout that the usual script writes: `dataset/` and `sentence/`, a folder for each class."""
    folder = tmp_path / "scraped"
    for label in LABELS:
        (folder / "dataset" / label).mkdir(parents=True)
        (folder / "sentence" / label).mkdir(parents=True)
        for n in range(6):
            (folder / "dataset" / label / f"{_name(label, n)}.jpg").touch()
            text = f"A {label} number {n}.\nOne {label} more .\n"
            (folder / "sentence" / label / f"{_name(label, n)}.txt").write_text(text)
    return folder


def _by_name(pairs: PairDataset) -> dict[str, dict[str, Any]]:
    return {line.pop("image").rpartition("/")[2]: line for line in pairs.lines()}


# -- the layouts -----------------------------------------------------------------------------------


def test_one_json(root: Path) -> None:
    pairs = load_pairs(root)
    assert pairs.problems == ()
    assert pairs.classes == LABELS
    assert pairs.images.ids[0] == "images/2008_000000.jpg"
    assert list(pairs.captions[:2]) == ["A aeroplane number 0.", "One aeroplane more ."]
    for label in LABELS:
        assert len(pairs.images.indices(split="train", label=label)) == 3
        assert len(pairs.images.indices(split="test", label=label)) == 3


def test_every_layout_gives_the_same(root: Path, scraped: Path) -> None:
    wanted = _by_name(load_pairs(root))
    assert _by_name(load_pairs(scraped)) == wanted
    # the script forgets the dot: `2008_000000txt`
    for file in sorted((scraped / "sentence").glob("*/*.txt")):
        file.rename(file.with_name(file.stem + "txt"))
    assert _by_name(load_pairs(scraped)) == wanted
    # the original site: folders of classes beside the page
    for label in LABELS:
        (scraped / "dataset" / label).rename(scraped / label)
    (scraped / "dataset").rmdir()
    assert _by_name(load_pairs(scraped)) == wanted
    rows = "".join(
        f'<tr><td><img src="{entry["category"]}/{name}"></td><td><table>'
        + "".join(
            f"<tr><td> {text.replace('number', '<b>number</b>')}\n" for text in entry["captions"]
        )
        + "</table></td></tr>\n"
        for name, entry in _content().items()
    )
    page = f"<html><body><h1>Pascal <b>Sentences</b></h1><table>{rows}</table></body></html>"
    (scraped / "index.html").write_text(page)
    (scraped / "sentence").rename(scraped / "elsewhere")
    from_page = load_pairs(scraped)
    assert from_page.problems == ()
    assert _by_name(from_page) == wanted


def test_the_json_alone_keeps_every_entry(root: Path) -> None:
    for file in (root / "images").iterdir():
        file.unlink()
    pairs = load_pairs(root / "pascal_sentences.json")
    assert pairs.problems == ()
    assert len(pairs.images) == 12


# -- halves and missing images ---------------------------------------------------------------------


def test_missing_images_are_one_line_and_leave_the_halves(root: Path) -> None:
    whole = _by_name(load_pairs(root))
    for n in (0, 2, 3, 5):
        (root / "images" / f"{_name('sheep', n)}.jpg").unlink()
    some = load_pascal_sentences(root)
    assert len(some.problems) == 1
    assert "4 of 12 images are not under" in some.problems[0]
    assert some.problems[0].endswith(
        ": images/2008_100000.jpg, images/2008_100002.jpg, images/2008_100003.jpg, ... "
        "(the option missing=keep keeps them, and data verify then names each)"
    )
    assert len(some.images) == 8
    assert all(whole[name] == line for name, line in _by_name(some).items())
    kept = load_pascal_sentences(root, missing="keep")
    assert kept.problems == ()
    assert _by_name(kept) == whole
    with pytest.warns(MmpoisonWarning, match="4 of 12 images"):
        load_pairs(root)


def test_the_halves_come_from_their_own_seed(root: Path) -> None:
    assert load_pascal_sentences(root, 1).fingerprint == load_pascal_sentences(root, 2).fingerprint
    seeds = {load_pascal_sentences(root, split_seed=seed).fingerprint for seed in range(5)}
    assert len(seeds) > 1


def test_the_halves_do_not_hang_on_the_order_of_the_file(root: Path) -> None:
    before = _by_name(load_pairs(root))
    content = dict(reversed(list(_content().items())))
    (root / "pascal_sentences.json").write_text(json.dumps(content))
    assert _by_name(load_pairs(root)) == before


# -- broken files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (5, "'bad.jpg': 'category' must be a class name and 'captions' a list"),
        ({"captions": ["x"]}, "'category' must be a class name"),
        ({"category": None, "captions": ["x"]}, "'category' must be a class name"),
        ({"category": "sheep", "captions": "x"}, "'captions' a list"),
        ({"category": "\ud800", "captions": ["x"]}, "half a surrogate pair"),
        ({"category": "sheep", "captions": [1.5]}, "is not text: 1.5"),
        ({"category": "sheep", "captions": [["x"]]}, "is not text: ['x']"),
        ({"category": "sheep", "captions": ["\ud800"]}, "is not text in UTF-8: '\\ud800'"),
        ({"category": "sheep", "captions": ["  "]}, "a caption of 'images/bad.jpg' is empty"),
    ],
)
def test_a_broken_entry_is_left_out_and_named(root: Path, entry: Any, problem: str) -> None:
    content = {**_content(), "bad.jpg": entry}
    (root / "images" / "bad.jpg").touch()
    (root / "pascal_sentences.json").write_text(json.dumps(content))
    pairs = load_pascal_sentences(root)
    assert len(pairs.problems) == 1
    assert problem in pairs.problems[0]
    assert len(pairs.problems[0].splitlines()) == 1
    assert len(pairs) == 24


def test_an_entry_twice_and_paths_that_climb(root: Path) -> None:
    text = json.dumps({**_content(), "../../up.jpg": {"category": "sheep", "captions": ["x"]}})
    again = '"2008_000000.jpg": {"category": "sheep", "captions": ["again"]}'
    (root / "pascal_sentences.json").write_text(f"{text[:-1]}, {again}}}")
    pairs = load_pascal_sentences(root)
    assert len(pairs.problems) == 2
    assert "'images/../../up.jpg' leaves the folder" in pairs.problems[0]
    assert "image 'images/2008_000000.jpg' occurs twice" in pairs.problems[1]
    assert len(pairs) == 24


def test_broken_sentences_of_folders(scraped: Path) -> None:
    folder = scraped / "sentence" / "sheep"
    (folder / "2008_100000.txt").write_bytes(b"caf\xe9")
    (folder / "2008_100001.txt").write_text("\n \n")
    (scraped / "dataset" / "sheep" / "2008_100002.jpg").unlink()
    pairs = load_pascal_sentences(scraped)
    assert len(pairs.images) == 9
    assert pairs.problems[0] == "sentence/sheep/2008_100000.txt: not UTF-8"
    assert pairs.problems[1] == "sentence/sheep/2008_100001.txt: has no sentence"
    assert "1 of 10 images are not under" in pairs.problems[2]


def test_folder_names_that_are_not_utf8(scraped: Path) -> None:
    try:
        (scraped / "sentence" / "caf\udce9").mkdir()
    except (OSError, UnicodeError):
        pytest.skip("the file system has no names that are not UTF-8")
    (scraped / "sentence" / "caf\udce9" / "1.txt").write_text("x")
    pairs = load_pascal_sentences(scraped)
    assert len(pairs.images) == 12
    assert "a name that is not UTF-8" in pairs.problems[0]


# -- real data -------------------------------------------------------------------------------------


@needs_sample
def test_the_real_sentences_alone_as_in_table_9() -> None:
    pairs = load_pairs(SAMPLE / "pascal_sentences.json")
    assert pairs.problems == ()
    assert (len(pairs.images), len(pairs)) == (1000, 4998)
    assert len(set(pairs.captions)) == 4987
    assert pairs.classes == CLASSES
    per_image = Counter(np.bincount(pairs.image).tolist())
    assert per_image == {5: 996, 4: 3, 6: 1}
    for label in CLASSES:
        assert len(pairs.images.indices(split="train", label=label)) == 25
        assert len(pairs.images.indices(split="test", label=label)) == 25


@needs_sample
def test_the_real_images_in_hand() -> None:
    pairs = load_pascal_sentences(SAMPLE)
    assert (len(pairs.images), len(pairs), len(set(pairs.captions))) == (136, 680, 678)
    assert len(pairs.problems) == 1
    assert "864 of 1,000 images" in pairs.problems[0]
    counts = pairs.counts()["classes"]
    assert len(counts) == 15
    assert (counts["aeroplane"], counts["bird"], counts["sheep"]) == (47, 18, 1)
    assert all((pairs.root / name).is_file() for name in pairs.images.ids)
    whole = _by_name(load_pascal_sentences(SAMPLE, missing="keep"))
    assert len(whole) == 1000
    assert all(whole[name] == line for name, line in _by_name(pairs).items())
