"""What a training minimises: views, a choice for each epoch, a reference, and a state that resumes to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import refusal
from tests.training.conftest import (
    QUICK,
    Make,
    Stop,
    assert_close,
    assert_equal_gradients,
    fake_processes,
    gradients,
    moved,
    stop_after,
)
from torch import Tensor

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PairInputs, prepare_features, prepare_pixels
from mmpoison.models.inputs import Rows
from mmpoison.training import (
    Checkpoints,
    Embedded,
    EpochStart,
    Objective,
    Step,
    TrainingResult,
    contrastive_loss,
    finetune,
)
from mmpoison.training.objective import CropFlipColour, ImageView, TextView
from mmpoison_lab.synonyms import EditWords

Run = Callable[..., TrainingResult]


class Everything(Objective):
    """Uses all that an objective may use; what it chooses for an epoch depends on the model at its start."""

    name = "everything"
    image_views: tuple[ImageView | None, ...] = (None, CropFlipColour())
    text_views: tuple[TextView | None, ...] = (None, EditWords())
    reference = True

    def __init__(self) -> None:
        self.weight = torch.zeros(0)
        self.epochs: list[int] = []
        self.gaps: list[float] = []

    def begin_epoch(self, start: EpochStart) -> None:
        image, text = start.embed()
        assert image.shape == text.shape == (start.pairs, 32)
        self.weight = (1 + (image * text).sum(dim=1)) / 2
        self.epochs.append(start.epoch)

    def rate(self, epoch: int) -> float:
        return 1.0 if epoch else 0.5

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        weight = self.weight[torch.from_numpy(pairs)]
        views = contrastive_loss(batch.image[1], batch.image[0], batch.scale)
        edits = contrastive_loss(batch.text[1], batch.text[0], batch.scale)
        drift = [
            (one - other).square().sum(dim=1) * weight
            for one, other in (
                (batch.image[0], batch.reference_image[0]),
                (batch.text[1], batch.reference_text[1]),
            )
        ]
        self.gaps.append(float(drift[0].detach().max()))
        return super().loss(pairs, batch) + views + 0.5 * edits + (drift[0] + drift[1]).mean()

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.weight = state["weight"]


@pytest.fixture(scope="module")
def vit(make_encoder: Make, vit_config: dict[str, Any]) -> DualEncoder:
    """Without batch normalisation, which would see a chunk."""
    return make_encoder(0, vit_config)


@pytest.fixture(scope="module")
def prepared(vit: DualEncoder, squares: PairDataset) -> PairInputs:
    return prepare_pixels(vit, squares)


@pytest.fixture
def run(vit: DualEncoder, squares: PairDataset, prepared: PairInputs) -> Run:
    """Two epochs of two steps: 80 pairs in batches of 40."""
    train = squares.select(split="train")
    some = train.where(np.arange(len(train)) < 80)

    def tune(
        objective: Objective | None, inputs: PairInputs = prepared, **given: Any
    ) -> TrainingResult:
        services = {name: given.pop(name) for name in ("on_step", "checkpoints") if name in given}
        settings = QUICK.model_copy(update={"epochs": 2, "batch_size": 40, **given})
        return finetune(vit, some, inputs, settings, seed=0, objective=objective, **services)

    return tune


def test_each_epoch_begins_once_and_has_its_rate(run: Run) -> None:
    objective, rates = Everything(), []
    result = run(objective, on_step=lambda step, _: rates.append(step.learning_rate))
    assert objective.epochs == [0, 1]
    assert rates == [0.5e-3, 0.5e-3, 1e-3, 1e-3]
    assert result.summary()["objective"] == "everything"
    # the reference is the encoder that the training started from
    assert objective.gaps[0] < 1e-9
    assert all(gap > 1e-6 for gap in objective.gaps[1:])


@pytest.mark.parametrize(("stop", "chunk"), [(1, None), (2, None), (3, 17)])
def test_stopped_anywhere_the_weights_are_the_same_bits(
    run: Run, tmp_path: Path, stop: int, chunk: int | None
) -> None:
    whole = run(Everything(), chunk_size=chunk)
    checkpoints = Checkpoints(tmp_path / "states", steps=1)

    with pytest.raises(Stop):
        run(Everything(), chunk_size=chunk, checkpoints=checkpoints, on_step=stop_after(stop + 1))
    objective = Everything()
    resumed = run(objective, chunk_size=chunk, checkpoints=checkpoints)
    assert resumed.resumed_from == stop
    # within an epoch its choice is read back, not made anew
    assert objective.epochs == ([1] if stop <= 2 else [])
    assert not moved(whole.encoder, resumed.encoder)


def test_a_state_of_another_objective_is_refused(run: Run, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "states", steps=1)
    run(Everything(), checkpoints=checkpoints, max_steps=1)
    message = refusal(run, None, checkpoints=checkpoints, max_steps=1)
    assert "objective is {'name': 'everything'} there" in message


def test_chunks_have_the_gradient_of_the_batch(run: Run) -> None:
    def mirrored(pixels: Tensor, _: np.random.Generator) -> Tensor:
        return pixels.flip(2)

    def reversed_words(captions: Sequence[str], _: np.random.Generator) -> list[str]:
        return [" ".join(caption.split()[::-1]) for caption in captions]

    class Still(Everything):
        # a random view depends on the chunk that it is drawn for
        image_views = (None, mirrored)
        text_views = (None, reversed_words)

    found: list[dict[str, Tensor]] = []

    def record(_: Step, student: DualEncoder) -> None:
        found.append(gradients(student))

    for chunk in (None, 7):
        run(Still(), max_steps=1, chunk_size=chunk, on_step=record)
    whole, chunks = found
    assert_equal_gradients(whole, chunks, most=1e-4)


def test_a_side_without_a_gradient_stays_also_in_chunks(run: Run, vit: DualEncoder) -> None:
    class ImageOnly(Objective):
        name = "image-only"

        def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
            return contrastive_loss(batch.text[0].detach(), batch.image[0], batch.scale)

    for chunk in (None, 17):
        changed = moved(vit, run(ImageOnly(), max_steps=2, chunk_size=chunk).encoder)
        assert changed
        assert all(name.startswith(("visual.", "logit_scale")) for name in changed)


# -- views -----------------------------------------------------------------------------------------


def test_views_of_features_are_noise_and_the_record_says_so(
    run: Run, vit: DualEncoder, squares: PairDataset
) -> None:
    features = prepare_features(vit, squares)
    by_features = run(Everything(), features, trainable="heads")
    assert by_features.summary()["objective"] == "everything; views by feature noise"
    # one method, whether the features come from the inputs or are computed by the training
    by_pixels = run(Everything(), trainable="heads")
    assert_close(by_pixels.encoder, by_features.encoder)
    plain = run(Objective(), features, trainable="heads")
    assert plain.objective is None


# -- what is refused -------------------------------------------------------------------------------


def test_views_that_cannot_be_made(run: Run) -> None:
    class PixelsOnly(Everything):
        feature_view = None

    message = refusal(run, PixelsOnly(), trainable="heads")
    assert message.startswith("everything augments the images themselves")
    message = refusal(run, Everything(), trainable="image")
    assert "augments the captions, but the text encoder is frozen" in message


def test_several_processes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_processes(monkeypatch, 2)
    message = refusal(partial(run, Everything()))
    assert message.startswith("everything trains in one process, not in 2: omit torchrun")
