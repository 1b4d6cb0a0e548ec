"""Visual Genome beside another set: as clean pairs at hand, and as training data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.datasets.published.conftest import write_regions

from mmpoison.datasets import load_dataset
from mmpoison.pairs.labels import labels_of, splits_of

PHRASES = {1: ["two lambs", "a hill"], 2: ["a jet"], 3: ["grass"]}


@pytest.fixture
def root(flickr_pascal_root: Path) -> Path:
    write_regions(flickr_pascal_root / "visual-genome", PHRASES)
    return flickr_pascal_root


def test_clean_pairs_beside_flickr_pascal(root: Path) -> None:
    pairs = load_dataset("flickr-pascal-vg", root, options={"missing": "keep"})
    assert Counter(splits_of(pairs)) == {"train": 6 + 500, "val": 3, "test": 500}
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
