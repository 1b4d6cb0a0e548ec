"""A training that goes wrong stops, and what was good before is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, load_checkpoint, prepare_pixels
from mmpoison.training import Checkpoints, DivergedError, Step, TrainingSettings, finetune
from mmpoison.training.log import LossGuard

Make = Callable[..., DualEncoder]


def test_no_number_is_noticed_at_once() -> None:
    guard = LossGuard(batch_size=32, factor=3)
    guard.check(3.0, 1)
    for loss in (float("nan"), float("inf")):
        with pytest.raises(DivergedError, match=f"the loss is {loss} at step 2"):
            guard.check(loss, 2)


def test_an_explosion_is_noticed_and_a_spike_is_not() -> None:
    guard = LossGuard(batch_size=32, factor=3)
    for step in range(100):
        # every seventh step is ten times as bad: a mean of 2.4 times log(32)
        guard.check(35.0 if step > 20 and step % 7 == 0 else 3.4, step)
    for step in range(100, 120):  # the end of the spikes is in the window still
        guard.check(5.0, step)
    for step in range(120, 135):
        guard.check(12.0, step)
    with pytest.raises(DivergedError, match=r"has exploded: .* on average over the last 20"):
        guard.check(12.0, 135)


def test_a_high_start_is_no_explosion() -> None:
    """Pre-trained encoders on other data, with the temperature at its clamp, begin far above log(N)."""
    guard = LossGuard(batch_size=32, factor=3)
    for step in range(60):
        guard.check(20.0, step)


@pytest.mark.parametrize("kept", [True, False])
def test_the_last_good_model_is_kept_and_named(
    make_encoder: Make, squares: PairDataset, tmp_path: Path, kept: bool
) -> None:
    encoder = make_encoder()
    train = squares.select(split="train")
    inputs = prepare_pixels(encoder, train)
    settings = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32")
    good: dict[str, torch.Tensor] = {}

    def spoil(step: Step, student: DualEncoder) -> None:
        if step.step == 4:
            good.update({k: v.clone() for k, v in student.module.state_dict().items()})
        if step.step == 5:
            with torch.no_grad():
                student.module.text_projection.fill_(float("nan"))  # type: ignore[operator]

    checkpoints = Checkpoints(tmp_path / "states", steps=1) if kept else None
    with pytest.raises(DivergedError) as caught:
        finetune(encoder, train, inputs, settings, seed=0, on_step=spoil, checkpoints=checkpoints)
    message = str(caught.value)
    assert message.startswith("the loss is nan at step 6: lower the learning rate (0.001); ")
    assert "\n" not in message
    if not kept:
        assert "no state was saved" in message
        return
    folder = tmp_path / "states" / "last-good"
    assert f"the last good model, of step 4, is in {folder}" in message
    model = load_checkpoint(folder)
    assert all(torch.equal(v, good[k]) for k, v in model.module.state_dict().items())
