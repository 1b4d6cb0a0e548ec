"""`flickr-pascal` and its balanced variant: composed in small, and the real counts where the data are."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED

from mmpoison.datasets import DATASETS, PairDataset, load_dataset
from mmpoison.datasets.published.flickr_pascal import FOLDERS, load_flickr_pascal
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.labels import labels_of
from mmpoison.pairs.reshape import image_name
from mmpoison.pairs.splits import FrozenSplit, shipped_split

PASCAL = SHARED / "pascal_sentences"
WHOLE = Path(os.environ.get("MMPOISON_DATA", "nowhere")) / "flickr-pascal"
PUBLISHED = shipped_split("pascal-sentences")


def write_flickr(folder: Path, count: int = 6) -> None:
    folder.mkdir(parents=True)
    lines = [
        f"{number}.jpg#{which}\tflickr {number} caption {which}"
        for number in range(1000, 1000 + count)
        for which in range(5)
    ]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")


def write_pascal(folder: Path, names: list[str], **more: Any) -> None:
    folder.mkdir(parents=True)
    entries = {
        name: {"category": PUBLISHED.labels[name], "captions": [f"{name} {n}" for n in range(5)]}
        for name in names
    }
    (folder / "pascal_sentences.json").write_text(json.dumps({**entries, **more}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_flickr(tmp_path / "flickr30k")
    write_pascal(tmp_path / "pascal-sentences", list(PUBLISHED.splits))
    return tmp_path


def parts(pairs: PairDataset) -> dict[str, Counter[str | None]]:
    labels = labels_of(pairs)
    return {
        split: Counter(labels[i] for i in pairs.images.indices(split=split))
        for split in ("train", "val", "test")
    }


def test_it_is_composed_as_in_the_paper(root: Path) -> None:
    pairs = load_dataset("flickr-pascal", root)
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
    assert pairs.root == root
    assert pairs.images.ids[0] == "flickr30k/flickr30k-images/1000.jpg"
    assert pairs.images.ids[-1].startswith("pascal-sentences/images/")
    assert pairs.captions[0] == "flickr 1000 caption 0"
    assert pairs.fingerprint == load_dataset("flickr-pascal", root, seed=7).fingerprint


def test_the_split_is_the_published_one(root: Path) -> None:
    pairs = load_dataset("flickr-pascal", root)
    photos = [i for i, label in enumerate(labels_of(pairs)) if label is not None]
    pascal = FrozenSplit.of(pairs.piece(photos), "x", "name")
    assert pascal.sha256 == PUBLISHED.sha256
    other = load_dataset("flickr-pascal", root, options={"split_seed": 1})
    assert parts(other) == parts(pairs)
    assert set(other.images.indices(split="test")) != set(pairs.images.indices(split="test"))


def test_the_fingerprint_is_pinned(root: Path) -> None:
    assert load_dataset("flickr-pascal", root).fingerprint == PINNED
    assert load_dataset("flickr-pascal-b", root).fingerprint == PINNED_B


PINNED = "092fb4594318f277060ba3dada561e6500ee4e1d39839f73a17f46e43dfc2c9c"
PINNED_B = "3b68ceff026c65db2090e725a2195e5d2dd596d2f7895c64f190188b5cdcd93e"


def test_balanced(root: Path) -> None:
    whole, pairs = (load_dataset(f"flickr-pascal{b}", root) for b in ("", "-b"))
    assert len(pairs) == len(pairs.images) == 1006
    assert list(pairs.images.ids) == list(whole.images.ids)
    assert (pairs.images.split_codes == whole.images.split_codes).all()
    assert len(pairs.select(split="test", label="sheep")) == 25
    other = load_dataset("flickr-pascal-b", root, options={"split_seed": 1})
    assert other.fingerprint != pairs.fingerprint


def test_a_part_of_pascal_keeps_its_halves(tmp_path: Path) -> None:
    """Also where so many images of a class are missing that halving them anew would move others."""
    some = list(PUBLISHED.splits)[::3]
    write_flickr(tmp_path / "flickr30k")
    write_pascal(tmp_path / "pascal_sentences", some)
    pairs = load_dataset("flickr-pascal", tmp_path)
    for index in range(6, len(pairs.images)):
        name = image_name(pairs.images.ids[index])
        part = "train" if pairs.images.split_codes[index] == 0 else "test"
        assert PUBLISHED.splits[name] == part
    assert len(pairs.images) == 6 + len(some)
    assert pairs.problems == ()


def test_images_that_no_one_else_has_are_left_out(tmp_path: Path) -> None:
    write_flickr(tmp_path / "flickr30k")
    extra = {"mine.jpg": {"category": "sheep", "captions": ["my sheep"]}}
    write_pascal(tmp_path / "pascal-sentences", list(PUBLISHED.splits), **extra)
    with pytest.warns(MmpoisonWarning, match=r"1 image is not in the published split.*mine.jpg"):
        pairs = load_dataset("flickr-pascal", tmp_path)
    assert len(pairs.images) == 1006
    # with another seed there is nothing published to keep to
    assert len(load_dataset("flickr-pascal", tmp_path, options={"split_seed": 1}).images) == 1007


def test_karpathys_split_of_flickr_is_all_training_data(root: Path) -> None:
    (root / "flickr30k" / "results_20130124.token").unlink()
    images = [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"{split} {n}"}]}
        for n, split in enumerate(("train", "val", "test"))
    ]
    (root / "flickr30k" / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    assert parts(load_dataset("flickr-pascal", root))["train"][None] == 3


@pytest.mark.parametrize("missing", list(FOLDERS))
def test_a_missing_part_is_one_line(root: Path, missing: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(InputError, match=rf"{missing}: no such folder, flickr-pascal needs"):
        load_dataset("flickr-pascal", root)


def test_wrong_options_are_one_line(root: Path) -> None:
    with pytest.raises(InputError, match="option split_seed=x: a whole number"):
        load_dataset("flickr-pascal-b", root, options={"split_seed": "x"})
    with pytest.raises(InputError, match="no such folder, flickr-pascal needs"):
        load_flickr_pascal(root / "nowhere")
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


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the data are not at $MMPOISON_DATA/flickr-pascal")
def test_table_9_of_the_paper() -> None:
    pairs = load_dataset("flickr-pascal", options={"missing": "keep"})
    flickr = int((pairs.images.class_codes == -1).sum())
    # the paper prints 31,873, which is no fifth of its 158,915 pairs
    assert flickr == 31_783
    assert len(pairs) == 158_915 + 4_998
    assert len(pairs.images) - flickr == 1000
    assert len(pairs.classes) == 20
