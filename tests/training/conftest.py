"""The training pairs of the coloured squares, and their inputs for the small encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PairInputs, PixelInputs, prepare_pixels
from mmpoison.training import (
    Checkpoints,
    LogOptions,
    Step,
    TrainingResult,
    TrainingSettings,
    finetune,
)
from mmpoison.training.processes import Processes

QUICK = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")

Make = Callable[..., DualEncoder]
Tune = Callable[..., TrainingResult]


class Stop(Exception):
    """A training is stopped by it, as by a kill."""


def stop_after(count: int) -> Callable[[Step, DualEncoder], None]:
    """Make a callback that stops a training after so many steps."""

    def stop(step: Step, _: DualEncoder) -> None:
        if step.step == count:
            raise Stop

    return stop


def state(encoder: DualEncoder) -> dict[str, Tensor]:
    """A copy of all weights and statistics."""
    return {name: value.clone() for name, value in encoder.module.state_dict().items()}


def moved(before: DualEncoder, after: DualEncoder) -> set[str]:
    """Names of the tensors that differ by a bit."""
    other = after.module.state_dict()
    return {n for n, v in before.module.state_dict().items() if not torch.equal(v, other[n])}


def assert_close(first: DualEncoder, second: DualEncoder) -> None:
    """Refuse weights that differ by more than rounding."""
    other = second.module.state_dict()
    for name, value in first.module.state_dict().items():
        torch.testing.assert_close(value, other[name], atol=2e-6, rtol=1e-5, msg=name)


def gradients(student: DualEncoder) -> dict[str, Tensor]:
    """A copy of the gradients that there are."""
    named = student.module.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_equal_gradients(
    one: dict[str, Tensor], other: dict[str, Tensor], most: float = 1e-5
) -> None:
    """Refuse gradients of other parameters, or that differ by more than rounding."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        error = (gradient - other[name]).norm() / gradient.norm().clamp_min(1e-12)
        assert error < most, (name, float(error))


def fake_processes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let a training believe that it is the first of several processes."""

    def made(self: Processes, device: torch.device) -> None:
        self.rank, self.count, self.device, self.accelerator = 0, count, device, None

    monkeypatch.setattr(Processes, "__init__", made)


@pytest.fixture(scope="module")
def train(squares: PairDataset) -> PairDataset:
    return squares.select(split="train")


@pytest.fixture(scope="module")
def inputs(make_encoder: Make, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(make_encoder(), squares)


@pytest.fixture
def tune(make_encoder: Make, train: PairDataset, inputs: PixelInputs) -> Tune:
    """A function that trains for an epoch with seed 0; keyword arguments are settings."""

    def run(
        encoder: DualEncoder | None = None,
        pairs: PairDataset | None = None,
        *,
        seed: int = 0,
        prepared: PairInputs | None = None,
        on_step: Any = None,
        checkpoints: Checkpoints | None = None,
        log: LogOptions | None = None,
        **settings: Any,
    ) -> TrainingResult:
        return finetune(
            encoder or make_encoder(),
            train if pairs is None else pairs,
            prepared or inputs,
            TrainingSettings.model_validate({**QUICK.model_dump(), **settings}),
            seed=seed,
            on_step=on_step,
            checkpoints=checkpoints,
            log=log,
        )

    return run
