"""Repairs by training on clean pairs: their losses against loops, their views, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.defenses.conftest import slow_contrast, slow_cross_entropy, unit

from mmpoison.datasets import PairDataset
from mmpoison.defenses import CleanFinetune
from mmpoison.defenses.repairs.repair import UnlearnLoss
from mmpoison.models import DualEncoder, prepare_features, prepare_pixels
from mmpoison.training import Embedded, TrainingSettings, finetune
from mmpoison_lab.defenses.cleanclip import CleanClip, CleanClipLoss
from mmpoison_lab.defenses.par import NoiseAndErasing, Par, PerturbAndRecover

QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32", max_steps=3)
ROWS = np.arange(6)


def test_the_plain_repair_is_a_fine_tune_on_the_clean_pairs(
    encoder: DualEncoder, squares: PairDataset
) -> None:
    clean, inputs = squares.select(split="val"), prepare_pixels(encoder, squares)
    result = CleanFinetune(QUICK).apply(encoder, clean, inputs, seed=2)
    expected = finetune(encoder, clean, inputs, QUICK, seed=2)
    assert result.encoder.digest() == expected.encoder.digest()
    assert result.encoder.name == "tiny-0-sterilized"


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_loss_of_cleanclip_is_that_of_a_loop(weight: float) -> None:
    image, image_view, text, text_view = map(unit, range(4))
    batch = Embedded((image, image_view), (text, text_view), torch.tensor(7.0))
    alike = slow_cross_entropy(image, image_view, 7) + slow_cross_entropy(text, text_view, 7)
    expected = slow_contrast(text, image, 7) + weight * alike / 2
    assert float(CleanClipLoss(weight).loss(ROWS, batch)) == pytest.approx(expected, abs=1e-5)


def test_captions_are_edited_anew_in_every_epoch(
    encoder: DualEncoder, squares: PairDataset
) -> None:
    # the release edits them once, before the training
    seen: dict[str, list[str]] = {}
    objective = CleanClipLoss(1.0)
    edit = objective.text_views[1]
    assert edit is not None

    def edited(captions: Any, stream: np.random.Generator) -> list[str]:
        views = edit(captions, stream)
        for caption, view in zip(captions, views, strict=True):
            seen.setdefault(str(caption), []).append(view)
        return views

    objective.text_views = (None, edited)
    clean, inputs = squares.select(split="val"), prepare_pixels(encoder, squares)
    settings = QUICK.model_copy(update={"epochs": 3, "max_steps": None})
    finetune(encoder, clean, inputs, settings, seed=0, objective=objective)
    assert {len(views) for views in seen.values()} == {3}
    assert np.mean([len(set(views)) > 1 for views in seen.values()]) > 0.9


@pytest.mark.parametrize("tau", [0.01, 1.7, 4.0])
def test_the_loss_of_par_is_that_of_a_loop(tau: float) -> None:
    image, text, *before = map(unit, range(1, 5))
    scale = torch.tensor(7.0, requires_grad=True)
    expected = slow_contrast(text, image, 7)
    for now, then in zip((image, text), before, strict=True):
        away = sum((a - b) ** 2 for a, b in zip(now.flatten(), then.flatten(), strict=True)) / 6
        expected -= float(away) / 2 if away <= tau else 0
    image.requires_grad_()
    batch = Embedded((image,), (text,), scale, (before[0],), (before[1],))
    loss = PerturbAndRecover(tau).loss(ROWS, batch)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    torch.autograd.backward(loss)
    # the temperature does not train
    assert scale.grad is None
    assert image.grad is not None


@pytest.mark.parametrize("group", [[-1] * 6, [-1, 0, -1, 0, -1, 2], [0, 0, 1, -1, 1, 1], [3] * 6])
def test_the_loss_of_unlearning_is_that_of_a_loop(group: list[int]) -> None:
    image, text = unit(1), unit(2)
    rows = np.array([5, 4, 3, 2, 1, 0])
    of = [group[row] for row in rows]
    stays = [n for n in range(6) if of[n] < 0]
    expected = slow_contrast(text[stays], image[stays], 7) if stays else 0.0
    cosines = [float(text[a] @ image[b]) for a in stays for b in stays]
    usual = sum(cosines) / len(cosines) if stays else 0.0
    excess = [
        max(0.0, float(text[a] @ image[b]) - usual)
        for a, b in product(range(6), repeat=2)
        if of[a] == of[b] >= 0
    ]
    expected += 7 * sum(excess) / len(excess) if excess else 0.0
    loss = UnlearnLoss(np.array(group)).loss(rows, Embedded((image,), (text,), torch.tensor(7.0)))
    assert float(loss) == pytest.approx(expected, abs=1e-5)


# -- views -----------------------------------------------------------------------------------------


def changed(count: int = 40, **options: Any) -> npt.NDArray[np.float64]:
    grey = torch.full((count, 50, 50, 3), 128, dtype=torch.uint8)
    view = NoiseAndErasing(**options)(grey, np.random.default_rng(0))
    # the image itself is not changed
    assert bool((grey == 128).all())
    return view.numpy().astype(np.float64) - 128


def test_noise_darkens_as_much_as_it_brightens() -> None:
    # the release clips the noise at zero: it never darkens
    noise = changed(noise=0.1, chance=1.0, least=0, most=0)
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(25.5, rel=0.05)


def test_about_half_are_noisy_and_half_have_a_square_of_the_stated_area() -> None:
    squares = (changed(400, noise=0.0) != 0).any(axis=3)
    area = squares.sum(axis=(1, 2))[squares.any(axis=(1, 2))]
    assert 140 <= len(area) <= 260
    # 4 x 4 to 5 x 5 of 50 x 50: 0.5% to 1% are 12.5 to 25 places
    assert set(area) <= {16, 25}
    noisy = (changed(400, least=0, most=0) != 0).mean(axis=(1, 2, 3)) > 0.5
    assert 140 <= noisy.sum() <= 260


# -- what they say and refuse ----------------------------------------------------------------------


def test_on_frozen_trunks_the_record_says_what_the_views_are(
    make_heads_encoder: Callable[..., DualEncoder], squares: PairDataset
) -> None:
    encoder = make_heads_encoder()
    clean, inputs = squares.select(split="val"), prepare_features(encoder, squares)
    settings = QUICK.model_copy(update={"trainable": "heads"})
    repairs = (CleanFinetune(settings), CleanClip(settings, weight=0), CleanClip(settings))
    plain, none, clean_clip, par = (
        repair.apply(encoder, clean, inputs, seed=0) for repair in (*repairs, Par(settings))
    )
    assert clean_clip.objective == "cleanclip; views by feature noise"
    assert par.objective == "par; views by feature noise"
    # the second part does something, and nothing without its weight
    assert none.encoder.digest() == plain.encoder.digest() != clean_clip.encoder.digest()
