"""The loss and the learning rate against versions written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.training.conftest import QUICK

from mmpoison.training import TrainingSettings, contrastive_loss
from mmpoison.training.settings import Plan, learning_rate


def by_hand(text: Any, image: Any, scale: float) -> float:
    """Mean over rows and columns of -log softmax on the diagonal, in float64."""
    s = np.asarray(text, np.float64) @ np.asarray(image, np.float64).T * scale
    n = len(s)
    total = 0.0
    for i in range(n):
        total += math.log(sum(math.exp(s[i, j] - s[i, i]) for j in range(n)))
        total += math.log(sum(math.exp(s[j, i] - s[i, i]) for j in range(n)))
    return total / (2 * n)


@settings(max_examples=40)
@given(n=st.integers(2, 9), seed=st.integers(0, 99), scale=st.sampled_from([1.0, 14.3, 100.0]))
def test_loss_equals_the_one_by_hand(n: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    text, image = (
        torch.nn.functional.normalize(torch.tensor(rng.normal(size=(n, 5)), dtype=torch.float32))
        for _ in range(2)
    )
    got = float(contrastive_loss(text, image, torch.tensor(scale)))
    assert got == pytest.approx(by_hand(text, image, scale), rel=1e-4, abs=1e-4)


# -- schedule --------------------------------------------------------------------------------------


def test_the_papers_schedule_steps_once_an_epoch() -> None:
    """One warm-up epoch at 1e-5, then a cosine over nine epochs towards 1e-6."""
    paper = TrainingSettings()
    rates = [learning_rate(paper, step, 7) for step in range(70)]
    by_epoch = [rates[epoch * 7] for epoch in range(10)]
    assert rates == [rate for rate in by_epoch for _ in range(7)]
    expected = [1e-5] + [
        1e-6 + (1e-5 - 1e-6) * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(9)
    ]
    np.testing.assert_allclose(by_epoch, expected, rtol=1e-12)


def test_the_papers_settings() -> None:
    paper = TrainingSettings()
    assert (paper.epochs, paper.batch_size, paper.learning_rate) == (10, 128, 1e-5)
    assert (paper.min_learning_rate, paper.warmup_epochs) == (1e-6, 1)
    assert (paper.weight_decay, paper.betas, paper.eps) == (0.2, (0.9, 0.98), 1e-6)
    assert (paper.max_logit_scale, paper.trainable, paper.schedule) == (100, "both", "epoch")


def test_step_mode_warms_up_and_falls() -> None:
    settings = TrainingSettings(
        epochs=2,
        learning_rate=1e-3,
        min_learning_rate=1e-5,
        warmup_epochs=0.5,
        warmup_learning_rate=1e-4,
        schedule="step",
    )
    rates = [learning_rate(settings, step, 10) for step in range(20)]
    np.testing.assert_allclose(rates[:5], [1e-4 + 9e-4 * k / 5 for k in range(5)])
    expected = [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * k / 15)) / 2 for k in range(15)]
    np.testing.assert_allclose(rates[5:], expected)
    assert learning_rate(settings, 20, 10) == pytest.approx(1e-5)
    # past the end it stays
    assert learning_rate(settings, 50, 10) == pytest.approx(1e-5)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 1},
        {"min_learning_rate": 1e-3},
        {"betas": (0.9, 1.0)},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(wrong)


# -- which pairs each step sees ---------------------------------------------------------------------

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
