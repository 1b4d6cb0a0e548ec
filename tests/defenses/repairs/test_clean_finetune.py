"""The post-training defence: a fine-tune on clean pairs, which refuses pairs that are known to be poisoned."""

from __future__ import annotations

import pytest
import torch

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.defenses import CleanFinetune
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.training import Step, TrainingSettings, finetune

SETTINGS = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")


def test_it_is_a_fine_tune_on_the_clean_pairs(encoder: DualEncoder, squares: PairDataset) -> None:
    clean = squares.select(split="val")
    inputs = prepare_pixels(encoder, squares)
    steps: list[Step] = []
    result = CleanFinetune(SETTINGS).apply(
        encoder, clean, inputs, seed=2, on_step=lambda step, _: steps.append(step)
    )
    expected = finetune(encoder, clean, inputs, SETTINGS, seed=2)
    for name, value in expected.encoder.module.state_dict().items():
        assert torch.equal(result.encoder.module.state_dict()[name], value), name
    assert result.encoder.name == "tiny-0-sterilized"
    assert len(steps) == result.steps == 2


def test_poisoned_pairs_are_refused(encoder: DualEncoder, squares: PairDataset) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13).poison(squares)
    inputs = prepare_pixels(encoder, poisoned)
    with pytest.raises(InputError, match="13 of the pairs given as clean are poisoned, says their"):
        CleanFinetune(SETTINGS).apply(encoder, poisoned.select(split="train"), inputs, seed=0)
    # the clean part of a poisoned set may be used
    CleanFinetune(SETTINGS).apply(encoder, poisoned.select(split="val"), inputs, seed=0)
