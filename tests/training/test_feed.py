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

SOME = Request(np.array([3, 1, 4]), seed=0, stream="test")


@pytest.fixture(params=["both", "image", "text", "heads"])
def feed(
    make_encoder: Callable[..., DualEncoder],
    train: PairDataset,
    inputs: PixelInputs,
    request: pytest.FixtureRequest,
) -> Feed:
    student = make_encoder()
    rows = inputs.image_rows(train.image)
    part = set_trainable(student, request.param)
    made = Feed(student, inputs, part, rows, train.captions, Objective())
    made.compute_frozen(np.arange(10), None)
    return made


def test_all_that_goes_to_a_gpu_is_pinned(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_on_a_gpu_steps_are_always_loaded_ahead(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
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
