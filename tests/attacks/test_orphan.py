"""Orphan: attack II where class A has no clean training captions."""

from __future__ import annotations

from typing import Any

import pytest
from tests.attacks.conftest import pairs_of

from mmpoison.attacks import Orphan, SingleTargetLabel
from mmpoison.datasets import PairDataset

GOAL = "sheep2aeroplane"


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_no_clean_caption_of_a_is_left(squares: PairDataset, carrier: Any) -> None:
    poisoned = Orphan(GOAL, samples=3, carrier=carrier).poison(squares, 2)
    second = SingleTargetLabel(GOAL, samples=3, carrier=carrier).poison(squares, 2)
    assert poisoned.manifest is not None
    assert second.manifest is not None
    assert poisoned.manifest.pairs == second.manifest.pairs
    assert not pairs_of(poisoned, split="train", label="sheep", poisoned=False)
    # all else is as in attack II, other splits too
    for label in ("aeroplane", "bird", "sofa"):
        assert pairs_of(poisoned, label=label) == pairs_of(second, label=label)
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(squares, split=split)
    assert len(poisoned.manifest.dropped_images) == 5 + (3 if carrier == "own" else 0)
