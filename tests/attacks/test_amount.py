"""Amounts: the share of a class, and the counts of the paper's protocol."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.attacks.conftest import class_table, manifest_of

from mmpoison.attacks import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel
from mmpoison.datasets import PairDataset

GOAL = "sheep2aeroplane"


@pytest.mark.parametrize(("share", "samples"), [(1, 5), (0.6, 3), (0.5, 2), (0.7, 4), (0.11, 1)])
def test_a_share_of_the_class(squares: PairDataset, share: float, samples: int) -> None:
    """Rounded as pandas rounds `sample(frac)`, which the released code uses."""
    poisoned = SingleTargetLabel(GOAL, share=share).poison(squares)
    assert len(set(poisoned.select(poisoned=True).source)) == samples
    assert poisoned.poisoned.sum() == 5 * samples


# -- the paper's protocol --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flickr_pascal() -> PairDataset:
    """The shape of the paper's first set: Flickr30k unlabelled, 20 classes of 25 + 25 images."""
    names = ["aeroplane", "bird", "sheep", "sofa", *(f"class{n}" for n in range(16))]
    return class_table(dict.fromkeys(names, (25, 25)), unlabelled=31_783)


@pytest.mark.parametrize(
    ("attack", "goals", "amount", "pairs", "rate"),
    [
        (SingleTargetImage, GOAL, {"samples": 25}, 125, 0.000774),
        (SingleTargetLabel, GOAL, {"samples": 25}, 125, 0.000774),
        # 250 / 161,665: the paper prints 0.16, twice 0.08
        (MultipleTargetLabels, [GOAL, "sofa2bird"], {"samples": 25}, 250, 0.001546),
        # one pair more is 81 / (161,415 + 81) > 0.0005
        (SingleTargetLabel, GOAL, {"rate": 0.0005}, 80, 0.000495),
    ],
)
def test_the_papers_rates(
    flickr_pascal: PairDataset, attack: Any, goals: Any, amount: Any, pairs: int, rate: float
) -> None:
    manifest = manifest_of(attack(goals, **amount).poison(flickr_pascal))
    assert len(manifest.pairs) == pairs
    assert manifest.rate == pytest.approx(rate, abs=1e-6)
    assert manifest.training_pairs == 158_915 + 2_500 + pairs
    uses = Counter(pair.poisoned_image for pair in manifest.pairs)
    assert max(uses.values()) - min(uses.values()) <= 1
