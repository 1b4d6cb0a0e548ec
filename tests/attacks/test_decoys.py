"""Decoys: attack II among small false groups, which are listed but not measured."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from tests.attacks.conftest import class_table

from mmpoison.attacks import Decoys, Goal, SingleTargetLabel
from mmpoison.evaluation.test_set import goal_targets_of

CLASSES = ("a", "b", "c", "d", "e", "f", "g")
GOAL = "a2b"


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_the_goal_is_attack_ii_and_decoys_are_small_groups(carrier: Any) -> None:
    clean = class_table(dict.fromkeys(CLASSES, (40, 2)))
    options: dict[str, Any] = {"samples": 10, "carrier": carrier}
    poisoned = Decoys(GOAL, **options).poison(clean, 3)
    manifest = poisoned.manifest
    assert manifest is not None
    assert manifest.goals == (GOAL,)
    main = [pair for pair in manifest.pairs if pair.goal == GOAL]
    second = SingleTargetLabel(GOAL, **options).poison(clean, 3).manifest
    assert second is not None
    assert main == list(second.pairs)

    groups = defaultdict(list)
    for pair in manifest.pairs[len(main) :]:
        groups[pair.goal].append(pair)
    assert len(groups) == 20
    carriers: set[str] = {pair.poisoned_image for pair in main}
    for name, pairs in groups.items():
        decoy = Goal.parse(name, CLASSES)
        assert decoy.original != "a"
        assert decoy.target != "b"
        assert len(pairs) == 15
        assert {pair.clean_image.split("/")[0] for pair in pairs} == {decoy.original}
        images = {pair.poisoned_image for pair in pairs}
        assert {image.split("/")[0] for image in images} == {decoy.target}
        assert len(images) == 3
        assert not images & carriers
        carriers |= images
    assert set(manifest.dropped_images) == (carriers if carrier == "own" else set())
    # only the attack's own goal is measured
    assert [str(target) for target in goal_targets_of(manifest, poisoned)] == [GOAL]


def test_too_many_decoys_says_how_many_can_be_made() -> None:
    clean = class_table(dict.fromkeys(CLASSES[:4], (6, 2)))
    with pytest.raises(ValueError, match=r"20 decoys of 3 images asked for, .* images for \d+:"):
        Decoys(GOAL, samples=2).poison(clean)
    poisoned = Decoys(GOAL, samples=2, decoys=2, decoy_samples=2).poison(clean)
    assert poisoned.manifest is not None
    assert len({pair.goal for pair in poisoned.manifest.pairs}) == 3


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize("option", ["decoys", "decoy_samples"])
def test_a_number_that_is_none(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} .* is not a whole number from 1"):
        Decoys(GOAL, samples=2, **{option: value})
