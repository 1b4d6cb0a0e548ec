"""PAR: its loss against a loop, the threshold, its view of images, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.conftest import refusal

from mmpoison.datasets import PairDataset
from mmpoison.defenses import Par
from mmpoison.defenses.repairs.finetuning import (
    NoiseAndErasing,
    PerturbAndRecover,
    squared_distance,
)
from mmpoison.models import DualEncoder, prepare_features, prepare_pixels
from mmpoison.training import Checkpoints, Embedded, TrainingSettings

QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32", max_steps=3)
Table = npt.NDArray[np.float64]


def unit(seed: int, count: int = 5) -> Table:
    rows = np.random.default_rng(seed).normal(size=(count, 3))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def cross_entropy(scores: list[float], right: int) -> float:
    return math.log(sum(map(math.exp, scores))) - scores[right]


def plain_loss(images: Table, texts: Table, before: tuple[Table, Table], tau: float) -> float:
    """The loss by its formula, a number at a time."""
    count, fit = len(images), 0.0
    for i in range(count):
        fit += cross_entropy([7 * float(texts[i] @ images[j]) for j in range(count)], i)
        fit += cross_entropy([7 * float(texts[j] @ images[i]) for j in range(count)], i)
    loss = fit / (2 * count)
    for now, then in zip((images, texts), before, strict=True):
        away = sum(
            sum((a - b) ** 2 for a, b in zip(*rows, strict=True))
            for rows in zip(now, then, strict=True)
        )
        away /= count
        if away <= tau:
            loss -= away / 2
    return float(loss)


def as_tensor(rows: Table) -> torch.Tensor:
    return torch.from_numpy(rows).float().requires_grad_()


@pytest.mark.parametrize("tau", [0.01, 1.7, 4.0])
def test_the_loss_is_that_of_a_loop(tau: float) -> None:
    images, texts, before = unit(1), unit(2), (unit(3), unit(4))
    batch = Embedded(
        (as_tensor(images),),
        (as_tensor(texts),),
        torch.tensor(7.0),
        (as_tensor(before[0]).detach(),),
        (as_tensor(before[1]).detach(),),
    )
    loss = PerturbAndRecover(tau).loss(np.arange(5), batch)
    assert float(loss.detach()) == pytest.approx(plain_loss(images, texts, before, tau), abs=1e-5)


def test_the_temperature_does_not_train() -> None:
    scale = torch.tensor(7.0, requires_grad=True)
    one = as_tensor(unit(1))
    batch = Embedded((one,), (one,), scale, (one.detach(),), (one.detach(),))
    torch.autograd.backward(PerturbAndRecover(2.0).loss(np.arange(5), batch))
    assert scale.grad is None
    assert one.grad is not None


@pytest.mark.parametrize(("factor", "on"), [(1.000001, True), (1.0, True), (0.999, False)])
def test_a_term_is_off_exactly_above_the_threshold(factor: float, on: bool) -> None:
    now, before = as_tensor(unit(1)), as_tensor(unit(2)).detach()
    mean = float((now - before).square().sum(dim=1).mean().detach())
    away = squared_distance(now, before, factor * mean)
    assert float(away.detach()) == (mean if on else 0)
    torch.autograd.backward(away)
    assert now.grad is not None
    assert bool(now.grad.any()) == on


def test_the_mean_of_the_batch_decides_and_not_each_row() -> None:
    # one row is as far as possible, the other has not moved
    now, before = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    assert float(squared_distance(now, before, 2.0)) == 2
    assert float(squared_distance(now, before, 1.9)) == 0


# -- views -----------------------------------------------------------------------------------------


def changed(view: NoiseAndErasing, count: int = 40) -> npt.NDArray[np.float64]:
    grey = torch.full((count, 50, 50, 3), 128, dtype=torch.uint8)
    return view(grey, np.random.default_rng(0)).numpy().astype(np.float64) - 128


def test_noise_darkens_as_much_as_it_brightens() -> None:
    # the release clips the noise at zero: it never darkens
    noise = changed(NoiseAndErasing(noise=0.1, chance=1.0, least=0, most=0))
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(25.5, rel=0.05)


def test_about_half_are_noisy_and_half_have_a_square_of_the_stated_area() -> None:
    view = NoiseAndErasing(noise=0.0)
    squares = (changed(view, 400) != 0).any(axis=3)
    area = squares.sum(axis=(1, 2))[squares.any(axis=(1, 2))]
    assert 140 <= len(area) <= 260
    # 4 x 4 to 5 x 5 of 50 x 50: 0.5% to 1% are 12.5 to 25 places
    assert set(area) <= {16, 25}
    noisy = (changed(NoiseAndErasing(least=0, most=0), 400) != 0).mean(axis=(1, 2, 3)) > 0.5
    assert 140 <= noisy.sum() <= 260


def test_the_image_itself_is_not_changed() -> None:
    grey = torch.full((4, 20, 20, 3), 128, dtype=torch.uint8)
    NoiseAndErasing(chance=1.0)(grey, np.random.default_rng(0))
    assert bool((grey == 128).all())


# -- the repair ------------------------------------------------------------------------------------


def weights(encoder: DualEncoder) -> dict[str, torch.Tensor]:
    return dict(encoder.module.state_dict())


def test_stopped_it_resumes_to_the_same_bits(
    encoder: DualEncoder, squares: PairDataset, tmp_path: Path
) -> None:
    clean = squares.select(split="train")
    inputs = prepare_pixels(encoder, squares)
    repair = Par(QUICK, tau=1.0)
    whole = repair.apply(encoder, clean, inputs, seed=2)
    checkpoints = Checkpoints(tmp_path / "states", steps=1)

    def stop(step: Any, _: DualEncoder) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair.apply(encoder, clean, inputs, seed=2, on_step=stop, checkpoints=checkpoints)
    resumed = repair.apply(encoder, clean, inputs, seed=2, checkpoints=checkpoints)
    assert resumed.resumed_from > 0
    for name, value in weights(whole.encoder).items():
        assert torch.equal(weights(resumed.encoder)[name], value), name


def test_on_frozen_trunks_the_record_says_what_the_views_are(
    make_heads_encoder: Callable[..., DualEncoder], squares: PairDataset
) -> None:
    encoder = make_heads_encoder()
    clean = squares.select(split="val")
    settings = QUICK.model_copy(update={"trainable": "heads"})
    result = Par(settings).apply(encoder, clean, prepare_features(encoder, squares), seed=0)
    assert result.objective == "par; views by feature noise"
    text = QUICK.model_copy(update={"trainable": "text"})
    inputs = prepare_pixels(encoder, squares)
    says = refusal(Par(text).apply, encoder, clean, inputs, seed=0)
    assert says.startswith("par needs views of the images, and the image encoder is frozen")


@pytest.mark.parametrize("tau", [0, 4, True, "2"])
def test_what_it_refuses(tau: Any) -> None:
    assert "is not a squared distance" in refusal(Par, QUICK, tau=tau)
