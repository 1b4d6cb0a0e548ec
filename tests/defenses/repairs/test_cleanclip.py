"""CleanCLIP: its loss against a loop, views that are drawn anew, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.conftest import refusal

from mmpoison.datasets import PairDataset
from mmpoison.defenses import CleanClip, CleanFinetune
from mmpoison.defenses.repairs.finetuning import CleanClipLoss, info_nce
from mmpoison.models import DualEncoder, prepare_features, prepare_pixels
from mmpoison.training import Embedded, TrainingSettings, finetune

QUICK = TrainingSettings(epochs=2, batch_size=32, learning_rate=1e-3, precision="fp32", max_steps=3)
SCALE = 7.0
Table = npt.NDArray[np.float64]


def unit(seed: int, count: int = 5) -> Table:
    rows = np.random.default_rng(seed).normal(size=(count, 3))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def as_tensor(rows: Table) -> torch.Tensor:
    return torch.from_numpy(rows).float()


def plain(queries: Table, found: Table) -> float:
    """Cross-entropy of finding row i for row i, a number at a time."""
    total = 0.0
    for i, query in enumerate(queries):
        scores = [SCALE * float(query @ other) for other in found]
        total += math.log(sum(map(math.exp, scores))) - scores[i]
    return total / len(queries)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_loss_is_that_of_a_loop(weight: float) -> None:
    image, image_view, text, text_view = (unit(seed) for seed in range(4))
    batch = Embedded(
        (as_tensor(image), as_tensor(image_view)),
        (as_tensor(text), as_tensor(text_view)),
        torch.tensor(SCALE),
    )
    fit = (plain(text, image) + plain(image, text)) / 2
    alike = (plain(image, image_view) + plain(text, text_view)) / 2
    loss = CleanClipLoss(weight).loss(np.arange(5), batch)
    assert float(loss) == pytest.approx(fit + weight * alike, abs=1e-5)


def test_it_finds_the_view_among_views() -> None:
    # the same rows in another order: the right one is never nearest
    rows = as_tensor(np.eye(3))
    near, far = (float(info_nce(rows, rows.roll(by, 0), torch.tensor(50.0))) for by in (0, 1))
    assert near < 1e-6
    assert far == pytest.approx(50, abs=1e-3)


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
    clean = squares.select(split="val")
    settings = QUICK.model_copy(update={"epochs": 3, "max_steps": None})
    finetune(
        *(encoder, clean, prepare_pixels(encoder, squares), settings), seed=0, objective=objective
    )
    assert {len(views) for views in seen.values()} == {3}
    anew = [len(set(views)) > 1 for views in seen.values()]
    assert np.mean(anew) > 0.9


def test_with_one_encoder_frozen_it_is_refused(encoder: DualEncoder, squares: PairDataset) -> None:
    settings = QUICK.model_copy(update={"trainable": "text"})
    clean, inputs = squares.select(split="val"), prepare_pixels(encoder, squares)
    says = refusal(CleanClip(settings).apply, encoder, clean, inputs, seed=0)
    assert says.startswith("cleanclip needs views of the images, and the image encoder is frozen")


def test_on_frozen_trunks_the_record_says_what_the_views_are(
    make_heads_encoder: Callable[..., DualEncoder], squares: PairDataset
) -> None:
    encoder = make_heads_encoder()
    clean, inputs = squares.select(split="val"), prepare_features(encoder, squares)
    settings = QUICK.model_copy(update={"trainable": "heads"})
    repaired = CleanClip(settings).apply(encoder, clean, inputs, seed=0)
    assert repaired.objective == "cleanclip; views by feature noise"
    # the second part does something, and nothing without its weight
    tuned = CleanFinetune(settings).apply(encoder, clean, inputs, seed=0)
    none = CleanClip(settings, weight=0).apply(encoder, clean, inputs, seed=0)
    weights = tuned.encoder.module.visual.head.state_dict()  # type: ignore[union-attr]
    for result, same in ((none, True), (repaired, False)):
        other = result.encoder.module.visual.head.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(weights[name], other[name]) for name in weights) == same


@pytest.mark.parametrize("weight", [-0.1, True, "1"])
def test_what_it_refuses(weight: Any) -> None:
    assert "is not 0 or a positive number" in refusal(CleanClip, QUICK, weight=weight)
