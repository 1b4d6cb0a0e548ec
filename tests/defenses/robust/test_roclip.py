"""RoCLIP: the nearest caption of the bank by a loop, the bank of each epoch, and which encoder moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.conftest import refusal

from mmpoison.datasets import PairDataset
from mmpoison.defenses import RoClip
from mmpoison.defenses.robust.roclip import BankObjective, nearest
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.training import Embedded, EpochStart, Step, TrainingSettings, contrastive_loss


def unit(seed: int, count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_nearest_caption_of_the_bank() -> None:
    image, bank = unit(0, 12), unit(1, 7)
    found = nearest(image, bank)
    for row in range(12):
        best, cosine = -1, -2.0
        for place in range(7):
            if float(image[row] @ bank[place]) > cosine:
                best, cosine = place, float(image[row] @ bank[place])
        assert torch.equal(found[row], bank[best])


def test_the_loss_has_the_captions_of_the_bank_and_no_gradient_for_text() -> None:
    image, text, scale = unit(0, 4).requires_grad_(), unit(1, 4).requires_grad_(), torch.tensor(3.0)
    objective = BankObjective(0.5, 2)
    objective.bank = unit(2, 3)
    loss = objective.loss(np.arange(4), Embedded((image,), (text,), scale))
    chosen = torch.stack([objective.bank[int((objective.bank @ one).argmax())] for one in image])
    assert float(loss.detach()) == pytest.approx(
        float(contrastive_loss(chosen, image.detach(), scale))
    )
    torch.autograd.backward(loss)
    assert image.grad is not None
    assert text.grad is None
    objective.bank = torch.zeros((0, 0))
    plain = objective.loss(np.arange(4), Embedded((image,), (text,), scale))
    torch.testing.assert_close(plain, contrastive_loss(text, image, scale))


def test_every_second_epoch_draws_its_own_bank() -> None:
    text = unit(0, 500)
    rows = {tuple(row.tolist()): place for place, row in enumerate(text)}

    def banks(seed: int) -> list[set[int]]:
        objective, found = BankObjective(0.02, 2), []
        for epoch in range(5):
            objective.begin_epoch(EpochStart(epoch, 500, seed, lambda: (text, text)))
            found.append({rows[tuple(row.tolist())] for row in objective.bank})
        return found

    first = banks(0)
    assert [len(bank) for bank in first] == [10, 0, 10, 0, 10]
    assert first[0] != first[2] != first[4]
    assert first == banks(0)
    assert first != banks(1)


def test_a_frozen_image_encoder_is_refused(encoder: DualEncoder, squares: PairDataset) -> None:
    train = squares.select(split="train")
    settings = TrainingSettings(trainable="text")
    message = refusal(
        RoClip().apply, encoder, train, prepare_pixels(encoder, train), settings, seed=0
    )
    assert message.startswith("roclip with trainable 'text': the text encoder gets no gradient")


@pytest.mark.parametrize("trainable", ["both", "image"])
def test_the_text_encoder_stays_in_an_epoch_with_a_bank(
    encoder: DualEncoder, squares: PairDataset, trainable: str
) -> None:
    """Three epochs of one step: the bank, the own captions, the bank."""
    train = squares.select(split="train")
    settings = TrainingSettings.model_validate(
        {
            "epochs": 3,
            "batch_size": 140,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "trainable": trainable,
        }
    )
    weights = [encoder.module.state_dict()]

    def record(_: Step, student: DualEncoder) -> None:
        state = student.module.state_dict()
        weights.append({name: value.clone() for name, value in state.items()})

    inputs = prepare_pixels(encoder, train)
    result = RoClip().apply(encoder, train, inputs, settings, seed=0, on_step=record)
    assert result.objective == "roclip"
    assert len(weights) == 4
    for epoch in range(3):
        before, after = weights[epoch : epoch + 2]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(name.startswith("visual.") for name in moved)
        text_moved = any(not name.startswith(("visual.", "logit_scale")) for name in moved)
        assert text_moved == (epoch == 1 and trainable == "both")
