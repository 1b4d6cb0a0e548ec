"""`flickr-pascal` and its balanced variant: composed in small, and the real counts where the data are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import SHARED
from tests.datasets.published.conftest import karpathy_image, write_flickr

from mmpoison.datasets import DATASETS, PairDataset, load_dataset
from mmpoison.datasets.published.flickr_pascal import load_flickr_pascal
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.labels import labels_of

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
    classes: dict[str | None, int] = dict.fromkeys(pairs.classes, 2)
    assert of["train"] == {None: 6, **classes}
    assert of["test"] == classes
    assert not of["val"]
    assert len(classes) == 20
    assert len(pairs.select(split="test")) == 200
    assert len(pairs.select(split="test", label="sheep")) == 10
    assert len(pairs.select(split="train")) == 200 + 30
    assert pairs.root == flickr_pascal_root
    assert pairs.images.ids[0] == "flickr30k/flickr30k-images/1000.jpg"
    assert pairs.images.ids[-1].startswith("pascal-sentences/images/")
    assert pairs.captions[0] == "flickr 1000 caption 0"
    assert (
        pairs.fingerprint == load_dataset("flickr-pascal", flickr_pascal_root, seed=7).fingerprint
    )


def test_another_split(flickr_pascal_root: Path) -> None:
    pairs = load_dataset("flickr-pascal", flickr_pascal_root)
    other = load_dataset("flickr-pascal", flickr_pascal_root, options={"split_seed": 1})
    assert parts(other) == parts(pairs)
    assert set(other.images.indices(split="test")) != set(pairs.images.indices(split="test"))


def test_the_fingerprint_is_pinned(flickr_pascal_root: Path) -> None:
    assert load_dataset("flickr-pascal", flickr_pascal_root).fingerprint == PINNED
    assert load_dataset("flickr-pascal-b", flickr_pascal_root).fingerprint == PINNED_B


PINNED = "7fe9c5284e7e6e81c9ab706fd5889bcaa53e3e869033da9c09aadd6f69f3d88c"
PINNED_B = "624d74c222b6de590b11bbef2ff3f93e96c33801041a8f4fc2776c877c795846"


def test_balanced(flickr_pascal_root: Path) -> None:
    whole, pairs = (load_dataset(f"flickr-pascal{b}", flickr_pascal_root) for b in ("", "-b"))
    assert len(pairs) == len(pairs.images) == 86
    assert list(pairs.images.ids) == list(whole.images.ids)
    assert (pairs.images.split_codes == whole.images.split_codes).all()
    assert len(pairs.select(split="test", label="sheep")) == 2
    other = load_dataset("flickr-pascal-b", flickr_pascal_root, options={"split_seed": 1})
    assert other.fingerprint != pairs.fingerprint


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
