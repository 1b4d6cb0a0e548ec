"""A batch in chunks has the gradient of the batch in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.training.conftest import QUICK, Make, Tune, assert_equal_gradients, gradients
from torch import Tensor, nn

from mmpoison.base.seeding import torch_seed
from mmpoison.datasets import PairDataset
from mmpoison.errors import MmpoisonWarning
from mmpoison.models import DualEncoder, PixelInputs
from mmpoison.training import Step, contrastive_loss
from mmpoison.training.settings import Plan

ONE_STEP = {"max_steps": 1, "batch_size": 48}

StepOf = Callable[..., tuple[float, dict[str, Tensor]]]


@pytest.fixture
def step_of(tune: Tune) -> StepOf:
    """A function that gives loss and gradients of the first step."""

    def first(encoder: DualEncoder, **settings: Any) -> tuple[float, dict[str, Tensor]]:
        found: list[tuple[float, dict[str, Tensor]]] = []

        def record(step: Step, student: DualEncoder) -> None:
            found.append((step.loss, gradients(student)))

        tune(encoder, on_step=record, **ONE_STEP, **settings)
        return found[0]

    return first


def test_dropout_draws_the_same_numbers_in_both_passes(
    make_encoder: Make,
    vit_config: dict[str, Any],
    train: PairDataset,
    inputs: PixelInputs,
    step_of: StepOf,
) -> None:
    """Against one graph over all chunks, each with the numbers of its own seed."""
    encoder = make_encoder(0, vit_config)
    visual: Any = encoder.module.visual
    visual.ln_post = nn.Sequential(visual.ln_post, nn.Dropout(0.4))
    loss, whole = step_of(encoder, chunk_size=16)

    by_hand = encoder.copy()
    by_hand.module.train()
    plan = Plan(len(train), QUICK.model_copy(update=ONE_STEP), seed=0)
    images, texts = [], []
    for number, chunk in enumerate(plan.batch(0).reshape(3, 16)):
        torch.manual_seed(torch_seed(0, f"training/step/0/0/{number}"))
        images.append(
            by_hand.encode_image(
                by_hand.image_input(inputs.pixels.pixels[inputs.image_rows(train.image[chunk])])
            )
        )
        texts.append(
            inputs.encode_texts(by_hand, inputs.load_texts(inputs.text_rows(train.captions[chunk])))
        )
    expected = contrastive_loss(torch.cat(texts), torch.cat(images), by_hand.logit_scale.exp())
    torch.autograd.backward(expected)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert_equal_gradients(gradients(by_hand), whole)
    # and the numbers do matter
    _, other = step_of(encoder, chunk_size=24)
    assert not torch.allclose(other["visual.conv1.weight"], whole["visual.conv1.weight"])


def test_statistics_are_counted_once_and_the_difference_is_said(
    make_encoder: Make, tune: Tune
) -> None:
    with pytest.warns(MmpoisonWarning, match="batch normalisation, which sees a chunk of 16 pairs"):
        result = tune(chunk_size=16, **ONE_STEP)
    seen = result.encoder.module.state_dict()["visual.bn1.num_batches_tracked"]
    before = make_encoder().module.state_dict()["visual.bn1.num_batches_tracked"]
    assert int(seen - before) == 3
