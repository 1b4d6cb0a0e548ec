"""`rsicd`: the authors' layout in small, what breaks it, and the real photos where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED
from tests.datasets.published.conftest import karpathy_image

from mmpoison.datasets import load_pairs
from mmpoison.datasets.published.rsicd_ucm import load_rsicd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "RSICD"
    (folder / "RSICD_images").mkdir(parents=True)
    images = [
        karpathy_image("airport_1.jpg"),
        karpathy_image("00064.jpg", "val"),
        karpathy_image("baseballfield_12.jpg", "test"),
    ]
    for image in images:
        (folder / "RSICD_images" / image["filename"]).touch()
    (folder / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    classes = folder / "txtclasses_rsicd"
    classes.mkdir()
    (classes / "airport.txt").write_text("airport_1.jpg\n")
    (classes / "Playfields.txt").write_text("00064.jpg\r\nbaseballfield_12.jpg\n")
    return folder


def _write(root: Path, *images: Any) -> None:
    (root / "dataset_rsicd.json").write_text(json.dumps({"images": images}))


def test_the_authors_layout(root: Path) -> None:
    pairs = load_pairs(root)
    assert pairs.problems == ()
    found = {line["image"]: (line["label"], line["split"]) for line in pairs.lines()}
    assert found == {
        "RSICD_images/airport_1.jpg": ("airport", "train"),
        "RSICD_images/00064.jpg": ("playfields", "val"),
        # the list of a class counts more than the name of the file
        "RSICD_images/baseballfield_12.jpg": ("playfields", "test"),
    }
    assert list(pairs.captions[:2]) == ["many planes are parked .", "some planes ."]
    assert load_pairs(root / "dataset_rsicd.json").fingerprint == pairs.fingerprint


def test_without_the_lists_of_classes_names_are_taken(root: Path) -> None:
    for file in (root / "txtclasses_rsicd").iterdir():
        file.unlink()
    pairs = load_rsicd(root)
    labels = [pairs.images.label(index) for index in range(3)]
    assert labels == ["airport", None, "baseballfield"]
    assert len(pairs.problems) == 1
    assert "the class of 1 image is not known, no label is given" in pairs.problems[0]
    assert pairs.problems[0].endswith("00064.jpg")


def test_broken_lists_of_classes(root: Path) -> None:
    (root / "txtclasses_rsicd" / "Beach.txt").write_bytes(b"caf\xe9.jpg")
    (root / "txtclasses_rsicd" / "Zoo.txt").write_text("00064.jpg")
    pairs = load_rsicd(root)
    assert pairs.problems == (
        "Beach.txt: not UTF-8, its class is not used",
        "Zoo.txt: 00064.jpg is in class 'playfields' already",
    )
    assert len(pairs.images) == 3


# -- real data -------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (SHARED / "rsicd" / "captions.jsonl").is_file(),
    reason=f"rsicd is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)
def test_the_sample_as_a_pairs_folder() -> None:
    pairs = load_pairs(SHARED / "rsicd")
    assert (len(pairs.images), len(pairs), len(set(pairs.captions))) == (10_921, 54_605, 18_190)
    counts = pairs.counts()
    assert len(counts["classes"]) == 31
    assert (min(counts["classes"].values()), max(counts["classes"].values())) == (240, 661)
    assert {name: split["images"] for name, split in counts["splits"].items()} == {
        "train": 9828,
        "test": 1093,
    }
