"""`visual-genome` and what is made of it: which captions are drawn, labels by keywords, two folders of images."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import captions_by_image, refusal
from tests.datasets.published.conftest import write_regions

from mmpoison.datasets import load_dataset, load_pairs
from mmpoison.datasets.published.visual_genome import PAPER_KEYWORDS, load_visual_genome
from mmpoison.pairs.labels import label_by_keyword, labels_of

PHRASES = {
    1: ["the clock is green in colour", "a Lamb in the grass", "two sheep"],
    2: ["planes in the sky", "grey planet", "an airplane seat"],
    3: ["a black seaplane", "man wearing sneakers"],
    4: ["a goat", "a jet above the goats"],
    5: [f"region {n}" for n in range(12)],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_regions(tmp_path / "vg", PHRASES)


# -- captions and labels ---------------------------------------------------------------------------


def test_at_most_five_captions_in_their_order(root: Path) -> None:
    captions = captions_by_image(load_pairs(root))
    assert captions["VG_100K/1.jpg"] == PHRASES[1]
    drawn = captions["VG_100K/5.jpg"]
    assert len(drawn) == len(set(drawn)) == 5
    assert drawn == [text for text in PHRASES[5] if text in drawn]
    for most, count in ((2, 2), ("0", 12)):
        found = captions_by_image(load_pairs(root, captions_per_image=most))
        assert len(found["VG_100K/5.jpg"]) == count


def test_each_region_is_as_likely(root: Path) -> None:
    write_regions(root, {n: [f"region {k}" for k in range(10)] for n in range(1, 1001)})
    counts = Counter(load_visual_genome(root).captions)
    # 500 +- 6 standard deviations of 15.8
    assert all(abs(count - 500) < 6 * 15.8 for count in counts.values())
    assert len(counts) == 10


def test_labels_by_keyword(root: Path) -> None:
    pairs = load_visual_genome(root)
    # image 4 shows both a goat and a jet: it has neither label
    assert labels_of(pairs) == ["sheep", "aeroplane", None, None, None]
    assert pairs.images.categories is not None
    assert pairs.images.categories[3] == ("aeroplane", "sheep")
    bare = load_visual_genome(root, keywords="none")
    assert bare.classes == ()
    assert label_by_keyword(bare, PAPER_KEYWORDS).fingerprint == pairs.fingerprint
    for keywords in ("clock=clock; shoe=sneakers|boot", {"clock": ["clock"], "shoe": ["sneakers"]}):
        own = load_pairs(root, keywords=keywords)
        assert labels_of(own) == ["clock", None, "shoe", None, None]
    said = refusal(load_pairs, root, keywords={"x": ["xylophone"]})
    assert "no caption has any of the keywords of x" in said
    assert "label=word" in refusal(load_pairs, root, keywords="sheep")
    # a small part need not show the paper's classes
    assert load_pairs(write_regions(root, {5: ["a red door"]})).classes == ()


@pytest.mark.parametrize(
    "keywords", [{}, 5, {"sheep": []}, {"sheep": 5}, {"sheep": [5]}, "a=b; a=c"]
)
def test_bad_keywords(root: Path, keywords: Any) -> None:
    assert "keyword" in refusal(load_pairs, root, keywords=keywords)


@pytest.mark.parametrize("name", ["visual-genome", "visual-genome-paper"])
def test_words_are_looked_for_in_the_chosen_captions_or_in_all(published: Path, name: str) -> None:
    load = partial(load_dataset, name, published / "visual-genome")
    chosen, every = load(), load(options={"match": "all"})
    assert list(every.captions) == list(chosen.captions)
    assert labels_of(every)[5:] == ["sheep"] * 20
    said = [captions_by_image(chosen)[str(image)] for image in chosen.images.ids[5:]]
    assert [label == "sheep" for label in labels_of(chosen)[5:]] == [
        "one sheep" in of for of in said
    ]


# -- images ----------------------------------------------------------------------------------------


def test_images_in_two_folders(root: Path) -> None:
    for folder, names in (("VG_100K", (1, 2, 5)), ("VG_100K_2", (3,))):
        (root / folder).mkdir()
        for number in names:
            (root / folder / f"{number}.jpg").touch()
    pairs = load_visual_genome(root)
    numbers = ["VG_100K/1.jpg", "VG_100K/2.jpg", "VG_100K_2/3.jpg", "VG_100K/5.jpg"]
    assert list(pairs.images.ids) == numbers


def test_image_data_says_in_which_folder_an_image_is(root: Path) -> None:
    url = "https://cs.stanford.edu/people/rak248/{}/{}.jpg"
    data: list[Any] = [
        {"width": 800, "url": url.format("VG_100K_2", 1), "image_id": 1, "coco_id": None},
        {"width": 800, "url": url.format("VG_100K", 2), "image_id": 2},
        {"width": 800, "url": url.format("VG_100K_2", 3), "id": 3},
        {"url": "https://elsewhere/../../etc/4.jpg", "image_id": 4},
        {"url": 5, "image_id": 5},
        7,
    ]
    (root / "image_data.json").write_text(json.dumps(data))
    pairs = load_visual_genome(root)
    wanted = [f"VG_100K{'_2' * (n in (1, 3))}/{n}.jpg" for n in range(1, 6)]
    assert list(pairs.images.ids) == wanted
    assert len(pairs.problems) == 2
    assert "image_data.json [4]: not in the expected form (Expected `str`" in pairs.problems[0]
    (root / "image_data.json").write_text("{}")
    said = refusal(load_visual_genome, root)
    assert "image_data.json: not in the expected form (Expected `arr" in said


def test_an_entry_that_is_not_utf8(root: Path) -> None:
    file = root / "region_descriptions.json"
    file.write_bytes(file.read_bytes().replace(b"grey planet", b"caf\xe9"))
    pairs = load_visual_genome(root)
    assert "[1]: not UTF-8" in pairs.problems[0]
    assert len(pairs.images) == 4
