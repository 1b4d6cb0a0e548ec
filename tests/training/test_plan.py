"""Which pairs each step sees."""

from __future__ import annotations

import numpy as np
import pytest
from tests.training.conftest import QUICK

from mmpoison.training.plan import Plan

TWO_EPOCHS = QUICK.model_copy(update={"epochs": 2, "batch_size": 8})


def order_of(plan: Plan) -> list[list[int]]:
    """The pairs of each epoch, in order."""
    steps = plan.steps_per_epoch
    return [
        np.concatenate([plan.batch(start + step) for step in range(steps)]).tolist()
        for start in range(0, plan.steps, steps)
    ]


def test_each_epoch_sees_every_pair_once_in_another_order() -> None:
    first, second = order_of(Plan(42, TWO_EPOCHS, seed=1))
    assert sorted(first) == sorted(second) == list(range(42))
    assert first != second


@pytest.mark.parametrize("skipped", [[], [0], [41], [3, 4, 5, 17, 30]])
def test_the_others_keep_their_order(skipped: list[int]) -> None:
    skip = np.isin(np.arange(42), skipped)
    whole, part = Plan(42, TWO_EPOCHS, seed=1), Plan(42, TWO_EPOCHS, seed=1, skip=skip)
    for every, some in zip(order_of(whole), order_of(part), strict=True):
        left = [pair for pair in every if pair not in skipped]
        # a last batch of one pair is left out
        assert some == left[: len(left) - (len(left) % 8 == 1)]
    assert part.seen().tolist() == [pair for pair in range(42) if pair not in skipped]
