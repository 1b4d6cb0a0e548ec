"""RoCLIP and SafeCLIP: losses and splits against slow versions, phases, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from tests.conftest import refusal
from tests.defenses.conftest import slow_contrast, unit

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PixelInputs, prepare_pixels
from mmpoison.training import Embedded, EpochStart, Step, TrainingSettings, contrastive_loss
from mmpoison_lab.defenses.roclip import BankObjective, RoClip
from mmpoison_lab.defenses.safeclip import SafeClip, SafeObjective, safe_pairs, unimodal_loss
from mmpoison_lab.defenses.two_gaussians import fit_two_gaussians

# -- roclip ----------------------------------------------------------------------------------------


def test_the_loss_has_the_captions_of_the_bank_and_no_gradient_for_text() -> None:
    image, text, scale = unit(0, 4).requires_grad_(), unit(1, 4).requires_grad_(), torch.tensor(3.0)
    objective, bank = BankObjective(0.5, 2), unit(2, 3)
    objective.bank = bank
    loss = objective.loss(np.arange(4), Embedded((image,), (text,), scale))
    # the nearest caption of the bank
    best = [max(range(3), key=lambda place: float(one @ bank[place])) for one in image.detach()]
    chosen = bank[best]
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
    encoder: DualEncoder, squares: PairDataset, trainable: Any
) -> None:
    """Three epochs of one step: the bank, the own captions, the bank."""
    train = squares.select(split="train")
    settings = TrainingSettings(
        epochs=3, batch_size=140, learning_rate=1e-3, precision="fp32", trainable=trainable
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


# -- safeclip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("safe", [[0, 2, 3], [], [0, 1, 2, 3, 4, 5], [4]])
def test_the_loss_of_a_batch(safe: list[int]) -> None:
    image, image_view, text, text_view = (unit(seed) for seed in range(4))
    objective = SafeObjective(0, 0, 0.01, 0.9, 0.0, 0.85)
    pairs = np.array([11, 7, 3, 0, 9, 5])
    objective.is_safe = torch.zeros(12, dtype=torch.bool)
    objective.is_safe[pairs[safe]] = True
    batch = Embedded((image, image_view), (text, text_view), torch.tensor(4.0))
    expected = slow_contrast(text[safe], image[safe], 4.0) if safe else 0.0
    if rest := [i for i in range(6) if i not in safe]:
        expected += (
            slow_contrast(image[rest], image_view[rest], 4.0)
            + slow_contrast(text[rest], text_view[rest], 4.0)
        ) / 2
    assert float(objective.loss(pairs, batch)) == pytest.approx(expected, rel=1e-5)


def drawn_cosines() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    stream = np.random.default_rng(0)
    return stream.permutation(
        np.concatenate([stream.normal(0.1, 0.05, 40), stream.normal(0.4, 0.05, 160)])
    )


@pytest.mark.parametrize(("growth", "most"), [(0.0, 0.85), (0.05, 0.85), (0.5, 0.85), (0.5, 0.1)])
def test_the_split(growth: float, most: float) -> None:
    cosines = drawn_cosines()
    two = fit_two_gaussians(cosines)
    sure = []
    for cosine in cosines:
        within = min(max(cosine, two.means[0]), two.means[1])
        low, high = (
            two.shares[i] * norm.pdf(within, two.means[i], two.deviations[i]) for i in (0, 1)
        )
        sure.append(high / (low + high) >= 0.9)
    count = max(sum(sure), min(sum(sure) + round(growth * 200), round(most * 200)))
    expected = set(sorted(range(200), key=lambda pair: -cosines[pair])[:count])
    assert set(np.flatnonzero(safe_pairs(cosines, 0.9, growth, most))) == expected
    assert {pair for pair in range(200) if sure[pair]} <= expected


def test_the_pair_with_the_largest_cosine_is_safe() -> None:
    """The plain posterior of a narrow upper Gaussian calls it unsafe: the wide lower one wins far out."""
    stream = np.random.default_rng(0)
    cosines = np.concatenate([stream.normal(0.2, 0.2, 300), stream.normal(0.4, 0.01, 300), [0.95]])
    two = fit_two_gaussians(cosines)
    low, high = (two.shares[i] * norm.pdf(0.95, two.means[i], two.deviations[i]) for i in (0, 1))
    assert high / (low + high) < 0.1
    assert safe_pairs(cosines, 0.5, 0.0, 0.85)[-1]
    # equal cosines say nothing
    assert safe_pairs(np.full(5, 0.3), 0.9, 0.0, 0.85).all()


def test_phases_and_rates() -> None:
    objective = SafeClip(grow=0.1).objective(32)
    shares = {"clip_rate": 0.01, "safe": 0.9, "grow": 0.1, "most": 0.85}
    assert objective.settings() == {"warmup": 5, "clip": 1, **shares}
    assert [objective.rate(epoch) for epoch in range(8)] == [1.0] * 5 + [0.01, 1.0, 1.0]
    text = unit(0, 200)
    cosine = torch.from_numpy(drawn_cosines()).float()
    across = F.normalize(unit(1, 200) - (unit(1, 200) * text).sum(1, keepdim=True) * text, dim=1)
    image = cosine[:, None] * text + (1 - cosine[:, None] ** 2).sqrt() * across
    counts = []
    for epoch in (0, 4, 5, 6, 7, 31):
        objective.begin_epoch(EpochStart(epoch, 200, 0, lambda: (image, text)))
        counts.append(int(objective.is_safe.sum()))
    first = int(safe_pairs(drawn_cosines(), 0.9, 0.0, 0.85).sum())
    assert 140 < first < 165
    # no pair, all, then the split and a tenth more an epoch, up to 170
    assert counts == [0, 0, 200, first, 170, 170]


@pytest.mark.parametrize(
    ("epochs", "phases"), [(1, (0, 0)), (3, (0, 0)), (4, (1, 1)), (10, (2, 1)), (32, (5, 1))]
)
def test_a_short_training_has_short_phases(epochs: int, phases: tuple[int, int]) -> None:
    objective = SafeClip().objective(epochs)
    assert (objective.warmup, objective.clip) == phases
    assert objective.grow * epochs == pytest.approx(0.32)


@pytest.fixture
def inputs(encoder: DualEncoder, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(encoder, squares)


def test_equal_steps_and_the_epochs_that_max_steps_leaves(
    encoder: DualEncoder, squares: PairDataset, inputs: PixelInputs
) -> None:
    train = squares.select(split="train")
    settings = TrainingSettings(epochs=9, batch_size=70, precision="fp32", max_steps=3)
    result = SafeClip(warmup_epochs=1, clip_epochs=0).apply(
        encoder, train, inputs, settings, seed=0
    )
    assert result.steps == 3
    assert result.objective == "safeclip"
    defense = SafeClip(warmup_epochs=1, clip_epochs=1)
    message = refusal(defense.apply, encoder, train, inputs, settings, seed=0)
    assert "leave none of 2 for safe pairs" in message


def test_a_frozen_encoder_has_no_loss_of_its_own(
    encoder: DualEncoder, squares: PairDataset, inputs: PixelInputs
) -> None:
    image, image_view, text = (unit(seed) for seed in range(3))
    batch = Embedded((image, image_view), (text,), torch.tensor(4.0))
    found = unimodal_loss(batch, torch.ones(6, dtype=torch.bool))
    assert float(found) == pytest.approx(slow_contrast(image, image_view, 4.0), rel=1e-5)
    train = squares.select(split="train")
    settings = TrainingSettings(epochs=2, batch_size=140, trainable="image", precision="fp32")
    defense = SafeClip(warmup_epochs=1, clip_epochs=0)
    assert defense.apply(encoder, train, inputs, settings, seed=0).steps == 2
