"""`rsicd`, `ucm-captions` and the two together: classes, halves that are disjoint and drawn, and the real photos."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import copied, karpathy_image

from mmpoison.datasets import DATASETS, PairDataset, load_pairs
from mmpoison.datasets.published.rsicd_ucm import load_rsicd, load_rsicd_ucm
from mmpoison.pairs.labels import labels_of

needs_photos = pytest.mark.skipif(
    not (SHARED / "rsicd" / "captions.jsonl").is_file(),
    reason=f"the photos are not at {SHARED} (set MMPOISON_SHARED_DATA)",
)


# -- the classes -----------------------------------------------------------------------------------


def test_broken_lists_of_classes_and_none(published: Path, tmp_path: Path) -> None:
    root = copied(published, "rsicd", tmp_path)
    lists = root / "txtclasses_rsicd"
    (lists / "Beach.txt").write_bytes(b"caf\xe9.jpg")
    (lists / "Zoo.txt").write_text("00064.jpg")
    assert load_rsicd(root).problems == (
        "Beach.txt: not UTF-8, its class is not used",
        "Zoo.txt: 00064.jpg is in class 'playfields' already",
    )
    for file in lists.iterdir():
        file.unlink()
    pairs = load_rsicd(root)
    assert labels_of(pairs) == ["airport", None, "field"]
    (said,) = pairs.problems
    assert "the class of 1 image is not known, no label is given" in said
    assert said.endswith("00064.jpg")


def test_what_is_not_ucm_captions(published: Path, tmp_path: Path) -> None:
    root = copied(published, "ucm-captions", tmp_path)
    recognise = DATASETS["ucm-captions"].recognise
    assert recognise is not None
    assert recognise(root) == recognise(root / "dataset.json") == "dataset.json"
    images = [karpathy_image(f"{number}.tif") for number in range(1, 614)]
    (root / "dataset.json").write_text(json.dumps({"images": images}))
    assert "which is Sydney-Captions and not UCM-Captions" in refusal(load_pairs, root)
    for content in ('{"images": [{"filename": "1.jpg"}]}', '{"x": "1.tif"}'):
        (root / "dataset.json").write_text(content)
        assert recognise(root) is None
    (root / "dataset.json").unlink()
    assert recognise(root) is None


# -- the two together ------------------------------------------------------------------------------


def images(pairs: PairDataset, split: str, label: str | None = None) -> set[str]:
    return set(pairs.images.ids[pairs.images.indices(split=split, label=label)])


def trained(pairs: PairDataset) -> Counter[str | None]:
    labels = labels_of(pairs)
    return Counter(labels[int(n)] for n in pairs.images.indices(split="train"))


def test_the_halves_and_parts_of_them(published: Path) -> None:
    root = published / "photos"
    whole, fewer = load_rsicd_ucm(root), load_rsicd_ucm(root, unlabelled=2)
    half = load_rsicd_ucm(root, train_share=0.5)
    # rsicd is taken as unlabelled, whatever its file says
    assert trained(whole) == {None: 4, "beach": 3, "forest": 3}
    assert trained(fewer) == {None: 2, "beach": 3, "forest": 3}
    assert trained(half) == {None: 2, "beach": 2, "forest": 2}
    for part in (fewer, half):
        assert images(part, "train") < images(whole, "train")
        for split in ("val", "test"):
            assert images(part, split) == images(whole, split)
    for count in (5, -1):
        assert f"unlabelled={count}: " in refusal(load_rsicd_ucm, root, unlabelled=count)
    assert "share 0.0" in refusal(load_rsicd_ucm, root, train_share=0.0)


def test_a_photo_without_a_class_is_no_training_photo(published: Path, tmp_path: Path) -> None:
    root = copied(published, "photos", tmp_path)
    file = root / "ucm" / "captions.jsonl"
    file.write_text(file.read_text().replace(', "label": "beach"', "", 1))
    pairs = load_rsicd_ucm(root)
    assert pairs.counts()["classes"] == {"beach": 5, "forest": 7}
    assert "ucm/beach/0.jpg" in images(pairs, "test")


def test_clean_pairs_of_the_own_kind_are_held_out_of_training(published: Path) -> None:
    root = published / "photos"
    whole, held = load_rsicd_ucm(root), load_rsicd_ucm(root, held_out=2)
    for label in ("beach", "forest"):
        kept = [images(held, split, label) for split in ("val", "train", "test")]
        assert [len(part) for part in kept[:2]] == [2, 1]
        assert kept[0] | kept[1] == images(whole, "train", label)
        assert kept[2] == images(whole, "test", label)
    # the clean half of rsicd stays, without a label
    assert held.counts()["splits"]["val"] == {"images": 5 + 4, "pairs": 10 + 8}
    for count in (3, -1):
        assert f"held_out={count}: beach" in refusal(load_rsicd_ucm, root, held_out=count)


# -- real data -------------------------------------------------------------------------------------


@needs_photos
def test_the_real_counts() -> None:
    photos = load_rsicd_ucm(SHARED)
    train, val, test = (images(photos, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (5460 + 1050, 5461, 1050)
    assert len(train | val | test) == len(photos.images)
    assert all(name.startswith("ucm/") for name in test)
    assert all(name.startswith("rsicd/") for name in val)
    tested = photos.images.class_codes[photos.images.indices(split="test")]
    assert np.bincount(tested).tolist() == [50] * 21


@needs_photos
def test_the_sample_put_back_into_the_authors_layout(tmp_path: Path) -> None:
    """The classes by number are those of the sample, whose files keep their number."""
    sample = load_pairs(SHARED / "ucm")
    entries = [
        karpathy_image(f"{int(line['image'][-8:-4])}.tif", line["split"], *line["captions"])
        for line in sample.lines()
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    pairs = load_pairs(tmp_path)
    assert list(pairs.captions) == list(sample.captions)
    assert pairs.counts() == sample.counts()
    assert labels_of(pairs) == labels_of(sample)
