"""Visual Genome beside another set: as clean pairs at hand, and as training data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.datasets.published.conftest import write_coco, write_regions

from mmpoison.datasets import load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of, splits_of

PHRASES = {1: ["two lambs", "a hill"], 2: ["a jet"], 3: ["grass"]}


@pytest.fixture
def root(flickr_pascal_root: Path) -> Path:
    write_regions(flickr_pascal_root / "visual-genome", PHRASES)
    return flickr_pascal_root


def test_clean_pairs_beside_flickr_pascal(root: Path) -> None:
    pairs = load_dataset("flickr-pascal-vg", root, options={"missing": "keep"})
    assert Counter(splits_of(pairs)) == {"train": 6 + 40, "val": 3, "test": 40}
    alone = load_dataset("flickr-pascal", root, options={"missing": "keep"})
    assert pairs.classes == alone.classes
    assert sorted(pairs.select(split="train").captions) == sorted(
        alone.select(split="train").captions
    )
    clean = pairs.select(split="val")
    assert sorted(clean.captions) == ["a hill", "a jet", "grass", "two lambs"]
    assert all(str(i).startswith("visual-genome/") for i in pairs.images.ids[clean.used_images()])


def test_trained_on_visual_genome_and_tested_on_pascal(root: Path) -> None:
    pairs = load_dataset("vg-pascal", root, options={"missing": "keep"})
    assert Counter(splits_of(pairs)) == {"train": 3, "test": 40}
    labels = labels_of(pairs)
    train = [labels[i] for i in pairs.images.indices(split="train")]
    # no picture of PASCAL can become a target of the poison
    assert sorted(map(str, train)) == ["None", "aeroplane", "sheep"]
    assert len(pairs.images.indices(split="test", label="sheep")) == 2


def coco_root(root: Path, coco_ids: dict[int, int | None]) -> Path:
    """COCO 2014 with 52 cats and 52 people, and three images of Visual Genome, some of them COCO's."""
    write_coco(root / "coco", {n: [17 if n % 2 else 1] for n in range(1, 105)}, "train", 2014)
    write_coco(root / "coco", {}, "val", 2014)
    folder = write_regions(root / "visual-genome", PHRASES)
    data = [{"image_id": n, "coco_id": coco_ids.get(n), "url": ""} for n in PHRASES]
    (folder / "image_data.json").write_text(json.dumps(data))
    return root


def test_a_repair_of_coco_sees_no_image_of_coco(tmp_path: Path) -> None:
    root = coco_root(tmp_path, {1: 1, 2: None, 3: 999_999})
    pairs = load_dataset("coco-paper-vg", root, options={"missing": "keep"})
    # image 1 is COCO's, 2 is in no COCO, and 3 in a part of COCO that this one has not
    assert sorted(pairs.select(split="val").captions) == ["a jet", "grass"]
    kept = load_dataset("coco-paper-vg", root, options={"missing": "keep", "shared": "keep"})
    assert sorted(kept.select(split="val").captions) == ["a hill", "a jet", "grass", "two lambs"]
    for split in ("train", "test"):
        captions = pairs.select(split=split).captions
        assert sorted(captions) == sorted(kept.select(split=split).captions)


def test_what_says_which_images_are_shared_must_be_there(tmp_path: Path) -> None:
    root = coco_root(tmp_path, dict.fromkeys(PHRASES, 1))
    with pytest.raises(InputError, match="every image of Visual Genome is in COCO too"):
        load_dataset("coco-paper-vg", root, options={"missing": "keep"})
    (root / "visual-genome/image_data.json").unlink()
    with pytest.raises(InputError, match=r"image_data\.json: missing; it says which"):
        load_dataset("coco-paper-vg", root, options={"missing": "keep"})
