"""`rsicd-ucm`: halves that are disjoint, whole and drawn by the seed; the real photos where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED, refusal

from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.datasets.published.rsicd_ucm import load_rsicd_ucm

needs_photos = pytest.mark.skipif(
    not (SHARED / "rsicd" / "captions.jsonl").is_file(),
    reason=f"the photos are not at {SHARED} (set MMPOISON_SHARED_DATA)",
)


@pytest.fixture
def small_root(write_lines: Callable[..., Path], tmp_path: Path) -> Path:
    """Nine images of rsicd, 6 and 7 of two classes of ucm."""
    write_lines(
        *(
            {"image": f"{n}.jpg", "captions": [f"r{n}", "same"], "label": "port", "split": "test"}
            for n in range(9)
        ),
        name="root/rsicd",
    )
    write_lines(
        *(
            {"image": f"{label}/{n}.jpg", "captions": [f"{label} {n}"], "label": label}
            for label, count in (("beach", 6), ("forest", 7))
            for n in range(count)
        ),
        name="root/ucm",
    )
    return tmp_path / "root"


def test_balanced_is_one_of_the_captions_of_each_photo(small_root: Path) -> None:
    whole = load_rsicd_ucm(small_root, seed=1)
    pairs = load_dataset("rsicd-ucm-b", small_root, seed=1)
    assert list(pairs.images.ids) == list(whole.images.ids)
    assert pairs.image.tolist() == list(range(len(whole.images)))
    said = set(zip(whole.image.tolist(), whole.captions, strict=True))
    assert set(zip(pairs.image.tolist(), pairs.captions, strict=True)) <= said
    drawn = {
        load_dataset("rsicd-ucm-b", small_root, options={"caption_seed": n}).fingerprint
        for n in range(5)
    }
    assert len(drawn) > 1


def test_halves(small_root: Path) -> None:
    pairs = load_rsicd_ucm(small_root)
    assert pairs.root == small_root
    assert pairs.counts()["splits"] == {
        "train": {"images": 4 + 3 + 3, "pairs": 8 + 6},
        "val": {"images": 5, "pairs": 10},
        "test": {"images": 3 + 4, "pairs": 7},
    }
    # rsicd is taken as unlabelled, whatever its file says
    assert pairs.classes == ("beach", "forest")
    for label, train, test in (("beach", 3, 3), ("forest", 3, 4)):
        assert len(pairs.images.indices(split="train", label=label)) == train
        assert len(pairs.images.indices(split="test", label=label)) == test
        assert len(pairs.images.indices(split="val", label=label)) == 0


def test_a_photo_without_a_class_is_no_training_photo(small_root: Path) -> None:
    file = small_root / "ucm" / "captions.jsonl"
    lines = file.read_text().splitlines()
    bare = [line.replace(', "label": "beach"', "") for line in lines[:1]]
    assert bare != lines[:1]
    file.write_text("\n".join(bare + lines[1:]) + "\n")
    pairs = load_rsicd_ucm(small_root)
    first = next(n for n, name in enumerate(pairs.images.ids) if str(name).startswith("ucm/"))
    assert pairs.images.class_codes[first] < 0
    assert first in pairs.images.indices(split="test")


def test_every_caption_stays_with_its_image(small_root: Path) -> None:
    pairs = load_rsicd_ucm(small_root)
    found = {line["image"]: line["captions"] for line in pairs.lines()}
    assert found["rsicd/3.jpg"] == ["r3", "same"]
    assert found["ucm/forest/6.jpg"] == ["forest 6"]
    assert len(found) == 22


def test_the_seed_draws_the_halves(small_root: Path) -> None:
    assert load_rsicd_ucm(small_root, 1).fingerprint == load_rsicd_ucm(small_root, 1).fingerprint
    assert len({load_rsicd_ucm(small_root, seed).fingerprint for seed in range(4)}) > 1


def test_fewer_unlabelled_images(small_root: Path) -> None:
    whole, fewer = load_rsicd_ucm(small_root), load_rsicd_ucm(small_root, unlabelled=2)
    assert fewer.counts()["splits"]["train"] == {"images": 2 + 3 + 3, "pairs": 4 + 6}
    for split in ("val", "test"):
        assert fewer.counts()["splits"][split] == whole.counts()["splits"][split]

    def images(pairs: PairDataset, split: str) -> set[str]:
        return set(pairs.images.ids[pairs.images.indices(split=split)])

    assert images(fewer, "train") < images(whole, "train")
    assert images(fewer, "val") == images(whole, "val")
    refusal(load_rsicd_ucm, small_root, unlabelled=5)


def test_a_share_of_every_class_and_of_the_unlabelled(small_root: Path) -> None:
    whole, half = load_rsicd_ucm(small_root), load_rsicd_ucm(small_root, train_share=0.5)
    train = half.images.indices(split="train")
    assert Counter(half.images.label(int(index)) for index in train) == {
        None: 2, "beach": 2, "forest": 2,
    }  # fmt: skip
    for split in ("val", "test"):
        assert half.counts()["splits"][split] == whole.counts()["splits"][split]
    refusal(load_rsicd_ucm, small_root, train_share=0.0)


def test_clean_pairs_of_the_own_kind_are_held_out_of_training(small_root: Path) -> None:
    whole, held = load_rsicd_ucm(small_root), load_rsicd_ucm(small_root, held_out=2)

    def images(pairs: PairDataset, split: str, label: str) -> set[str]:
        return set(pairs.images.ids[pairs.images.indices(split=split, label=label)])

    for label in ("beach", "forest"):
        assert len(images(held, "val", label)) == 2
        assert len(images(held, "train", label)) == 1
        own = images(held, "val", label) | images(held, "train", label)
        assert own == images(whole, "train", label)
        assert images(held, "test", label) == images(whole, "test", label)
    # the clean half of rsicd stays, without a label
    assert held.counts()["splits"]["val"] == {"images": 5 + 4, "pairs": 10 + 4}
    assert load_dataset("rsicd-ucm", small_root).fingerprint == whole.fingerprint
    for count in (3, -1):
        said = refusal(load_rsicd_ucm, small_root, held_out=count)
        assert "held_out" in said
        assert "beach" in said


@pytest.fixture(scope="module")
def photos() -> PairDataset:
    return load_rsicd_ucm(SHARED)


@needs_photos
def test_the_real_counts(photos: PairDataset) -> None:
    rsicd = np.array([str(name).startswith("rsicd/") for name in photos.images.ids])
    assert int(rsicd.sum()) == 10_921
    splits = photos.images.split_codes
    assert int((splits[rsicd] == 0).sum()) == 5460
    assert int((splits[rsicd] == 1).sum()) == 5461
    assert len(photos.classes) == 21
    for label in photos.classes:
        assert len(photos.images.indices(split="train", label=label)) == 50
        assert len(photos.images.indices(split="test", label=label)) == 50
    assert photos.counts()["splits"]["test"] == {"images": 1050, "pairs": 5250}
    assert {"airplane", "beach", "tenniscourt", "forest"} <= set(photos.classes)
    for index in range(0, len(photos.images), 500):
        assert (photos.root / photos.images.ids[index]).is_file()


@needs_photos
def test_the_real_halves_are_disjoint_and_only_test_is_labelled_by_ucm(photos: PairDataset) -> None:
    parts = [
        set(photos.images.ids[photos.images.indices(split=s)]) for s in ("train", "val", "test")
    ]
    assert sum(map(len, parts)) == len(photos.images) == len(set.union(*parts))
    assert all(name.startswith("ucm/") for name in parts[2])
    assert all(name.startswith("rsicd/") for name in parts[1])
