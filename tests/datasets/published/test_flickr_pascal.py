"""`flickr-pascal` and its balanced variant: composed in small, and the real counts where the data are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED
from tests.datasets.published.conftest import (
    PASCAL_SPLIT,
    karpathy_image,
    write_flickr,
    write_pascal,
)

from mmpoison.datasets import DATASETS, PairDataset, load_dataset
from mmpoison.datasets.published.flickr_pascal import load_flickr_pascal
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.labels import labels_of
from mmpoison.pairs.splits import FrozenSplit, image_name

PASCAL = SHARED / "pascal_sentences"


def parts(pairs: PairDataset) -> dict[str, Counter[str | None]]:
    labels = labels_of(pairs)
    return {
        split: Counter(labels[i] for i in pairs.images.indices(split=split))
        for split in ("train", "val", "test")
    }


def test_it_is_composed_as_in_the_paper(flickr_pascal_root: Path) -> None:
    pairs = load_dataset("flickr-pascal", flickr_pascal_root)
    of = parts(pairs)
    classes: dict[str | None, int] = dict.fromkeys(pairs.classes, 25)
    assert of["train"] == {None: 6, **classes}
    assert of["test"] == classes
    assert not of["val"]
    assert len(classes) == 20
    # 125 queries a class
    assert len(pairs.select(split="test")) == 2500
    assert len(pairs.select(split="test", label="sheep")) == 125
    assert len(pairs.select(split="train")) == 2500 + 30
    assert pairs.root == flickr_pascal_root
    assert pairs.images.ids[0] == "flickr30k/flickr30k-images/1000.jpg"
    assert pairs.images.ids[-1].startswith("pascal-sentences/images/")
    assert pairs.captions[0] == "flickr 1000 caption 0"
    assert (
        pairs.fingerprint == load_dataset("flickr-pascal", flickr_pascal_root, seed=7).fingerprint
    )


def test_the_split_is_the_published_one(flickr_pascal_root: Path) -> None:
    pairs = load_dataset("flickr-pascal", flickr_pascal_root)
    photos = [i for i, label in enumerate(labels_of(pairs)) if label is not None]
    pascal = FrozenSplit.of(pairs.piece(photos), "x", "name")
    assert pascal.sha256 == PASCAL_SPLIT.sha256
    other = load_dataset("flickr-pascal", flickr_pascal_root, options={"split_seed": 1})
    assert parts(other) == parts(pairs)
    assert set(other.images.indices(split="test")) != set(pairs.images.indices(split="test"))


def test_the_fingerprint_is_pinned(flickr_pascal_root: Path) -> None:
    assert load_dataset("flickr-pascal", flickr_pascal_root).fingerprint == PINNED
    assert load_dataset("flickr-pascal-b", flickr_pascal_root).fingerprint == PINNED_B


PINNED = "092fb4594318f277060ba3dada561e6500ee4e1d39839f73a17f46e43dfc2c9c"
PINNED_B = "3b68ceff026c65db2090e725a2195e5d2dd596d2f7895c64f190188b5cdcd93e"


def test_balanced(flickr_pascal_root: Path) -> None:
    whole, pairs = (load_dataset(f"flickr-pascal{b}", flickr_pascal_root) for b in ("", "-b"))
    assert len(pairs) == len(pairs.images) == 1006
    assert list(pairs.images.ids) == list(whole.images.ids)
    assert (pairs.images.split_codes == whole.images.split_codes).all()
    assert len(pairs.select(split="test", label="sheep")) == 25
    other = load_dataset("flickr-pascal-b", flickr_pascal_root, options={"split_seed": 1})
    assert other.fingerprint != pairs.fingerprint


def test_a_part_of_pascal_keeps_its_halves(tmp_path: Path) -> None:
    """Also where so many images of a class are missing that halving them anew would move others."""
    some = list(PASCAL_SPLIT.splits)[::3]
    write_flickr(tmp_path / "flickr30k")
    write_pascal(tmp_path / "pascal_sentences", some)
    pairs = load_dataset("flickr-pascal", tmp_path)
    for index in range(6, len(pairs.images)):
        name = image_name(pairs.images.ids[index])
        part = "train" if pairs.images.split_codes[index] == 0 else "test"
        assert PASCAL_SPLIT.splits[name] == part
    assert len(pairs.images) == 6 + len(some)
    assert pairs.problems == ()


def test_images_that_no_one_else_has_are_left_out(tmp_path: Path) -> None:
    write_flickr(tmp_path / "flickr30k")
    extra: dict[str, Any] = {"mine.jpg": {"category": "sheep", "captions": ["my sheep"]}}
    write_pascal(tmp_path / "pascal-sentences", **extra)
    with pytest.warns(MmpoisonWarning, match=r"1 image is not in the published split.*mine.jpg"):
        pairs = load_dataset("flickr-pascal", tmp_path)
    assert len(pairs.images) == 1006
    # with another seed there is nothing published to keep to
    assert len(load_dataset("flickr-pascal", tmp_path, options={"split_seed": 1}).images) == 1007


def test_karpathys_split_of_flickr_is_all_training_data(flickr_pascal_root: Path) -> None:
    (flickr_pascal_root / "flickr30k" / "results_20130124.token").unlink()
    images = [karpathy_image(f"{split}.jpg", split) for split in ("train", "val", "test")]
    file = flickr_pascal_root / "flickr30k" / "dataset_flickr30k.json"
    file.write_text(json.dumps({"images": images}))
    assert parts(load_dataset("flickr-pascal", flickr_pascal_root))["train"][None] == 3


def test_wrong_options_are_one_line(flickr_pascal_root: Path) -> None:
    with pytest.raises(InputError, match="no such folder, flickr-pascal needs"):
        load_flickr_pascal(flickr_pascal_root / "nowhere")
    assert DATASETS["flickr-pascal-b"].options == DATASETS["flickr-pascal"].options


@pytest.mark.skipif(not PASCAL.is_dir(), reason=f"PASCAL is not at {SHARED}")
def test_the_real_photos_of_pascal(tmp_path: Path) -> None:
    write_flickr(tmp_path / "flickr30k")
    (tmp_path / "pascal_sentences").symlink_to(PASCAL.resolve())
    with pytest.warns(MmpoisonWarning, match="864 of 1,000 images are not under"):
        pairs = load_dataset("flickr-pascal", tmp_path)
    assert len(pairs.images) == 6 + 136
    whole = load_dataset("flickr-pascal", tmp_path, options={"missing": "keep"})
    # table 9: PASCAL has 4,998 pairs
    assert len(whole) == 30 + 4998
    assert whole.counts()["splits"]["test"] == {"images": 500, "pairs": 2500}
