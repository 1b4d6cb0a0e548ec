"""The scenes as a data set, and their balanced version."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.datasets import load_dataset, load_pairs
from mmpoison.datasets.fetch import build_dataset

SMALL: dict[str, Any] = {"unlabelled": 10, "per_class": 4, "held_out": 4, "size": 16}


def test_balanced_is_one_of_the_captions_of_each_scene(tmp_path: Path) -> None:
    whole = load_dataset("openmoji", seed=1, options=SMALL)
    balanced = load_dataset("openmoji-b", seed=1, options=SMALL)
    assert balanced.images.ids.tolist() == whole.images.ids.tolist()
    assert balanced.root == whole.root
    assert np.array_equal(balanced.image, np.arange(94))
    said = set(zip(whole.image.tolist(), whole.captions, strict=True))
    assert set(zip(balanced.image.tolist(), balanced.captions, strict=True)) <= said
    other = load_dataset("openmoji-b", seed=1, options={**SMALL, "caption_seed": 1})
    assert other.fingerprint != balanced.fingerprint
    # built as a folder of its own it is the same set
    out = build_dataset("openmoji-b", tmp_path / "scenes", seed=1, options=SMALL)
    assert load_pairs(out).fingerprint == balanced.fingerprint
    assert (out / "README.md").is_file()
    # and a folder of the whole set is balanced when it is loaded under this name
    assert load_dataset("openmoji-b", whole.root).fingerprint == balanced.fingerprint


def test_a_share_of_every_class_and_of_the_unlabelled() -> None:
    whole = load_dataset("openmoji", seed=1, options=SMALL)
    half = load_dataset("openmoji", seed=1, options={**SMALL, "train_share": 0.5})
    train = half.images.indices(split="train")
    sizes = Counter(half.images.label(int(index)) for index in train)
    assert sizes.pop(None) == 5
    assert set(sizes.values()) == {1}
    assert len(sizes) == 20
    for split in ("val", "test"):
        assert half.counts()["splits"][split] == whole.counts()["splits"][split]
    quarter = load_dataset("openmoji", seed=1, options={**SMALL, "train_share": 0.25})
    assert set(quarter.images.ids) < set(half.images.ids) < set(whole.images.ids)
