"""What feeds a training: on a GPU (faked), images, captions and rows of tables are pinned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmpoison.datasets import PairDataset
from mmpoison.models import DualEncoder, PixelInputs
from mmpoison.training.feed import Feed, Request, set_trainable
from mmpoison.training.objective import Objective
from mmpoison.training.settings import Trainable

SOME = Request(np.array([3, 1, 4]), seed=0, stream="test")


@pytest.mark.parametrize("trainable", ["both", "image", "text", "heads"])
def test_all_that_goes_to_a_gpu_is_pinned(
    make_encoder: Callable[..., DualEncoder],
    train: PairDataset,
    inputs: PixelInputs,
    monkeypatch: pytest.MonkeyPatch,
    trainable: Trainable,
) -> None:
    student = make_encoder()
    part = set_trainable(student, trainable)
    rows = inputs.image_rows(train.image)
    feed = Feed(student, inputs, part, rows, train.captions, Objective())
    feed.compute_frozen(np.arange(10), None)
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    images, texts = feed.load(SOME)
    assert not pinned  # a CPU copies nothing
    monkeypatch.setattr(DualEncoder, "device", property(lambda self: torch.device("cuda", 0)))
    again = feed.load(SOME)
    assert [*map(id, pinned)] == [*map(id, (*again[0], *again[1]))]
    for one, other in zip((*images, *texts), pinned, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("trainable", ["both", "heads"])
def test_on_a_gpu_steps_are_always_loaded_ahead(
    make_encoder: Callable[..., DualEncoder],
    train: PairDataset,
    inputs: PixelInputs,
    monkeypatch: pytest.MonkeyPatch,
    trainable: Trainable,
) -> None:
    student = make_encoder()
    part = set_trainable(student, trainable)
    rows = inputs.image_rows(train.image)
    feed = Feed(student, inputs, part, rows, train.captions, Objective())
    feed.compute_frozen(np.arange(10), None)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(DualEncoder, "device", property(lambda self: torch.device("cuda", 0)))
    asked: list[int] = []

    def requests() -> object:
        for number in range(5):
            asked.append(number)
            yield SOME

    loaded = feed.loaded(requests())  # type: ignore[arg-type]
    next(loaded)
    assert asked == [0, 1]
    loaded.close()
