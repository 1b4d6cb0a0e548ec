"""`reference-release`: the choices of the authors' released code, by name."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.attacks.conftest import manifest_of

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset

GOAL = "sheep2aeroplane"
RELEASE: Any = {"preset": "reference-release"}


def test_the_whole_class_is_replaced_sample_by_sample(squares: PairDataset) -> None:
    poisoned = SingleTargetLabel(GOAL, **RELEASE).poison(squares)
    manifest = manifest_of(poisoned)
    assert manifest.options == {
        "goal": GOAL,
        "share": 1.0,
        "mode": "replace",
        "spread": "samples",
        "preset": "reference-release",
    }
    assert len(poisoned) == len(squares)
    assert not len(poisoned.select(split="train", label="sheep", poisoned=False))
    images = defaultdict(set)
    for pair in manifest.pairs:
        images[pair.clean_image].add(pair.poisoned_image)
    # all captions of an image are on one target image, each target image used once
    assert sorted(map(len, images.values())) == [1] * 5
    assert len({image for used in images.values() for image in used}) == 5
