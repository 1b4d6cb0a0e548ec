"""The loop that embeds: on a GPU (faked) loads and copies are ahead and behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmpoison.images.preparation import Preparation
from mmpoison.models import DualEncoder
from mmpoison.models.inputs import run_in_batches
from mmpoison.training.objective import contrastive_loss

ROWS = np.arange(7, dtype=np.int64) * 3
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


class Recorder:
    """Says in which order things happen, and in which thread rows are loaded."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: set[str] = set()
        self.pinned: list[int] = []

    def load(self, rows: Any) -> Tensor:
        self.threads.add(threading.current_thread().name)
        return torch.from_numpy(np.stack([rows, rows**2], axis=1)).float()

    def encode(self, loaded: Tensor) -> Tensor:
        self.events.append(f"encode {int(loaded[0, 0])}")
        return loaded * 2


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    """An encoder that says it is on a GPU, memory that says when it is pinned, and events of a stream."""

    class FakeEvent:
        def record(self, stream: str) -> None:
            assert stream == "stream of cpu"  # where the outputs are
            recorder.events.append("copy")

        def synchronize(self) -> None:
            recorder.events.append("wait")

    def pin(tensor: Tensor) -> Tensor:
        recorder.pinned.append(id(tensor))
        return tensor

    monkeypatch.setattr(DualEncoder, "device", property(lambda self: GPU))
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")


def expected(rows: Any) -> Any:
    return np.stack([2 * rows, 2 * rows**2], axis=1).astype(np.float32)


def test_on_a_gpu_the_next_batch_is_started_before_the_last_is_read(
    fake_gpu: None, encoder: DualEncoder, recorder: Recorder
) -> None:
    calls: list[tuple[int, int]] = []
    got = run_in_batches(
        encoder, ROWS, 3, recorder.load, recorder.encode, progress=lambda *c: calls.append(c)
    )
    np.testing.assert_array_equal(got, expected(ROWS))
    assert recorder.events == [
        *("encode 0", "copy"),
        *("encode 9", "copy", "wait"),
        *("encode 18", "copy", "wait"),
        "wait",
    ]
    assert threading.main_thread().name not in recorder.threads
    assert len(recorder.pinned) == 3
    assert calls == [(3, 7), (6, 7), (7, 7)]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 9))
def test_a_gpu_gives_what_a_cpu_gives(
    fake_gpu: None, encoder: DualEncoder, rows: list[int], batch: int
) -> None:
    own, given_rows = Recorder(), np.array(rows, dtype=np.int64)
    got = run_in_batches(encoder, given_rows, batch, own.load, own.encode)
    if rows:
        np.testing.assert_array_equal(got, expected(given_rows))
    else:
        assert got.shape == (0, 0)


def test_an_error_of_the_loading_thread_is_raised(fake_gpu: None, encoder: DualEncoder) -> None:
    def load(rows: Any) -> Tensor:
        if rows[0] > 0:
            raise ValueError("cannot be read")
        return torch.zeros(len(rows), 2)

    before = threading.active_count()
    with pytest.raises(ValueError, match="cannot be read"):
        run_in_batches(encoder, ROWS, 3, load, lambda loaded: loaded)
    assert threading.active_count() == before


# -- where and how tensors are moved ------------------------------------------------------------------------------


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What modules were asked to move to; none of them is moved."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def to(self: nn.Module, *where: Any, **how: Any) -> nn.Module:
        asked.append((self, {"where": where, **how}))
        return self

    monkeypatch.setattr(nn.Module, "to", to)
    return asked


def test_images_are_channels_last_on_a_gpu_alone(
    encoder: DualEncoder,
    moves: list[tuple[Any, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visual = encoder.module.visual
    assert encoder.to("cuda:1") is encoder
    assert moves[0] == (encoder.module, {"where": (torch.device("cuda", 1),)})
    assert moves[1] == (visual, {"where": (), "memory_format": torch.channels_last})
    moves.clear()
    encoder.to("cpu")
    assert moves == [(encoder.module, {"where": (CPU,)})]
    moves.clear()
    # back from a GPU it has the layout that it had
    monkeypatch.setattr(DualEncoder, "device", property(lambda self: GPU))
    encoder.to("cpu")
    assert moves[1:] == [(visual, {"where": (), "memory_format": torch.contiguous_format})]


def test_the_layout_in_memory_changes_no_digest_and_no_copy(
    encoder: DualEncoder,
) -> None:
    before = encoder.digest()
    turned = encoder.copy()
    visual: Any = turned.module.visual
    visual.to(memory_format=torch.channels_last)
    weight = visual.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert turned.digest() == before
    again: Any = turned.copy().module.visual
    assert again.conv1.weight.stride() == weight.stride()
    size = encoder.image_size
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        one = encoder.encode_image(encoder.image_input(pixels))
        other = turned.encode_image(turned.image_input(pixels))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.fixture(params=["ResNet", "ViT"])
def without_numbers(
    request: pytest.FixtureRequest,
    make_encoder: Callable[..., DualEncoder],
    vit_config: dict[str, Any],
) -> DualEncoder:
    """An encoder on torch's device without numbers: whoever reads one on the CPU, and would wait for a GPU, fails."""
    made = make_encoder(3, vit_config if request.param == "ViT" else None)
    assert isinstance(made.preparation, Preparation)
    return made.to("meta")


def test_a_forward_and_backward_pass_never_wait_for_the_device(
    without_numbers: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, size = without_numbers, without_numbers.image_size
    pixels = torch.zeros((4, size, size, 3), dtype=torch.uint8)
    tokens = encoder.tokens(["a sheep", "an aeroplane in the sky", "", "word " * 20])
    copies: list[tuple[torch.dtype, Any]] = []
    original = Tensor.to

    def to(tensor: Tensor, *where: Any, **how: Any) -> Tensor:
        moved: Tensor = original(tensor, *where, **how)
        if tensor.device != moved.device:
            copies.append((tensor.dtype, how.get("non_blocking", False)))
        return moved

    monkeypatch.setattr(Tensor, "to", to)
    for step in range(2):
        copies.clear()
        image = encoder.encode_image(encoder.image_input(pixels))
        text = encoder.encode_text(tokens)
        loss = contrastive_loss(text, image, encoder.logit_scale.exp())
        torch.autograd.backward(loss)
        assert loss.device.type == "meta"
        moved = [(torch.uint8, True), (torch.int64, True)]
        # mean and standard deviation are moved once
        assert copies == (moved if step else [moved[0], *[(torch.float32, False)] * 2, moved[1]])
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(loss.detach())
