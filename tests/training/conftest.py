"""The training pairs of the coloured squares, and their inputs for the small encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PairInputs, PixelInputs, prepare_pixels
from mmpoison.training import Checkpoints, TrainingResult, TrainingSettings, finetune

QUICK = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")

Tune = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def train(squares: PairDataset) -> PairDataset:
    return squares.select(split="train")


@pytest.fixture(scope="module")
def inputs(make_encoder: Callable[..., DualEncoder], squares: PairDataset) -> PixelInputs:
    return prepare_pixels(make_encoder(), squares)


@pytest.fixture
def tune(make_encoder: Callable[..., DualEncoder], train: PairDataset, inputs: PixelInputs) -> Tune:
    """A function that trains for an epoch with seed 0; keyword arguments are settings."""

    def run(
        encoder: DualEncoder | None = None,
        pairs: PairDataset | None = None,
        *,
        seed: int = 0,
        prepared: PairInputs | None = None,
        on_step: Any = None,
        checkpoints: Checkpoints | None = None,
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
        )

    return run
