"""`visual-genome`: regions in small, what breaks them, and the whole set where it is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import refusal
from tests.datasets.published.conftest import regions_of

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.datasets.published.visual_genome import PAPER_KEYWORDS, load_visual_genome
from mmpoison.errors import InputError
from mmpoison.pairs.labels import label_by_keyword


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "vg"
    folder.mkdir()
    _write(
        folder,
        regions_of(1, "the clock is green in colour", "a Lamb in the grass", "two sheep"),
        regions_of(2, "planes in the sky", "grey planet", "an airplane seat"),
        regions_of(3, "a black seaplane", "man wearing sneakers"),
        regions_of(4, "a goat", "a jet above the goats"),
        regions_of(5, *(f"region {n}" for n in range(12))),
    )
    return folder


def _write(folder: Path, *images: Any) -> None:
    (folder / "region_descriptions.json").write_text(json.dumps(images))


def _captions(pairs: PairDataset) -> dict[str, list[str]]:
    return {line["image"]: line["captions"] for line in pairs.lines()}


# -- captions and labels ---------------------------------------------------------------------------


def test_at_most_five_captions_anregions_of(root: Path) -> None:
    pairs = load_pairs(root)
    assert pairs.problems == ()
    captions = _captions(pairs)
    assert captions["VG_100K/1.jpg"] == [
        "the clock is green in colour",
        "a Lamb in the grass",
        "two sheep",
    ]
    drawn = captions["VG_100K/5.jpg"]
    assert len(drawn) == len(set(drawn)) == 5
    assert drawn == sorted(drawn, key=lambda text: int(text.split()[1]))
    assert pairs.counts()["splits"] == {"train": {"images": 5, "pairs": 3 + 3 + 2 + 2 + 5}}
    assert len(_captions(load_pairs(root, captions_per_image=2))["VG_100K/5.jpg"]) == 2
    assert len(_captions(load_pairs(root, captions_per_image="0"))["VG_100K/5.jpg"]) == 12


def test_the_captions_come_from_their_own_seed(root: Path) -> None:
    assert load_visual_genome(root, 1).fingerprint == load_visual_genome(root, 2).fingerprint
    seeds = {load_visual_genome(root, caption_seed=seed).fingerprint for seed in range(5)}
    assert len(seeds) > 1


def test_each_region_is_as_likely(root: Path) -> None:
    _write(root, *(regions_of(n, *(f"region {k}" for k in range(10))) for n in range(1, 1001)))
    counts = Counter(load_visual_genome(root).captions)
    # 500 +- 6 standard deviations of 15.8
    assert all(abs(count - 500) < 6 * 15.8 for count in counts.values())
    assert len(counts) == 10


def test_the_papers_labels_by_keyword(root: Path) -> None:
    pairs = load_pairs(root)
    labels = {pairs.images.ids[n][8:]: pairs.images.label(n) for n in range(5)}
    # image 4 shows both a goat and a jet: it has neither label
    assert labels == {
        "1.jpg": "sheep",
        "2.jpg": "aeroplane",
        "3.jpg": None,
        "4.jpg": None,
        "5.jpg": None,
    }
    assert pairs.images.categories is not None
    assert pairs.images.categories[3] == ("aeroplane", "sheep")


def test_keywords_of_ones_own(root: Path) -> None:
    for keywords in ("clock=clock; shoe=sneakers|boot", {"clock": ["clock"], "shoe": ["sneakers"]}):
        pairs = load_pairs(root, keywords=keywords)
        assert pairs.classes == ("clock", "shoe")
        assert pairs.images.label(2) == "shoe"
    assert load_pairs(root, keywords="none").classes == ()
    with pytest.raises(InputError, match="no caption has any of the keywords of x"):
        load_pairs(root, keywords={"x": ["xylophone"]})
    with pytest.raises(InputError, match="label=word"):
        load_pairs(root, keywords="sheep")


@pytest.mark.parametrize(
    "keywords", [{}, 5, {"sheep": []}, {"sheep": 5}, {"sheep": [5]}, "a=b; a=c"]
)
def test_bad_keywords(root: Path, keywords: Any) -> None:
    assert "keyword" in refusal(load_pairs, root, keywords=keywords)


def test_labels_are_those_of_the_general_tool(root: Path) -> None:
    own = load_visual_genome(root)
    general = label_by_keyword(load_visual_genome(root, keywords="none"), PAPER_KEYWORDS)
    assert own.fingerprint == general.fingerprint


def test_words_are_looked_for_in_the_chosen_captions_or_in_all(root: Path) -> None:
    _write(
        root, *(regions_of(n, "a sheep", *(f"region {k}" for k in range(9))) for n in range(1, 101))
    )
    chosen = load_visual_genome(root)
    has_sheep = {int(image) for image in chosen.image[chosen.captions == "a sheep"]}
    assert set(chosen.images.indices(label="sheep").tolist()) == has_sheep
    assert 0 < len(has_sheep) < 100
    every = load_visual_genome(root, match="all")
    assert len(every.images.indices(label="sheep")) == 100
    assert list(every.captions) == list(chosen.captions)


def test_a_small_part_without_the_papers_classes(root: Path) -> None:
    _write(root, regions_of(5, "a red door"))
    assert load_pairs(root).classes == ()


def test_test_images(root: Path) -> None:
    _write(root, *(regions_of(n, "a sheep" if n % 2 else "a jet") for n in range(1, 11)))
    pairs = load_visual_genome(root, test_per_class=2)
    for label in ("aeroplane", "sheep"):
        assert len(pairs.images.indices(split="test", label=label)) == 2
        assert len(pairs.images.indices(split="train", label=label)) == 3
    with pytest.raises(InputError, match=r"test_per_class=5: class '\w+' has 5 images"):
        load_visual_genome(root, test_per_class=5)


# -- images ----------------------------------------------------------------------------------------


def test_images_in_two_folders(root: Path) -> None:
    for folder, names in (("VG_100K", (1, 2, 5)), ("VG_100K_2", (3,))):
        (root / folder).mkdir()
        for number in names:
            (root / folder / f"{number}.jpg").touch()
    pairs = load_visual_genome(root)
    assert list(pairs.images.ids) == [
        "VG_100K/1.jpg",
        "VG_100K/2.jpg",
        "VG_100K_2/3.jpg",
        "VG_100K/5.jpg",
    ]
    assert len(pairs.problems) == 1
    assert "1 of 5 images are not under" in pairs.problems[0]
    assert len(load_visual_genome(root, missing="keep").images) == 5


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
    assert list(pairs.images.ids) == [
        "VG_100K_2/1.jpg",
        "VG_100K/2.jpg",
        "VG_100K_2/3.jpg",
        "VG_100K/4.jpg",
        "VG_100K/5.jpg",
    ]
    assert len(pairs.problems) == 2
    assert "image_data.json [4]: not as it should be (Expected `str`" in pairs.problems[0]
    (root / "image_data.json").write_text("{}")
    with pytest.raises(InputError, match=r"image_data\.json: not as it should be \(Expected `arr"):
        load_visual_genome(root)


# -- broken files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "problem", "images"),
    [
        (7, "region_descriptions.json [1]: not as it should be (Expected `object`", 1),
        ({"regions": []}, "[1]: not as it should be (Object missing required field `id`)", 1),
        ({"id": "2", "regions": []}, "[1]: not as it should be (Expected `int`, got `str`", 1),
        ({"id": -2, "regions": []}, "[1]: not as it should be (Expected `int` >= 0", 1),
        ({"id": 10**30, "regions": []}, "[1]: not as it should be (Expected `int` <=", 1),
        ({"id": 2, "regions": 5}, "[1]: not as it should be (Expected `array`", 1),
        ({"id": 2, "regions": [{}]}, "[1]: not as it should be (Object missing", 1),
        (regions_of(2, None, "x"), "[1]: a caption of 'VG_100K/2.jpg' is not text: None", 2),
        (regions_of(2, "", "x"), "[1]: a caption of 'VG_100K/2.jpg' is empty", 2),
        (regions_of(1, "again"), "[1]: image 'VG_100K/1.jpg' occurs twice", 1),
    ],
)
def test_a_broken_entry_is_left_out_and_named(
    root: Path, image: Any, problem: str, images: int
) -> None:
    _write(root, regions_of(1, "a sheep"), image)
    pairs = load_visual_genome(root)
    assert len(pairs.problems) == 1
    assert problem in pairs.problems[0]
    assert len(pairs.images) == images


def test_an_entry_that_is_not_utf8(root: Path) -> None:
    file = root / "region_descriptions.json"
    file.write_bytes(file.read_bytes().replace(b"grey planet", b"caf\xe9"))
    pairs = load_visual_genome(root)
    assert "[1]: not UTF-8" in pairs.problems[0]
    assert len(pairs.images) == 4


# -- real data -------------------------------------------------------------------------------------
