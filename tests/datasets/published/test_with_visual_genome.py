"""Visual Genome beside another set: as clean pairs at hand, and as training data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mmpoison.datasets import load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of, splits_of
from mmpoison.pairs.splits import shipped_split

PUBLISHED = shipped_split("pascal-sentences")
PHRASES = {1: ["two lambs", "a hill"], 2: ["a jet"], 3: ["grass"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("flickr30k", "pascal-sentences", "visual-genome"):
        (tmp_path / folder).mkdir()
    lines = [f"{n}.jpg#{k}\tcaption {n} {k}\n" for n in (1000, 1001) for k in range(5)]
    (tmp_path / "flickr30k/results_20130124.token").write_text("".join(lines))
    entries = {
        name: {"category": PUBLISHED.labels[name], "captions": [f"{name} {n}" for n in range(5)]}
        for name in PUBLISHED.splits
    }
    (tmp_path / "pascal-sentences/pascal_sentences.json").write_text(json.dumps(entries))
    regions = [
        {
            "id": image,
            "regions": [
                {"region_id": 100 * image + n, "image_id": image, "phrase": phrase}
                for n, phrase in enumerate(phrases)
            ],
        }
        for image, phrases in PHRASES.items()
    ]
    (tmp_path / "visual-genome/region_descriptions.json").write_text(json.dumps(regions))
    return tmp_path


def test_clean_pairs_beside_flickr_pascal(root: Path) -> None:
    pairs = load_dataset("flickr-pascal-vg", root, options={"missing": "keep"})
    assert Counter(splits_of(pairs)) == {"train": 2 + 500, "val": 3, "test": 500}
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
    assert Counter(splits_of(pairs)) == {"train": 3, "test": 500}
    labels = labels_of(pairs)
    train = [labels[i] for i in pairs.images.indices(split="train")]
    # no picture of PASCAL can become a target of the poison
    assert sorted(map(str, train)) == ["None", "aeroplane", "sheep"]
    assert len(pairs.images.indices(split="test", label="sheep")) == 25


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for name in ("flickr-pascal-vg", "coco-paper-vg", "vg-pascal"):
        with pytest.raises(InputError, match=f"no such folder, {name} needs a folder with"):
            load_dataset(name, tmp_path / "nowhere")
