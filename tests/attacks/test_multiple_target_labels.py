"""Attack III: several goals in one injection."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.attacks.conftest import class_table, manifest_of, pairs_of

from mmpoison.attacks import MultipleTargetLabels, SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError

GOALS = ["sheep2aeroplane", "sofa2bird"]


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize(
    "amount",
    [{"samples": 3}, {"pairs": 13}, {"share": 0.6}, {"samples": 3, "carrier": "own"}],
)
def test_each_goal_gets_what_attack_ii_draws_for_it(
    squares: PairDataset, amount: dict[str, Any], mode: Any
) -> None:
    both = MultipleTargetLabels(GOALS, mode=mode, **amount).poison(squares, seed=7)
    assert both.manifest is not None
    for goal in GOALS:
        alone = SingleTargetLabel(goal, mode=mode, **amount).poison(squares, seed=7)
        original = goal.partition("2")[0]
        assert pairs_of(both, poisoned=True, label=original) == pairs_of(alone, poisoned=True)
        assert [pair for pair in both.manifest.pairs if pair.goal == goal] == list(
            alone.manifest.pairs if alone.manifest else ()
        )
    assert both.manifest.goals == tuple(GOALS)
    assert both.manifest.training_pairs == len(both.select(split="train"))


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("rate", [0.05, 0.101])
def test_a_rate_is_one_of_the_whole_set(squares: PairDataset, rate: float, mode: Any) -> None:
    poisoned = MultipleTargetLabels(GOALS, rate=rate, mode=mode).poison(squares)
    manifest = manifest_of(poisoned)
    assert manifest.rate <= rate + 1e-9
    counts = Counter(pair.goal for pair in manifest.pairs)
    assert 0 <= counts[GOALS[0]] - counts[GOALS[1]] <= 1
    # one pair more would be too many
    after = manifest.training_pairs + (mode == "add")
    assert (len(manifest.pairs) + 1) / after > rate


def test_the_largest_amount_is_that_of_the_smallest_class() -> None:
    pairs = class_table({"sheep": (9, 1), "aeroplane": (3, 1), "sofa": (2, 1), "bird": (3, 1)})
    for amount, says in (
        ({"samples": 3}, "has 2 train images with captions: give at most samples=2"),
        ({"pairs": 11}, r"has 10 train captions: give at most pairs=10 \(rate 0.1904\)"),
        ({"rate": 0.3}, r"has 10 train captions: give at most pairs=10 \(rate 0.1904\)"),
    ):
        with pytest.raises(InputError, match=says):
            MultipleTargetLabels(GOALS, **amount).poison(pairs)
    assert MultipleTargetLabels(GOALS, rate=0.1904).poison(pairs).poisoned.sum() > 10


def test_a_rate_of_less_than_a_pair_for_each_goal(squares: PairDataset) -> None:
    with pytest.raises(InputError, match="less than one pair for each of 2 goals") as error:
        MultipleTargetLabels(GOALS, rate=0.0075).poison(squares)
    least = float(str(error.value).rsplit(" ", 1)[1])
    assert MultipleTargetLabels(GOALS, rate=least).poison(squares).poisoned.sum() == 2
